"""Bytes of a stream that are searched for chunks: a buffer, and varints at many places at once."""

from __future__ import annotations

import numpy as np

from dac_codec.bitstream.fields import StreamReader
from dac_codec.bitstream.range_coder import Integers


class Buffer:
    """The bytes of a stream that may be parsed again. Positions count from the first byte read.

    Attributes:
        complete: whether the stream has ended.
    """

    complete: bool = False

    def __init__(self, source: StreamReader) -> None:
        self._source = source
        self._data = bytearray()
        self._start = 0

    @property
    def end(self) -> int:
        """The position after the last buffered byte."""
        return self._start + len(self._data)

    def bytes(self, start: int, end: int) -> bytes:
        """Return the buffered bytes from `start` to `end`, exclusive."""
        with memoryview(self._data) as view:
            return bytes(view[start - self._start : end - self._start])

    def fill(self, end: int) -> bool:
        """Read up to `end` and no further; return whether the stream has that many bytes."""
        self._data += self._source.read_up_to(max(0, end - self.end))
        return self.end >= end

    def more(self) -> bool:
        """Read the bytes that have arrived, at least one; return False at the end of the stream."""
        piece = self._source.read_some()
        self._data += piece
        self.complete = not piece
        return bool(piece)

    def drop(self, start: int) -> None:
        """Discard the bytes before `start`."""
        del self._data[: start - self._start]
        self._start = max(start, self._start)


def varints(data: Integers, places: Integers, most: int) -> tuple[Integers, Integers]:
    """Return the values of the varints at `places` in `data`, and their lengths in bytes: 0 where none is valid.

    `most` is the maximum length in bytes.
    """
    value = np.zeros_like(places)
    length = np.zeros_like(places)
    for position in range(most):
        byte = data[places + position]
        open_ = length == 0
        value[open_] |= (byte[open_] & 0x7F) << 7 * position
        # A varint is as short as possible: its last byte is zero only if it is the first.
        ends = open_ & (byte < 0x80)
        length[ends & ((byte > 0) | (position == 0))] = position + 1
        length[ends & (byte == 0) & (position > 0)] = -1
    return value, np.maximum(length, 0)
