"""Excerpts: random, but only once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from dac_codec import audio as sound
from dac_codec.errors import AudioError
from dac_codec.training.data import ExcerptDataset, read_manifest

WEIGHTS = {"tones": 1.0, "more": 1.0}


def dataset(manifest: Path, **options: object) -> ExcerptDataset:
    values: dict[str, object] = {"sample_rate": 44100, "length": 16384, "size": 40, "weights": WEIGHTS, "seed": 5}
    return ExcerptDataset(read_manifest(manifest, "train"), **(values | options))  # type: ignore[arg-type]


def test_the_seed_and_the_index_say_all(manifest: Path) -> None:
    first, second, other = dataset(manifest), dataset(manifest), dataset(manifest, seed=6)
    assert all(torch.equal(first[index], second[index]) for index in (7, 0, 3))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])
    assert first[0].shape == (1, 16384)
    assert first[0].dtype == torch.float32


def test_excerpts_are_at_the_target_loudness(manifest: Path) -> None:
    for index in range(5):
        assert sound.loudness(dataset(manifest)[index].numpy(), 44100) == pytest.approx(-16.0, abs=0.1)


def test_attenuation_lowers_half_of_them(manifest: Path) -> None:
    lowered = dataset(manifest, attenuation=40.0)
    levels = [sound.loudness(lowered[index].numpy(), 44100) for index in range(40)]
    quieter = [level for level in levels if level < -16.5]
    assert 8 < len(quieter) < 32
    assert -60 < min(quieter) < -30


def test_a_broken_file_is_named_and_passed_over(manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        excerpts = [dataset(manifest, weights={"tones": 1.0})[index] for index in range(30)]
    assert "broken.flac" in caplog.text
    assert all(float(excerpt.abs().max()) > 0 for excerpt in excerpts)


def test_files_shorter_than_an_excerpt_are_padded(manifest: Path) -> None:
    excerpt = dataset(manifest, length=60000)[0]
    assert excerpt.shape == (1, 60000)
    assert 40000 < int((excerpt != 0).sum()) < 48100


def test_domains_follow_their_weights(manifest: Path) -> None:
    only = dataset(manifest, weights={"tones": 1.0, "more": 0.0})
    assert set(only.sounds) == {"tones"}
    with pytest.raises(AudioError, match="speech"):
        dataset(manifest, weights={"speech": 1.0})


def test_what_is_not_a_manifest(tmp_path: Path, manifest: Path) -> None:
    with pytest.raises(AudioError, match=r"prepare_data\.py"):
        read_manifest(tmp_path / "none.csv", "train")
    with pytest.raises(AudioError, match="holiday"):
        read_manifest(manifest, "holiday")


def test_a_share_of_them_is_partly_silent(manifest: Path) -> None:
    cut = dataset(manifest, silence=0.5)
    ends = [cut[index][0, [0, -1]] for index in range(40)]
    silent = sum(bool((end == 0).any()) for end in ends)
    assert 10 < silent < 30
