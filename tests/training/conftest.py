"""A small data set of real files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile


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
