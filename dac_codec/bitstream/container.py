"""The .dac container: a header, then chunks of packed codes, each with a checksum. FORMAT.md is normative."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.chunks import (
    MAX_CHUNK_CODES,
    MAX_PAYLOAD,
    TOO_NEW,
    Chunk,
    ChunkKind,
    decode_codes,
    decode_end,
    default_chunk_frames,
    encode_codes,
    encode_key,
)
from dac_codec.bitstream.fields import CRC_BYTES, StreamReader, crc32c, encode_varint
from dac_codec.bitstream.header import Coding, Header, encode_header, read_header
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.bitstream.recovery import Gap, Resynchronizer
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError
from dac_codec.common.streams import write_all


class Writer:
    """Writes codes to a binary stream, chunk by chunk.

    The header is written immediately, each chunk as soon as it is full, the remaining frames and END by `close`. The
    stream is flushed after every chunk; it is never seeked or closed. As a context manager, the writer closes itself
    unless an exception is raised: the file then has no END, so that readers report it as truncated.

    Args:
        stream: a binary stream to write to.
        header: the header of the file.
        chunk_frames: frames per chunk; None for `default_chunk_frames`. Multiples of 8 waste no bits. Fewer frames
            lower the latency of a live stream and cost about 7 bytes per chunk.

    Raises:
        BitstreamError: `chunk_frames` is below 1, or chunks would exceed 2^20 codes.
    """

    def __init__(self, stream: BinaryIO, header: Header, chunk_frames: int | None = None) -> None:
        _check_coding(header)
        max_frames = MAX_CHUNK_CODES // (header.channels * header.n_codebooks)
        if chunk_frames is None:
            chunk_frames = min(default_chunk_frames(header.model_sample_rate, header.hop_length), max_frames // 8 * 8)
        if not 1 <= chunk_frames <= max_frames:
            raise BitstreamError(f"chunk_frames must be in 1..{max_frames} for these channels, found {chunk_frames}")
        self.header = header
        self.chunk_frames = chunk_frames
        self._stream = stream
        self._pending: list[npt.NDArray[np.int32]] = []
        self._n_pending = 0
        self._n_frames = 0
        self._closed = False
        write_all(stream, encode_header(header))

    def write(self, codes: npt.NDArray[np.integer[Any]]) -> None:
        """Append `codes` [C, N, F] of any F and any integer type.

        Raises:
            BitstreamError: `codes` has another shape or type, a code is not in 0..codebook_size-1, or there are more
                frames than the header's `n_samples` allows. Nothing is written in these cases.
            ValueError: the writer is closed.
        """
        if self._closed:
            raise ValueError("write to a closed Writer")
        self._check_codes(codes)
        if self._n_frames + self._n_pending + codes.shape[-1] > self.header.max_frames():
            raise BitstreamError(f"more frames than the {self.header.n_samples} samples in the header take")
        # A copy, because the caller may reuse the array before the chunk is full.
        self._pending.append(codes.astype(np.int32))
        self._n_pending += codes.shape[-1]
        if self._n_pending >= self.chunk_frames:
            self._write_pending(whole_chunks_only=True)

    def flush(self) -> None:
        """Write the pending frames, if any, as a chunk of their own.

        Raises:
            ValueError: the writer is closed.
        """
        if self._closed:
            raise ValueError("flush of a closed Writer")
        self._write_pending(whole_chunks_only=False)

    def close(self, n_samples: int | None = None) -> None:
        """Write the pending frames and END. Does nothing if the writer is closed already.

        Args:
            n_samples: length of the original audio in samples per channel. Required if the header leaves it open;
                otherwise None or the same number.

        Raises:
            BitstreamError: `n_samples` is missing, contradicts the header, or does not fit the number of frames
                written. The file then has no END.
        """
        if self._closed:
            return
        self._closed = True
        declared = self.header.n_samples
        if n_samples is None and declared is None:
            raise BitstreamError("the header leaves n_samples open, so close() needs it")
        if n_samples is None:
            n_samples = declared
        header = replace(self.header, n_samples=n_samples)  # checks the range
        if declared is not None and header.n_samples != declared:
            raise BitstreamError(f"the header says {declared} samples per channel, close() was given {n_samples}")
        assert header.n_samples is not None
        self._write_pending(whole_chunks_only=False)
        header.check_length(header.n_samples, self._n_frames)
        self._write_chunk(ChunkKind.END, encode_varint(header.n_samples) if declared is None else b"")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        if kind is None:
            self.close()
        self._closed = True

    def _check_codes(self, codes: npt.NDArray[np.integer[Any]]) -> None:
        header = self.header
        if codes.ndim != 3 or codes.shape[:2] != (header.channels, header.n_codebooks):
            raise BitstreamError(
                f"codes must have shape [{header.channels}, {header.n_codebooks}, F], found {list(codes.shape)}"
            )
        if not np.issubdtype(codes.dtype, np.integer):
            raise BitstreamError(f"codes must be integers, found {codes.dtype}")
        if codes.size and not (codes.min() >= 0 and codes.max() < header.codebook_size):
            raise BitstreamError(f"codes must be in 0..{header.codebook_size - 1}, found {codes.min()}..{codes.max()}")

    def _write_pending(self, *, whole_chunks_only: bool) -> None:
        if not self._n_pending:
            return
        codes = np.concatenate(self._pending, axis=-1)
        n_frames = codes.shape[-1]
        stop = n_frames - n_frames % self.chunk_frames if whole_chunks_only else n_frames
        for start in range(0, stop, self.chunk_frames):
            chunk = codes[..., start : min(start + self.chunk_frames, stop)]
            self._write_chunk(ChunkKind.CODES, encode_codes(self.header, chunk))
            self._n_frames += chunk.shape[-1]
        self._pending = [codes[..., stop:].copy()]
        self._n_pending = n_frames - stop

    def _write_chunk(self, kind: ChunkKind, payload: bytes) -> None:
        chunk = encode_key(kind, len(payload)) + payload
        checksum = crc32c(checksum_prefix(self._n_frames) + chunk)
        write_all(self._stream, chunk + checksum.to_bytes(CRC_BYTES, "little"))
        self._stream.flush()


class Reader:
    """Reads a .dac file from a binary stream, chunk by chunk.

    Iterating yields one `Chunk` at a time, as soon as its last byte has arrived, and raises at the first damage.
    `events` continues after damage instead. Either is a single pass that holds one chunk in memory, whatever length the
    file claims; only `seek_frame` seeks in the stream. Iterating reads to the end of the stream, because bytes after
    END are an error.

    Args:
        stream: a binary stream, positioned at the first byte of the file.

    Attributes:
        header: the header of the file.
        n_samples: length in samples per channel; None while unknown. Unverified until the iteration has ended without
            an error: do not allocate memory for it before.
        complete: whether END was reached without an error.

    Raises:
        TruncatedBitstreamError: the stream ends early. Raised after the last intact chunk.
        BitstreamError: the stream is no .dac file, is damaged, or needs a newer version of this package.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._source = StreamReader(stream)
        self.header = read_header(self._source)
        _check_coding(self.header)
        self.n_samples = self.header.n_samples
        self.complete = False
        self._n_frames = 0  # before the next chunk
        seekable = getattr(stream, "seekable", None)
        self._first_chunk = stream.tell() if seekable is not None and seekable() else None
        self._chunks = self._read_chunks()

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    def events(self) -> Iterator[Chunk | Gap]:
        """Yield every intact chunk and the gaps between them; damage loses only the chunks that it touches.

        A chunk is yielded as soon as its last byte has arrived, except for the first one after a gap, which the next
        chunk must confirm. Nothing after END is read. `Resynchronizer` gives the probability of false positives.

        Raises:
            TruncatedBitstreamError: the stream ends without END. Raised after the last intact chunk.
            BitstreamError: the file holds a CRITICAL chunk, which only a newer version of this package understands.
        """
        recovery = Resynchronizer(self._source, self.header, self._n_frames)
        yield from recovery.events()
        self.n_samples, self.complete = recovery.n_samples, recovery.complete

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
        self._chunks = self._read_chunks()
        while True:
            kind, payload_size, _ = self._read_key()
            payload = self._stream.tell()
            if kind is ChunkKind.CRITICAL:
                raise BitstreamError(TOO_NEW)
            if kind is ChunkKind.END or frame < 0:
                raise BitstreamError(f"frame {frame} asked for, the file holds {self._n_frames}")
            if payload + payload_size + CRC_BYTES > size:
                raise TruncatedBitstreamError(f"the file ends early, before frame {frame}")
            n_frames = self._source.read_varint("a chunk of codes") if kind is ChunkKind.CODES else 0
            if frame < self._n_frames + n_frames:
                self._stream.seek(start)
                return self._n_frames
            self._n_frames += n_frames
            start = self._stream.seek(payload + payload_size + CRC_BYTES)

    def _read_key(self) -> tuple[ChunkKind, int, bytes]:
        """Read the key of a chunk. Return its kind, the payload size, and the bytes that its checksum covers so far."""
        key = self._source.read_varint("a chunk")
        kind, size = ChunkKind(key & 3), key >> 2
        if size > MAX_PAYLOAD:
            raise BitstreamError(f"a chunk claims a payload of {size} bytes, the format allows {MAX_PAYLOAD}")
        prefix = checksum_prefix(self._n_frames) if kind in (ChunkKind.CODES, ChunkKind.END) else b""
        return kind, size, prefix + encode_varint(key)

    def _read_chunks(self) -> Iterator[Chunk]:
        header, source = self.header, self._source
        while True:
            kind, size, covered = self._read_key()
            source.begin_checksum(covered)
            if kind is ChunkKind.ANCILLARY:
                source.skip(size, "an ancillary chunk")
                source.check_checksum("an ancillary chunk")
                continue
            payload = source.read(size, "a chunk")
            source.check_checksum("a chunk")
            if kind is ChunkKind.CRITICAL:
                raise BitstreamError(TOO_NEW)
            if kind is ChunkKind.END:
                break
            codes = decode_codes(header, payload)
            if self._n_frames + codes.shape[-1] > header.max_frames():
                raise BitstreamError(f"the file holds more frames than its {header.n_samples} samples take")
            first_frame = self._n_frames
            self._n_frames += codes.shape[-1]
            yield Chunk(first_frame, codes)
        n_samples = decode_end(header, payload)
        header.check_length(n_samples, self._n_frames)
        if not source.at_end():
            raise BitstreamError("the file continues after its END chunk")
        self.n_samples = n_samples
        self.complete = True


