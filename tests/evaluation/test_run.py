"""Runs that are interrupted, fail and are repeated."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec import pretrained
from dac_codec.audio import Audio
from dac_codec.common.errors import DacError
from dac_codec.evaluation import summary
from dac_codec.evaluation.clips import Clip
from dac_codec.evaluation.codecs import Coded, Setting
from dac_codec.evaluation.metrics import METRICS, METRICS_VERSION, usable_metrics
from dac_codec.evaluation.report import evaluate
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.run import Outcome, Task, played_clips, run
from tests.conftest import golden_model
from tests.evaluation import anchors
from tests.evaluation.sounds import RATE, noisy, speech_like
from tests.evaluation.test_metrics import PERFECT
from tests.processes import started

QUICK = METRICS[:5]
ROOT = Path(__file__).parents[2]
ANCHORS = [sys.executable, "-m", "tests.evaluation.anchors"]


@dataclass
class Counting:
    """A codec that halves the level, records its calls, and fails for clips of one length."""

    name: str = "counting"
    about: str = "half"
    fingerprint: str = "1"
    fails_at: int = 0
    error: type[BaseException] = DacError
    done: list[float] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        return [Setting(f"{one:g} kbit/s", one) for one in bitrates]

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        if clip.shape[-1] == self.fails_at:
            raise self.error("not this one")
        self.done.append(setting.value)
        self.threads.add(torch.get_num_threads())
        codes = np.arange(12).reshape(3, 4)
        return Coded(clip / 2, 100, 90.0, 0.1, 0.2, codes, 16)


@dataclass(frozen=True)
class Noisy:
    """A codec that adds noise at a signal-to-noise ratio in dB; none at 1000."""

    name: str = "noisy"
    about: str = "noise"
    fingerprint: str = "1"

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        return [Setting(f"{one:g} dB", one) for one in bitrates]

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        return Coded(clip if setting.value == 1000 else noisy(clip, setting.value), 100, 100.0, 0.1, 0.1)


def test_the_identity_is_perfect_and_noise_is_worse(tmp_path: Path) -> None:
    codec, (metrics, _) = Noisy(), usable_metrics()
    clips = [Clip("speech-0", "speech", speech_like(2.0))]
    settings = codec.settings([1000, 35, 15, 0])
    outcome = run(clips, RATE, [(codec, settings)], metrics, tmp_path, workers=1, progress=False)
    means = [mean for mean in summary.means(outcome.results, metrics) if mean.domain == "speech"]
    assert [mean.setting for mean in means] == ["1000 dB", "35 dB", "15 dB", "0 dB"]
    for metric in metrics:
        values = [mean.measures[metric.name].mean for mean in means]
        assert values[0] == pytest.approx(PERFECT[metric.name], abs=2e-3)
        assert values == sorted(values, reverse=metric.higher_is_better)
        assert len(set(values)) == len(values)


@pytest.fixture
def clips() -> list[Clip]:
    return [Clip(f"{domain}-{i}", domain, speech_like(0.2 + 0.1 * i, i)) for domain in ("a", "b") for i in range(3)]


def evaluated(clips: list[Clip], codec: Counting, cache: Path, bitrates: Sequence[float] = (2, 4)) -> Outcome:
    cache.mkdir(exist_ok=True)
    return run(clips, RATE, [(codec, codec.settings(bitrates))], QUICK, cache, workers=1, progress=False)


def test_results_are_reused(clips: list[Clip], tmp_path: Path) -> None:
    codec = Counting()
    first = evaluated(clips, codec, tmp_path)
    assert len(first.results) == 12
    assert len(codec.done) == 1 + 12  # it is warmed up first
    assert first.failures == []
    assert first.results[0].kbps == pytest.approx(100 * 8 / 0.2 / 1000, rel=1e-3)
    assert [one.clip for one in first.results if one.sound is not None] == [
        clip.name for clip in played_clips(clips) for _ in range(2)
    ]
    assert evaluated(clips, codec, tmp_path) == first
    assert len(codec.done) == 13
    evaluated(clips, codec, tmp_path, (2, 4, 8))
    assert codec.done[13:] == [8] * 7
    codec.fingerprint = "2"
    evaluated(clips, codec, tmp_path)
    assert len(codec.done) == 20 + 13
    clips[0] = Clip(clips[0].name, clips[0].domain, clips[0].waveform * 0.9)
    evaluated(clips, codec, tmp_path)
    assert len(codec.done) == 33 + 3
    clips[1] = Clip(clips[1].name, clips[1].domain, clips[1].waveform, ("file",))
    assert evaluated(clips, codec, tmp_path).results[2].sources == ["file"]
    assert len(codec.done) == 36 + 3
    clips = [Clip(clips[0].name, "c", clips[0].waveform)]
    evaluated(clips, codec, tmp_path)
    assert len(codec.done) == 39 + 3
    for rate, metrics in ((RATE // 2, QUICK), (RATE, QUICK[:4])):
        run(clips, rate, [(codec, codec.settings([2]))], metrics, tmp_path, workers=1, progress=False)
    assert len(codec.done) == 42 + 2 * 2


@pytest.mark.parametrize(
    "change", [{"seconds": 0}, {"clip": "other"}, {"domain": "x"}, {"setting": "x"}, {"measures": {}}, {"codec": "x"}]
)
def test_a_kept_result_that_is_not_that_of_its_task_is_computed_again(
    change: dict[str, Any], clips: list[Clip], tmp_path: Path
) -> None:
    codec = Counting()
    first = evaluated(clips[:1], codec, tmp_path, (2,))
    (kept,) = tmp_path.glob("*.json")
    kept.write_text(json.dumps(json.loads(kept.read_text()) | change))
    assert evaluated(clips[:1], codec, tmp_path, (2,)) == first
    assert len(codec.done) == 4


def test_other_versions_do_not_reuse_results(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Counting()
    evaluated(clips[:1], codec, tmp_path, (2,))
    monkeypatch.setattr("dac_codec.__version__", "next")
    evaluated(clips[:1], codec, tmp_path, (2,))
    monkeypatch.setattr("dac_codec.evaluation.run.METRICS_VERSION", METRICS_VERSION + 1)
    evaluated(clips[:1], codec, tmp_path, (2,))
    assert len(codec.done) == 3 * 2


def test_codecs_use_one_thread_and_the_caller_keeps_its_own(clips: list[Clip], tmp_path: Path) -> None:
    codec, before = Counting(fails_at=clips[1].waveform.shape[-1]), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        evaluated(clips, codec, tmp_path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert codec.threads == {1}


def test_a_damaged_result_is_computed_again(clips: list[Clip], tmp_path: Path) -> None:
    codec = Counting()
    whole = evaluated(clips, codec, tmp_path)
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].write_text("{}")
    files[2].write_text("[]")
    assert evaluated(clips, codec, tmp_path) == whole
    assert len(codec.done) == 13 + 1 + 3


def test_a_failure_costs_one_result(clips: list[Clip], tmp_path: Path) -> None:
    codec = Counting(fails_at=clips[1].waveform.shape[-1])
    outcome = evaluated(clips, codec, tmp_path, (2,))
    assert len(outcome.results) == 4
    assert outcome.failures == ["a-1, counting 2 kbit/s: not this one", "b-1, counting 2 kbit/s: not this one"]


@pytest.mark.parametrize("error", [RuntimeError, ValueError, OSError])
def test_any_exception_of_a_codec_costs_one_result(error: type[Exception], clips: list[Clip], tmp_path: Path) -> None:
    codec = Counting(fails_at=clips[0].waveform.shape[-1], error=error)  # of the first one, which also warms up
    outcome = evaluated(clips, codec, tmp_path, (2,))
    assert len(outcome.results) == 4
    reason = f"the codec failed with {error.__name__}: not this one"
    assert outcome.failures == [f"{domain}-0, counting 2 kbit/s: {reason}" for domain in ("a", "b")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupts_and_lack_of_memory_end_a_run(error: type[BaseException], clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(error):
        evaluated(clips, Counting(fails_at=clips[1].waveform.shape[-1], error=error), tmp_path, (2,))


def test_a_metric_that_fails_costs_one_result(clips: list[Clip], tmp_path: Path) -> None:
    def broken(decoded: Audio, original: Audio, sample_rate: int) -> float:
        if original.shape == clips[1].waveform.shape:
            raise ValueError("too odd\nby far")
        return 1.0

    settings, metrics = [(Counting(), [Setting("2 kbit/s", 2)])], [replace(QUICK[0], measure=broken)]
    outcome = run(clips[:3], RATE, settings, metrics, tmp_path, workers=1, progress=False)
    assert [one.clip for one in outcome.results] == ["a-0", "a-2"]
    assert outcome.failures == ["a-1, counting 2 kbit/s: mel distance failed with ValueError: too odd"]


@pytest.mark.parametrize(
    ("decoded", "reason"),
    [
        (lambda clip: clip[:, 1:], r"the codec gave \(1, \d+\) samples for \(1, \d+\)"),
        (lambda clip: np.where(np.arange(clip.shape[1]) == 5, np.float32(np.nan), clip), "samples that are not finite"),
    ],
)
def test_invalid_output_of_a_codec_costs_one_result(
    decoded: Callable[[Audio], Audio], reason: str, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = Counting.code

    def broken(self: Counting, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        coded = code(self, clip, sample_rate, setting)
        same = clip.shape != clips[1].waveform.shape
        return coded if same else replace(coded, decoded=decoded(clip))

    monkeypatch.setattr(Counting, "code", broken)
    outcome = evaluated(clips[:3], Counting(), tmp_path, (2,))
    assert [one.clip for one in outcome.results] == ["a-0", "a-2"]
    (failure,) = outcome.failures
    assert re.search(reason, failure)


class Changing(Counting):
    """A codec whose fingerprint changes when the evaluation has begun."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "fingerprint":
            self.fingerprint = "another"
        return value


