"""Interleaved timing, shared by all benchmarks.

Every round runs each task once, so that all tasks see the same state of the machine; rounds of warm-up do not count.
Ratios are paired: the median over the rounds of the ratio within one round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Statistics of the times of one task, in seconds.

    Attributes:
        least: the minimum.
        median: the median.
        quartiles: the lower and the upper quartile.
        ratio: median of reference / time over the rounds: how many times as fast as the reference; None without one.
    """

    least: float
    median: float
    quartiles: tuple[float, float]
    ratio: float | None


def timed(work: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that `work(*arguments)` takes."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def interleave(
    tasks: Mapping[Key, Callable[[], float]], rounds: int, warm_up: int = 1, pause: float = 0.0
) -> dict[Key, list[float]]:
    """Run each task once per round. Return the seconds that each task returned in the counted rounds.

    Args:
        tasks: functions that work and return the seconds that it took.
        rounds: number of counted rounds.
        warm_up: number of rounds before them.
        pause: seconds to wait before each task.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in tasks}
    with tqdm(total=(warm_up + rounds) * len(tasks), desc="measuring", disable=None) as bar:
        for index in range(warm_up + rounds):
            for key, task in tasks.items():
                time.sleep(pause)
                taken = task()
                if index >= warm_up:
                    seconds[key].append(taken)
                bar.update()
    return seconds


def summarize(times: Sequence[float], reference: Sequence[float] | None = None) -> Timing:
    """Return the statistics of `times`, with the ratio to the times of a `reference` in the same rounds."""
    samples = times if len(times) > 1 else [*times, *times]
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    ratio = None
    if reference is not None:
        ratio = statistics.median(before / after for before, after in zip(reference, times, strict=True))
    return Timing(min(times), median, (low, high), ratio)


def positive(text: str) -> int:
    """Parse a positive integer of the command line."""
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def duration(text: str) -> float:
    """Parse a duration of the command line: 0.01 to 3600 seconds."""
    if not 0.01 <= (value := float(text)) <= 3600:
        raise ValueError(text)
    return value
