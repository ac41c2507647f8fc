"""The header of a wav file (RIFF, and its 64-bit form RF64: EBU Tech 3306), for streams that are not seekable."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from dac_codec.audio.containers import STARTS, is_live
from dac_codec.audio.pcm import WIDTHS
from dac_codec.audio.samples import MAX_CHANNELS
from dac_codec.common.errors import AudioError
from dac_codec.common.streams import read_exactly, skip

LIMIT_BYTES = 2**32 - 2**16
"""Most bytes of samples in a RIFF, AIFF or AU file, whose sizes are 32 bits; the rest is left for the header."""

UNKNOWN_SIZE = 2**32 - 1
"""In place of a size: the samples continue to the end of the stream, or a chunk "ds64" has the 64-bit size."""

_MOST_BEFORE_FORMAT = 2**20
"""Most bytes before the format chunk. They are kept in memory, for libsndfile if it has to read the file."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # follows a two-byte tag in an extensible sub-format
_TAGS = {subtype: _FLOAT if subtype in ("FLOAT", "DOUBLE") else _PCM for subtype in WIDTHS}
_SUBTYPES = {(tag, WIDTHS[subtype]): subtype for subtype, tag in _TAGS.items()}


@dataclass(frozen=True)
class Layout:
    """How samples are stored: `sample_rate` in Hz, `channels`, a `subtype` that `pcm` knows, and the speakers' mask."""

    sample_rate: int
    channels: int
    subtype: str
    channel_mask: int | None = None

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.channels * WIDTHS[self.subtype]


def read_header(stream: BinaryIO, name: str) -> tuple[Layout, int | None] | bytes:
    """Read a stream, which error messages call `name`, from its beginning up to the first sample.

    Returns:
        The layout, and the number of bytes of samples that the header declares: None if it is declared as unknown (see
        `containers.is_live`). If this is not a wav file of plain samples, the bytes that were read.

    Raises:
        AudioError: more than 1 MiB precedes the format of the samples.
    """
    start = read_exactly(stream, 12)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
        return start
    seen = bytearray(start)
    long_size = None
    while True:
        start = read_exactly(stream, 8)
        seen += start
        tag, size = start[:4], int.from_bytes(start[4:], "little")
        if len(start) < 8 or tag == b"data":
            return bytes(seen)
        if len(seen) + size > _MOST_BEFORE_FORMAT:
            raise AudioError(
                f"{name}: more than 1 MiB precedes the wav's format chunk, expected it near the beginning; save it "
                "to a file to read it"
            )
        content = read_exactly(stream, size + size % 2)
        seen += content
        if tag == b"ds64" and len(content) >= 16:
            long_size = int.from_bytes(content[8:16], "little")
        if tag == b"fmt ":
            layout = _layout(content[:size])
            return bytes(seen) if layout is None else (layout, _data_size(stream, long_size))


def _data_size(stream: BinaryIO, long_size: int | None) -> int | None:
    """Skip the chunks between the format and the samples; return the number of bytes of samples."""
    while len(start := read_exactly(stream, 8)) == 8:
        size = int.from_bytes(start[4:], "little")
        if start[:4] == b"data":
            size = long_size if size == UNKNOWN_SIZE and long_size is not None else size
            return None if is_live(size) else size
        skip(stream, size + size % 2)
    return 0


def has_second_file(stream: BinaryIO, n_bytes: int) -> bool:
    """Whether another sound file follows the samples (`n_bytes` were read) and the chunks after them."""
    skip(stream, n_bytes % 2)
    while len(start := read_exactly(stream, 8)) == 8:
        if start.startswith(STARTS):
            return True
        size = int.from_bytes(start[4:], "little")
        skip(stream, size + size % 2)
    return False


def _layout(fields: bytes) -> Layout | None:
    """Parse a format chunk; None unless it is consistent and declares plain samples."""
    if len(fields) < 16:
        return None
    tag, channels, sample_rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", fields)
    mask = None
    if tag == _EXTENSIBLE and len(fields) >= 40 and fields[26:40] == _GUID_TAIL:
        tag, mask = int.from_bytes(fields[24:26], "little"), int.from_bytes(fields[20:24], "little")
    subtype = _SUBTYPES.get((tag, -(-bits // 8)))
    if subtype is None or not 1 <= channels <= MAX_CHANNELS or sample_rate == 0:
        return None
    layout = Layout(sample_rate, channels, subtype, mask)
    return layout if layout.frame_bytes == frame_bytes else None


def header(layout: Layout, n_samples: int | None, with_room: bool = False) -> bytes:
    """Return all bytes before the first sample.

    Args:
        layout: how the samples are stored.
        n_samples: per channel; None declares an unknown length.
        with_room: reserve space for 64-bit sizes also where they are not needed, so that the header's length is fixed.

    Raises:
        AudioError: a sample rate of 2^32 Hz or more, which the header can't hold.
    """
    if layout.sample_rate >= 2**32:
        raise AudioError(f"wav: {layout.sample_rate} Hz can't be written, expected less than 2^32 Hz")
    tag, frame_bytes, bits = _TAGS[layout.subtype], layout.frame_bytes, 8 * WIDTHS[layout.subtype]
    byte_rate = min(layout.sample_rate * frame_bytes, 2**32 - 1)
    fields = (layout.channels, layout.sample_rate, byte_rate, frame_bytes, bits)
    if layout.channels > 2 or layout.channel_mask is not None:
        more = struct.pack("<HHI", 22, bits, layout.channel_mask or 0) + tag.to_bytes(2, "little") + _GUID_TAIL
        fmt = struct.pack("<HHIIHH", _EXTENSIBLE, *fields) + more
    else:
        fmt = struct.pack("<HHIIHH", tag, *fields)
    data_size = UNKNOWN_SIZE if n_samples is None else n_samples * frame_bytes
    long = n_samples is not None and data_size > LIMIT_BYTES
    fact = struct.pack("<I", UNKNOWN_SIZE if n_samples is None else min(n_samples, UNKNOWN_SIZE))
    chunks = _chunk(b"fmt ", fmt) + (_chunk(b"fact", fact) if tag == _FLOAT else b"")
    n_room = 36 if long or with_room else 0
    riff_size = 4 + n_room + len(chunks) + 8 + data_size + data_size % 2
    if long:
        chunks = _chunk(b"ds64", struct.pack("<QQQI", riff_size, data_size, n_samples, 0)) + chunks
    elif with_room:
        chunks = _chunk(b"JUNK", bytes(28)) + chunks
    if long or n_samples is None:
        riff_size = data_size = UNKNOWN_SIZE
    magic = b"RF64" if long else b"RIFF"
    return magic + struct.pack("<I", riff_size) + b"WAVE" + chunks + b"data" + struct.pack("<I", data_size)


def _chunk(tag: bytes, content: bytes) -> bytes:
    return tag + struct.pack("<I", len(content)) + content
