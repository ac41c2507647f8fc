"""Coding of band levels, the last layer of a chunk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.header import LevelParameters
from dac_codec.common.errors import BitstreamError

Levels = npt.NDArray[np.int8]


def encode_levels(parameters: LevelParameters, levels: Levels) -> bytes:
    """Code the levels [C, bands, w] of a chunk; no bytes if there are no windows.

    Raises:
        BitstreamError: a level is out of range.
    """
    if levels.size and not (levels.min() >= parameters.lowest and levels.max() <= parameters.highest):
        raise BitstreamError(
            f"levels must be in {parameters.lowest}..{parameters.highest}, found {levels.min()}..{levels.max()}"
        )
    return levels.tobytes()


def decode_levels(parameters: LevelParameters, data: bytes, channels: int, n_windows: int) -> Levels:
    """Decode the levels [C, bands, w] of a chunk with `n_windows` windows.

    Raises:
        BitstreamError: the bytes are not those of such levels.
    """
    shape = (channels, parameters.bands, n_windows)
    if len(data) != channels * parameters.bands * n_windows:
        raise BitstreamError(f"levels of shape {list(shape)} take other bytes than the {len(data)} found")
    levels = np.frombuffer(data, np.int8).reshape(shape)
    if levels.size and not (levels.min() >= parameters.lowest and levels.max() <= parameters.highest):
        raise BitstreamError(f"a level is out of the range {parameters.lowest}..{parameters.highest} in the header")
    return levels
