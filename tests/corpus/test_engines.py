"""Worker processes: the same bytes whatever happens to them, and none that is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dac_codec.corpus import Settings, on_this_machine
from dac_codec.corpus.encoding import Failure, Outcome, Tokens
from dac_codec.corpus.engines import WorkerLostError, run
from dac_codec.corpus.sources import Files, Source, open_sources
from tests.corpus.conftest import N_QUANTIZERS, Inline


class DeadlyPath(type(Path())):  # type: ignore[misc]
    """A sound file whose decoder crashes."""

    def __fspath__(self) -> str:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__fspath__()


def groups(sounds: Path, size: int, deadly: str = "") -> Iterator[Source]:
    (source,) = open_sources([str(sounds)]).sources
    assert isinstance(source, Files)
    files = [(name, DeadlyPath(path) if name == deadly else path) for name, path in source.files]
    for first in range(0, len(files), size):
        yield Files(source.name, tuple(files[first : first + size]))


def same(found: list[Outcome], expected: list[Outcome]) -> bool:
    return len(found) == len(expected) and all(
        isinstance(one, Tokens)
        and isinstance(other, Tokens)
        and one.id == other.id
        and (one.codes == other.codes).all()  # type: ignore[union-attr]
        for one, other in zip(found, expected, strict=True)
    )


@pytest.mark.usefixtures("quick_workers")
def test_a_killed_worker_changes_nothing(sounds: Path, model: str) -> None:
    settings = Settings(model, N_QUANTIZERS, "cpu")
    expected = [outcome for group in run(Inline(settings), groups(sounds, 2)) for outcome in group]
    found: list[Outcome] = []
    with on_this_machine(settings, 2) as engine:
        for number, outcomes in enumerate(run(engine, groups(sounds, 2))):
            found.extend(outcomes)
            if number == 0:
                victim, *_ = multiprocessing.active_children()
                assert victim.pid is not None
                os.kill(victim.pid, signal.SIGKILL)
    assert same(found, expected)
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("quick_workers")
def test_a_sound_that_ends_its_process_is_a_failure(sounds: Path, model: str) -> None:
    settings = Settings(model, N_QUANTIZERS, "cpu")
    with on_this_machine(settings, 1) as engine:
        found = [outcome for group in run(engine, groups(sounds, 2, "04.wav")) for outcome in group]
    failed = [outcome for outcome in found if isinstance(outcome, Failure)]
    assert failed == [("04.wav", "its process ended twice: a crash of the decoder, or not enough memory")]
    others = [outcome for outcome in found if outcome.id != "04.wav"]
    assert same(
        others, [one for group in run(Inline(settings), groups(sounds, 2)) for one in group if one.id != "04.wav"]
    )


@dataclass
class Lossy(Inline):
    """An engine that loses what `is_lost` says, and counts what is submitted and not yet done."""

    settings: Settings
    is_lost: Callable[[Source, int], bool]
    n_workers: int = 2
    n_waiting: int = 0
    most: int = 0
    n_submitted: int = 0

    def submit(self, group: Source) -> Any:
        self.n_submitted += 1
        self.n_waiting += 1
        self.most = max(self.most, self.n_waiting)
        return group, self.n_submitted

    def result(self, submitted: Any) -> list[Outcome]:
        self.n_waiting -= 1
        group, number = submitted
        if self.is_lost(group, number):
            raise WorkerLostError
        return [Failure(item.id, "") for item in group]


def files(n: int) -> Files:
    return Files("s", tuple((str(index), Path()) for index in range(n)))


def test_groups_wait_for_the_writer() -> None:
    engine = Lossy(Settings("m"), lambda group, number: False)
    outcomes = run(engine, (files(40)[first : first + 2] for first in range(0, 40, 2)))
    next(outcomes)
    assert engine.n_submitted == 8
    assert [outcome.id for group in outcomes for outcome in group] == [str(index) for index in range(2, 40)]
    assert (engine.most, engine.n_submitted) == (8, 20)


def test_lost_groups_are_submitted_again_and_then_sound_by_sound() -> None:
    engine = Lossy(Settings("m"), lambda group, number: number in (1, 2))  # both at their first attempt
    found = list(run(engine, [files(3), files(2)]))
    assert [[outcome.reason for outcome in group] for group in found] == [["", "", ""], ["", ""]]  # type: ignore[union-attr]
    assert engine.n_submitted == 4
    bad = Lossy(Settings("m"), lambda group, number: any(item.id == "1" for item in group))
    (group,) = run(bad, [files(3)])
    assert [bool(outcome.reason) for outcome in group] == [False, True, False]  # type: ignore[union-attr]
    assert bad.n_submitted == 2 + 3 + 1
