"""Every clip through every codec at every setting, in several processes; what is done stays done."""

from __future__ import annotations

import base64
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import torch
from tqdm import tqdm

from dac_codec.errors import DacError
from dac_codec.evaluation.clips import Clip
from dac_codec.evaluation.codecs import Codec, Setting
from dac_codec.evaluation.metrics import METRICS, Metric
from dac_codec.evaluation.results import Result, defined, flac, key

SHOWN_PER_DOMAIN = 2
"""Clips of each domain that can be heard on the page."""


@dataclass(frozen=True)
class Task:
    """One clip, one codec, one setting, and where the result goes; `metrics` are names, which any process knows."""

    clip: Clip
    sample_rate: int
    codec: Codec
    setting: Setting
    metrics: tuple[str, ...]
    with_sound: bool
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the results in the order of their tasks, and a line for everything that failed."""

    results: list[Result]
    failures: list[str]


def shown(clips: Sequence[Clip]) -> list[Clip]:
    """The clips that can be heard: the first and the middle one of each domain."""
    chosen = []
    for domain in dict.fromkeys(clip.domain for clip in clips):
        group = [clip for clip in clips if clip.domain == domain]
        step = max(1, len(group) // SHOWN_PER_DOMAIN)
        chosen += group[::step][:SHOWN_PER_DOMAIN]
    return chosen


def run(
    clips: Sequence[Clip],
    sample_rate: int,
    codecs: Sequence[tuple[Codec, Sequence[Setting]]],
    metrics: Sequence[Metric],
    cache: Path,
    workers: int | None = None,
    progress: bool = True,
) -> Outcome:
    """Code and measure, but for what an earlier run has done.

    Args:
        clips: all at one sample rate.
        sample_rate: in Hz.
        codecs: with their settings.
        metrics: to take.
        cache: folder for the results; it is there.
        workers: processes, each with one thread; None: one for each CPU. 1: no other process than this one.
        progress: whether to show a progress bar (on a terminal).

    Raises:
        DacError: a result can't be written, or a process was killed.
    """
    tasks = list(_tasks(clips, sample_rate, codecs, metrics, cache))
    todo = [task for task in tasks if Result.load(task.path) is None]
    failures = []
    with tqdm(total=len(tasks), initial=len(tasks) - len(todo), desc="evaluating", disable=_hidden(progress)) as bar:
        for task, failure in _work(todo, min(workers or _cpus(), len(todo))):
            bar.update()
            if failure is not None:
                failures.append(f"{task.clip.name}, {task.codec.name} {task.setting.name}: {failure}")
    results = [Result.load(task.path) for task in tasks]
    return Outcome([one for one in results if one is not None], failures)


def evaluate_clip(task: Task) -> None:
    """Do one task.

    Raises:
        DacError: the codec failed, or the result can't be written.
    """
    original = task.clip.waveform
    coded = task.codec.code(original, task.sample_rate, task.setting)
    measures = {
        metric.name: defined(metric.measure(coded.decoded, original, task.sample_rate))
        for metric in METRICS
        if metric.name in task.metrics and metric.domain in (None, task.clip.domain)
    }
    codes = None if coded.codes is None else base64.b64encode(coded.codes.astype("<u2").tobytes()).decode()
    Result(
        clip=task.clip.name,
        domain=task.clip.domain,
        seconds=original.shape[-1] / task.sample_rate,
        codec=task.codec.name,
        setting=task.setting.name,
        n_bytes=coded.n_bytes,
        payload_bytes=coded.payload_bytes,
        encode_seconds=coded.encode_seconds,
        decode_seconds=coded.decode_seconds,
        measures=measures,
        codes=codes,
        n_codebooks=0 if coded.codes is None else len(coded.codes),
        codebook_size=coded.codebook_size,
        sound=flac(coded.decoded, task.sample_rate) if task.with_sound else None,
    ).save(task.path)


def _tasks(
    clips: Sequence[Clip],
    sample_rate: int,
    codecs: Sequence[tuple[Codec, Sequence[Setting]]],
    metrics: Sequence[Metric],
    cache: Path,
) -> Iterator[Task]:
    names = tuple(metric.name for metric in metrics)
    measures = "; ".join(metric.fingerprint for metric in metrics)
    heard = {clip.name for clip in shown(clips)}
    fingerprints = [codec.fingerprint for codec, _ in codecs]
    for clip in clips:
        with_sound = clip.name in heard
        for (codec, settings), fingerprint in zip(codecs, fingerprints, strict=True):
            for setting in settings:
                name = key(clip, sample_rate, fingerprint, setting.name, measures, with_sound)
                yield Task(clip, sample_rate, codec, setting, names, with_sound, cache / f"{name}.json")


def _work(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, str | None]]:
    """Do tasks in any order; yields each when it is done, with what went wrong if something did."""
    if workers <= 1:
        for task in tasks:
            yield task, _failure_of(task)
        return
    # Forked processes would share PyTorch's threads, and hang.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, _begin)
    try:
        yield from _in_processes(tasks, executor)
    except BrokenProcessPool as error:
        raise DacError("a process of the evaluation was killed, perhaps for want of memory; start it again") from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _in_processes(tasks: Sequence[Task], executor: Executor) -> Iterator[tuple[Task, str | None]]:
    futures: dict[Future[str | None], Task] = {executor.submit(_failure_of, task): task for task in tasks}
    for future in as_completed(futures):
        yield futures[future], future.result()


def _failure_of(task: Task) -> str | None:
    try:
        evaluate_clip(task)
    except DacError as error:
        return str(error)
    return None


def _begin() -> None:
    """A process begins: with one thread, deaf to Ctrl-C, which its parent hears, and gone when its parent is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _hidden(progress: bool) -> bool | None:
    """For tqdm, where None means: unless it is a terminal."""
    return None if progress else True