def _check_coding(header: Header) -> None:
    if header.coding is not Coding.FIXED:
        raise BitstreamError(f"coding {header.coding:d} is not supported by this version")


class Loaded(NamedTuple):
    """The content of a file.

    Attributes:
        header: the header of the file; its `n_samples` is not None.
        codes: int32 [C, N, F]; -1 where a frame has no code.
        levels: band levels in steps, int8 [C, bands, W]; None if the file has none.
    """

    header: Header
    codes: npt.NDArray[np.int32]
    levels: npt.NDArray[np.int8] | None = None


def dumps(header: Header, codes: npt.NDArray[np.integer[Any]]) -> bytes:
    """Return a .dac file that holds `codes` [C, N, F]. `header.n_samples` must not be None.

    Raises:
        BitstreamError: `codes` do not fit `header`.
    """
    stream = io.BytesIO()
    with Writer(stream, header) as writer:
        writer.write(codes)
    return stream.getvalue()


def loads(data: bytes, allow_truncated: bool = False) -> Loaded:
    """Return the content of the .dac file `data`.

    If the header of the file leaves `n_samples` open, the value of END is filled in.

    Args:
        data: all bytes of the file.
        allow_truncated: accept a file whose end is missing. The result then has the codes of its intact chunks, maybe
            none, and `n_samples` is reduced to what they cover. A truncated header remains an error.

    Raises:
        TruncatedBitstreamError: `data` ends early.
        BitstreamError: `data` is no .dac file, is damaged, or needs a newer version of this package.
    """
    reader = Reader(io.BytesIO(data))
    header = reader.header
    chunks = [np.zeros((header.channels, header.n_codebooks, 0), dtype=np.int32)]
    n_samples: int | None = None
    try:
        for chunk in reader:  # not extend(), which would lose the chunks before a truncation
            chunks.append(chunk.codes)
        n_samples = reader.n_samples
    except TruncatedBitstreamError:
        if not allow_truncated:
            raise
    codes = np.concatenate(chunks, axis=-1)
    if n_samples is None:
        n_samples = header.covered_samples(codes.shape[-1])
        if header.n_samples is not None:
            n_samples = min(n_samples, header.n_samples)
    return Loaded(replace(header, n_samples=n_samples), codes)
