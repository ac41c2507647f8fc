"""The .dac container: a small header, then chunks of packed codes, each under its own checksum.

FORMAT.md beside this file is the normative description; the names here follow it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.fields import (
    FLOAT32,
    MAX_VARINT,
    FieldReader,
    StreamReader,
    checked_float32,
    checked_integer,
    encode_varint,
    with_crc,
    write_all,
)
from dac_codec.bitstream.packing import MAX_BITS, pack, packed_size, unpack
from dac_codec.errors import BitstreamError, TruncatedBitstreamError

MAGIC = b"\x8aDAC"
"""The first four bytes of every file. 0x8A can't begin a UTF-8 text, and the high bit shows a 7-bit transfer."""

VERSION = 1
"""The version of the format that this module writes, and the only one that it reads."""

FILE_EXTENSION = ".dac"
MIME_TYPE = "audio/x-dac"

MAX_CHUNK_CODES = 1 << 20
"""Most codes (frames x channels x codebooks) in one chunk."""

_MAX_HEADER_BODY = 4096
_MAX_PAYLOAD = 1 << 22
_MAX_SAMPLE_RATE = (1 << 24) - 1
_MAX_CHANNELS = (1 << 16) - 1
_MAX_PLANES = 1 << 16
_MAX_NAME_BYTES = 64
_FINGERPRINT_BYTES = 8
_CODING_FIXED_WIDTH = 0
_EXTENSION_MODEL_NAME = 1
_FRAME_TOLERANCE = 1


class _ChunkKind(IntEnum):
    END = 0
    CODES = 1
    ANCILLARY = 2
    CRITICAL = 3


