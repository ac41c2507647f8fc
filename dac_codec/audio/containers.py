"""Sizes in the headers of sound files: how many bytes of samples they declare, compared with those that are there.

libsndfile reads a file that is cut short without an error, and reads nothing if a recorder crashed before it could
replace the 0 in place of the size.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from dac_codec.audio.mpeg import id3_size
from dac_codec.common.streams import SeekableStream, Segment, find, read_at

STARTS = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b".snd", b"dns.", b"riff\x2e\x91\xcf\x11", b"fLaC", b"OggS")
"""First bytes of sound files, to find one that follows another."""

_W64_TAIL = {b"riff": bytes.fromhex("2e91cf11a5d628db04c10000")}
_W64_TAIL |= dict.fromkeys((b"data", b"fmt "), bytes.fromhex("f3acd3118cd100c04f8edb8a"))
CHUNK_LIMIT = 10_000
_FLAC = b"fLaC\0\0\0\x22"
_READ_AHEAD_BYTES = 2**16


class Samples(NamedTuple):
    """Where a file has its samples.

    Attributes:
        begin: position of the first byte.
        declared: number of bytes that the header declares.
        size_field: position of that number, or None if it is not stored as one integer.
        size_format: of that integer (`struct`).
        extra: what the stored integer counts in addition to the samples.
        end: position of the end of the file by the header, or None if that is the end of the samples.
    """

    begin: int
    declared: int
    size_field: int | None = None
    size_format: str = "<I"
    extra: int = 0
    end: int | None = None


def is_live(size: int, n_present: int | None = None) -> bool:
    """Whether a size stands for "unknown", as programs write it that can't return to the header.

    0 and -1 of any width are usual; sox writes 0x7FFFF000 and (aiff) 0x7F000000, opusdec, lame and arecord about 2^31.
    Sizes are rounded down to whole frames, and some include the header: therefore one near these counts, too, unless
    it is known that as many bytes, `n_present`, are there.
    """
    exact = (0x7FFFF000, 0x7FFFFFFF, 0x80000000, 2**32 - 1, 2**63 - 1, 2**64 - 1)
    if n_present is not None and size <= n_present:
        return size <= 0 or size in exact
    return size <= 0 or any(-0x1000 <= size - one <= 0x1000 for one in (*exact, 0x7F000000))


def id3_end(stream: SeekableStream) -> int:
    """Position after the ID3v2 tags at the beginning of a file."""
    position = 0
    while size := id3_size(read_at(stream, position, 10)):
        position += size
    return position


def find_samples(stream: SeekableStream, start: int) -> Samples | None:
    """Find the samples of a file that begins at `start`; None for other formats than those below."""
    head = read_at(stream, start, 16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _find_in_riff(stream, start, head)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC", b"8SVX", b"16SV"):
        return _find_in_form(stream, start, head)
    if head == b"riff" + _W64_TAIL[b"riff"]:
        return _find_in_w64(stream, start)
    if head[:4] == b"caff":
        return _find_in_caf(stream, start)
    if head[:4] in (b".snd", b"dns.") and len(head) == 16:
        order = ">" if head[:4] == b".snd" else "<"
        begin, declared = struct.unpack_from(f"{order}II", head, 4)
        return Samples(start + begin, declared, start + 8, f"{order}I")
    if head[:7] == b"NIST_1A":
        return _find_in_sphere(stream, start)
    return None


def corrected(stream: SeekableStream, start: int, samples: Samples) -> list[Segment] | None:
    """The file with the number of bytes that are there in place of the size; None if it has no room for that."""
    size = stream.seek(0, os.SEEK_END)
    if samples.size_field is None:
        return [range(start, size)]
    value = size - samples.begin + samples.extra
    width = struct.calcsize(samples.size_format)
    if value >= 2 ** (8 * width):
        return None
    end = samples.size_field + width
    return [range(start, samples.size_field), struct.pack(samples.size_format, value), range(end, size)]


def has_second_flac(stream: SeekableStream) -> bool:
    """Whether another flac file begins near the position up to which a decoder has read, or after it."""
    return find(stream, _FLAC, max(len(_FLAC), stream.tell() - _READ_AHEAD_BYTES)) is not None


def chunks(stream: SeekableStream, start: int, order: str) -> Iterator[tuple[int, int, bytes]]:
    """Position, size and first 24 bytes of each chunk of a RIFF or IFF file; `order` of the bytes as for `struct`."""
    position = start + 12
    for _ in range(CHUNK_LIMIT):
        head = read_at(stream, position, 24)
        if len(head) < 8:
            return
        (size,) = struct.unpack_from(f"{order}I", head, 4)
        yield position, size, head
        position += 8 + size + size % 2


def _find_in_riff(stream: SeekableStream, start: int, head: bytes) -> Samples | None:
    order = ">" if head[:4] == b"RIFX" else "<"
    (riff_size,) = struct.unpack_from(f"{order}I", head, 4)
    long: tuple[int, int, int] | None = None  # of RF64: size of the file, of the samples, and where the latter is
    for position, size, chunk in chunks(stream, start, order):
        if chunk[:4] == b"ds64" and len(chunk) == 24:
            long = (*struct.unpack_from("<QQ", chunk, 8), position + 16)
        if chunk[:4] == b"data":
            if long is not None and size == 2**32 - 1:
                return Samples(position + 8, long[1], long[2], "<Q", end=start + 8 + long[0])
            return Samples(position + 8, size, position + 4, f"{order}I", end=start + 8 + riff_size)
    return None


def _find_in_form(stream: SeekableStream, start: int, head: bytes) -> Samples | None:
    end = start + 8 + int.from_bytes(head[4:8], "big")
    for position, size, chunk in chunks(stream, start, ">"):
        if chunk[:4] == b"SSND":
            extra = 8 + int.from_bytes(chunk[8:12], "big")
            return Samples(position + 8 + extra, size - extra if size else 0, position + 4, ">I", extra, end)
        if chunk[:4] == b"BODY":
            return Samples(position + 8, size, position + 4, ">I", end=end)
    return None


def _find_in_w64(stream: SeekableStream, start: int) -> Samples | None:
    position = start + 40
    for _ in range(CHUNK_LIMIT):
        chunk = read_at(stream, position, 24)
        if len(chunk) < 24:
            return None
        size = int.from_bytes(chunk[16:], "little")
        if chunk[:16] == b"data" + _W64_TAIL[b"data"]:
            return Samples(position + 24, max(0, size - 24), position + 16, "<Q", 24)
        position += max(24, size + -size % 8)
    return None


def _find_in_caf(stream: SeekableStream, start: int) -> Samples | None:
    position = start + 8
    for _ in range(CHUNK_LIMIT):
        chunk = read_at(stream, position, 12)
        if len(chunk) < 12:
            return None
        size = int.from_bytes(chunk[4:], "big", signed=True)
        if chunk[:4] == b"data":
            return Samples(position + 16, size - 4 if size > 0 else size, position + 4, ">Q", 4)
        position += 12 + max(0, size)
    return None


def _find_in_sphere(stream: SeekableStream, start: int) -> Samples | None:
    """NIST SPHERE: fields in text. The samples may be compressed, of which the header does not give the size."""
    text = read_at(stream, start, 4096).decode("latin-1").splitlines()
    fields = {words[0]: words[2] for line in text if len(words := line.split(None, 2)) == 3}
    try:
        begin = int(text[1])
        values = [int(fields.get(name, "1")) for name in ("sample_count", "channel_count", "sample_n_bytes")]
    except (IndexError, ValueError):
        return None
    if "," in fields.get("sample_coding", "") or min(begin, *values) < 0:
        return None
    return Samples(start + begin, values[0] * values[1] * values[2])
