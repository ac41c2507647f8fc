"""Coding of the numbers of codes per frame: each given that of the frame before, by counts that adapt.

A number n after a number p has the weight W(p, n), which begins as FIRST_WEIGHTS[min(|n - p|, 5)] and grows by
INCREMENT each time. Before the first frame p is N. FORMAT.md, "Numbers of codes", is the specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream import range_coder
from dac_codec.bitstream.range_coder import Integers, bounds_of

FIRST_WEIGHTS = (32, 12, 6, 3, 2, 1)
INCREMENT = 8

_SIDE_BY_SIDE = 256

Counts = npt.NDArray[np.int32]
Row = TypeVar("Row")


def encode_counts(rows: Sequence[Counts], n_codebooks: int) -> list[bytes]:
    """Code rows of numbers [F] in 0..n_codebooks, of any length each. Returns the bytes of each row."""
    symbols = [row.astype(np.int64) for row in rows]
    contexts = [np.concatenate(([n_codebooks], row[:-1])) for row in symbols]
    return range_coder.encode_adaptive(
        list(zip(contexts, symbols, strict=True)), _first_weights(n_codebooks), INCREMENT
    )


def decode_counts(coded: Sequence[bytes], lengths: Sequence[int], n_codebooks: int) -> list[Counts]:
    """Decode rows of numbers, given their lengths. Raises BitstreamError if the bytes are not those of such rows."""
    rows = list(zip(coded, lengths, strict=True))
    return [counts for some in _batches(rows) for counts in _decode(some, n_codebooks)]


def _decode(rows: Sequence[tuple[bytes, int]], n_codebooks: int) -> list[Counts]:
    decoder = range_coder.Decoder([coded for coded, _ in rows])
    lengths = [length for _, length in rows]
    found = _run(decoder, lengths, n_codebooks)
    decoder.check_end()
    return [found[:length, index].astype(np.int32) for index, length in enumerate(lengths)]


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows whose weights fit into memory together."""
    return (rows[start : start + _SIDE_BY_SIDE] for start in range(0, len(rows), _SIDE_BY_SIDE))


def _run(decoder: range_coder.Decoder, lengths: Sequence[int], n_codebooks: int) -> Integers:
    """Decode rows side by side; returns them [F, rows]."""
    weights = np.repeat(_first_weights(n_codebooks)[None], len(lengths), 0)
    rows = np.arange(len(lengths))
    previous = np.full(len(lengths), n_codebooks)
    found = np.zeros((max(lengths), len(lengths)), np.int64)
    for frame in range(len(found)):
        present = frame < np.array(lengths)
        found[frame] = decoder.decode(bounds_of(weights[rows, previous]), present)
        weights[rows, previous, found[frame]] += INCREMENT
        previous = found[frame]
    return found


def _first_weights(n_codebooks: int) -> Integers:
    """The weights [previous number, number] before the first frame."""
    numbers = np.arange(n_codebooks + 1)
    distances = np.minimum(np.abs(numbers[:, None] - numbers), len(FIRST_WEIGHTS) - 1)
    weights: Integers = np.array(FIRST_WEIGHTS)[distances]
    return weights
