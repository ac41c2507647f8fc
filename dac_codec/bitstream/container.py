"""The .dac container: a small header, then chunks of packed codes, each under its own checksum.

FORMAT.md beside this file is the normative description; the names here follow it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.chunks import (
    MAX_CHUNK_CODES,
    MAX_PAYLOAD,
    ChunkKind,
    decode_codes,
    decode_end,
    default_chunk_frames,
    encode_codes,
    encode_key,
)
from dac_codec.bitstream.fields import CRC_BYTES, StreamReader, crc32c, encode_varint, write_all
from dac_codec.bitstream.header import Header, encode_header, read_header
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.bitstream.recovery import TOO_NEW, Chunk, Gap, Resynchronizer
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError


class Writer:
    """Writes codes to a binary stream, chunk by chunk, as they come.

    The header is written at once, each chunk as soon as it is full, the rest and the END chunk by `close`. A chunk that
    is written has left the stream's buffer. The stream is never seeked and never closed. As a context manager it closes
    itself, but not when an exception is on its way: then the file ends without END, and every reader sees that it is
    cut short.

    Args:
        stream: a binary stream to write to.
        header: what the file says about itself.
        chunk_frames: frames per chunk; None for `default_chunk_frames`. Multiples of 8 waste no bits. Fewer let a live
            listener hear them sooner, for some 7 bytes of overhead a chunk.

    Raises:
        BitstreamError: `chunk_frames` is below 1 or makes chunks of more than 2^20 codes.
    """

    def __init__(self, stream: BinaryIO, header: Header, chunk_frames: int | None = None) -> None:
        most = MAX_CHUNK_CODES // (header.channels * header.n_codebooks)
        if chunk_frames is None:
            chunk_frames = min(default_chunk_frames(header.model_sample_rate, header.hop_length), most // 8 * 8)
        if not 1 <= chunk_frames <= most:
            raise BitstreamError(f"chunk_frames must be in 1..{most} for these channels, found {chunk_frames}")
        self.header = header
        self.chunk_frames = chunk_frames
        self._stream = stream
        self._pending: list[npt.NDArray[np.uint16]] = []
        self._n_pending = 0
        self._n_frames = 0
        self._closed = False
        write_all(stream, encode_header(header))

    def write(self, codes: npt.NDArray[np.integer[Any]]) -> None:
        """Append `codes` [C, N, F] of any F, in any integer type.

        Raises:
            BitstreamError: the shape or type is another, a code is not in 0..codebook_size-1, or there are more frames
                than the header's `n_samples` takes. Nothing of `codes` is written then.
            ValueError: the writer is closed.
        """
        if self._closed:
            raise ValueError("write to a closed Writer")
        self._check_codes(codes)
        if self._n_frames + self._n_pending + codes.shape[-1] > self.header.most_frames():
            raise BitstreamError(f"more frames than the {self.header.n_samples} samples in the header take")
        # A copy, because the caller may use the array again before the chunk is full.
        self._pending.append(codes.astype(np.uint16))
        self._n_pending += codes.shape[-1]
        if self._n_pending >= self.chunk_frames:
            self._write_pending(whole_chunks_only=True)

    def flush(self) -> None:
        """Write what is pending as a chunk of its own, however short; does nothing when nothing is.

        Raises:
            ValueError: the writer is closed.
        """
        if self._closed:
            raise ValueError("flush of a closed Writer")
        self._write_pending(whole_chunks_only=False)

    def close(self, n_samples: int | None = None) -> None:
        """Write what is pending and the END chunk. Does nothing when it is closed already.

        Args:
            n_samples: length of the original audio, in samples per channel. Needed if the header leaves it open;
                otherwise None or the same number.

        Raises:
            BitstreamError: `n_samples` is missing, contradicts the header, or does not fit the frames written. The
                file is left without END then.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
            self._write_codes(codes[..., start : min(start + self.chunk_frames, stop)])
        self._pending = [codes[..., stop:].copy()]
        self._n_pending = n_frames - stop

    def _write_codes(self, codes: npt.NDArray[np.uint16]) -> None:
        self._write_chunk(ChunkKind.CODES, encode_codes(self.header, codes))
        self._n_frames += codes.shape[-1]

    def _write_chunk(self, kind: ChunkKind, payload: bytes) -> None:
        chunk = encode_key(kind, len(payload)) + payload
        checksum = crc32c(checksum_prefix(self._n_frames) + chunk)
        write_all(self._stream, chunk + checksum.to_bytes(CRC_BYTES, "little"))
        self._stream.flush()


