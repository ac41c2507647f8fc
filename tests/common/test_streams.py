"""Reading, peeking, counting and writing on raw, buffered and ending streams."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest

from dac_codec.common import streams
from dac_codec.common.streams import CountingReader, CountingWriter, OffsetStream, PeekableStream


class Trickle(io.RawIOBase):
    """A raw stream that reads and writes at most three bytes at a time."""

    def __init__(self, content: bytes = b"") -> None:
        self.incoming, self.outgoing = io.BytesIO(content), io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.incoming.readinto(memoryview(buffer)[:3])

    def write(self, data: Any) -> int:
        return self.outgoing.write(data[:3])


class NonBlocking(io.RawIOBase):
    def read(self, size: int = -1) -> Any:
        return None

    def write(self, data: Any) -> Any:
        return None


@pytest.mark.parametrize("make", [io.BytesIO, Trickle, lambda data: io.BufferedReader(Trickle(data))])
def test_reading(make: Any) -> None:
    stream = make(bytes(range(20)))
    assert streams.read_exactly(stream, 7) == bytes(range(7))
    streams.skip(stream, 4)
    some = streams.read_some(stream, 5)
    assert some in (bytes(range(11, 16)), bytes(range(11, 14)))
    assert some + streams.read_rest(stream) == bytes(range(11, 20))
    assert streams.read_some(stream, 5) == streams.read_exactly(stream, 5) == streams.read_rest(stream) == b""
    streams.skip(stream, 5)


def test_writing_and_counting() -> None:
    sink = Trickle()
    counting = CountingWriter(sink)  # type: ignore[arg-type]
    streams.write_all(counting, bytes(range(20)))  # type: ignore[arg-type]
    counting.flush()
    assert sink.outgoing.getvalue() == bytes(range(20))
    assert counting.n_bytes == 20


def test_non_blocking_and_text_streams_are_refused() -> None:
    for read in (streams.read_some, streams.read_exactly):
        with pytest.raises(BlockingIOError, match="expected a blocking one"):
            read(NonBlocking(), 4)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="yields str, expected bytes"):
            read(io.StringIO("text"), 4)  # type: ignore[arg-type]
    with pytest.raises(BlockingIOError, match="expected a blocking one"):
        streams.write_all(NonBlocking(), b"data")  # type: ignore[arg-type]


def test_peeking_consumes_nothing() -> None:
    def peekable() -> PeekableStream:
        stream = PeekableStream(Trickle(bytes(range(10))))  # type: ignore[arg-type]
        assert stream.peek(4) == bytes(range(4))
        assert stream.peek(6) == bytes(range(6))
        assert stream.peek(2) == bytes(range(2))
        return stream

    assert streams.read_rest(peekable()) == bytes(range(10))
    for read in (PeekableStream.read, PeekableStream.read1):
        stream, data = peekable(), b""
        while piece := read(stream, 5):
            data += piece
        assert data == bytes(range(10))
    short = PeekableStream(io.BytesIO(b"ab"))
    assert short.peek(6) == b"ab"
    assert short.read(6) == b"ab"


def test_a_counting_reader_can_be_ended() -> None:
    class Interrupted(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            reader.end()  # as a signal handler would, while the read waits
            raise AssertionError

    plain = CountingReader(io.BytesIO(b"abcdef"), "<stdin>")
    assert plain.read(2) + plain.read1(2) == b"abcd"
    assert (plain.n_bytes, plain.name, plain.seekable()) == (4, "<stdin>", False)
    plain.end()
    assert plain.read(2) == b""
    reader = CountingReader(Interrupted(b"abc"), "<stdin>")
    assert reader.read1(2) == reader.read1(2) == b""
    assert reader.n_bytes == 0


def test_an_offset_stream_begins_where_the_stream_was() -> None:
    stream = io.BytesIO(b"junk0123456789")
    stream.seek(4)
    offset = OffsetStream(stream)
    assert offset.seek(0, os.SEEK_END) == 10
    assert offset.seek(3) == 3
    assert offset.read(2) == b"34"
    with pytest.raises(ValueError, match="negative"):
        offset.seek(-1)
    offset.close()
    assert not stream.closed


def test_a_seekable_stream_that_returns_a_byte_at_a_time() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(1, size) if size and size > 0 else size)

    assert streams.read_at(Slow(b"0123456789"), 2, 5) == b"23456"
