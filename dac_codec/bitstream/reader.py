"""Reads .dac files, chunk by chunk: up to the first damage, or past it."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import BinaryIO, TypeVar

from dac_codec.bitstream.chunks import MAX_PAYLOAD, TOO_NEW, Chunk, ChunkKind, decode_codes, decode_end
from dac_codec.bitstream.code_model import CodeModel
from dac_codec.bitstream.coded import FindContext, code_model, decode_chunks
from dac_codec.bitstream.fields import CRC_BYTES, StreamReader, encode_varint
from dac_codec.bitstream.header import Coding, Header, read_header
from dac_codec.bitstream.layers import (
    CodedChunk,
    LayerPiece,
    covered_size,
    decode_ancillary,
    decode_payload,
    side_by_side,
)
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.bitstream.recovery import Gap, GapReason, Resynchronizer
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError


class Reader:
    """Reads a .dac file from a binary stream, chunk by chunk.

    Iterating yields one `Chunk` at a time, and raises at the first damage. `events` continues after damage instead.
    Either is a single pass in memory that does not grow with the file; only `seek_frame` seeks in the stream. Iterating
    reads to the end of the stream, because bytes after END are an error.

    A chunk is yielded as soon as its last byte has arrived. There are two exceptions. If the stream is seekable, up to
    32 coded chunks are read ahead and decoded together. If the file is ordered by layers, its bytes are held in memory
    until the last layer comes.

    Args:
        stream: a binary stream, positioned at the first byte of the file.
        find_context: returns the context model that the header names. None: a file that names one can't be decoded.

    Attributes:
        header: the header of the file.
        n_samples: length in samples per channel; None while unknown. Unverified until the iteration has ended without
            an error: do not allocate memory for it before.
        complete: whether END was reached and nothing was missing.
        skip_damaged_layers: whether iterating continues after damaged and missing layers, as `events` does; False.

    Raises:
        TruncatedBitstreamError: the stream ends early. Raised after the last intact chunk. Of a file that is ordered by
            layers, chunks whose finer layers are beyond the end come without these.
        BitstreamError: the stream is no .dac file, is damaged, or needs a newer version of this package.
    """

    def __init__(self, stream: BinaryIO, find_context: FindContext | None = None) -> None:
        self._stream = stream
        self._source = StreamReader(stream)
        self._find_context = find_context
        self.header: Header = read_header(self._source)
        self.n_samples = self.header.n_samples
        self.complete: bool = False
        self.skip_damaged_layers = False
        self._n_frames = 0  # before the next chunk
        self._first_chunk = stream.tell() if hasattr(stream, "seekable") and stream.seekable() else None
        self._chunks = self._decoded()

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    def events(self) -> Iterator[Chunk | Gap]:
        """Yield every intact chunk and the gaps between them; damage loses only the chunks that it touches.

        A chunk whose finer layers are damaged comes with the coarser ones; `Chunk.missing_layers` are the others. A
        chunk is yielded as when iterating, except for the first one after a gap, which the next chunk must confirm.
        Nothing after END is read. `Resynchronizer` gives the probability of false positives.

        Raises:
            TruncatedBitstreamError: the stream ends without END. Raised after the last intact chunk.
            BitstreamError: the file holds a CRITICAL chunk, which only a newer version of this package understands.
        """
        recovery = Resynchronizer(self._source, self.header, self._n_frames)
        intact = True
        for batch in _batches(complete_chunks(recovery.events()), self._read_ahead):
            for event in self._decode_intact(batch):
                intact = intact and isinstance(event, Chunk) and not event.missing_layers
                yield event
        self.n_samples, self.complete = recovery.n_samples, recovery.complete and intact

    def coded(self) -> Iterator[CodedChunk]:
        """Yield the chunks of a file of coding 1 without decoding them. Raises what iterating raises."""
        for chunk in complete_chunks(self._read_chunks()):
            assert isinstance(chunk, CodedChunk)
            self._check_layers(chunk)
            yield chunk

    def passes(self) -> Iterator[list[Chunk]]:
        """Yield all chunks each time that a layer of the whole file has arrived, coarse first; finally with all layers.

        A file in order of time has one pass. Raises what iterating raises.
        """
        if self.header.coding is Coding.FIXED:
            yield list(self)
            return
        chunks: dict[int, CodedChunk] = {}
        number = 1  # of the layer that arrives
        for event in self._read_chunks():
            if isinstance(event, CodedChunk):
                chunks[event.first_frame] = event
            elif isinstance(event, LayerPiece):
                if event.number > number:
                    yield self._decode_all(chunks.values())
                    number = event.number
                if event.first_frame in chunks:
                    chunks[event.first_frame] = _with_layer(chunks[event.first_frame], event)
        for chunk in chunks.values():
            self._check_layers(chunk)
        yield self._decode_all(chunks.values())

    def seek_frame(self, frame: int) -> int:
        """Seek to the chunk that holds `frame` and return the number of its first frame; iterating continues there.

        Only the lengths of the chunks before it are read; their checksums are not verified.

        Args:
            frame: frame number, from 0.

        Raises:
            TruncatedBitstreamError: the file ends before the frame.
            BitstreamError: the file does not hold the frame, or a chunk before it is damaged.
            io.UnsupportedOperation: the stream is not seekable.
        """
        if self._first_chunk is None:
            raise io.UnsupportedOperation("a .dac stream that is not seekable must be read from its beginning")
        size = self._stream.seek(0, os.SEEK_END)
        start, self._n_frames = self._stream.seek(self._first_chunk), 0
        self._chunks = self._decoded()
        while True:
            kind, payload_size, _ = self._read_key()
            payload = self._stream.tell()
            if kind is ChunkKind.CRITICAL:
                raise BitstreamError(TOO_NEW)
            if kind is ChunkKind.END or frame < 0:
                raise BitstreamError(f"frame {frame} asked for, the file holds {self._n_frames}")
            if payload + payload_size + CRC_BYTES > size:
                raise TruncatedBitstreamError(f"the file ends early, before frame {frame}")
            n_frames = self._read_n_frames() if kind is ChunkKind.CODES else 0
            if frame < self._n_frames + n_frames:
                self._stream.seek(start)
                return self._n_frames
            self._n_frames += n_frames
            start = self._stream.seek(payload + payload_size + CRC_BYTES)

    def _check_layers(self, chunk: CodedChunk) -> None:
        """Raise a BitstreamError if the file was read to its end and a layer of `chunk` is missing."""
        if self.complete and chunk.missing_layers and not self.skip_damaged_layers:
            self.complete = False
            layers = ", ".join(map(str, chunk.missing_layers))
            raise BitstreamError(f"the file lacks layer {layers} of the chunk at frame {chunk.first_frame}")

    def _decode_all(self, chunks: Iterable[CodedChunk]) -> list[Chunk]:
        model, batches = self._model, _batches(chunks, side_by_side(self.header))
        return [chunk for batch in batches for chunk in decode_chunks(self.header, model, batch)]

    @cached_property
    def _model(self) -> CodeModel:
        return code_model(self.header, self._find_context)

    @property
    def _read_ahead(self) -> int:
        """Most chunks to read ahead: none if the next one may be awaited."""
        return 1 if self._first_chunk is None else side_by_side(self.header)

    def _decoded(self) -> Iterator[Chunk]:
        if self.header.coding is Coding.FIXED:
            for chunk in self._read_chunks():
                assert isinstance(chunk, Chunk)
                yield chunk
            return
        for batch in _batches(self.coded(), self._read_ahead):
            yield from decode_chunks(self.header, self._model, batch)

    def _decode_intact(self, events: list[Chunk | CodedChunk | Gap]) -> Iterator[Chunk | Gap]:
        """Decode the coded chunks among `events`; an invalid one becomes a gap."""
        coded = [event for event in events if isinstance(event, CodedChunk)]
        decoded = self._decode_or_gap(self._model, coded) if coded else iter(())
        for event in events:
            yield next(decoded) if isinstance(event, CodedChunk) else event

    def _decode_or_gap(self, model: CodeModel, chunks: list[CodedChunk]) -> Iterator[Chunk | Gap]:
        try:
            yield from decode_chunks(self.header, model, chunks)
        except BitstreamError:  # invalid content under a valid checksum
            if len(chunks) == 1:
                yield Gap(chunks[0].first_frame, chunks[0].n_frames, GapReason.DAMAGED)
            else:
                for one in chunks:
                    yield from self._decode_or_gap(model, [one])

    def _read_n_frames(self) -> int:
        """Read the number of frames of a CODES chunk, and what is before it in the payload."""
        if self.header.coding is Coding.LAYERED:
            for _ in range(2):
                self._source.read_varint("a chunk of codes")
        return self._source.read_varint("a chunk of codes")

    def _read_key(self) -> tuple[ChunkKind, int, bytes]:
        """Read the key of a chunk. Return its kind, the payload size, and the bytes that its checksum covers so far."""
        key = self._source.read_varint("a chunk")
        kind, size = ChunkKind(key & 3), key >> 2
        if size > MAX_PAYLOAD:
            raise BitstreamError(f"a chunk claims a payload of {size} bytes, the format allows {MAX_PAYLOAD}")
        prefix = checksum_prefix(self._n_frames) if kind in (ChunkKind.CODES, ChunkKind.END) else b""
        return kind, size, prefix + encode_varint(key)

    def _read_chunks(self) -> Iterator[Chunk | CodedChunk | LayerPiece]:
        header, source = self.header, self._source
        layered = header.coding is Coding.LAYERED
        while True:
            kind, size, covered = self._read_key()
            what = "an ancillary chunk" if kind is ChunkKind.ANCILLARY else "a chunk"
            source.begin_checksum(covered)
            if kind is ChunkKind.ANCILLARY and not layered:
                source.skip(size, what)
                source.check_checksum(what)
                continue
            payload = source.read(size, what)
            if kind is ChunkKind.CODES and layered:
                source.begin_checksum(covered + payload[: covered_size(payload)])
            try:
                source.check_checksum(what)
            except BitstreamError as error:
                is_truncated = isinstance(error, TruncatedBitstreamError)
                if kind is ChunkKind.ANCILLARY and self.skip_damaged_layers and not is_truncated:
                    continue
                raise
            if kind is ChunkKind.CRITICAL:
                raise BitstreamError(TOO_NEW)
            if kind is ChunkKind.END:
                break
            if kind is ChunkKind.ANCILLARY:
                piece = decode_ancillary(header, payload)
                if isinstance(piece, LayerPiece):  # nothing to repeat: there is no damage
                    yield piece
                continue
            chunk = self._parse(payload)
            if self._n_frames + chunk.n_frames > header.max_frames():
                raise BitstreamError(f"the file holds more frames than its {header.n_samples} samples take")
            self._n_frames += chunk.n_frames
            yield chunk
        n_samples = decode_end(header, payload)
        header.check_length(n_samples, self._n_frames)
        if source.read_up_to(1):
            raise BitstreamError("the file continues after its END chunk")
        self.n_samples = n_samples
        self.complete = True

    def _parse(self, payload: bytes) -> Chunk | CodedChunk:
        if self.header.coding is Coding.FIXED:
            return Chunk(self._n_frames, decode_codes(self.header, payload))
        chunk, error = decode_payload(self.header, self._n_frames, payload)
        if error is not None and not self.skip_damaged_layers:
            raise error
        return chunk


def complete_chunks(events: Iterator[Chunk | CodedChunk | LayerPiece | Gap]) -> Iterator[Chunk | CodedChunk | Gap]:
    """Bring the layers that have chunks of their own to the chunks that they belong to.

    A chunk is held until all its layers are there, or `events` end; so are those after it.
    """
    held: OrderedDict[int, Chunk | CodedChunk | Gap] = OrderedDict()
    try:
        for event in events:
            if not isinstance(event, LayerPiece):
                held[event.first_frame] = event
            elif isinstance(chunk := held.get(event.first_frame), CodedChunk):
                held[event.first_frame] = _with_layer(chunk, event)
            while held and _is_complete(next(iter(held.values()))):
                yield held.popitem(last=False)[1]
    except TruncatedBitstreamError as error:
        yield from held.values()
        cut = "the file ends early, within its finer layers"
        raise TruncatedBitstreamError(cut if held else str(error)) from error
    yield from held.values()


def _with_layer(chunk: CodedChunk, piece: LayerPiece) -> CodedChunk:
    if piece.number <= chunk.n_inside or chunk.layers[piece.number - 1] is not None:
        return chunk
    layers = list(chunk.layers)
    layers[piece.number - 1] = piece.data
    return replace(chunk, layers=tuple(layers))


def _is_complete(event: Chunk | CodedChunk | Gap) -> bool:
    return not isinstance(event, CodedChunk) or None not in event.layers[event.n_inside :]


Item = TypeVar("Item")


def _batches(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """`items` in lists of 8, 16, ... up to `most`; at an error the items before it come first.

    The first lists are short because nothing is yielded before them; eight chunks take hardly longer than one.
    """
    batch: list[Item] = []
    size = min(8, most)
    try:
        for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch, size = [], min(2 * size, most)
    except BitstreamError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