class Reader:
    """Reads a .dac file from a binary stream, chunk by chunk.

    Iterating yields the codes of one chunk at a time, as uint16 arrays [C, N, F] with F >= 1, as soon as its last byte
    is there, and ends with an error at the first damage. `events` goes on behind damage instead. Either is for one
    pass: what is held in memory is one chunk, whatever the file claims, and the stream is never seeked but by
    `seek_frame`. Iterating goes on to the end of the stream, because bytes after the END chunk are an error.

    Args:
        stream: a binary stream that stands at the first byte of the file.

    Attributes:
        header: the header, as it stands in the file.
        n_samples: length in samples per channel; None while it is not known. Until the iteration has ended without an
            error it is a mere claim: allocate nothing for it.
        complete: whether END was reached and everything fits together.

    Raises:
        TruncatedBitstreamError: the stream ends early. While iterating, every whole chunk was yielded before.
        BitstreamError: the bytes are no .dac file, are damaged, or need a newer version of this package.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._source = StreamReader(stream)
        self.header, self._positioned = read_header(self._source)
        self.n_samples = self.header.n_samples
        self.complete = False
        self._n_frames = 0  # before the next chunk
        seekable = getattr(stream, "seekable", None)
        self._first_chunk = stream.tell() if seekable is not None and seekable() else None
        self._chunks = self._read_chunks()

    def __iter__(self) -> Iterator[npt.NDArray[np.uint16]]:
        return self._chunks

    def events(self) -> Iterator[Chunk | Gap]:
        """Read on behind damage: yield every chunk that is whole, and what is missing between them.

        Damage costs the chunks that it touches and no other. Each chunk comes as soon as its last byte is there; only
        the first one behind a gap waits for the next, which bears out its place. Nothing behind END is read. See
        `Resynchronizer` for the odds of being deceived.

        Raises:
            TruncatedBitstreamError: the stream ends without END. Everything that is whole was yielded before.
            BitstreamError: a CRITICAL chunk that only a newer version of this package understands.
        """
        recovery = Resynchronizer(self._source, self.header, self._positioned, self._n_frames)
        yield from recovery.events()
        self.n_samples, self.complete = recovery.n_samples, recovery.complete

    def seek_frame(self, frame: int) -> int:
        """Go to the chunk that holds `frame`, so that iterating goes on with it; return the number of its first frame.

        The chunks before are passed over: only their lengths are read, and their checksums are not checked.

        Args:
            frame: counted from 0.

        Raises:
            TruncatedBitstreamError: the file ends before the frame.
            BitstreamError: the file holds no such frame, or what is passed over is damaged.
            io.UnsupportedOperation: the stream is not seekable.
        """
        if self._first_chunk is None:
            raise io.UnsupportedOperation("a .dac stream that is not seekable is read from its beginning")
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
        """Read the key of a chunk; return its kind, the size of the payload, and what the checksum covers so far."""
        key = self._source.read_varint("a chunk")
        kind, size = ChunkKind(key & 3), key >> 2
        if size > MAX_PAYLOAD:
            raise BitstreamError(f"a chunk claims a payload of {size} bytes, the format allows {MAX_PAYLOAD}")
        positioned = self._positioned and kind in (ChunkKind.CODES, ChunkKind.END)
        return kind, size, (checksum_prefix(self._n_frames) if positioned else b"") + encode_varint(key)

    def _read_chunks(self) -> Iterator[npt.NDArray[np.uint16]]:
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
            if self._n_frames + codes.shape[-1] > header.most_frames():
                raise BitstreamError(f"the file holds more frames than its {header.n_samples} samples take")
            self._n_frames += codes.shape[-1]
            yield codes
        n_samples = decode_end(header, payload)
        header.check_length(n_samples, self._n_frames)
        if not source.at_end():
            raise BitstreamError("the file goes on after its END chunk")
        self.n_samples = n_samples
        self.complete = True


def dumps(header: Header, codes: npt.NDArray[np.integer[Any]]) -> bytes:
    """Return the bytes of a .dac file that holds `codes` [C, N, F]. `header.n_samples` must be known.

    Raises:
        BitstreamError: `codes` and `header` do not fit together.
    """
    stream = io.BytesIO()
    with Writer(stream, header) as writer:
        writer.write(codes)
    return stream.getvalue()


def loads(data: bytes, allow_truncated: bool = False) -> tuple[Header, npt.NDArray[np.uint16]]:
    """Return the header and the codes [C, N, F] of the .dac file `data`.

    The header's `n_samples` is filled in from the END chunk where the file leaves it open.

    Args:
        data: all bytes of the file.
        allow_truncated: take a file whose end is missing. What comes back are its whole chunks, perhaps none, and
            `n_samples` is cut to what they cover. A cut inside the header stays an error.

    Raises:
        TruncatedBitstreamError: `data` ends early.
        BitstreamError: `data` is no .dac file, is damaged, or needs a newer version of this package.
    """
    reader = Reader(io.BytesIO(data))
    header = reader.header
    chunks = [np.zeros((header.channels, header.n_codebooks, 0), dtype=np.uint16)]
    n_samples: int | None = None
    try:
        for chunk in reader:  # not extend(): the chunks before a cut must stay
            chunks.append(chunk)
        n_samples = reader.n_samples
    except TruncatedBitstreamError:
        if not allow_truncated:
            raise
    codes = np.concatenate(chunks, axis=-1)
    if n_samples is None:
        n_samples = header.covered_samples(codes.shape[-1])
        if header.n_samples is not None:
            n_samples = min(n_samples, header.n_samples)
    return replace(header, n_samples=n_samples), codes
