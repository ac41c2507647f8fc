"""Models for the entropy coding of codes: the interface of `ContextModel` and `AdaptiveModel`, and what both use.

Both code a code as two symbols. The first is its group, or the extra symbol "as in the frame before", without a second
one; the second is the code's place in the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.range_coder import Integers
from dac_codec.common.errors import BitstreamError

Codes = npt.NDArray[np.int32]

INVALID = "a coded plane holds a code that its codebook does not have"


class CodeModel(Protocol):
    """Entropy coding of codes; each chunk on its own, and each plane without the finer ones."""

    @property
    def fingerprint(self) -> bytes | None:
        """Identifies the probabilities, 8 bytes; None for the adaptive model, which has no parameters but K."""

    def encode(self, chunks: Sequence[Codes]) -> list[list[bytes]]:
        """Code chunks [n_planes, F] of one channel each; -1 where a frame has no code.

        Returns:
            For each chunk the bytes of each plane.

        Raises:
            BitstreamError: a code is not in -1..K-1, a chunk has more planes than the model, or a frame has a code in a
                plane and none in a coarser one.
        """

    def decode(self, chunks: Sequence[Sequence[bytes]], n_codes: Sequence[npt.NDArray[np.integer]]) -> list[Codes]:
        """Decode chunks.

        Args:
            chunks: for each chunk the bytes of its planes, coarse first: all, or fewer.
            n_codes: for each chunk the number of codes of each frame [F]; it may exceed the number of planes given.

        Returns:
            The codes [n_planes, F] of each chunk; -1 where a frame has no code.

        Raises:
            BitstreamError: the bytes are not those of such codes.
        """


def stacked(chunks: Sequence[Codes], n_codes: int) -> Integers:
    """The codes of chunks as one array [n_planes, F, n], -1 elsewhere, for the most planes and frames of any.

    Raises a BitstreamError if codes are not in -1..n_codes-1, or some frame lacks a coarser code than one it has.
    """
    n_planes, n_frames = (max((chunk.shape[axis] for chunk in chunks), default=0) for axis in (0, 1))
    codes = np.full((n_planes, n_frames, len(chunks)), -1, np.int64)
    for index, chunk in enumerate(chunks):
        codes[: chunk.shape[0], : chunk.shape[1], index] = chunk
    if codes.size and not (codes.min() >= -1 and codes.max() < n_codes):
        raise BitstreamError(f"codes must be in -1..{n_codes - 1}, found {codes.min()}..{codes.max()}")
    if ((codes[1:] >= 0) & (codes[:-1] < 0)).any():
        raise BitstreamError("a frame has a code of a finer codebook, and none of a coarser one")
    return codes


def symbols_of(codes: Integers, places: Integers, group_size: int, n_groups: int) -> tuple[Integers, Integers]:
    """The two symbols of codes [F, ...], given their places group * group_size + place in the group."""
    first, second = np.divmod(np.maximum(places, 0), group_size)
    first[1:][(codes[1:] == codes[:-1])] = n_groups
    return first, second


def presence(chunks: Sequence[Sequence[bytes]], n_codes: Sequence[npt.NDArray[np.integer]]) -> npt.NDArray[np.bool_]:
    """Where chunks have codes [n_planes, F, n], for the most planes and frames of any."""
    present = np.zeros((max(map(len, chunks), default=0), max(map(len, n_codes), default=0), len(chunks)), bool)
    for index, (planes, counts) in enumerate(zip(chunks, n_codes, strict=True)):
        present[: len(planes), : len(counts), index] = np.arange(len(planes))[:, None] < counts
    return present


def streams_of(chunks: Sequence[Sequence[bytes]], n_planes: int) -> list[bytes]:
    """The bytes of all planes of all chunks, plane by plane; none for a plane that a chunk lacks."""
    return [planes[plane] if plane < len(planes) else b"" for plane in range(n_planes) for planes in chunks]


def split(
    codes: Integers, chunks: Sequence[Sequence[bytes]], n_codes: Sequence[npt.NDArray[np.integer]]
) -> list[Codes]:
    """The codes of each chunk, from those of all [n_planes, F, n]."""
    return [
        np.ascontiguousarray(codes[: len(planes), : len(counts), index], np.int32)
        for index, (planes, counts) in enumerate(zip(chunks, n_codes, strict=True))
    ]
