"""Ogg files (RFC 3533): where each of several joined streams begins, and whether it is complete.

A file is a sequence of pages. Each stream begins with a page that is marked BOS and ends with one that is marked EOS:

    | BOS | page | page | EOS | BOS | page | EOS |
    |<------- link 1 -------->|<--- link 2 ----->|

Internet radio starts a new link for each title, and `cat a.ogg b.ogg` makes two. libsndfile reads only the first.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from dac_codec.common.streams import SeekableStream, find, read_at

MAGIC = b"OggS"

VORBIS_ORDER: dict[int, tuple[int, ...]] = {
    3: (0, 2, 1),
    5: (0, 2, 1, 3, 4),
    6: (0, 2, 1, 4, 5, 3),
    7: (0, 2, 1, 5, 6, 4, 3),
    8: (0, 2, 1, 6, 7, 4, 5, 3),
}
"""For each channel of a Vorbis stream, its place in a wav file, by the number of channels (Vorbis I, section 4.3.9)."""

_HEADER_BYTES = 27
_BOS, _EOS = 2, 4


class Link(NamedTuple):
    """One of the joined streams.

    Attributes:
        content: positions of its bytes in the file.
        cut: whether its last page is incomplete.
        marked: whether its last page is marked as such; some whole files lack that.
        vorbis_order: whether its channels are in the order of Vorbis.
    """

    content: range
    cut: bool
    marked: bool
    vorbis_order: bool


def find_links(stream: SeekableStream, start: int) -> list[Link]:
    """Find the links of a file whose first page is at `start`."""
    links: list[Link] = []
    size = stream.seek(0, os.SEEK_END)
    begin = position = start
    is_open: dict[int, bool] = {}  # serial number of a stream in this link -> its end is still to come
    in_headers, vorbis_order = True, False

    def end_link(cut: bool) -> None:
        if is_open:
            links.append(Link(range(begin, position), cut, not any(is_open.values()), vorbis_order))

    while True:
        page = _page_at(stream, position)
        if page is None:
            found = find(stream, MAGIC + b"\0", position + 1)
            if found is None:
                break
            position = found
            continue
        flags, serial, page_size, beginning = page
        if position + page_size > size:
            end_link(cut=True)
            return links
        if flags & _BOS and not in_headers:
            end_link(cut=False)
            begin, is_open, vorbis_order = position, {}, False
        in_headers = bool(flags & _BOS)
        vorbis_order |= in_headers and _has_vorbis_order(beginning)
        is_open[serial] = not flags & _EOS
        position += page_size
    end_link(cut=False)
    return links


def _page_at(stream: SeekableStream, position: int) -> tuple[int, int, int, bytes] | None:
    """Flags, serial number, size and the first bytes of the content of a page; None if there is none."""
    head = read_at(stream, position, _HEADER_BYTES + 255 + 32)
    if len(head) < _HEADER_BYTES or head[:5] != MAGIC + b"\0":
        return None
    content = _HEADER_BYTES + head[26]
    lacing = head[_HEADER_BYTES:content]
    # A table that is cut short is that of a page that is cut short.
    size = content + sum(lacing) + (1 if len(lacing) < head[26] else 0)
    return head[5], int.from_bytes(head[14:18], "little"), size, head[content:]


def _has_vorbis_order(packet: bytes) -> bool:
    """Whether the first packet of a stream announces Vorbis, or Opus with a channel mapping of family 1 (RFC 7845)."""
    return packet.startswith(b"\x01vorbis") or (packet.startswith(b"OpusHead") and packet[18:19] == b"\x01")
