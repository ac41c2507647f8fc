"""Binary streams that can't be sought in, taken and given as they come."""

from __future__ import annotations

from typing import Any, BinaryIO

from dac_codec.common.errors import AudioError


class Pipe:
    """The bytes of a stream from its position on, as soon as they are there.

    A stream with `read1` (every buffered one) or a raw one gives what has arrived; any other may wait for more.

    Args:
        stream: a binary stream. It is not closed.
        name: what error messages call it.

    Attributes:
        name: what error messages call it.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._read: Any = getattr(stream, "read1", stream.read)
        self.name = name

    def some(self, most: int) -> bytes:
        """Return 1 to `most` bytes, waiting only for the first; none at the end.

        Raises:
            AudioError: the stream fails, gives text, or doesn't block.
        """
        try:
            piece = self._read(most)
        except (OSError, ValueError) as error:  # ValueError: it has been closed
            raise AudioError(f"{self.name}: can't be read ({error}); check where the stream comes from") from error
        if piece is None:
            raise AudioError(f"{self.name}: the stream doesn't wait for its bytes, expected a blocking one")
        if not isinstance(piece, bytes):
            raise AudioError(
                f"{self.name}: the stream gives {type(piece).__name__}, expected bytes; open it in binary mode"
            )
        return piece

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end."""
        data = bytearray()
        while len(data) < size and (piece := self.some(min(size - len(data), 2**16))):
            data += piece
        return bytes(data)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, or fewer at the end."""
        while size > 0 and (piece := self.some(min(size, 2**16))):
            size -= len(piece)

    def rest(self) -> bytes:
        """Return everything up to the end."""
        data = bytearray()
        while piece := self.some(2**16):
            data += piece
        return bytes(data)


def write_all(stream: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data`, also to a raw stream, which may take only a part at a time, and pass it on at once.

    Raises:
        OSError: the stream fails, or doesn't block.
    """
    rest = memoryview(data)
    while rest:
        written = stream.write(rest)
        if written is None:
            raise BlockingIOError("the stream doesn't wait until it can take more")
        rest = rest[written:]
    if hasattr(stream, "flush"):
        stream.flush()
