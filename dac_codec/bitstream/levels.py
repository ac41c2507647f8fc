"""Coding of band levels, the last layer of a chunk: by counts that adapt, given two neighbours. LEVELS.md is normative.

A level s of a band and window is coded given p, that of the window before, and q, that of the band below (x: known):

    band b        x p s .         w(p, q, s)  starts as `first_counts`, and grows by INCREMENT with each s after p and q
    band b - 1    x x q .         neighbours outside of the chunk and its bands are 0
    window        . . j .

Each channel is a stream of its own, window by window from the lowest band up. The symbol of level s is s modulo the
number of levels: level 0 is the first symbol, so that a channel without any other level takes no bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream import range_coder
from dac_codec.bitstream.fields import FieldReader, encode_varint
from dac_codec.bitstream.header import LevelParameters
from dac_codec.bitstream.range_coder import MOST_COUNTS, Integers, batched, bounds_of
from dac_codec.common.errors import BitstreamError

TIME_WEIGHTS = (256, 37, 14, 8, 1)
"""By the distance of a level to that of the window before, 4 for larger ones."""

BAND_WEIGHTS = (256, 3, 15, 23, 5)
"""By the distance of a level to that of the band below, 4 for larger ones."""

ZERO_WEIGHTS = ((89, 16), (14, 16), (29, 16), (5, 16))
"""Of level 0, and of any other, where of the neighbours: none is 0; that below is; that before is; both are."""

FIRST_TOTAL = 1024
"""About the sum of the first counts of a pair of neighbours."""

INCREMENT = 32
"""What a level adds to its count."""


Levels = npt.NDArray[np.int8]


@lru_cache(maxsize=8)
def first_counts(lowest: int, highest: int) -> Integers:
    """First counts w [K, K, K] of symbols, given those of the window before and of the band below.

    With u = TIME_WEIGHTS[min(|s - p|, 4)] BAND_WEIGHTS[min(|s - q|, 4)] ZERO_WEIGHTS[...]:
    w = floor(u FIRST_TOTAL / sum of u over s) + 1.
    """
    n_levels = highest - lowest + 1
    levels = (np.arange(n_levels) - lowest) % n_levels + lowest  # of each symbol
    time, band, level = np.meshgrid(levels, levels, levels, indexing="ij")
    far = len(TIME_WEIGHTS) - 1
    zeros = 2 * (time == 0) + (band == 0)
    weights = np.array(TIME_WEIGHTS)[np.minimum(np.abs(level - time), far)]
    weights *= np.array(BAND_WEIGHTS)[np.minimum(np.abs(level - band), far)]
    weights *= np.array(ZERO_WEIGHTS)[zeros, (level != 0).astype(int)]
    counts: Integers = weights * FIRST_TOTAL // weights.sum(-1, keepdims=True) + 1
    return counts


def encode_levels(parameters: LevelParameters, chunks: Sequence[Levels]) -> list[bytes]:
    """Code the levels [C, bands, w] of chunks; no bytes if all are 0.

    Raises:
        BitstreamError: a level is out of range.
    """
    lowest, highest = parameters.lowest, parameters.highest
    n_levels = highest - lowest + 1
    pairs = []
    for levels in chunks:
        if levels.size and not (levels.min() >= lowest and levels.max() <= highest):
            raise BitstreamError(f"levels must be in {lowest}..{highest}, found {levels.min()}..{levels.max()}")
        for row in levels.astype(np.int64) % n_levels:
            padded = np.pad(row, ((1, 0), (1, 0)))
            contexts = padded[1:, :-1] * n_levels + padded[:-1, 1:]  # the window before, the band below
            pairs.append((contexts.T.reshape(-1), row.T.reshape(-1)))
    coded = range_coder.encode_adaptive(pairs, first_counts(lowest, highest).reshape(-1, n_levels), INCREMENT)
    return [_joined(rows) for rows in batched(coded, len(chunks[0]))]


def decode_levels(
    parameters: LevelParameters, coded: Sequence[bytes], channels: int, n_windows: Sequence[int]
) -> list[Levels]:
    """Decode the levels [C, bands, w] of chunks, given their numbers of windows.

    Raises:
        BitstreamError: the bytes are not those of such levels.
    """
    decoded = [np.zeros((channels, parameters.bands, n), np.int8) for n in n_windows]
    targets = [channel for levels in decoded for channel in levels]
    rows = [row for data in coded for row in _split(data, channels)]
    filled = [index for index, row in enumerate(rows) if row]  # the others are 0
    n_levels = parameters.highest - parameters.lowest + 1
    for some in batched(filled, MOST_COUNTS // n_levels**3):
        decoder = range_coder.Decoder([rows[index] for index in some])
        lengths = np.array([targets[index].shape[1] for index in some])
        symbols = _run(parameters, lengths, decoder)
        decoder.check_end()
        levels = (symbols - parameters.lowest) % n_levels + parameters.lowest
        for place, index in enumerate(some):
            targets[index][:] = levels[: lengths[place], :, place].T
    return decoded


def _run(parameters: LevelParameters, lengths: Integers, decoder: range_coder.Decoder) -> Integers:
    """Decode rows of `lengths` windows side by side; returns their symbols [w, bands, rows]."""
    n_rows, n_windows = len(lengths), int(lengths.max(initial=0))
    counts = np.repeat(first_counts(parameters.lowest, parameters.highest)[None], n_rows, 0)
    rows = np.arange(n_rows)
    symbols = np.zeros((n_windows, parameters.bands, n_rows), np.int64)
    before = np.zeros((parameters.bands, n_rows), np.int64)
    for window, found in enumerate(symbols):
        present = window < lengths
        below = np.zeros(n_rows, np.int64)
        for band in range(parameters.bands):
            own = counts[rows, before[band], below]
            below = decoder.decode(bounds_of(own), present)
            counts[rows, before[band], found[band - 1] if band else 0, below] += INCREMENT
            found[band] = below
        before = found
    return symbols


def _joined(rows: Sequence[bytes]) -> bytes:
    """The streams of the channels as one, with the lengths of all but the last; no bytes if none has any."""
    if not any(rows):
        return b""
    return b"".join(encode_varint(len(row)) for row in rows[:-1]) + b"".join(rows)


def _split(data: bytes, channels: int) -> list[bytes]:
    """The streams of the channels: the inverse of `_joined`."""
    if not data:
        return [b""] * channels
    fields = FieldReader(data, "the levels of a chunk")
    lengths = [fields.varint() for _ in range(channels - 1)]
    rows = [fields.take(length) for length in lengths]
    return [*rows, fields.take(fields.left)]
