"""Chunks of coding 1: from codes and band levels to coded layers, and back. Many chunks are coded side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice, pairwise

import numpy as np

from dac_codec.bitstream.adaptive import AdaptiveModel
from dac_codec.bitstream.chunks import Chunk, check_below
from dac_codec.bitstream.code_model import CodeModel
from dac_codec.bitstream.counts import Counts, decode_counts, encode_counts
from dac_codec.bitstream.header import Header
from dac_codec.bitstream.layers import CodedChunk, join_planes, n_layers, side_by_side, split_planes
from dac_codec.bitstream.levels import Levels, decode_levels, encode_levels
from dac_codec.bitstream.range_coder import batched
from dac_codec.common.errors import BitstreamError

FindContext = Callable[[Header], CodeModel]
"""Returns the context model of a file; raises a DacError if there is none."""


def code_model(header: Header, find_context: FindContext | None) -> CodeModel:
    """Return the model that codes the codes of a file. `find_context` is called if that is a context model.

    Raises:
        BitstreamError: the file needs a context model, and `find_context` is None or returns another one.
    """
    if header.context_fingerprint is None:
        return AdaptiveModel(header.codebook_size, header.codebook_sizes)
    wanted = header.context_fingerprint.hex()
    if find_context is None:
        raise BitstreamError(f"the codes were coded with the context model {wanted}, which is not given")
    model = find_context(header)
    check_model(header, model)
    return model


def check_model(header: Header, model: CodeModel) -> None:
    """Raise a BitstreamError unless `model` is the one that the header names."""
    if header.context_fingerprint != model.fingerprint:
        both = header.context_fingerprint, model.fingerprint
        wanted, found = ("of adaptive counts" if one is None else one.hex() for one in both)
        raise BitstreamError(f"the header names the context model {wanted}, found the model {found}")


def encode_chunks(header: Header, model: CodeModel, chunks: Sequence[Chunk]) -> Iterator[CodedChunk]:
    """Code chunks, which must be valid."""
    for some in batched(chunks, side_by_side(header)):
        yield from _encoded(header, model, some)


def _encoded(header: Header, model: CodeModel, chunks: Sequence[Chunk]) -> Iterator[CodedChunk]:
    """Code chunks side by side."""
    numbers = [(chunk.codes >= 0).sum(1, dtype=np.int32) for chunk in chunks]
    coded = model.encode([channel for chunk in chunks for channel in chunk.codes])
    levels = iter(_encoded_levels(header, chunks))
    channels = batched(coded, header.channels)
    for chunk, n_codes, counts, planes in zip(chunks, numbers, code_counts(numbers, header), channels, strict=True):
        sizes = plane_sizes(n_codes, header.n_codebooks)
        layers = []
        for first, last in _boundaries(header):
            ours = [channel[plane] for plane in range(first, last) for channel in planes]
            filled = sizes[first * header.channels : last * header.channels]
            layers.append(join_planes(ours, filled, header.bits_per_code))
        layers += islice(levels, 1)
        yield CodedChunk(chunk.first_frame, chunk.n_frames, counts, tuple(layers), n_layers(header))


def decode_chunks(header: Header, model: CodeModel, chunks: Sequence[CodedChunk]) -> list[Chunk]:
    """Decode chunks as far as their layers are there.

    Raises:
        BitstreamError: a chunk is invalid.
    """
    planes: list[list[bytes]] = []
    numbers = decoded_counts(header, chunks)
    for chunk, n_codes in zip(chunks, numbers, strict=True):
        planes += planes_of(header, chunk, n_codes)
    codes = batched(model.decode(planes, [row for n_codes in numbers for row in n_codes]), header.channels)
    result = []
    for chunk, levels, channels in zip(chunks, _decoded_levels(header, chunks), codes, strict=True):
        found = np.full((header.channels, header.n_codebooks, chunk.n_frames), -1, np.int32)
        for channel, some in zip(found, channels, strict=True):
            channel[: len(some)] = some
        check_below(header, found)
        result.append(Chunk(chunk.first_frame, found, levels, _unused_layers(header, chunk)))
    return result


def code_counts(numbers: Sequence[Counts], header: Header) -> list[tuple[int | bytes, ...]]:
    """The numbers of codes [C, F] of each chunk as `CodedChunk.counts`."""
    rows = [row for n_codes in numbers for row in n_codes]
    coded = iter(encode_counts([row for row in rows if row.min() < row.max()], header.n_codebooks))
    counts = [int(row[0]) if row.min() == row.max() else next(coded) for row in rows]
    return list(map(tuple, batched(counts, header.channels)))


def decoded_counts(header: Header, chunks: Sequence[CodedChunk]) -> list[Counts]:
    """The numbers of codes [C, F] of each chunk. Raises BitstreamError if they are invalid."""
    rows = [(counts, chunk.n_frames) for chunk in chunks for counts in chunk.counts]
    coded = [(counts, n_frames) for counts, n_frames in rows if isinstance(counts, bytes)]
    decoded = iter(decode_counts([counts for counts, _ in coded], [size for _, size in coded], header.n_codebooks))
    numbers = [np.full(size, counts, np.int32) if isinstance(counts, int) else next(decoded) for counts, size in rows]
    return list(map(np.stack, batched(numbers, header.channels)))


def planes_of(header: Header, chunk: CodedChunk, n_codes: Counts) -> list[list[bytes]]:
    """The coded planes of each channel, in the layers up to the first missing one. Raises BitstreamError."""
    sizes = plane_sizes(n_codes, header.n_codebooks)
    planes: list[list[bytes]] = [[] for _ in range(header.channels)]
    for (first, last), layer in zip(_boundaries(header), chunk.layers, strict=False):
        if layer is None:
            break
        ours = split_planes(layer, sizes[first * header.channels : last * header.channels], header.bits_per_code)
        for index, plane in enumerate(ours):
            planes[index % header.channels].append(plane)
    return planes


def bits_by_codebook(header: Header, chunks: Sequence[CodedChunk]) -> list[int]:
    """Bits of the coded codes of each codebook in all channels. Raises BitstreamError if a chunk is invalid."""
    bits = [0] * header.n_codebooks
    for chunk, n_codes in zip(chunks, decoded_counts(header, chunks), strict=True):
        for channel in planes_of(header, chunk, n_codes):
            for codebook, plane in enumerate(channel):
                bits[codebook] += 8 * len(plane)
    return bits


def _boundaries(header: Header) -> Iterator[tuple[int, int]]:
    """First and last codebook, exclusive, of each layer of codes."""
    return pairwise(accumulate(header.layers, initial=0))


def plane_sizes(n_codes: Counts, n_codebooks: int) -> list[int]:
    """Number of codes of each plane, in the order of a layer: for each codebook, for each channel."""
    sizes: list[int] = (n_codes[None] > np.arange(n_codebooks)[:, None, None]).sum(2).reshape(-1).tolist()
    return sizes


def _encoded_levels(header: Header, chunks: Sequence[Chunk]) -> list[bytes]:
    """The last layer of each chunk; none if the file has no levels."""
    if header.levels is None:
        return []
    return encode_levels(header.levels, [chunk.levels for chunk in chunks if chunk.levels is not None])


def _decoded_levels(header: Header, chunks: Sequence[CodedChunk]) -> list[Levels] | list[None]:
    """The band levels [C, bands, w] of each chunk, all 0 where they are missing; None if the file has none."""
    if header.levels is None:
        return [None] * len(chunks)
    count = header.levels.n_windows
    n_windows = [count(chunk.first_frame + chunk.n_frames) - count(chunk.first_frame) for chunk in chunks]
    return decode_levels(header.levels, [chunk.layers[-1] or b"" for chunk in chunks], header.channels, n_windows)


def _unused_layers(header: Header, chunk: CodedChunk) -> tuple[int, ...]:
    """Numbers, from 1, of the layers that don't contribute: missing ones, and those of codes after one."""
    missing = chunk.missing_layers
    first = min(missing, default=0)
    return tuple(n for n in range(1, len(chunk.layers) + 1) if n in missing or 0 < first <= n <= len(header.layers))
