"""A small data set of real files, and small runs on it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec.common.manifest import Sound, read_split
from dac_codec.training.config import DataConfig, TrainConfig
from dac_codec.training.excerpts import ExcerptDataset

RATE = 44100


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of tones and noises, two domains, three splits; one file of it is not a sound."""
    folder = tmp_path_factory.mktemp("sounds")
    random = np.random.default_rng(0)
    rows = []
    for index in range(12):
        rate = (44100, 22050, 48000)[index % 3]
        time = np.arange(rate) / rate
        wave = 0.2 * np.sin(2 * np.pi * (200 + 100 * index) * time) + 0.02 * random.standard_normal(rate)
        name, domain = f"{index}.flac", ("tones", "more")[index % 2]
        soundfile.write(folder / name, wave, rate)
        rows.append((name, domain, 1.0, "val" if index > 9 else "test" if index > 7 else "train"))
    (folder / "broken.flac").write_bytes(b"fLaC" + bytes(100))
    rows.append(("broken.flac", "tones", 1.0, "train"))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "domain", "duration", "split"])
        writer.writerows(rows)
    return folder / "manifest.csv"


@pytest.fixture(scope="session")
def sounds(manifest: Path) -> list[Sound]:
    """Ten tones of two domains at three rates, one of them unreadable."""
    return read_split(manifest, "train")


def dataset(sounds: list[Sound], *, length: int = 8192, seed: int = 5, **options: Any) -> ExcerptDataset:
    """Excerpts at 44.1 kHz, without augmentation that is not asked for."""
    config = DataConfig(**({"sounds": "", "rotate_phase": False} | options))
    return ExcerptDataset(sounds, config, sample_rate=RATE, length=length, seed=seed)


def noise(path: Path, seconds: float = 1.0, level: float = 0.1, channels: int = 1, rate: int = RATE) -> Sound:
    """A file of noise; its domain is the name of its folder."""
    path.parent.mkdir(exist_ok=True)
    random = np.random.default_rng(len(path.name))
    samples = level * random.standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return Sound(path, path.parent.name, seconds)


def garbled(path: Path) -> None:
    path.write_bytes(b"fLaC" + bytes(200))


def small_run(folder: Path, manifest: Path, **changes: Any) -> TrainConfig:
    """A run of a tiny network against tiny discriminators; changes are by section: `trainer={"ema": 0.9}`."""
    values: dict[str, Any] = {
        "model": {
            "encoder_dim": 4,
            "encoder_rates": [4, 8],
            "decoder_dim": 16,
            "decoder_rates": [8, 4],
            "n_codebooks": 3,
            "codebook_size": 32,
        },
        "discriminator": {"periods": [], "fft_sizes": [128], "bands": [(0.0, 1.0)]},
        "data": {"sounds": str(manifest), "excerpt": 0.05, "validation_clips": 2, "validation_seconds": 0.5},
        "loss": {"mel": 1.0, "waveform": 20.0},
        "trainer": {
            "folder": str(folder),
            "phases": [{"until": 4}],
            "batch_size": 2,
            "learning_rate": 2e-3,
            "fan_in_init": True,
            "codebook_batches": 8,
            "log_every": 1,
            "save_every": 4,
            "validate_every": 1000,
            "validation_examples": 0,
            "workers": 0,
            "accelerator": "cpu",
        },
    }
    for section, content in changes.items():
        values[section] = values.get(section, {}) | content if isinstance(content, dict) else content
    return TrainConfig.parse(values)


def log_of(folder: Path) -> list[dict[str, float]]:
    """The lines of a run's log without the times, which differ from run to run."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("_seconds")} for line in lines]


def assert_equal(one: Any, other: Any) -> None:
    """The same, to the last bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other
