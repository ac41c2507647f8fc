"""Spectrograms as small PNG files, without anything that has to be installed."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import torch

from dac_codec.audio import Audio
from dac_codec.common.spectral import Spectra

WIDTH, HEIGHT = 480, 160

# The colours of matplotlib's "magma" (CC0) at nine equal steps.
_MAGMA = ("000004", "1d1147", "51127c", "822681", "b63679", "e65164", "fb8861", "fec287", "fcfdbf")
_LOWEST_DB, _HIGHEST_DB = -80.0, 40.0


def spectrogram(waveform: Audio) -> bytes:
    """A PNG file with the log spectrogram of a clip [1, T]: time to the right, frequency upwards, linear."""
    magnitude = Spectra(torch.from_numpy(np.ascontiguousarray(waveform))[None]).magnitude(2048)
    pooled = torch.nn.functional.adaptive_avg_pool2d(magnitude[None], (HEIGHT, WIDTH))[0, 0]
    level = (20 * pooled.clamp(min=1e-5).log10() - _LOWEST_DB) / (_HIGHEST_DB - _LOWEST_DB)
    return _png((level.clamp(0, 1) * 255).round().to(torch.uint8).numpy()[::-1])


def _png(pixels: np.ndarray) -> bytes:
    """An image [height, width] of colour numbers 0 to 255 (PNG, ISO/IEC 15948, colour type 3)."""
    height, width = pixels.shape
    known = np.array([list(bytes.fromhex(colour)) for colour in _MAGMA], np.float64)
    positions = np.linspace(0, len(known) - 1, 256)
    palette = np.stack([np.interp(positions, np.arange(len(known)), channel) for channel in known.T], 1)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], 1)  # each row begins with its filter: none
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette.round().astype(np.uint8).tobytes()),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
