"""Runs that are cut short, broken and repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dac_codec.audio import Audio
from dac_codec.errors import DacError
from dac_codec.evaluation import summary
from dac_codec.evaluation.clips import Clip
from dac_codec.evaluation.codecs import Coded, Setting
from dac_codec.evaluation.metrics import METRICS, usable_metrics
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.run import Outcome, run, shown
from tests.evaluation.sounds import RATE, noisy, speech_like
from tests.evaluation.test_metrics import PERFECT

QUICK = METRICS[:5]


@dataclass
class Counting:
    """A codec that halves the level, counts what it does, and can't do clips of some length."""

    name: str = "counting"
    about: str = "half"
    fingerprint: str = "1"
    fails_at: int = 0
    done: list[float] = field(default_factory=list)

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        return [Setting(f"{one:g} kbit/s", one) for one in bitrates]

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        if clip.shape[-1] == self.fails_at:
            raise DacError("not this one")
        self.done.append(setting.value)
        codes = np.arange(12).reshape(3, 4)
        return Coded(clip / 2, 100, 90.0, 0.1, 0.2, codes, 16)


@dataclass(frozen=True)
class Noisy:
    """A codec that adds noise, so many dB below the sound; none at all at 1000."""

    name: str = "noisy"
    about: str = "noise"
    fingerprint: str = "1"

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        return [Setting(f"{one:g} dB", one) for one in bitrates]

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        return Coded(clip if setting.value == 1000 else noisy(clip, setting.value), 100, 100.0, 0.1, 0.1)


def test_the_identity_is_perfect_and_what_is_worse_is_reported_as_worse(tmp_path: Path) -> None:
    codec, (metrics, _) = Noisy(), usable_metrics()
    clips = [Clip("speech-0", "speech", speech_like(2.0))]
    settings = codec.settings([1000, 35, 15, 0])
    outcome = run(clips, RATE, [(codec, settings)], metrics, tmp_path, workers=1, progress=False)
    means = [mean for mean in summary.means(outcome.results, metrics) if mean.domain == "speech"]
    assert [mean.setting for mean in means] == ["1000 dB", "35 dB", "15 dB", "0 dB"]
    for metric in metrics:
        values = [mean.measures[metric.name].mean or 0.0 for mean in means]
        assert values[0] == pytest.approx(PERFECT[metric.name], abs=2e-3)
        assert values == sorted(values, reverse=metric.higher_is_better)
        assert len(set(values)) == len(values)


@pytest.fixture
def clips() -> list[Clip]:
    return [Clip(f"{domain}-{i}", domain, speech_like(0.2 + 0.1 * i, i)) for domain in ("a", "b") for i in range(3)]


def evaluated(clips: list[Clip], codec: Counting, cache: Path, bitrates: Sequence[float] = (2, 4)) -> Outcome:
    cache.mkdir(exist_ok=True)
    return run(clips, RATE, [(codec, codec.settings(bitrates))], QUICK, cache, workers=1, progress=False)


def test_what_is_done_is_not_done_again(clips: list[Clip], tmp_path: Path) -> None:
    codec = Counting()
    first = evaluated(clips, codec, tmp_path)
    assert len(codec.done) == len(first.results) == 12
    assert first.failures == []
    assert first.results[0].kbps == pytest.approx(100 * 8 / 0.2 / 1000, rel=1e-3)
    assert [one.clip for one in first.results if one.sound is not None] == [
        clip.name for clip in shown(clips) for _ in range(2)
    ]
    assert evaluated(clips, codec, tmp_path) == first
    assert len(codec.done) == 12
    evaluated(clips, codec, tmp_path, (2, 4, 8))
    assert codec.done[12:] == [8] * 6
    codec.fingerprint = "2"
    evaluated(clips, codec, tmp_path)
    assert len(codec.done) == 18 + 12
    clips[0] = Clip(clips[0].name, clips[0].domain, clips[0].waveform * 0.9)
    evaluated(clips, codec, tmp_path)
    assert len(codec.done) == 30 + 2


def test_a_damaged_result_is_computed_again(clips: list[Clip], tmp_path: Path) -> None:
    codec = Counting()
    whole = evaluated(clips, codec, tmp_path)
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:50])
    files[1].write_text("{}")
    files[2].write_text("[]")
    assert evaluated(clips, codec, tmp_path) == whole
    assert len(codec.done) == 12 + 3


def test_a_failure_costs_one_result(clips: list[Clip], tmp_path: Path) -> None:
    codec = Counting(fails_at=clips[1].waveform.shape[-1])
    outcome = evaluated(clips, codec, tmp_path, (2,))
    assert len(outcome.results) == 4
    assert outcome.failures == ["a-1, counting 2 kbit/s: not this one", "b-1, counting 2 kbit/s: not this one"]


def test_counts_of_codes(tmp_path: Path) -> None:
    result = evaluated([Clip("a", "a", speech_like(0.3))], Counting(), tmp_path, (2,)).results[0]
    counts = result.counts()
    assert counts is not None
    assert counts.shape == (3, 16)
    assert np.flatnonzero(counts[1]).tolist() == [4, 5, 6, 7]


def test_a_folder_that_cannot_be_written_to_is_named(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = evaluated(clips[:1], Counting(), tmp_path / "cache", (2,)).results[0]
    with pytest.raises(DacError, match="can't write"):
        result.save(tmp_path / "file" / "x.json")


RUN = """
import sys
from pathlib import Path
from dac_codec.evaluation.clips import Clip
from dac_codec.evaluation.codecs import make_codecs
from dac_codec.evaluation.metrics import METRICS
from dac_codec.evaluation.run import run
from tests.evaluation.sounds import RATE, speech_like

if __name__ == "__main__":
    sounds = [speech_like(0.5, seed) for seed in range(4)]
    clips = [Clip(f"{i:03}", "speech", sounds[i % 4]) for i in range(int(sys.argv[2]))]
    codecs, _ = make_codecs(["anchor"], "none", "cpu")
    settings = [(codec, codec.settings([2])) for codec in codecs]
    outcome = run(clips, RATE, settings, METRICS[:5], Path(sys.argv[1]), workers=2, progress=False)
    print(len(outcome.results), len(outcome.failures))
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    cache, script = tmp_path / "cache", tmp_path / "script.py"
    cache.mkdir()
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, script, cache, "3000"], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(cache.glob("*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = _settled(cache)
    assert 5 <= done < 3000
    stamps = {file: file.stat().st_mtime_ns for file in cache.glob("*.json")}
    assert all(Result.load(file) is not None for file in stamps)
    again = subprocess.run(
        [sys.executable, script, cache, "8"], env=environment, capture_output=True, text=True, timeout=240
    )
    assert again.stdout.split() == ["8", "0"], again.stderr
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def _settled(cache: Path) -> int:
    """How many results there are once no orphaned process writes any more."""
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
