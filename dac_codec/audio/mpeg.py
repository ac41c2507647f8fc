"""MPEG audio (mp3): its frames, counted to the end of the file.

libsndfile believes the length in the first frame's tag ("Xing" or "Info"), or estimates it from the size of the first
frame, and decodes no more than that. It is wrong for a variable bit rate without a tag and for joined files.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache

from dac_codec.common.streams import SeekableStream, read_at

_BITRATES = {  # kbit/s; (MPEG 1, layer) -> by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_BITRATES[False, 3] = _BITRATES[False, 2]
_SAMPLE_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version
_TAGS = (b"Xing", b"Info")
_TAG = re.compile(b"Xing|Info|VBRI")
_TAG_END = 4 + 32 + 2 + 8
"""Bytes of a frame up to the flags of a tag, at most."""
_WINDOW_BYTES = 2**18
_MOST_JUNK_BYTES = 2**20
"""Bytes without a frame after which the rest of the file counts as something else."""


@dataclass(frozen=True)
class Header:
    """The header of a frame: `mono`, `size` in bytes, `n_samples` per channel."""

    version: int
    layer: int
    sample_rate: int
    mono: bool
    size: int
    n_samples: int

    def continues(self, other: Header) -> bool:
        """Whether a decoder can go on from a frame with the header `other` to this one."""
        same = (self.version, self.layer, self.sample_rate, self.mono)
        return same == (other.version, other.layer, other.sample_rate, other.mono)


@lru_cache(2**12)
def parse_header(head: bytes) -> Header | None:
    """Parse the four bytes of a frame's header; None if they are not one, or of a free format (no bit rate)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate_index, rates = head[2] >> 2 & 3, _SAMPLE_RATES.get(version)
    bitrate_index = head[2] >> 4
    if rates is None or layer == 4 or rate_index == 3 or bitrate_index in (0, 15):
        return None
    rate, bitrate, padding = rates[rate_index], 1000 * _BITRATES[version == 3, layer][bitrate_index], head[2] >> 1 & 1
    n_samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    size = (12 * bitrate // rate + padding) * 4 if layer == 1 else n_samples // 8 * bitrate // rate + padding
    return Header(version, layer, rate, head[3] >> 6 == 3, size, n_samples)


@dataclass
class Frames:
    """The frames of a file.

    Attributes:
        first: header of the first.
        tag: position of the frame that holds a tag instead of sound, or None.
        n_declared: frames that the tag declares, or None.
        n_found: complete frames of sound.
        runs: positions of their bytes; several if other bytes lie between them.
        damaged_bytes: bytes between them that are no tags, either.
        is_cut: whether the last frame is incomplete.
        other: header of a frame of another format that follows, which can't be decoded together with them.
        n_tail_bytes: number of bytes after the last frame that are no tags, either, and not all 0.
    """

    first: Header
    tag: range | None = None
    n_declared: int | None = None
    n_found: int = 0
    runs: list[range] = field(default_factory=list)
    damaged_bytes: int = 0
    is_cut: bool = False
    other: Header | None = None
    n_tail_bytes: int = 0


class _Window:
    """The part of a stream that is read at the moment."""

    def __init__(self, stream: SeekableStream) -> None:
        self._stream, self._start, self._data = stream, 0, b""
        self.size = stream.seek(0, os.SEEK_END)

    def at(self, position: int, size: int) -> bytes:
        """`size` bytes at a position; fewer at the end."""
        offset = position - self._start
        if not 0 <= offset <= len(self._data) - size:
            self._start, offset = position, 0
            self._data = read_at(self._stream, position, max(size, _WINDOW_BYTES))
        return self._data[offset : offset + size]


def find_frames(stream: SeekableStream, start: int = 0) -> Frames | None:
    """Find all frames from the first one after `start` on; None if there is none."""
    window = _Window(stream)
    found = _next_frame(window, start, None)
    if found is None:
        return None
    position, first = found
    frames = Frames(first)
    run = position
    while position < window.size:
        start_of_frame = window.at(position, _TAG_END)
        header = parse_header(start_of_frame[:4])
        if header is not None and (header is first or header.continues(first)):
            if position + header.size > window.size:
                frames.is_cut = True
                break
            tag_at = _tag_offset(start_of_frame, header)
            if tag_at is None:
                frames.n_found += 1
                position += header.size
                continue
            _end_run(frames, run, position)
            if frames.tag is None and not frames.runs:
                frames.tag = range(position, position + header.size)
                frames.n_declared = _declared(window.at(position, header.size), tag_at)
            run = position = position + header.size
            continue
        _end_run(frames, run, position)
        after_tag = _skip_tags(window, position)
        found = _next_frame(window, after_tag, first)
        if found is None:
            other = _next_frame(window, after_tag, None)
            if other is not None and other[0] < after_tag + 2**12:
                frames.other = other[1]
            if window.at(after_tag, 2**12).strip(b"\0"):
                frames.n_tail_bytes = window.size - after_tag
            run = position = window.size
        else:
            frames.damaged_bytes += found[0] - after_tag
            run = position = found[0]
    _end_run(frames, run, min(position, window.size))
    return frames if frames.n_found else None


def info_frame(first: Header, n_frames: int) -> bytes:
    """A frame that declares `n_frames` frames of layer 3 after it (the tag "Xing", without optional fields)."""
    bitrate_index = 9 if first.version == 3 else 8  # 128 or 64 kbit/s: room for the tag at any sample rate
    rate_index = _SAMPLE_RATES[first.version].index(first.sample_rate)
    head = bytes([0xFF, 0xE3 | first.version << 3, bitrate_index << 4 | rate_index << 2, 0xC0 if first.mono else 0])
    header = parse_header(head)
    assert header is not None
    content = bytes(_side_bytes(header)) + b"Xing" + (1).to_bytes(4, "big") + n_frames.to_bytes(4, "big")
    return (head + content).ljust(header.size, b"\0")


def patched_tag(frame: bytes, first: Header, n_frames: int, n_bytes: int) -> bytes | None:
    """The frame of a tag with another number of frames and bytes; None if it declares no number of frames."""
    offset = _tag_offset(frame, first)
    if offset is None or _declared(frame, offset) is None:
        return None
    patched = bytearray(frame)
    patched[offset + 8 : offset + 12] = n_frames.to_bytes(4, "big")
    if frame[offset + 7] & 2 and len(frame) >= offset + 16:
        patched[offset + 12 : offset + 16] = min(n_bytes, 2**32 - 1).to_bytes(4, "big")
    return bytes(patched)


def _end_run(frames: Frames, begin: int, end: int) -> None:
    if end > begin:
        frames.runs.append(range(begin, end))


def _side_bytes(header: Header) -> int:
    """Bytes of the side information of a frame of layer 3."""
    if header.version == 3:
        return 17 if header.mono else 32
    return 9 if header.mono else 17


def _tag_offset(frame: bytes, header: Header) -> int | None:
    """Position of a tag in a frame, which holds no sound then; None if it has none."""
    if header.layer != 3 or not _TAG.search(frame, 4, _TAG_END):
        return None
    if frame[36:40] == b"VBRI":
        return 36
    offset = 4 + _side_bytes(header)
    return next((at for at in (offset, offset + 2) if frame[at : at + 4] in _TAGS), None)


def _declared(frame: bytes, offset: int) -> int | None:
    """Number of frames in a tag, or None."""
    if frame[offset : offset + 4] not in _TAGS or len(frame) < offset + 12 or not frame[offset + 7] & 1:
        return None
    return int.from_bytes(frame[offset + 8 : offset + 12], "big")


def _next_frame(window: _Window, position: int, like: Header | None) -> tuple[int, Header] | None:
    """Position and header of the next frame that agrees with `like` and with a frame after it, or ends the file."""
    end_of_search = min(window.size, position + _MOST_JUNK_BYTES)
    while position < end_of_search:
        piece = window.at(position, 2**12)
        offset = piece.find(b"\xff")
        if offset < 0:
            position += len(piece)
            continue
        position += offset
        header = parse_header(window.at(position, 4))
        if header is not None and (like is None or header.continues(like)):
            end = position + header.size
            following = parse_header(window.at(end, 4))
            if end == window.size or (following is not None and following.continues(header)):
                return position, header
        position += 1
    return None


def _skip_tags(window: _Window, position: int) -> int:
    """Position after the tags at `position`: ID3v1, ID3v2, APEv2, Lyrics3."""
    while True:
        head = window.at(position, 32)
        if head[:3] == b"TAG":
            position += 128
        elif size := id3_size(head):
            position += size
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            has_footer_ahead = head[23] & 0x20  # this is a header, which the size leaves out
            position += 32 + (int.from_bytes(head[12:16], "little") if has_footer_ahead else 0)
        elif head[:11] == b"LYRICSBEGIN":
            rest = window.at(position, 2**16)
            end = max(rest.find(b"LYRICS200"), rest.find(b"LYRICSEND"))
            if end < 0:
                return position
            position += end + 9
        else:
            return min(position, window.size)


def id3_size(head: bytes) -> int:
    """Size of an ID3v2 tag by its first ten bytes; 0 if it is none (id3v2.4.0-structure, section 3.1)."""
    if head[:3] != b"ID3" or len(head) < 10 or max(head[6:10]) > 127:
        return 0
    size = sum(byte << 7 * (3 - place) for place, byte in enumerate(head[6:10]))
    return 10 + size + (10 if head[5] & 0x10 else 0)
