"""Coding of the numbers of codes per frame: each given that of the frame before, by counts that adapt.

A number n after a number p has the weight W(p, n), which begins as FIRST_WEIGHTS[min(|n - p|, 5)] and grows by
INCREMENT each time. Before the first frame p is N. FORMAT.md, "Numbers of codes", is the specification.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream import range_coder
from dac_codec.bitstream.range_coder import Integers, batched, bounds_of

FIRST_WEIGHTS = (32, 12, 6, 3, 2, 1)
INCREMENT = 8

_SIDE_BY_SIDE = 256

Counts = npt.NDArray[np.int32]


def encode_counts(rows: Sequence[Counts], n_codebooks: int) -> list[bytes]:
    """Code rows of numbers [F] in 0..n_codebooks, of any length each. Returns the bytes of each row."""
    symbols = [row.astype(np.int64) for row in rows]
    pairs = [(np.concatenate(([n_codebooks], row[:-1])), row) for row in symbols]
    return range_coder.encode_adaptive(pairs, _first_weights(n_codebooks), INCREMENT)


def decode_counts(coded: Sequence[bytes], lengths: Sequence[int], n_codebooks: int) -> list[Counts]:
    """Decode rows of numbers, given their lengths. Raises BitstreamError if the bytes are not those of such rows."""
    decoded: list[Counts] = []
    for rows in zip(batched(coded, _SIDE_BY_SIDE), batched(lengths, _SIDE_BY_SIDE), strict=True):
        decoded += _decode(*rows, n_codebooks)
    return decoded


def _decode(coded: Sequence[bytes], lengths: Sequence[int], n_codebooks: int) -> list[Counts]:
    """Decode rows side by side."""
    decoder = range_coder.Decoder(coded)
    weights = np.repeat(_first_weights(n_codebooks)[None], len(lengths), 0)
    rows = np.arange(len(lengths))
    previous = np.full(len(lengths), n_codebooks)
    found = np.zeros((max(lengths), len(lengths)), np.int64)
    for frame in range(len(found)):
        present = frame < np.array(lengths)
        found[frame] = decoder.decode(bounds_of(weights[rows, previous]), present)
        weights[rows, previous, found[frame]] += INCREMENT
        previous = found[frame]
    decoder.check_end()
    return [found[:length, index].astype(np.int32) for index, length in enumerate(lengths)]


def _first_weights(n_codebooks: int) -> Integers:
    """The weights [previous number, number] before the first frame."""
    numbers = np.arange(n_codebooks + 1)
    distances = np.minimum(np.abs(numbers[:, None] - numbers), len(FIRST_WEIGHTS) - 1)
    weights: Integers = np.array(FIRST_WEIGHTS)[distances]
    return weights