@dataclass(frozen=True)
class Header:
    """What a .dac file says about itself before the first code. Checked when it is made.

    Attributes:
        model_fingerprint: 8 bytes that tell which weights made the codes: the start of a SHA-256 over them.
        model_name: what people call these weights; at most 64 bytes of UTF-8 without control characters, may be empty.
        sample_rate: rate of the original audio, in Hz, 1..2^24-1, and not below `frame_rate`.
        channels: channels of the original audio, 1..65535. Each is coded on its own.
        n_samples: length of the original audio, in samples per channel at `sample_rate`; None if it is not yet known.
        gain_db: gain in dB that was applied to the audio before encoding; a decoder applies `-gain_db`. Kept, and
            rounded here, as float32.
        model_sample_rate: rate at which the model works, in Hz, 1..2^24-1.
        hop_length: samples at `model_sample_rate` per frame, 1..model_sample_rate.
        n_codebooks: codes per frame and channel. `channels * n_codebooks` is at most 65536.
        codebook_size: entries of each codebook, 2..65536; every code is below it.

    Raises:
        BitstreamError: a field is not what the list above says.
    """

    model_fingerprint: bytes
    model_name: str
    sample_rate: int
    channels: int
    n_samples: int | None
    gain_db: float
    model_sample_rate: int
    hop_length: int
    n_codebooks: int
    codebook_size: int

    def __post_init__(self) -> None:
        fingerprint = self.model_fingerprint
        if not isinstance(fingerprint, bytes) or len(fingerprint) != _FINGERPRINT_BYTES:
            raise BitstreamError(f"model_fingerprint must be {_FINGERPRINT_BYTES} bytes, found {fingerprint!r}")
        _check_model_name(self.model_name)
        self._check_integer("sample_rate", 1, _MAX_SAMPLE_RATE)
        self._check_integer("channels", 1, _MAX_CHANNELS)
        if self.n_samples is not None:
            self._check_integer("n_samples", 0, MAX_VARINT - 1)
        self._check_integer("model_sample_rate", 1, _MAX_SAMPLE_RATE)
        self._check_integer("hop_length", 1, self.model_sample_rate)
        self._check_integer("n_codebooks", 1, _MAX_PLANES)
        if self.channels * self.n_codebooks > _MAX_PLANES:
            raise BitstreamError(
                f"channels * n_codebooks must be at most {_MAX_PLANES}, found {self.channels} * {self.n_codebooks}"
            )
        self._check_integer("codebook_size", 2, 1 << MAX_BITS)
        if self.sample_rate * self.hop_length < self.model_sample_rate:
            raise BitstreamError(
                f"sample_rate must not be below the frame rate of {self.frame_rate:g} Hz, found {self.sample_rate} Hz"
            )
        object.__setattr__(self, "gain_db", checked_float32(self.gain_db, "gain_db"))

    def _check_integer(self, field: str, low: int, high: int) -> None:
        object.__setattr__(self, field, checked_integer(getattr(self, field), field, low, high))

    @property
    def bits_per_code(self) -> int:
        """ceil(log2(codebook_size)): the bits that one code takes, 1..16."""
        return (self.codebook_size - 1).bit_length()

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.model_sample_rate / self.hop_length

    @property
    def bitrate(self) -> float:
        """Bits per second of the codes of all channels, without headers."""
        return self.channels * self.n_codebooks * self.bits_per_code * self.frame_rate

    def expected_frames(self, n_samples: int) -> int:
        """Frames that `n_samples` samples of the original audio fill: ceil(n * model_rate / rate / hop)."""
        return -(-n_samples * self.model_sample_rate // (self.sample_rate * self.hop_length))

    def covered_samples(self, n_frames: int) -> int:
        """Samples of the original audio that `n_frames` frames can fill: floor(frames * hop * rate / model_rate)."""
        return n_frames * self.hop_length * self.sample_rate // self.model_sample_rate

    def _most_frames(self) -> float:
        """Frames that a file with this header may hold."""
        return math.inf if self.n_samples is None else self.expected_frames(self.n_samples) + _FRAME_TOLERANCE

    def _check_length(self, n_samples: int, n_frames: int) -> None:
        """Refuse a length that the frames don't bear out. Resampling may round to one frame more or less."""
        expected = self.expected_frames(n_samples)
        if abs(n_frames - expected) > _FRAME_TOLERANCE or (n_samples > 0 and n_frames == 0):
            raise BitstreamError(
                f"{n_samples} samples per channel at {self.sample_rate} Hz take {expected} frames, found {n_frames}"
            )


def default_chunk_frames(model_sample_rate: int, hop_length: int) -> int:
    """Return the frames per chunk that `Writer` uses: 3.5 s, rounded up to a multiple of 8.

    Eight codes of any width fill whole bytes, so full chunks need no padding. 3.5 s keep the chunk headers of a 10 s
    clip, together with the file header, below 1% of the codes even at 6 kbit/s.

    >>> default_chunk_frames(44100, 512)
    304
    """
    return 8 * -(-7 * model_sample_rate // (2 * hop_length * 8))


class Writer:
    """Writes codes to a binary stream, chunk by chunk, as they come.

    The header is written at once, each chunk as soon as it is full, the rest and the END chunk by `close`. The stream
    is never seeked and never closed. As a context manager it closes itself, but not when an exception is on its way:
    then the file ends without END, and every reader sees that it is cut short.

    Args:
        stream: a binary stream to write to.
        header: what the file says about itself.
        chunk_frames: frames per chunk; None for `default_chunk_frames`. Multiples of 8 waste no bits.

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
        write_all(stream, _encode_header(header))

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
        if self._n_frames + self._n_pending + codes.shape[-1] > self.header._most_frames():
            raise BitstreamError(f"more frames than the {self.header.n_samples} samples in the header take")
        # A copy, because the caller may use the array again before the chunk is full.
        self._pending.append(codes.astype(np.uint16))
        self._n_pending += codes.shape[-1]
        if self._n_pending >= self.chunk_frames:
            self._flush(whole_chunks_only=True)

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
        self._flush(whole_chunks_only=False)
        header._check_length(header.n_samples, self._n_frames)
        self._write_chunk(_ChunkKind.END, encode_varint(header.n_samples) if declared is None else b"")

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

    def _flush(self, *, whole_chunks_only: bool) -> None:
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
        n_frames = codes.shape[-1]
        # Codebook-major, so that the coarse codebooks of all channels come before the fine ones.
        planes = pack(codes.transpose(1, 0, 2), self.header.bits_per_code)
        self._write_chunk(_ChunkKind.CODES, encode_varint(n_frames) + planes)
        self._n_frames += n_frames

    def _write_chunk(self, kind: _ChunkKind, payload: bytes) -> None:
        write_all(self._stream, with_crc(encode_varint(len(payload) << 2 | kind) + payload))


class Reader:
    """Reads a .dac file from a binary stream, chunk by chunk.

    Iterating yields the codes of one chunk at a time, as uint16 arrays [C, N, F] with F >= 1. The stream is never
    seeked, and what is held in memory is one chunk, whatever the file claims. Iterating goes on to the end of the
    stream, because bytes after the END chunk are an error.

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
        self._source = StreamReader(stream)
        self.header = _read_header(self._source)
        self.n_samples = self.header.n_samples
        self.complete = False
        self._chunks = self._read_chunks()

    def __iter__(self) -> Iterator[npt.NDArray[np.uint16]]:
        return self._chunks

    def _read_chunks(self) -> Iterator[npt.NDArray[np.uint16]]:
        header, source = self.header, self._source
        n_frames = 0
        while True:
            source.begin_checksum()
            key = source.read_varint("a chunk")
            kind, size = _ChunkKind(key & 3), key >> 2
            if size > _MAX_PAYLOAD:
                raise BitstreamError(f"a chunk claims a payload of {size} bytes, the format allows {_MAX_PAYLOAD}")
            if kind is _ChunkKind.ANCILLARY:
                source.skip(size, "an ancillary chunk")
                source.check_checksum("an ancillary chunk")
                continue
            payload = source.read(size, "a chunk")
            source.check_checksum("a chunk")
            if kind is _ChunkKind.CRITICAL:
                raise BitstreamError("the file holds a chunk that only a newer version of this package understands")
            if kind is _ChunkKind.END:
                break
            codes = self._decode_codes(payload)
            n_frames += codes.shape[-1]
            if n_frames > header._most_frames():
                raise BitstreamError(f"the file holds more frames than its {header.n_samples} samples take")
            yield codes
        n_samples = self._decode_end(payload)
        header._check_length(n_samples, n_frames)
        if not source.at_end():
            raise BitstreamError("the file goes on after its END chunk")
        self.n_samples = n_samples
        self.complete = True

    def _decode_codes(self, payload: bytes) -> npt.NDArray[np.uint16]:
        """Return the codes [C, N, F] of the payload of a CODES chunk."""
        header = self.header
        fields = FieldReader(payload, "a chunk of codes")
        n_frames = fields.varint()
        planes = header.n_codebooks * header.channels
        size = planes * packed_size(n_frames, header.bits_per_code)
        if not 1 <= n_frames <= MAX_CHUNK_CODES // planes:
            raise BitstreamError(f"a chunk must hold 1..{MAX_CHUNK_CODES // planes} frames, found {n_frames}")
        if size != fields.left:
            raise BitstreamError(f"a chunk of {n_frames} frames takes {size} bytes of codes, found {fields.left}")
        codes = unpack(fields.take(size), header.bits_per_code, (header.n_codebooks, header.channels, n_frames))
        if codes.max() >= header.codebook_size:
            raise BitstreamError(f"codes must be below the codebook size {header.codebook_size}, found {codes.max()}")
        return np.ascontiguousarray(codes.transpose(1, 0, 2))

    def _decode_end(self, payload: bytes) -> int:
        """Return the samples per channel, from the header or else from the payload of the END chunk."""
        fields = FieldReader(payload, "the END chunk")
        n_samples = fields.varint() if self.header.n_samples is None else self.header.n_samples
        fields.expect_end()
        return n_samples


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


def _check_model_name(name: str) -> None:
    if not isinstance(name, str):
        raise BitstreamError(f"model_name must be a string, found {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BitstreamError(f"model_name must be valid Unicode, found {name!r}") from None
    if size > _MAX_NAME_BYTES:
        raise BitstreamError(f"model_name must take at most {_MAX_NAME_BYTES} bytes of UTF-8, found {size}")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        raise BitstreamError(f"model_name must not hold control characters, found {name!r}")


def _encode_header(header: Header) -> bytes:
    """All bytes before the first chunk."""
    body = b"".join(
        (
            encode_varint(0),  # required features: none
            header.model_fingerprint,
            encode_varint(header.sample_rate),
            encode_varint(header.channels),
            encode_varint(0 if header.n_samples is None else header.n_samples + 1),
            FLOAT32.pack(header.gain_db),
            encode_varint(header.model_sample_rate),
            encode_varint(header.hop_length),
            encode_varint(header.n_codebooks),
            encode_varint(header.codebook_size),
            bytes([_CODING_FIXED_WIDTH]),
        )
    )
    if header.model_name:
        name = header.model_name.encode()
        body += encode_varint(_EXTENSION_MODEL_NAME) + encode_varint(len(name)) + name
    return with_crc(MAGIC + bytes([VERSION]) + encode_varint(len(body)) + body)


def _read_header(source: StreamReader) -> Header:
    source.begin_checksum()
    magic = source.read_up_to(len(MAGIC))
    if not MAGIC.startswith(magic):
        legacy = ": a file of descript-audio-codec? read_legacy reads those" if magic == b"\x93NUM" else ""
        raise BitstreamError(f"not a .dac file: it must begin with {MAGIC!r}, found {magic!r}{legacy}")
    if magic != MAGIC:
        raise TruncatedBitstreamError(f"the file ends early, after {len(magic)} bytes")
    version = source.read(1, "the header")[0]
    if version != VERSION:
        raise BitstreamError(f"the file has version {version} of the .dac format, this package reads version {VERSION}")
    size = source.read_varint("the header")
    if size > _MAX_HEADER_BODY:
        raise BitstreamError(f"the header claims {size} bytes, the format allows {_MAX_HEADER_BODY}")
    fields = FieldReader(source.read(size, "the header"), "the header")
    source.check_checksum("the header")

    features = fields.varint()
    if features:
        raise BitstreamError(
            f"the file needs features {features:#x} that this package does not know: a newer version may read it"
        )
    fingerprint = fields.take(_FINGERPRINT_BYTES)
    sample_rate = fields.varint()
    channels = fields.varint()
    length = fields.varint()
    (gain_db,) = FLOAT32.unpack(fields.take(FLOAT32.size))
    model_sample_rate = fields.varint()
    hop_length = fields.varint()
    n_codebooks = fields.varint()
    codebook_size = fields.varint()
    coding = fields.take(1)[0]
    if coding != _CODING_FIXED_WIDTH:
        raise BitstreamError(
            f"the codes are stored with coding {coding}, this package reads coding {_CODING_FIXED_WIDTH}"
        )
    return Header(
        model_fingerprint=fingerprint,
        model_name=_read_extensions(fields),
        sample_rate=sample_rate,
        channels=channels,
        n_samples=length - 1 if length else None,
        gain_db=gain_db,
        model_sample_rate=model_sample_rate,
        hop_length=hop_length,
        n_codebooks=n_codebooks,
        codebook_size=codebook_size,
    )


def _read_extensions(fields: FieldReader) -> str:
    """Read the extensions up to the end of the header; return the model name, and pass over what is unknown."""
    name: str | None = None
    while fields.left:
        tag = fields.varint()
        value = fields.take(fields.varint())
        if tag != _EXTENSION_MODEL_NAME:
            continue
        if name is not None:
            raise BitstreamError("the header names the model twice")
        try:
            name = value.decode()
        except UnicodeDecodeError:
            raise BitstreamError("the model name in the header is not valid UTF-8") from None
    return name or ""
