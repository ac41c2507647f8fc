"""The .dac container: a header, then chunks of codes, each with a checksum. FORMAT.md is normative."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.chunks import (
    Chunk,
    ChunkKind,
    check_below,
    default_chunk_frames,
    encode_codes,
    encode_key,
    max_chunk_frames,
)
from dac_codec.bitstream.code_model import CodeModel
from dac_codec.bitstream.coded import FindContext, check_model, code_model, encode_chunks
from dac_codec.bitstream.fields import CRC_BYTES, crc32c, encode_varint
from dac_codec.bitstream.header import Coding, Header, encode_header
from dac_codec.bitstream.layers import CodedChunk, encode_payload, encode_repeat, side_by_side
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.bitstream.reader import Reader
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError
from dac_codec.common.streams import write_all


class Writer:
    """Writes codes to a binary stream, chunk by chunk.

    The header is written immediately, each chunk as soon as it is full, the remaining frames and END by `close`. With
    the coding LAYERED, up to 32 full chunks are held to be coded together; `flush` writes them. The stream is flushed
    after every chunk; it is never seeked or closed. As a context manager, the writer closes itself unless an exception
    is raised: the file then has no END, so that readers report it as truncated.

    Args:
        stream: a binary stream to write to.
        header: the header of the file.
        chunk_frames: frames per chunk; None for `default_chunk_frames`. Multiples of 8 waste no bits with the coding
            FIXED. Fewer frames lower the latency of a live stream, and cost about 7 bytes per chunk with the coding
            FIXED and about 30 with LAYERED.
        model: the context model that the header names; None if it names none.
        redundancy: whether to repeat the first layer of each chunk before the next one, for streams over which single
            chunks are lost. Only with the coding LAYERED.

    Raises:
        BitstreamError: `chunk_frames` is below 1 or above what the format allows, `model` is not the one that the
            header names, or the coding can't repeat layers.
    """

    def __init__(
        self,
        stream: BinaryIO,
        header: Header,
        chunk_frames: int | None = None,
        model: CodeModel | None = None,
        redundancy: bool = False,
    ) -> None:
        layered = header.coding is Coding.LAYERED
        max_frames = max_chunk_frames(header)
        if chunk_frames is None:
            typical = default_chunk_frames(header.model_sample_rate, header.hop_length)
            chunk_frames = min(typical, max(max_frames // 8 * 8, 1))
        if not 1 <= chunk_frames <= max_frames:
            raise BitstreamError(f"chunk_frames must be in 1..{max_frames} for these channels, found {chunk_frames}")
        if redundancy and not layered:
            raise BitstreamError("redundancy needs the coding LAYERED: the other one has no layers to repeat")
        if layered:
            self._model = code_model(header, None) if model is None else model
            check_model(header, self._model)
        self.header = header
        self.chunk_frames = chunk_frames
        self._redundancy = redundancy
        self._pending: list[npt.NDArray[np.int32]] = []
        self._n_pending = 0
        self._levels: list[npt.NDArray[np.int8]] = []
        self._n_windows = 0  # pushed
        self._last: CodedChunk | None = None
        self._closed = False
        self._chunks = ChunkWriter(stream, header)

    def write(self, codes: npt.NDArray[np.integer[Any]], levels: npt.NDArray[np.integer[Any]] | None = None) -> None:
        """Append codes, and band levels if the file has them.

        Args:
            codes: [C, N, F] of any F and any integer type. With the coding LAYERED, -1 where a frame has no code: it
                has those of the first codebooks.
            levels: [C, bands, w], in steps, of the next w windows. They may come before the codes or after them: a
                chunk is written when both are there. None: no windows.

        Raises:
            BitstreamError: an array has another shape or type, a code or a level is out of its range, or there are more
                frames than the header's `n_samples` allows. Nothing is written in these cases.
            ValueError: the writer is closed.
        """
        if self._closed:
            raise ValueError("write to a closed Writer")
        check_codes(self.header, codes)
        if self._chunks.n_frames + self._n_pending + codes.shape[-1] > self.header.max_frames():
            raise BitstreamError(f"more frames than the {self.header.n_samples} samples in the header take")
        if levels is not None:
            check_levels(self.header, levels)
            self._levels.append(levels.astype(np.int8))
            self._n_windows += levels.shape[-1]
        # A copy, because the caller may reuse the array before the chunk is full.
        self._pending.append(codes.astype(np.int32))
        self._n_pending += codes.shape[-1]
        if self._n_pending >= self.chunk_frames * side_by_side(self.header):
            self._write_pending(whole_chunks_only=True)

    def flush(self) -> None:
        """Write the pending frames, if any, as a chunk of their own; with band levels, those whose levels are there.

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
                written; or band levels are missing. The file then has no END.
        """
        if self._closed:
            return
        self._closed = True
        declared = self.header.n_samples
        header = replace(self.header, n_samples=declared if n_samples is None else n_samples)  # checks the range
        if header.n_samples is None:
            raise BitstreamError("the header leaves n_samples open, so close() needs it")
        if declared not in (None, header.n_samples):
            raise BitstreamError(f"the header says {declared} samples per channel, close() was given {n_samples}")
        self._write_pending(whole_chunks_only=False)
        if self._n_pending:
            raise BitstreamError(f"the levels of the last {self._n_pending} frames are missing")
        header.check_length(header.n_samples, self._chunks.n_frames)
        self._repeat_last()
        self._chunks.write(ChunkKind.END, encode_varint(header.n_samples) if declared is None else b"")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *details: object) -> None:
        if kind is None:
            self.close()
        self._closed = True

    def _write_pending(self, *, whole_chunks_only: bool) -> None:
        n_ready = self._n_pending
        if self.header.levels is not None:
            n_ready = min(n_ready, max(0, self._n_windows * self.header.levels.hop - self._chunks.n_frames))
        if not n_ready:
            return
        codes = np.concatenate(self._pending, axis=-1)
        stop = n_ready - n_ready % self.chunk_frames if whole_chunks_only else n_ready
        chunks = []
        for start in range(0, stop, self.chunk_frames):
            part = codes[..., start : min(start + self.chunk_frames, stop)]
            first_frame = self._chunks.n_frames + start
            chunks.append(Chunk(first_frame, part, self._take_levels(first_frame, first_frame + part.shape[-1])))
        self._pending = [codes[..., stop:].copy()]
        self._n_pending -= stop
        self._write_chunks(chunks)

    def _take_levels(self, first_frame: int, last_frame: int) -> npt.NDArray[np.int8] | None:
        """The levels of the windows that belong to the frames from `first_frame` to `last_frame`, exclusive."""
        parameters = self.header.levels
        if parameters is None:
            return None
        n_windows = parameters.n_windows(last_frame) - parameters.n_windows(first_frame)
        empty = np.zeros((self.header.channels, parameters.bands, 0), np.int8)
        levels = np.concatenate([empty, *self._levels], axis=-1)
        self._levels = [levels[..., n_windows:].copy()]
        return levels[..., :n_windows]

    def _write_chunks(self, chunks: list[Chunk]) -> None:
        if self.header.coding is Coding.FIXED:
            for chunk in chunks:
                self._chunks.write(ChunkKind.CODES, encode_codes(self.header, chunk.codes))
                self._chunks.n_frames += chunk.n_frames
            return
        for coded in encode_chunks(self.header, self._model, chunks):
            self._repeat_last()
            self._chunks.write_codes(coded, len(coded.layers))
            self._last = coded

    def _repeat_last(self) -> None:
        if self._redundancy and self._last is not None:
            self._chunks.write(ChunkKind.ANCILLARY, encode_repeat(self._last))


def check_codes(header: Header, codes: npt.NDArray[Any]) -> None:
    """Raise a BitstreamError unless codes [C, N, F] are those of a file with this header."""
    lowest = -1 if header.coding is Coding.LAYERED else 0
    shape = header.channels, header.n_codebooks
    _check_array("codes", codes, shape, "F", lowest, header.codebook_size - 1)
    check_below(header, codes)
    if lowest and ((codes[:, 1:] >= 0) & (codes[:, :-1] < 0)).any():
        raise BitstreamError("codes must be those of the first codebooks in each frame, found one after a -1")


def check_levels(header: Header, levels: npt.NDArray[Any]) -> None:
    """Raise a BitstreamError unless band levels [C, bands, w] are those of a file with this header."""
    if (parameters := header.levels) is None:
        raise BitstreamError("levels are given, but the header has no parameters for them")
    shape = header.channels, parameters.bands
    _check_array("levels", levels, shape, "w", parameters.lowest, parameters.highest)


def _check_array(
    name: str, array: npt.NDArray[Any], shape: tuple[int, int], last_axis: str, lowest: int, highest: int
) -> None:
    """Raise a BitstreamError unless `array` has integers in lowest..highest and a shape that begins with `shape`."""
    if array.ndim != 3 or array.shape[:2] != shape:
        raise BitstreamError(f"{name} must have shape [{shape[0]}, {shape[1]}, {last_axis}], found {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.integer):
        raise BitstreamError(f"{name} must be integers, found {array.dtype}")
    if array.size and not (array.min() >= lowest and array.max() <= highest):
        raise BitstreamError(f"{name} must be in {lowest}..{highest}, found {array.min()}..{array.max()}")


class ChunkWriter:
    """Writes a header, and chunks after it, to a binary stream, which is flushed after every chunk.

    Attributes:
        n_frames: number of frames before the next chunk.
    """

    def __init__(self, stream: BinaryIO, header: Header) -> None:
        self.n_frames: int = 0
        self._stream = stream
        write_all(stream, encode_header(header))

    def write(self, kind: ChunkKind, payload: bytes, n_covered: int | None = None) -> None:
        """Write a chunk. Its checksum covers the first `n_covered` bytes of the payload; None: all of it."""
        key = encode_key(kind, len(payload))
        prefix = checksum_prefix(self.n_frames) if kind in (ChunkKind.CODES, ChunkKind.END) else b""
        checksum = crc32c(prefix + key + payload[:n_covered])
        write_all(self._stream, key + payload + checksum.to_bytes(CRC_BYTES, "little"))
        self._stream.flush()

    def write_codes(self, chunk: CodedChunk, n_inside: int) -> None:
        """Write a CODES chunk of coding 1 with the first `n_inside` layers of `chunk`."""
        self.write(ChunkKind.CODES, *encode_payload(chunk, n_inside))
        self.n_frames += chunk.n_frames


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


def dumps(
    header: Header,
    codes: npt.NDArray[np.integer[Any]],
    levels: npt.NDArray[np.integer[Any]] | None = None,
    model: CodeModel | None = None,
) -> bytes:
    """Return a .dac file that holds `codes` [C, N, F], and `levels` [C, bands, W] if the header has their parameters.

    The arguments are those of `Writer` and `Writer.write`; the header's `n_samples` must not be None.

    Raises:
        BitstreamError: the arguments do not fit `header`.
    """
    stream = io.BytesIO()
    with Writer(stream, header, model=model) as writer:
        writer.write(codes, levels)
    return stream.getvalue()


def loads(data: bytes, allow_truncated: bool = False, find_context: FindContext | None = None) -> Loaded:
    """Return the content of the .dac file `data`.

    If the header of the file leaves `n_samples` open, the value of END is filled in.

    Args:
        data: all bytes of the file.
        allow_truncated: accept a file whose end is missing. The result then has the codes of its intact chunks, maybe
            none, and `n_samples` is reduced to what they cover. A truncated header remains an error.
        find_context: as for `Reader`.

    Raises:
        TruncatedBitstreamError: `data` ends early.
        BitstreamError: `data` is no .dac file, is damaged, or needs a newer version of this package.
    """
    reader = Reader(io.BytesIO(data), find_context)
    header = reader.header
    n_bands = 0 if header.levels is None else header.levels.bands
    levels = [np.zeros((header.channels, n_bands, 0), dtype=np.int8)]
    chunks = [np.zeros((header.channels, header.n_codebooks, 0), dtype=np.int32)]
    n_samples: int | None = None
    try:
        for chunk in reader:  # not extend(), which would lose the chunks before a truncation
            chunks.append(chunk.codes)
            if chunk.levels is not None:
                levels.append(chunk.levels)
        n_samples = reader.n_samples
    except TruncatedBitstreamError:
        if not allow_truncated:
            raise
    codes = np.concatenate(chunks, axis=-1)
    all_levels = None if header.levels is None else np.concatenate(levels, axis=-1)
    return Loaded(with_length(header, n_samples, codes.shape[-1]), codes, all_levels)


def with_length(header: Header, n_samples: int | None, n_frames: int) -> Header:
    """`header` with the length of its file; of a truncated one (`n_samples` is None) that which its frames cover."""
    if n_samples is None:
        n_samples = header.covered_samples(n_frames)
        if header.n_samples is not None:
            n_samples = min(n_samples, header.n_samples)
    return replace(header, n_samples=n_samples)
