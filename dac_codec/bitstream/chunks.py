"""The chunks of a .dac file: kinds, keys and payloads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.fields import FieldReader, encode_varint
from dac_codec.bitstream.header import Coding, Header, LevelParameters
from dac_codec.bitstream.packing import pack, packed_size, unpack
from dac_codec.common.errors import BitstreamError

MAX_CHUNK_CODES = 1 << 20
"""Maximum number of codes (frames x channels x codebooks) in one chunk."""

_MAX_LAYERED_FRAMES = 1 << 10
"""Maximum number of frames in a chunk of the coding LAYERED: few bytes can't ask for many frames."""

MAX_PAYLOAD = 1 << 22
"""Maximum size of a payload in bytes."""

TOO_NEW = "the file holds a chunk that only a newer version of this package understands"
"""Error message for a CRITICAL chunk, which a reader must not skip."""


class ChunkKind(IntEnum):
    """The two low bits of a chunk's key."""

    END = 0
    CODES = 1
    ANCILLARY = 2
    CRITICAL = 3


@dataclass(frozen=True)
class Chunk:
    """An intact chunk of codes.

    Attributes:
        first_frame: number of frames before the chunk.
        codes: int32 [C, N, F], F >= 1; -1 where a frame has no code.
        levels: band levels in steps, int8 [C, bands, w], of the w windows that begin in the chunk; None if the file has
            none.
        missing_layers: numbers, from 1, of the layers that were lost or damaged. Their codes are -1, their levels 0.
    """

    first_frame: int
    codes: npt.NDArray[np.int32]
    levels: npt.NDArray[np.int8] | None = None
    missing_layers: tuple[int, ...] = ()

    @property
    def n_frames(self) -> int:
        """Number of frames F."""
        return int(self.codes.shape[-1])

    def part(self, first_frame: int, last_frame: int, levels: LevelParameters | None) -> Chunk:
        """The frames of the file from `first_frame` to `last_frame`, exclusive, of this chunk.

        `levels` are those of the header.
        """
        codes = self.codes[..., first_frame - self.first_frame : last_frame - self.first_frame]
        part = replace(self, first_frame=first_frame, codes=codes)
        if levels is None or self.levels is None:
            return part
        before, first, last = map(levels.n_windows, (self.first_frame, first_frame, last_frame))
        return replace(part, levels=self.levels[..., first - before : last - before])


def default_chunk_frames(model_sample_rate: int, hop_length: int) -> int:
    """Return the frames per chunk that `Writer` uses: 3.5 s, rounded up to a multiple of 8.

    Eight codes of any width fill whole bytes, so full chunks need no padding. With 3.5 s, the file header and the chunk
    overhead of a 10 s clip stay below 1% of the codes at 6 kbit/s.

    >>> default_chunk_frames(44100, 512)
    304
    """
    return 8 * -(-7 * model_sample_rate // (2 * hop_length * 8))


def max_chunk_frames(header: Header) -> int:
    """Maximum number of frames in a chunk."""
    n_frames = MAX_CHUNK_CODES // (header.channels * header.n_codebooks)
    return min(_MAX_LAYERED_FRAMES, n_frames) if header.coding is Coding.LAYERED else n_frames


def encode_key(kind: ChunkKind, payload_size: int) -> bytes:
    """Return the key of a chunk: its payload size and kind as one varint."""
    return encode_varint(payload_size << 2 | kind)


def encode_codes(header: Header, codes: npt.NDArray[np.int32]) -> bytes:
    """Return the payload of a CODES chunk that holds `codes` [C, N, F]."""
    # Codebook-major, so that the coarse codebooks of all channels come before the fine ones.
    planes = codes.transpose(1, 0, 2)
    if not header.codebook_sizes:
        return encode_varint(codes.shape[-1]) + pack(planes, header.bits_per_code)
    return encode_varint(codes.shape[-1]) + b"".join(map(pack, planes, header.widths))


def codes_size(header: Header, n_frames: Any) -> Any:
    """Bytes of the packed codes of a number of frames, or of each number in an array."""
    if not header.codebook_sizes:
        return header.channels * header.n_codebooks * packed_size(n_frames, header.bits_per_code)
    return header.channels * sum(packed_size(n_frames, bits) for bits in header.widths)


def check_below(header: Header, codes: npt.NDArray[np.integer[Any]]) -> None:
    """Raise a BitstreamError unless codes [C, N, F] are below the sizes of their codebooks."""
    if (highest := codes.max(initial=0)) >= header.codebook_size:
        raise BitstreamError(f"codes must be below the codebook size {header.codebook_size}, found {highest}")
    for index, size in enumerate(header.codebook_sizes):
        if (highest := codes[:, index].max(initial=0)) >= size:
            raise BitstreamError(f"codes of codebook {index} must be below its size {size}, found {highest}")


def decode_codes(header: Header, payload: bytes) -> npt.NDArray[np.int32]:
    """Return the codes [C, N, F] in the payload of a CODES chunk. Raises BitstreamError if it is invalid."""
    fields = FieldReader(payload, "a chunk of codes")
    n_frames = fields.varint()
    size = codes_size(header, n_frames)
    if not 1 <= n_frames <= max_chunk_frames(header):
        raise BitstreamError(f"a chunk must hold 1..{max_chunk_frames(header)} frames, found {n_frames}")
    if size != fields.left:
        raise BitstreamError(f"a chunk of {n_frames} frames takes {size} bytes of codes, found {fields.left}")
    shape = (header.channels, n_frames)
    if header.codebook_sizes:
        parts = ((bits, fields.take(header.channels * packed_size(n_frames, bits))) for bits in header.widths)
        codes = np.stack([unpack(part, bits, shape) for bits, part in parts])
    else:
        codes = unpack(fields.take(size), header.bits_per_code, (header.n_codebooks, *shape))
    codes = np.ascontiguousarray(codes.transpose(1, 0, 2))
    check_below(header, codes)
    return codes


def decode_end(header: Header, payload: bytes) -> int:
    """Return the samples per channel, from the header or, if it leaves them open, from the payload of END."""
    fields = FieldReader(payload, "the END chunk")
    n_samples = fields.varint() if header.n_samples is None else header.n_samples
    fields.expect_end()
    return n_samples
