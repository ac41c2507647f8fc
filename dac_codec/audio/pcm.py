"""Plain samples as bytes, little-endian and interleaved, as they follow the header of a wav file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dac_codec.audio.samples import Audio

WIDTHS = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
"""Bytes per sample of the supported sample formats, under libsndfile's names."""


def decode(data: bytes, subtype: str, channels: int) -> Audio:
    """Convert complete frames of samples into a waveform [C, T], with the same numbers as libsndfile."""
    if subtype == "PCM_24":
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    elif subtype == "PCM_U8":
        samples = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    elif subtype in ("PCM_16", "PCM_32"):
        width = WIDTHS[subtype]
        samples = np.frombuffer(data, f"<i{width}").astype(np.float32) / np.float32(2 ** (8 * width - 1))
    else:
        with np.errstate(over="ignore"):  # beyond float32's range is inf, which the reader reports
            samples = np.frombuffer(data, f"<f{WIDTHS[subtype]}").astype(np.float32)
    return np.ascontiguousarray(samples.reshape(-1, channels).T)


def encode(audio: Audio, subtype: str) -> bytes:
    """Convert a waveform [C, T] into bytes, with the same numbers as libsndfile.

    Integers are clipped, and are the high bytes of a sample rounded to 32 bits.
    """
    interleaved: npt.NDArray[np.float32] = audio.T
    if subtype in ("FLOAT", "DOUBLE"):
        return interleaved.astype(f"<f{WIDTHS[subtype]}").tobytes()
    scaled = np.rint(interleaved.astype(np.float64, order="C") * 2.0**31)
    in_bytes = np.clip(scaled, -(2.0**31), 2.0**31 - 1).astype("<i4").view(np.uint8).reshape(-1, 4)
    high = in_bytes[:, 4 - WIDTHS[subtype] :]
    return (high ^ 0x80 if subtype == "PCM_U8" else high).tobytes()
