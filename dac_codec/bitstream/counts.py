"""Coding of the numbers of codes per frame: each given that of the frame before, by counts that adapt.

A number n after a number p has the weight W(p, n), which begins as FIRST_WEIGHTS[min(|n - p|, 5)] and grows by
INCREMENT each time. Before the first frame p is N. FORMAT.md, "Numbers of codes", is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream import range_coder
from dac_codec.bitstream.range_coder import Bounds, Integers, bounds_of

FIRST_WEIGHTS = (32, 12, 6, 3, 2, 1)
INCREMENT = 8

_SIDE_BY_SIDE = 256

Counts = npt.NDArray[np.int32]
Row = TypeVar("Row")


def encode_counts(rows: Sequence[Counts], n_codebooks: int) -> list[bytes]:
    """Code rows of numbers [F] in 0..n_codebooks, of any length each. Returns the bytes of each row."""
    return [coded for some in _batches(rows) for coded in _encode(some, n_codebooks)]


def _encode(rows: Sequence[Counts], n_codebooks: int) -> list[bytes]:
    longest = max(map(len, rows))
    encoder = range_coder.Encoder(longest, len(rows))
    padded = np.zeros((longest, len(rows)), np.int64)
    for index, row in enumerate(rows):
        padded[: len(row), index] = row
    frames = iter(padded)
    _run(lambda bounds, present: encoder.encode(bounds, next(frames), present), list(map(len, rows)), n_codebooks)
    return encoder.finish()


def decode_counts(coded: Sequence[bytes], lengths: Sequence[int], n_codebooks: int) -> list[Counts]:
    """Decode rows of numbers, given their lengths. Raises BitstreamError if the bytes are not those of such rows."""
    rows = list(zip(coded, lengths, strict=True))
    return [counts for some in _batches(rows) for counts in _decode(some, n_codebooks)]


def _decode(rows: Sequence[tuple[bytes, int]], n_codebooks: int) -> list[Counts]:
    decoder = range_coder.Decoder([coded for coded, _ in rows])
    lengths = [length for _, length in rows]
    found = _run(decoder.decode, lengths, n_codebooks)
    decoder.check_end()
    return [found[:length, index].astype(np.int32) for index, length in enumerate(lengths)]


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows whose weights fit into memory together."""
    return (rows[start : start + _SIDE_BY_SIDE] for start in range(0, len(rows), _SIDE_BY_SIDE))


def _run(
    code: Callable[[Bounds, npt.NDArray[np.bool_]], Integers], lengths: Sequence[int], n_codebooks: int
) -> Integers:
    """Code rows side by side; returns them [F, rows]. `code` returns the next number of each row."""
    numbers = np.arange(n_codebooks + 1)
    distances = np.minimum(np.abs(numbers[:, None] - numbers), len(FIRST_WEIGHTS) - 1)
    weights = np.repeat(np.array(FIRST_WEIGHTS)[distances][None], len(lengths), 0)
    rows = np.arange(len(lengths))
    previous = np.full(len(lengths), n_codebooks)
    found = np.zeros((max(lengths), len(lengths)), np.int64)
    for frame in range(len(found)):
        present = frame < np.array(lengths)
        found[frame] = code(bounds_of(weights[rows, previous]), present)
        weights[rows, previous, found[frame]] += INCREMENT
        previous = found[frame]
    return found
