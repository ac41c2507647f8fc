"""Entropy coding of codes by counts of those before in the same chunk and plane: for models without a context model.

It saves where codes repeat: in silence, and in steady sounds. ENTROPY.md is the specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream import range_coder
from dac_codec.bitstream.code_model import INVALID, Codes, presence, split, stacked, streams_of, symbols_of
from dac_codec.bitstream.range_coder import MOST_COUNTS, Integers, batched, bounds_of, counts_before, parts
from dac_codec.common.errors import BitstreamError

INCREMENT = 2
"""What a code adds to the counts of its group and of its place there, which begin as numbers of codes."""

REPEAT_COUNT = 16
"""First count of the symbol for the code of the frame before."""

REPEAT_INCREMENT = 32
"""What that symbol adds to its count."""


class AdaptiveModel:
    """Adaptive counts of order 0.

    Args:
        codebook_size: K, of the largest codebook.
        codebook_sizes: of each codebook; empty if all are equal.
    """

    fingerprint = None

    def __init__(self, codebook_size: int, codebook_sizes: Sequence[int] = ()) -> None:
        self._codebook_size, self._codebook_sizes = codebook_size, codebook_sizes
        self._group_size = 1 << ((codebook_size - 1).bit_length() + 1) // 2
        self._n_groups = -(-codebook_size // self._group_size)

    def encode(self, chunks: Sequence[Codes]) -> list[list[bytes]]:
        """As `CodeModel.encode`."""
        coded: list[list[bytes]] = []
        for some in batched(chunks, self._side_by_side(chunks)):
            codes = stacked(some, self._codebook_size)
            n_planes, n_frames, n_chunks = codes.shape
            rows = codes.transpose(1, 0, 2).reshape(n_frames, n_planes * n_chunks)
            streams = self._encoded(rows, self._sizes(n_planes, n_chunks))
            coded += [streams[index::n_chunks][: len(chunk)] for index, chunk in enumerate(some)]
        return coded

    def decode(self, chunks: Sequence[Sequence[bytes]], n_codes: Sequence[npt.NDArray[np.integer]]) -> list[Codes]:
        """As `CodeModel.decode`."""
        decoded: list[Codes] = []
        size = self._side_by_side(chunks)
        for some, counts in zip(batched(chunks, size), batched(n_codes, size), strict=True):
            present = presence(some, counts)
            n_planes, n_frames, n_chunks = present.shape
            decoder = range_coder.Decoder(streams_of(some, n_planes))
            rows = present.transpose(1, 0, 2).reshape(n_frames, n_planes * n_chunks)
            codes = self._decoded(rows, self._sizes(n_planes, n_chunks), decoder)
            decoder.check_end()
            decoded += split(codes.reshape(n_frames, n_planes, n_chunks).transpose(1, 0, 2), some, counts)
        return decoded

    def _sizes(self, n_planes: int, n_chunks: int) -> Integers:
        """Entries of the codebook of each of L planes: those of a codebook in all chunks, then the next codebook's."""
        sizes = np.array(self._codebook_sizes[:n_planes] or [self._codebook_size] * n_planes, np.int64)
        return sizes.repeat(n_chunks)

    def _encoded(self, codes: Integers, sizes: Integers) -> list[bytes]:
        """The bytes of planes of codes [F, L]."""
        firsts, seconds = symbols_of(codes, codes, self._group_size, self._n_groups)
        starts, frequencies = np.zeros((2, 2 * len(codes), codes.shape[1]), np.int64)
        first_counts, second_counts = self._first_counts(sizes)
        increments = np.full(self._n_groups + 1, INCREMENT)
        increments[-1] = REPEAT_INCREMENT
        for stream in range(codes.shape[1]):
            frames = np.flatnonzero(codes[:, stream] >= 0)
            first = firsts[frames, stream]
            bounds = bounds_of(counts_before(np.zeros_like(first), first, first_counts[stream, None], increments))
            at = 2 * frames, stream
            starts[at], frequencies[at] = parts(bounds, first)
            new = first < self._n_groups
            group, second = first[new], seconds[frames[new], stream]
            at = 2 * frames[new] + 1, stream
            bounds = bounds_of(counts_before(group, second, second_counts[stream], INCREMENT))
            starts[at], frequencies[at] = parts(bounds, second)
        return range_coder.encode(starts, frequencies)

    def _first_counts(self, sizes: Integers) -> tuple[Integers, Integers]:
        """The first counts of the first symbol [L, n_groups + 1] and of the second one in each group, for L planes."""
        second = (np.arange(self._n_groups * self._group_size) < sizes[:, None]).astype(np.int64)
        second = second.reshape(len(sizes), self._n_groups, self._group_size)
        return np.concatenate((second.sum(2), np.full((len(sizes), 1), REPEAT_COUNT)), 1), second

    def _side_by_side(self, chunks: Iterable[Sized]) -> int:
        """How many of the chunks to code together, so that their counts fit into memory."""
        n_planes = max([1, *map(len, chunks)])
        return max(1, MOST_COUNTS // (self._n_groups * self._group_size * n_planes))

    def _decoded(self, present: npt.NDArray[np.bool_], sizes: Integers, decoder: range_coder.Decoder) -> Integers:
        """Decode the codes of L planes of codebooks of `sizes` side by side; returns them [F, L]."""
        n_frames, n_streams = present.shape
        first_counts, second_counts = self._first_counts(sizes)
        codes = np.full((n_frames + 1, n_streams), -1, np.int64)
        rows = np.arange(n_streams)
        for frame in range(n_frames):
            first = decoder.decode(bounds_of(first_counts), present[frame])
            repeated = first == self._n_groups
            first_counts[rows, first] += np.where(repeated, REPEAT_INCREMENT, INCREMENT) * present[frame]
            new = present[frame] & ~repeated
            group = np.where(new, first, 0)  # the first group of any codebook has codes
            if (group * self._group_size >= sizes).any():
                raise BitstreamError(INVALID)
            second = decoder.decode(bounds_of(second_counts[rows, group]), new)
            second_counts[rows, group, second] += INCREMENT * new
            found = np.where(repeated, codes[frame - 1], group * self._group_size + second)
            if ((found < 0) | (found >= sizes))[present[frame]].any():
                raise BitstreamError(INVALID)
            codes[frame] = np.where(present[frame], found, -1)
        return codes[:-1]
