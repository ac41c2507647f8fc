"""The bytes of a chunk of coding 1: a head, and layers from coarse to fine that are there or not.

    payload    n, size | F, counts, (length, CRC) of layers 2..n, layer 1 | layer 2 | ... | layer n
               '-------- covered by the checksum of the chunk ----------'

    layer      lengths of its planes but the last | planes: for each codebook, for each channel the coded codes

The codes are coded and decoded in `coded`. FORMAT.md, "CODES with coding 1", is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from dac_codec.bitstream.chunks import MAX_CHUNK_CODES, MAX_PAYLOAD, max_chunk_frames
from dac_codec.bitstream.fields import CRC_BYTES, FieldReader, crc32c, decode_varint, encode_varint
from dac_codec.bitstream.header import Header
from dac_codec.common.errors import BitstreamError

ANCILLARY_LAYER = 1
"""Type of an ANCILLARY chunk with a layer of a chunk before it."""

ANCILLARY_REPEAT = 2
"""Type of an ANCILLARY chunk that repeats the first layer of a chunk before it."""

_SIDE_BY_SIDE = 32  # more are hardly faster
_WHAT = "a chunk of codes"
# A coded number takes at most 16 bits, and the state of the coder 4 bytes.
_MAX_BYTES_PER_COUNT = 6


@dataclass(frozen=True)
class CodedChunk:
    """A chunk of coding 1, not decoded.

    Attributes:
        first_frame: number of frames before the chunk.
        n_frames: number of frames F, at least 1.
        counts: for each channel the number of codes of every frame, or the coded numbers if they vary.
        layers: the bytes of each layer of the file, coarse first; None for a missing one. The first is never missing.
        n_inside: how many of the layers belong to the CODES chunk. The others have chunks of their own.
    """

    first_frame: int
    n_frames: int
    counts: tuple[int | bytes, ...]
    layers: tuple[bytes | None, ...]
    n_inside: int

    @property
    def missing_layers(self) -> tuple[int, ...]:
        """Numbers, from 1, of the missing layers."""
        return tuple(number for number, layer in enumerate(self.layers, 1) if layer is None)


@dataclass(frozen=True)
class LayerPiece:
    """A layer that has a chunk of its own.

    Attributes:
        first_frame: number of frames before the CODES chunk that it belongs to.
        number: number of the layer, from 2.
        data: its bytes.
    """

    first_frame: int
    number: int
    data: bytes


def n_layers(header: Header) -> int:
    """Layers of a file, the one of the band levels included."""
    return len(header.layers) + (header.levels is not None)


def side_by_side(header: Header) -> int:
    """How many chunks to code together: many are faster, and memory is limited; 1 with the coding FIXED."""
    return min(_SIDE_BY_SIDE, MAX_CHUNK_CODES // (header.channels * header.n_codebooks * max_chunk_frames(header)))


def encode_payload(chunk: CodedChunk, n_inside: int) -> tuple[bytes, int]:
    """Return the payload of a CODES chunk with the first `n_inside` layers, and the bytes that the checksum covers."""
    head = encode_varint(chunk.n_frames)
    for counts in chunk.counts:
        head += encode_varint(counts + 1) if isinstance(counts, int) else b"\0" + _sized(counts)
    layers = [layer or b"" for layer in chunk.layers[:n_inside]]
    for layer in layers[1:]:
        head += encode_varint(len(layer))
        if layer:
            head += crc32c(layer).to_bytes(CRC_BYTES, "little")
    head += layers[0]
    payload = encode_varint(n_inside) + _sized(head)
    return payload + b"".join(layers[1:]), len(payload)


def encode_layer(chunk: CodedChunk, number: int) -> bytes:
    """Return the payload of an ANCILLARY chunk with layer `number` of `chunk`."""
    layer = chunk.layers[number - 1]
    assert layer is not None
    return bytes([ANCILLARY_LAYER]) + encode_varint(chunk.first_frame) + encode_varint(number) + layer


def encode_repeat(chunk: CodedChunk) -> bytes:
    """Return the payload of an ANCILLARY chunk that repeats layer 1 of `chunk`."""
    return bytes([ANCILLARY_REPEAT]) + encode_varint(chunk.first_frame) + encode_payload(chunk, 1)[0]


def covered_size(payload: bytes) -> int:
    """Return how many bytes of the payload of a CODES chunk its checksum covers. Raises BitstreamError."""
    fields = FieldReader(payload, _WHAT)
    fields.varint()
    fields.take(fields.varint())
    return len(payload) - fields.left


class Head(NamedTuple):
    """The fields of the payload of a CODES chunk before the first layer."""

    n_inside: int
    """Number of layers in the chunk."""
    n_frames: int
    """Number of frames F."""
    counts: tuple[int | bytes, ...]
    """As in `CodedChunk`."""
    checks: tuple[tuple[int, int], ...]
    """Size and CRC of each layer but the first."""
    n_layer_1: int
    """Size of the first layer."""
    n_payload: int
    """Size of the payload."""


def read_head(header: Header, take: Callable[[int], bytes]) -> Head:
    """Read the head of a payload; `take` returns its next bytes. Reads nothing beyond the head.

    Raises:
        BitstreamError: the head is invalid.
    """
    n_read = 0

    def counted(size: int) -> bytes:
        nonlocal n_read
        n_read += size
        return take(size)

    def varint() -> int:
        return decode_varint(lambda: counted(1)[0], _WHAT)

    n_inside = varint()
    if not 1 <= n_inside <= n_layers(header):
        raise BitstreamError(f"a chunk must hold 1..{n_layers(header)} layers, found {n_inside}")
    n_covered = varint()
    n_covered += n_read
    n_frames = varint()
    if not 1 <= n_frames <= max_chunk_frames(header):
        raise BitstreamError(f"a chunk must hold 1..{max_chunk_frames(header)} frames, found {n_frames}")
    counts: list[int | bytes] = []
    for _ in range(header.channels):
        value = varint()
        if value > header.n_codebooks + 1:
            raise BitstreamError(f"a frame has at most {header.n_codebooks} codes, found {value - 1}")
        if value:
            counts.append(value - 1)
            continue
        size = varint()
        if size > _MAX_BYTES_PER_COUNT * n_frames:
            raise BitstreamError(f"the numbers of codes of {n_frames} frames can't take {size} bytes")
        counts.append(counted(size))
    checks = []
    for _ in range(1, n_inside):
        size = varint()
        checks.append((size, int.from_bytes(counted(CRC_BYTES), "little") if size else 0))
    if n_read > n_covered:
        raise BitstreamError(f"{_WHAT} is too short for its fields")
    n_payload = n_covered + sum(size for size, _ in checks)
    return Head(n_inside, n_frames, tuple(counts), tuple(checks), n_covered - n_read, n_payload)


def decode_payload(header: Header, first_frame: int, payload: bytes) -> tuple[CodedChunk, BitstreamError | None]:
    """Parse the payload of a CODES chunk whose checksum is valid.

    Returns:
        The chunk without damaged layers, and the error of the first damaged one.

    Raises:
        BitstreamError: the payload is invalid.
    """
    fields = FieldReader(payload, _WHAT)
    head = read_head(header, fields.take)
    if head.n_payload != len(payload):
        raise BitstreamError(f"a chunk of codes describes {head.n_payload} bytes, found {len(payload)}")
    layers: list[bytes | None] = [fields.take(head.n_layer_1)]
    error = None
    for number, (size, checksum) in enumerate(head.checks, 2):
        layer = fields.take(size)
        intact = crc32c(layer) == checksum
        layers.append(layer if intact else None)
        if not intact and error is None:
            error = BitstreamError(f"layer {number} of the chunk at frame {first_frame} is damaged")
    missing = (None,) * (n_layers(header) - head.n_inside)
    return CodedChunk(first_frame, head.n_frames, head.counts, (*layers, *missing), head.n_inside), error


def decode_ancillary(header: Header, payload: bytes) -> CodedChunk | LayerPiece | None:
    """Parse the payload of an ANCILLARY chunk whose checksum is valid; None if its type is not known.

    Raises:
        BitstreamError: the payload is invalid.
    """
    fields = FieldReader(payload, "an ancillary chunk")
    kind = fields.varint() if payload else 0
    if kind not in (ANCILLARY_LAYER, ANCILLARY_REPEAT):
        return None
    first_frame = fields.varint()
    if kind == ANCILLARY_REPEAT:
        repeated, _ = decode_payload(header, first_frame, fields.take(fields.left))
        # Of the layers that the chunk held, only the first is repeated.
        return replace(repeated, n_inside=len(repeated.layers))
    number = fields.varint()
    if not 2 <= number <= n_layers(header):
        raise BitstreamError(f"a layer's number must be in 2..{n_layers(header)}, found {number}")
    return LayerPiece(first_frame, number, fields.take(fields.left))


def split_planes(layer: bytes, sizes: Sequence[int], bits: int) -> list[bytes]:
    """Split a layer into its planes, of `sizes` codes of `bits` bits each. Raises BitstreamError if it is invalid."""
    fields = FieldReader(layer, "a layer")
    filled = [index for index, n_codes in enumerate(sizes) if n_codes]
    lengths = dict.fromkeys(range(len(sizes)), 0)
    for index in filled[:-1]:
        lengths[index] = _typical_length(sizes[index], bits) + _signed(fields.varint())
        if not 0 <= lengths[index] <= MAX_PAYLOAD:
            raise BitstreamError(f"a plane can't take {lengths[index]} bytes")
    if filled:
        lengths[filled[-1]] = max(0, fields.left - sum(lengths.values()))
    planes = [fields.take(length) for length in lengths.values()]
    fields.expect_end()
    return planes


def join_planes(planes: Sequence[bytes], sizes: Sequence[int], bits: int) -> bytes:
    """Return the layer of `planes`, of `sizes` codes of `bits` bits each: the inverse of `split_planes`."""
    filled = [(plane, n_codes) for plane, n_codes in zip(planes, sizes, strict=True) if n_codes]
    lengths = (_unsigned(len(plane) - _typical_length(n_codes, bits)) for plane, n_codes in filled[:-1])
    return b"".join(map(encode_varint, lengths)) + b"".join(plane for plane, _ in filled)


def _typical_length(n_codes: int, bits: int) -> int:
    """Predicted bytes of a plane, 15/16 of those of its codes at fixed width; a file has the difference from it."""
    return n_codes * bits * 15 // 128


def _unsigned(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def _signed(value: int) -> int:
    return -(value + 1) // 2 if value & 1 else value // 2


def _sized(data: bytes) -> bytes:
    return encode_varint(len(data)) + data
