"""Waveforms in memory: validation, and division into blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dac_codec.common.errors import AudioError

Audio: TypeAlias = npt.NDArray[np.float32]
"""Samples [C, T], float32, full scale 1.0."""

MAX_CHANNELS = 1024
"""Upper limit of libsndfile."""

BLOCK_VALUES = 2**18
"""Samples over all channels that are read, written or filtered in one step."""


def block_length(channels: int) -> int:
    """Samples per channel of a full block: 2^18 over all channels."""
    return max(1, BLOCK_VALUES // channels)


def blocks(audio: Audio) -> Iterator[Audio]:
    """Successive full blocks of `audio` [C, T], as views; the last may be shorter."""
    n_samples = block_length(len(audio))
    for start in range(0, audio.shape[1], n_samples):
        yield audio[:, start : start + n_samples]


def check(audio: npt.ArrayLike, sample_rate: int, name: str = "audio") -> Audio:
    """Validate an array and convert it into a waveform.

    Args:
        audio: [C, T] or [T], any floating dtype, full scale 1.0.
        sample_rate: Hz, a positive integer.
        name: what error messages call the array.

    Returns:
        [C, T] float32, C-contiguous; shares memory with `audio` if no conversion is needed.

    Raises:
        AudioError: another dtype or shape, no samples, NaN or infinite samples, or an invalid sample rate.
    """
    check_rate(sample_rate, name)
    array = np.asarray(audio)
    if array.dtype.kind != "f":
        raise AudioError(
            f"{name}: samples are {array.dtype}, expected floating point in [-1, 1]; "
            "divide integer PCM by its full scale (32768 for 16 bit) first"
        )
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise AudioError(f"{name}: shape is {list(array.shape)}, expected [channels, samples] or [samples]")
    if array.size == 0:
        raise AudioError(f"{name}: shape is {list(array.shape)}, expected at least one channel and one sample")
    if array.shape[0] > MAX_CHANNELS:
        raise AudioError(
            f"{name}: shape {list(array.shape)} means {array.shape[0]} channels, expected at most {MAX_CHANNELS}; "
            "the order is [channels, samples], so transpose an array that is [samples, channels]"
        )
    with np.errstate(over="ignore"):  # float64 samples beyond float32's range become inf, which the next check reports
        waveform = np.ascontiguousarray(array, dtype=np.float32)
    check_finite(waveform, sample_rate, name)
    return waveform


def check_rate(sample_rate: int, name: str) -> int:
    """Return `sample_rate` as an int. Raises an AudioError unless it is a positive integer."""
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | np.integer) or sample_rate <= 0:
        raise AudioError(f"{name}: sample rate is {sample_rate!r}, expected a positive integer in Hz")
    return int(sample_rate)


def check_finite(audio: Audio, sample_rate: int, name: str, start: int = 0) -> None:
    """Raise an AudioError that counts and locates the NaN and infinite samples of `audio` [C, T], if any.

    `start` is the number of samples per channel before `audio`.
    """
    finite = np.isfinite(audio)
    if finite.all():
        return
    first = start + int(np.argmin(finite.all(axis=0)))
    since = f" from {start / sample_rate:.3f} s on" if start else ""
    raise AudioError(
        f"{name}: {finite.size - np.count_nonzero(finite)} of {finite.size} samples{since} are NaN or infinite, the "
        f"first at {first / sample_rate:.3f} s; export the sound again, or replace them (numpy.nan_to_num)"
    )


class WaveformReader:
    """A waveform [C, T] in memory with the interface of `Reader`."""

    name = "audio"
    rewindable = True
    missing = ""

    def __init__(self, waveform: Audio, sample_rate: int, channel_mask: int | None = None) -> None:
        self._waveform = waveform
        self.sample_rate = sample_rate
        self.channel_mask = channel_mask
        self.channels: int = waveform.shape[0]
        self.n_samples: int = waveform.shape[1]

    def blocks(self) -> Iterator[Audio]:
        return blocks(self._waveform)

    def rewind(self) -> None:
        pass
