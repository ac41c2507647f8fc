"""The choice of clips."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dac_codec.common.errors import AudioError
from dac_codec.evaluation import clips
from tests.evaluation.sounds import RATE, speech_like


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for index, (domain, seconds) in enumerate([("speech", 0.7), ("speech", 0.9), ("music", 6.0), ("effects", 0.4)]):
        soundfile.write(tmp_path / f"{index}.wav", speech_like(seconds, index)[0], RATE)
        rows.append((f"{index}.wav", domain, seconds, "test"))
    rows.append(("not-there.wav", "speech", 1.0, "train"))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "domain", "duration", "split"), *rows])
    return tmp_path / "manifest.csv"


def test_clips_of_a_manifest_have_one_length(manifest: Path, tmp_path: Path) -> None:
    found = clips.held_out_clips(manifest, RATE, per_domain=3, seconds=1.5)
    assert [clip.name for clip in found] == [
        "effects-00",
        "music-00",
        "music-01",
        "music-02",
        "speech-00",
        "speech-01",
    ]
    assert {clip.waveform.shape for clip in found} == {(1, int(1.5 * RATE))}
    assert [clip.sources for clip in found] == [
        ("3.wav",),
        ("2.wav",),
        ("2.wav",),
        ("2.wav",),
        ("1.wav", "0.wav"),
        ("1.wav", "0.wav"),
    ]
    assert [clip.name for clip in clips.find_clips(manifest, RATE)] == [
        clip.name for clip in clips.held_out_clips(manifest, RATE)
    ]
    with pytest.raises(AudioError, match="val split"):
        clips.find_clips(manifest, RATE, split="val")
    (tmp_path / "no-manifest.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("none.csv", "no-manifest.csv"):
        with pytest.raises(AudioError, match="manifest"):
            clips.find_clips(tmp_path / name, RATE)


def test_notes_say_which_domains_are_held_out_as_wholes(tmp_path: Path) -> None:
    rows = [
        ("a.wav", "speech", 1.0, "anna", "", "test"),
        ("b.wav", "speech", 1.0, "bert", "", "test"),
        ("c.wav", "speech", 1.0, "bert", "", "train"),
        ("d.wav", "music", 1.0, "", "piece", "test"),
        ("e.wav", "effects", 1.0, "", "", "test"),
    ]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "domain", "duration", "speaker", "source", "split"), *rows])
    assert clips.held_out_notes(tmp_path / "manifest.csv") == [
        "effects: the manifest names no sources, so that they may be in other splits too.",
        "music: 1 source, none of which is in another split.",
        "speech: 1 of 2 speakers are in other splits too.",
    ]


def test_speakers_give_equally_many_clips_at_each_speed(tmp_path: Path) -> None:
    rows = [("path", "domain", "duration", "speaker", "split")]
    for index, (speaker, pitch) in enumerate([("one", 200.0), ("one", 200.0), ("two", 400.0), ("", 800.0)]):
        wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(4 * RATE) / RATE)
        soundfile.write(tmp_path / f"{index}.wav", wave, RATE)
        rows.append((f"{index}.wav", "speech" if speaker else "music", "4.0", speaker, "test"))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = clips.held_out_clips(tmp_path / "manifest.csv", RATE, per_domain=4, seconds=1.0)
    spoken = [f"speech-{index:02}" for index in range(4)]
    high = [f"{name}-x{speed}" for speed in ("0.75", "1.25", "1.5") for name in spoken]
    assert [clip.name for clip in found] == [f"music-{index:02}" for index in range(4)] + spoken + high
    for clip in found:
        name, _, speed = clip.name.partition("-x")
        assert clip.domain == ("speech-high" if speed else name[:-3])
        factor = float(speed or 1)
        assert clip.waveform.shape == (1, math.ceil(RATE / factor))
        pitch = {"music": 800, "speech": 200 if name < "speech-02" else 400}[name[:-3]]
        spectrum = np.abs(np.fft.rfft(clip.waveform[0], 8 * RATE))
        assert spectrum.argmax() / 8 == pytest.approx(factor * pitch, abs=1)


def test_sources_of_a_clip(tmp_path: Path) -> None:
    """Each file is a constant, by which it is recognized in the clips."""
    rows = []
    for index, seconds in enumerate([1.0, 0.4, 0.6, 2.0, 1.0]):
        soundfile.write(tmp_path / f"{index}.wav", np.full(int(seconds * RATE), 0.1 * (index + 1)), RATE)
        rows.append((f"{index}.wav", "effects", seconds, "test"))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "domain", "duration", "split"), *rows])
    for per_domain, seconds in ((5, 1.0), (3, 0.5), (9, 1.2), (2, 7.0)):
        for clip in clips.held_out_clips(tmp_path / "manifest.csv", RATE, per_domain, seconds):
            levels, counts = np.unique(np.round(10 * clip.waveform), return_counts=True)
            held = {f"{round(level) - 1}.wav": int(count) for level, count in zip(levels, counts, strict=True)}
            assert set(clip.sources) == set(held)
            assert len(clip.sources) == len(held)
            assert held[clip.sources[0]] == max(held.values())


def test_files_of_a_folder(tmp_path: Path) -> None:
    long = np.concatenate([speech_like(3.0), speech_like(10.0, 1), speech_like(3.0)], 1)
    for name, waveform in (("a/long.wav", long), ("b/sub/short.flac", speech_like(0.5)), ("top.wav", speech_like(0.5))):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(tmp_path / name, np.stack([waveform[0], -0.5 * waveform[0]], 1), RATE, subtype="PCM_16")
    (tmp_path / "a" / "bad.wav").write_bytes(b"no sound")
    with pytest.warns(UserWarning, match=r"bad\.wav"):
        found = {clip.name: clip for clip in clips.find_clips(tmp_path, RATE)}
    assert {clip.name: clip.domain for clip in found.values()} == {
        "a/long.wav": "a",
        "b/sub/short.flac": "b",
        "top.wav": "other",
    }
    assert {clip.sources for clip in found.values()} == {("a/long.wav",), ("b/sub/short.flac",), ("top.wav",)}
    assert found["top.wav"].waveform.shape == (1, RATE // 2)
    # The middle of the long one, mixed down.
    assert np.abs(found["a/long.wav"].waveform - 0.25 * speech_like(10.0, 1)).max() < 1e-3


def test_a_domain_named_like_all_of_them_is_refused(tmp_path: Path) -> None:
    for name in ("all/a.wav", "music/b.wav"):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, speech_like(0.2)[0], RATE)
    with pytest.raises(AudioError, match="the domain 'all' must be renamed"):
        clips.find_clips(tmp_path, RATE)


def test_a_single_file_and_no_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech_like(0.5)[0], RATE)
    (clip,) = clips.find_clips(tmp_path / "a.wav", RATE // 2)
    assert (clip.name, clip.domain, clip.waveform.shape) == ("a.wav", clips.POOLED, (1, RATE // 4))
    (clip,) = clips.find_clips(tmp_path, RATE)
    assert clip.domain == clips.POOLED
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for data in (tmp_path, tmp_path / "a.wav", tmp_path / "empty", tmp_path / "nowhere.wav"):
        with pytest.raises(AudioError):
            clips.find_clips(data, RATE)


@pytest.mark.filterwarnings("ignore:left out")
def test_sound_that_is_left_out_is_listed(tmp_path: Path) -> None:
    for name in ("a.wav", "cut.wav"):
        soundfile.write(tmp_path / name, speech_like(1.0)[0], RATE)
    content = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    (tmp_path / "b.m4a").write_bytes(b"something")
    failures: list[str] = []
    assert [clip.name for clip in clips.find_clips(tmp_path, RATE, failures=failures)] == ["a.wav"]
    assert [line.split(": ")[1].removeprefix(f"{tmp_path}/") for line in failures] == ["b.m4a", "cut.wav"]
    with pytest.warns(UserWarning, match=r"left out: .*b\.m4a: sound in a format that can't be read"):
        clips.find_clips(tmp_path, RATE)
