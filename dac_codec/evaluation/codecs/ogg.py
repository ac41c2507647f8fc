"""How much of an Ogg file is sound, and how much is the container (RFC 3533)."""

from __future__ import annotations

from dac_codec.common.errors import DacError

_HEADER = 27  # bytes of a page before its table of segments


def ogg_payload(data: bytes, n_headers: int) -> int:
    """Bytes of all packets after the first `n_headers`, which describe the stream, without the framing of pages.

    Raises:
        DacError: not an Ogg file, or a cut one.
    """
    position, n_packets, payload = 0, 0, 0
    while position < len(data):
        table_end = position + _HEADER + (data[position + 26] if position + 26 < len(data) else 0)
        if data[position : position + 4] != b"OggS" or table_end > len(data):
            raise DacError(f"no Ogg page at byte {position}")
        for size in data[position + _HEADER : table_end]:
            if n_packets >= n_headers:
                payload += size
            n_packets += size < 255  # a packet ends with the first segment that is not full
        position = table_end + sum(data[position + _HEADER : table_end])
    return payload
