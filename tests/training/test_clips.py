"""Validation clips are a fixed choice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dac_codec import audio
from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound
from dac_codec.training.clips import ValidationClip, read_clips
from dac_codec.training.config import DataConfig
from tests.training.conftest import RATE, garbled, noise


def clips_of(
    sounds: list[Sound], n_clips: int, rate: int = RATE, seed: int = 0
) -> tuple[list[ValidationClip], list[str]]:
    config = DataConfig(sounds="", validation_clips=n_clips, validation_seconds=1.0)
    return read_clips(sounds, config, sample_rate=rate, seed=seed)


def test_clips_are_a_fixed_choice_of_all_domains(tmp_path: Path) -> None:
    files = [noise(tmp_path / "speech" / f"{'s' * n}.wav", 0.5) for n in range(1, 10)]
    files += [noise(tmp_path / "music" / "m.wav", 3.0), noise(tmp_path / "music" / "mm.wav", 0.2)]
    first, second, other = (clips_of(files, 8, 24000, seed)[0] for seed in (1, 1, 2))
    assert len(first) == 8
    assert [first[index].name for index in range(8)] == [second[index].name for index in range(8)]
    assert [first[index].name for index in range(8)] != [other[index].name for index in range(8)]
    for index in range(8):
        clip = first[index]
        assert torch.equal(clip.audio, second[index].audio)
        assert audio.loudness(clip.audio.numpy(), 24000) == pytest.approx(-16.0, abs=0.5)
        assert float(clip.audio.abs().max()) <= 1.0
    # The two files of music have room for four clips, so that the domains alternate to the end.
    assert [first[index].domain for index in range(8)] == ["speech", "music"] * 4
    lengths = {clip.name.partition(".")[0]: clip.audio.shape[-1] for clip in first}
    assert lengths["mm"] == 4800
    assert lengths["m"] == 24000
    assert sum(clip.name.startswith("mm.") for clip in first) == 1
    assert len({clip.name for clip in first}) == 8


def test_there_are_no_more_clips_than_the_sounds_have_room_for(tmp_path: Path) -> None:
    files = [noise(tmp_path / "a.wav", 0.3), noise(tmp_path / "bb.wav", 2.5)]
    clips, _ = clips_of(files, 100)
    assert sorted(clip.name.partition(".")[0] for clip in clips) == ["a", "bb", "bb"]


def test_unreadable_files_and_silence_are_left_out(tmp_path: Path) -> None:
    garbled(tmp_path / "torn.flac")
    torn = Sound(tmp_path / "torn.flac", "speech", 1000.0)
    silent = Sound(noise(tmp_path / "silent.wav", level=0.0).path, "speech", 1.0)
    good = [Sound(noise(tmp_path / f"{'g' * n}.wav").path, "speech", 1.0) for n in (1, 2)]
    clips, skipped = clips_of([torn, silent, *good], 4)
    assert sorted(clip.name for clip in clips) == ["g.wav@0.00s", "gg.wav@0.00s"]
    assert len(skipped) == 1
    assert skipped[0].startswith(str(torn.path))
    with pytest.raises(AudioError, match=r"2 files, of which 1 can't be read.*torn\.flac"):
        clips_of([torn, silent], 4)
