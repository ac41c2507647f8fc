"""Sounds and streams that the tests of dac_codec.audio share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dac_codec import audio

RATE = 48000

HAS_MP3 = "MP3" in soundfile.available_formats()
HAS_OPUS = "OPUS" in soundfile.available_subtypes("OGG")
needs_mp3 = pytest.mark.skipif(not HAS_MP3, reason="this libsndfile has no mp3")
needs_opus = pytest.mark.skipif(not HAS_OPUS, reason="this libsndfile has no opus")


def tones(seconds: float = 1.0, channels: int = 2, sample_rate: int = RATE) -> audio.Audio:
    """A different sine in each channel [C, T], so that swapped, shifted and lost samples are noticed."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.stack([0.5 * np.sin(2 * np.pi * 220 * (c + 1) * t + c) for c in range(channels)]).astype(np.float32)


def noise(n_samples: int, channels: int = 1, level: float = 0.1, seed: int = 0) -> audio.Audio:
    """White noise [C, T] of a given RMS."""
    return (level * np.random.default_rng(seed).standard_normal((channels, n_samples))).astype(np.float32)


def names(folder: Path) -> list[str]:
    """Names of all files in a folder, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())


class Pipe(io.RawIOBase):
    """A binary stream that is not seekable, like standard input or output behind a pipe."""

    def __init__(self, content: bytes = b"") -> None:
        self.incoming = io.BytesIO(content)
        self.outgoing = io.BytesIO()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.incoming.readinto(buffer)

    def write(self, content: Any) -> int:
        return self.outgoing.write(content)


def write_damaged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def low_passed(waveform: audio.Audio, bandwidth: float, rate: int) -> audio.Audio:
    """`audio.LowPass` applied to a whole waveform."""
    low_pass = audio.LowPass(rate, waveform.shape[0], bandwidth)
    return np.concatenate((low_pass.push(waveform), low_pass.flush()), axis=1)
