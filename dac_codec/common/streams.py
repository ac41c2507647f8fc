"""Binary streams: read what has arrived or a given number of bytes, write everything, peek, count.

Every function takes raw, buffered and duck-typed streams, and raises `BlockingIOError` for a non-blocking stream and
`TypeError` for a text stream. No wrapper closes the stream that it wraps, unless it is asked to.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, BinaryIO, TypeAlias

PathOrFile: TypeAlias = str | os.PathLike[str] | BinaryIO

SeekableStream: TypeAlias = io.RawIOBase | io.BufferedIOBase

Segment: TypeAlias = bytes | range
"""A piece of a `SegmentedStream`: bytes, or a range of positions in the wrapped stream."""

_PIECE_BYTES = 2**16
"""Upper limit of one read: memory grows with the bytes that arrive, not with a size that a header claims."""


def name_of(source: PathOrFile) -> str:
    """What messages call a path or a stream."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>"  # the name of an unnamed file is its descriptor


def read_some(stream: BinaryIO, size: int) -> bytes:
    """Return 1 to `size` bytes, waiting only for the first; none at the end.

    Streams with `read1` (every buffered one) and raw ones return what has arrived; others may wait for more.
    """
    return _checked(getattr(stream, "read1", stream.read)(size))


def read_exactly(stream: BinaryIO | SeekableStream, size: int) -> bytes:
    """Return `size` bytes, or fewer at the end."""
    data = bytearray()
    while len(data) < size and (piece := _checked(stream.read(min(size - len(data), _PIECE_BYTES)))):
        data += piece
    return bytes(data)


def read_rest(stream: BinaryIO) -> bytes:
    """Return everything up to the end."""
    return b"".join(iter(lambda: read_some(stream, _PIECE_BYTES), b""))


def skip(stream: BinaryIO, size: int) -> None:
    """Read and drop `size` bytes, or fewer at the end."""
    while size > 0 and (piece := read_some(stream, min(size, _PIECE_BYTES))):
        size -= len(piece)


def read_at(stream: SeekableStream, position: int, size: int) -> bytes:
    """Return `size` bytes from a position on, or fewer at the end."""
    if position >= 2**63:  # more than a file can have
        return b""
    stream.seek(position)
    return read_exactly(stream, size)


def find(stream: SeekableStream, pattern: bytes, position: int) -> int | None:
    """Return where a pattern is first found from a position on, or None."""
    while len(piece := read_at(stream, position, _PIECE_BYTES)) >= len(pattern):
        if (offset := piece.find(pattern)) >= 0:
            return position + offset
        position += len(piece) - len(pattern) + 1
    return None


def write_all(stream: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data`, also to a raw stream, which may accept only a part at a time."""
    rest = memoryview(data)
    while rest:
        written = stream.write(rest)
        if written is None:
            raise BlockingIOError("the stream is non-blocking, expected a blocking one")
        rest = rest[written:]


def _checked(piece: Any) -> bytes:
    """`piece`, as returned by a stream's `read`, unless the stream is non-blocking or yields text."""
    if piece is None:
        raise BlockingIOError("the stream is non-blocking, expected a blocking one")
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise TypeError(f"the stream yields {type(piece).__name__}, expected bytes; open it in binary mode")
    return bytes(piece)


class PeekableStream:
    """A stream whose next bytes can be inspected before they are read, also where it is not seekable."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._peeked = b""

    def peek(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end, without consuming them."""
        self._peeked += read_exactly(self._stream, size - len(self._peeked))
        return self._peeked[:size]

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, at least one except at the end."""
        data, self._peeked = self._peeked[:size], self._peeked[size:]
        return data or self._stream.read(size)

    def read1(self, size: int) -> bytes:
        return self.read(size) if self._peeked else read_some(self._stream, size)


class CountingWriter:
    """A stream that counts the bytes written to it in `n_bytes`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.n_bytes: int = 0

    def write(self, data: bytes | memoryview) -> int | None:
        n_written = self._stream.write(data)
        self.n_bytes += n_written or 0
        return n_written

    def flush(self) -> None:
        self._stream.flush()


class CountingReader:
    """A pipe that counts the bytes read from it in `n_bytes`, and that a signal handler can end."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream: Any = stream
        self._is_reading = self._ended = False
        self.name = name
        self.n_bytes: int = 0

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._stream.read, size)

    def read1(self, size: int = -1) -> bytes:
        return self._counted(self._stream.read1, size)

    def close(self) -> None:
        self._stream.close()

    def end(self) -> None:
        """Make this and every later read return nothing. Call it in the thread that reads, from a signal handler."""
        self._ended = True
        if self._is_reading:
            raise _EndedError

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            self._is_reading = True
            data = b"" if self._ended else read(size)
            self._is_reading = False  # inside the try: a signal that arrives in `finally` would not be caught
        except _EndedError:
            data = b""
        finally:
            self._is_reading = False
        self.n_bytes += len(data)
        return data


class _EndedError(BaseException):
    """Interrupts a read that is waiting for bytes."""


class _SeekableReader(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class OffsetStream(_SeekableReader):
    """A seekable stream in which position 0 is the wrapped stream's current position."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._origin = stream.tell()

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_SET:
            if offset < 0:
                raise ValueError("negative seek position")
            offset += self._origin
        return self._stream.seek(offset, whence) - self._origin


class SegmentedStream(_SeekableReader):
    """A seekable stream that consists of bytes and of ranges of another seekable stream."""

    def __init__(self, stream: SeekableStream, segments: Sequence[Segment]) -> None:
        self._stream, self._segments = stream, segments
        self._starts = list(accumulate(map(len, segments), initial=0))
        self._position = 0
        self.name: str = getattr(stream, "name", "")

    def readinto(self, buffer: Any, /) -> int:
        index = bisect_right(self._starts, self._position) - 1
        if index == len(self._segments):
            return 0
        segment = self._segments[index]
        offset = self._position - self._starts[index]
        target = memoryview(buffer)[: len(segment) - offset]
        if isinstance(segment, range):
            self._stream.seek(segment.start + offset)
            size = self._stream.readinto(target)
            if size is None:
                raise BlockingIOError("the stream is non-blocking, expected a blocking one")
        else:
            size = len(target)
            target[:] = segment[offset : offset + size]
        self._position += size
        return size

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        if origin + offset < 0:
            raise ValueError("negative seek position")
        self._position = origin + offset
        return self._position