def test_a_codec_that_changes_during_the_run_has_no_results(clips: list[Clip], tmp_path: Path) -> None:
    outcome = evaluated(clips[:1], Changing(), tmp_path, (2,))
    assert outcome.results == []
    reason = "the codec has changed since the evaluation began; start it again"
    assert outcome.failures == [f"a-0, counting 2 kbit/s: {reason}"]
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_replaced_between_two_evaluations_are_used(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech_like(0.5)[0], RATE)
    rates = []
    for name in ("44khz", "24khz"):
        pretrained.save(golden_model(name), tmp_path / "model")
        evaluate(
            tmp_path / "a.wav",
            tmp_path / "report",
            bitrates=(8.0,),
            model=str(tmp_path / "model"),
            workers=1,
            progress=False,
            say=lambda line: None,
        )
        rates.append(json.loads((tmp_path / "report" / "report.json").read_text())["sample_rate"])
    assert rates == [44100, 24000]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals are not sent to threads here")
def test_ctrl_c_does_not_interrupt_the_submission_of_tasks(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted, shut_down = [], []

    class Pool:
        def __init__(self, *arguments: object) -> None:
            pass

        def submit(self, call: object, task: Task) -> Future[None]:
            if not submitted:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.2)  # The main thread has raised by now.
            submitted.append(task)
            return Future()

        def shutdown(self, **options: bool) -> None:
            shut_down.append((len(submitted), options))

    monkeypatch.setattr("dac_codec.evaluation.run.ProcessPoolExecutor", Pool)
    codec = Counting()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where tests run
    try:
        with pytest.raises(KeyboardInterrupt):
            run(clips, RATE, [(codec, codec.settings([2]))], QUICK, tmp_path, workers=2, progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert shut_down == [(6, {"wait": True, "cancel_futures": True})]


def test_a_task_that_can_not_be_submitted_ends_the_run(
    clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*arguments: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr("dac_codec.evaluation.run.ProcessPoolExecutor.submit", submit)
    codec = Counting()
    with pytest.raises(OSError, match="no more processes"):
        run(clips, RATE, [(codec, codec.settings([2]))], QUICK, tmp_path, workers=2, progress=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ctrl_c_while_processes_begin_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    process = subprocess.Popen(
        [*ANCHORS, tmp_path / "cache", "3000"],
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 3:  # both workers and the resource tracker
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert errors.count("Traceback") == 1  # the parent's, which the script does not catch
    assert errors.rstrip().endswith("KeyboardInterrupt")


def test_at_most_twelve_clips_are_played() -> None:
    silence = np.zeros((1, 1), np.float32)

    def named(n_domains: int, n_clips: int = 4) -> list[str]:
        found = [Clip(f"{domain}-{i}", str(domain), silence) for domain in range(n_domains) for i in range(n_clips)]
        return [clip.name for clip in played_clips(found)]

    assert named(0) == []
    assert named(1, 1) == ["0-0"]
    assert named(2) == ["0-0", "0-2", "1-0", "1-2"]
    assert len(named(6)) == 12
    assert named(8) == ["0-0", "0-2", "1-0", "2-0", "2-2", "3-0", "4-0", "4-2", "5-0", "6-0", "6-2", "7-0"]
    assert named(24) == [f"{domain}-0" for domain in range(0, 24, 2)]


def test_counts_of_codes(tmp_path: Path) -> None:
    result = evaluated([Clip("a", "a", speech_like(0.3))], Counting(), tmp_path, (2,)).results[0]
    counts = result.counts()
    assert counts is not None
    assert counts.shape == (3, 16)
    assert np.flatnonzero(counts[1]).tolist() == [4, 5, 6, 7]


class _Varying(Counting):
    """One code in the first frame, two in the second."""

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        codes = np.array([[1, 2], [-1, 3]])
        return replace(super().code(clip, sample_rate, setting), codes=codes, code_bits=[5.0, 2.5])


def test_codes_whose_number_varies_are_kept(tmp_path: Path) -> None:
    clips = [Clip("a", "a", speech_like(0.3))]
    result = evaluated(clips, _Varying(), tmp_path, (2,)).results[0]
    counts, n_codes = result.counts(), result.n_codes()
    assert counts is not None
    assert n_codes is not None
    assert counts.sum(1).tolist() == [2, 1]
    assert counts[1, 3] == 1
    assert n_codes.tolist() == [1, 2]
    assert result.code_bits == [5.0, 2.5]
    assert evaluated(clips, _Varying(), tmp_path, (2,)).results == [result]


def test_the_error_of_a_folder_that_cannot_be_written(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = evaluated(clips[:1], Counting(), tmp_path / "cache", (2,)).results[0]
    with pytest.raises(DacError, match="can't write"):
        result.save(tmp_path / "file" / "x.json")


@pytest.mark.slow
def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    output = tmp_path / "output"
    with started("tests.evaluation.anchors", cache, 3000, streams=[output, output], cwd=ROOT):
        deadline = time.monotonic() + 120
        while len(list(cache.glob("*.json"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)  # It is killed then.
    done = _settled(cache)
    assert 5 <= done < 3000
    left = list(cache.iterdir())
    stamps = {file: file.stat().st_mtime_ns for file in cache.glob("*.json")}
    assert all(Result.load(file) is not None for file in stamps)
    again = anchors.evaluated(cache, 8, workers=1)
    assert (len(again.results), again.failures) == (8, [])
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    # Of the eight clips, those without a result, or without the sound that is needed now, are computed.
    played = {"000", "004"}
    had = [found for file in stamps if (found := Result.load(file)) is not None and found.clip < "008"]
    kept = [one for one in had if (one.sound is not None) == (one.clip in played)]
    assert len(list(cache.iterdir())) == len(left) + 8 - len(kept)


def _settled(cache: Path) -> int:
    """Number of results once no orphaned process writes any more."""
    count, since = -1, time.monotonic()
    while time.monotonic() - since < 1.5:
        found = len(list(cache.glob("*.json")))
        if found != count:
            count, since = found, time.monotonic()
        time.sleep(0.05)
    return count


def test_results_are_plain_json(clips: list[Clip], tmp_path: Path) -> None:
    evaluated(clips[:1], Counting(), tmp_path, (2,))
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["measures"].keys() == {metric.name for metric in QUICK}
