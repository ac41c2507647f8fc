"""Smaller and reordered .dac files, without decoding their codes: fewer codebooks, and layer by layer.

order of time      CODES 1 2 3 | CODES 1 2 3 | END             the digits are layers
order of layers    CODES 1 | CODES 1 | 2 | 2 | 3 | 3 | END     the beginning is the whole piece, coarse
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

import numpy as np

from dac_codec.bitstream.chunks import ChunkKind
from dac_codec.bitstream.coded import (
    bits_by_codebook,
    code_counts,
    code_model,
    decoded_counts,
    encode_chunks,
    plane_sizes,
    planes_of,
)
from dac_codec.bitstream.container import ChunkWriter, Writer
from dac_codec.bitstream.header import Coding, Header
from dac_codec.bitstream.layers import CodedChunk, encode_layer, join_planes, n_layers
from dac_codec.bitstream.reader import Reader
from dac_codec.common.errors import DacError


class Order(Enum):
    """Order of the layers of a file."""

    TIME = "time"
    """All layers of a chunk are in the chunk."""
    LAYERS = "layers"
    """The first layers of all chunks come first, then the second ones, and so on."""


def order_of(chunks: Sequence[CodedChunk]) -> Order:
    """The order of the layers in a file with these chunks."""
    return Order.LAYERS if any(chunk.n_inside < len(chunk.layers) for chunk in chunks) else Order.TIME


def thin(
    data: bytes,
    n_codebooks: int | None = None,
    bitrate: float | None = None,
    order: Order | None = None,
    levels: bool = True,
) -> bytes:
    """Return a .dac file with the first codebooks of the file `data`, in the same chunks.

    Args:
        data: all bytes of a file.
        n_codebooks: codebooks to keep. A file that has no more keeps all.
        bitrate: highest mean bitrate of the codes of each channel in bit/s, instead of `n_codebooks`.
        order: order of the layers; None for that of the file. A file of fixed width gets layers for `Order.LAYERS`.
        levels: whether to keep the band levels.

    Raises:
        DacError: the arguments contradict each other, `n_codebooks` is below 1, or `bitrate` is too low.
        BitstreamError: `data` is no .dac file, is truncated or damaged.
    """
    if n_codebooks is not None and bitrate is not None:
        raise DacError("give n_codebooks or bitrate, not both")
    if n_codebooks is not None and n_codebooks < 1:
        raise DacError(f"n_codebooks must be at least 1, found {n_codebooks}")
    reader = Reader(io.BytesIO(data))
    if reader.header.coding is Coding.FIXED:
        return _thin_fixed(reader, n_codebooks, bitrate, order)
    chunks = list(reader.coded())
    header = replace(reader.header, n_samples=reader.n_samples)
    if bitrate is not None:
        seconds = max(sum(chunk.n_frames for chunk in chunks) / header.frame_rate, 1e-9)
        rates = [bits / seconds / header.channels for bits in bits_by_codebook(header, chunks)]
        n_codebooks = _affordable(rates, bitrate)
    kept = min(n_codebooks or header.n_codebooks, header.n_codebooks)
    return _file(*_thinned(header, chunks, kept, levels), order or order_of(chunks))


def _thin_fixed(reader: Reader, n_codebooks: int | None, bitrate: float | None, order: Order | None) -> bytes:
    chunks = list(reader)
    header = replace(reader.header, n_samples=reader.n_samples)
    if bitrate is not None:
        n_codebooks = _affordable([bits * header.frame_rate for bits in header.widths], bitrate)
    kept = min(n_codebooks or header.n_codebooks, header.n_codebooks)
    header = replace(header, n_codebooks=kept, codebook_sizes=header.codebook_sizes[:kept])
    chunks = [replace(chunk, codes=chunk.codes[:, :kept]) for chunk in chunks]
    if order is Order.LAYERS:
        header = replace(header, coding=Coding.LAYERED)
        return _file(header, list(encode_chunks(header, code_model(header, None), chunks)), order)
    target = io.BytesIO()
    with Writer(target, header, max((chunk.n_frames for chunk in chunks), default=1)) as writer:
        for chunk in chunks:
            writer.write(chunk.codes)
            writer.flush()
    return target.getvalue()


def _affordable(codebooks: Sequence[float], bitrate: float) -> int:
    """How many codebooks fit into a bitrate of each channel, given those of the codebooks."""
    rates = np.cumsum(codebooks)
    if not bitrate >= rates[0]:
        kbps = rates[0] / 1000
        raise DacError(f"a bitrate of {bitrate / 1000:g} kbit/s is too low: one codebook takes {kbps:.2f} kbit/s")
    return int((rates <= bitrate * (1 + 1e-9)).sum())


def _thinned(
    header: Header, chunks: Sequence[CodedChunk], n_codebooks: int, levels: bool
) -> tuple[Header, list[CodedChunk]]:
    """A header and chunks with the first `n_codebooks` codebooks."""
    layers: list[int] = []
    for layer in header.layers:
        if sum(layers) < n_codebooks:
            layers.append(min(layer, n_codebooks - sum(layers)))
    new_header = replace(
        header,
        n_codebooks=n_codebooks,
        codebook_sizes=header.codebook_sizes[:n_codebooks],
        layers=tuple(layers),
        levels=header.levels if levels else None,
    )
    numbers = decoded_counts(header, chunks)
    cut = [np.minimum(n_codes, n_codebooks) for n_codes in numbers]
    result = []
    for chunk, n_codes, counts in zip(chunks, numbers, code_counts(cut, new_header), strict=True):
        kept = list(chunk.layers[: len(layers)])
        if layers[-1] < header.layers[len(layers) - 1]:
            first = n_codebooks - layers[-1]
            planes = planes_of(header, chunk, n_codes)
            ours = [channel[codebook] for codebook in range(first, n_codebooks) for channel in planes]
            sizes = plane_sizes(n_codes, n_codebooks)[first * header.channels :]
            kept[-1] = join_planes(ours, sizes, header.bits_per_code)
        if new_header.levels is not None:
            kept.append(chunk.layers[-1])
        result.append(replace(chunk, counts=counts, layers=tuple(kept), n_inside=len(kept)))
    return new_header, result


def _file(header: Header, chunks: Sequence[CodedChunk], order: Order) -> bytes:
    """The bytes of a file; `header.n_samples` is not None."""
    target = io.BytesIO()
    writer = ChunkWriter(target, header)
    for chunk in chunks:
        writer.write_codes(chunk, n_layers(header) if order is Order.TIME else 1)
    if order is Order.LAYERS:
        for number in range(2, n_layers(header) + 1):
            for chunk in chunks:
                writer.write(ChunkKind.ANCILLARY, encode_layer(chunk, number))
    writer.write(ChunkKind.END, b"")
    return target.getvalue()
