"""dac_codec.bitstream.recovery: intact chunks of damaged streams, and their positions."""

from __future__ import annotations

import io
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import Chunk, GainSource, Gap, GapReason, Header, Reader, Writer, dumps, loads, positions
from dac_codec.bitstream.fields import crc32c, encode_varint, with_crc
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError

N_FRAMES = 4000
HEADER = Header(b"12345678", "tiny", 16000, 1, N_FRAMES * 320, -3.5, 16000, 320, 3, 1000)
CODES = np.random.default_rng(0).integers(0, 1000, (1, 3, N_FRAMES), dtype=np.uint16)


class Dribble(io.RawIOBase):
    """A stream that returns a few bytes at a time, and no more than requested."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes, self.given = data, sizes, 0

    def read(self, size: int = -1) -> bytes:
        most = self.sizes[self.given % len(self.sizes)]
        piece = self.data[self.given : self.given + min(size, most)]
        self.given += len(piece)
        return piece


def parts(known: bool = True, chunk_frames: int = 40, seed: int | None = None) -> list[bytes]:
    """The header, each chunk, and END of a file; chunks of random lengths if `seed` is given."""
    stream = io.BytesIO()
    writer = Writer(stream, HEADER if known else replace(HEADER, n_samples=None), chunk_frames)
    marks = [0, stream.tell()]
    rng = None if seed is None else np.random.default_rng(seed)
    start = 0
    while start < N_FRAMES:
        n_frames = chunk_frames if rng is None else int(rng.integers(1, chunk_frames + 1))
        writer.write(CODES[..., start : start + n_frames])
        writer.flush()
        start += n_frames
        marks.append(stream.tell())
    writer.close(HEADER.n_samples)
    data = stream.getvalue()
    return [data[a:b] for a, b in zip(marks, [*marks[1:], len(data)], strict=True)]


def events_of(data: bytes, sizes: list[int] | None = None) -> tuple[list[Chunk | Gap], bool, Reader]:
    """All events, whether END was reached, and the reader."""
    reader = Reader(io.BytesIO(data) if sizes is None else Dribble(data, sizes))  # type: ignore[arg-type]
    events = []
    try:
        for event in reader.events():
            events.append(event)
    except TruncatedBitstreamError:
        return events, False, reader
    return events, True, reader


def check_order(events: list[Chunk | Gap]) -> set[int]:
    """Assert that events are contiguous and codes correct; return the first frames of the chunks."""
    position = 0
    for event in events:
        assert event.first_frame == position
        if isinstance(event, Gap):
            assert event.n_frames > 0
            position += event.n_frames
        else:
            n_frames = event.codes.shape[-1]
            np.testing.assert_array_equal(event.codes, CODES[..., position : position + n_frames])
            position += n_frames
    return {event.first_frame for event in events if isinstance(event, Chunk)}


@pytest.mark.parametrize("known", [True, False])
def test_a_whole_file_has_no_gaps(known: bool) -> None:
    events, ended, reader = events_of(b"".join(parts(known)))
    assert len(check_order(events)) == len(events) == 100
    assert ended
    assert reader.complete
    assert reader.n_samples == HEADER.n_samples


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("kind", ["lost", "flipped", "overwritten", "cut", "grown", "length"])
def test_every_intact_chunk_comes_with_its_position(share: float, kind: str, known: bool) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        head, *chunks, end = parts(known, seed=seed)
        starts = np.cumsum([0, *(chunk[2 if chunk[0] >= 128 else 1] for chunk in chunks)])
        whole = set()
        for index, chunk in enumerate(chunks):
            if rng.random() >= share:
                whole.add(int(starts[index]))
                continue
            damaged = bytearray(chunk)
            place = int(rng.integers(len(chunk)))
            if kind == "lost":
                damaged.clear()
            elif kind == "flipped":
                damaged[place] ^= 1 << int(rng.integers(8))
            elif kind == "overwritten":
                damaged[place : place + 20] = rng.bytes(len(damaged[place : place + 20]))
            elif kind == "cut":
                del damaged[place : place + 1 + int(rng.integers(20))]
            elif kind == "grown":
                damaged[place:place] = rng.bytes(1 + int(rng.integers(20)))
                if place == 0:
                    whole.add(int(starts[index]))
            else:
                damaged[0] ^= int(rng.integers(1, 256))
            chunks[index] = bytes(damaged)
        events, ended, reader = events_of(head + b"".join(chunks) + end)
        assert check_order(events) == whole
        assert ended
        assert reader.complete == (len(whole) == len(starts) - 1)
        reasons = {event.reason for event in events if isinstance(event, Gap)}
        assert reasons <= {GapReason.LOST if kind == "lost" else GapReason.DAMAGED}


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_sizes_of_reads_change_nothing(sizes: list[int], seed: int, known: bool) -> None:
    rng = np.random.default_rng(seed)
    head, *chunks, end = parts(known)
    body = bytearray(b"".join(chunk for chunk in chunks if rng.random() < 0.8) + end)
    for place in rng.integers(0, len(body), 10):
        body[place] ^= 0x55
    expected, ended, _ = events_of(head + bytes(body))
    found, found_ended, _ = events_of(head + bytes(body), sizes)
    assert found_ended == ended
    assert [type(event) for event in found] == [type(event) for event in expected]
    assert [event.first_frame for event in found] == [event.first_frame for event in expected]
    check_order(found)


def test_a_chunk_comes_with_its_last_byte() -> None:
    """Also after damaged bytes: a false length must not make the reader wait."""
    head, first, second, third, *_ = parts()
    for data, expected in (
        (head + first, [Chunk]),
        (head + first[:3], []),
        (head + b"\x03\xff\xff\x3f" + first, [Chunk]),  # has the form of 256 KiB of ANCILLARY
        (head + first + b"\xff\xff\x3f" + second[5:] + third, [Chunk]),  # the next chunk must confirm `third`
        (head + first + second[5:] + third + parts()[4], [Chunk, Gap, Chunk, Chunk]),
    ):

        class Live(Dribble):
            def read(self, size: int = -1) -> bytes:
                piece = super().read(size)
                if not piece:
                    raise InterruptedError("would wait")
                return piece

        events: list[Chunk | Gap] = []
        with pytest.raises(InterruptedError):
            events.extend(iter(Reader(Live(data, [1 << 20])).events()))  # type: ignore[arg-type]
        assert [type(event) for event in events] == expected


def test_lost_at_the_beginning_and_before_the_end() -> None:
    head, *chunks, end = parts()
    events, ended, reader = events_of(head + b"".join(chunks[50:60]) + end)
    assert ended
    assert not reader.complete
    assert events[0] == Gap(0, 2000, GapReason.LOST)
    assert events[-1] == Gap(2400, 1600, GapReason.LOST)
    assert len(check_order(events)) == 10


def test_repeated_and_swapped_chunks() -> None:
    head, *chunks, end = parts()
    events, ended, reader = events_of(head + b"".join(chunks[:10] + chunks[9:]) + end)
    assert check_order(events) == set(range(0, N_FRAMES, 40))
    assert ended
    assert reader.complete
    events, _, _ = events_of(head + b"".join([*chunks[:4], chunks[5], chunks[4], *chunks[6:]]) + end)
    assert len(check_order(events)) >= 99


def test_strict_reading_detects_a_missing_chunk() -> None:
    for known in (True, False):
        head, *chunks, end = parts(known)
        with pytest.raises(BitstreamError, match="checksum"):
            loads(head + b"".join(chunks[:5] + chunks[6:]) + end)
        with pytest.raises(BitstreamError, match="checksum"):
            loads(head + b"".join([chunks[1], chunks[0], *chunks[2:]]) + end)


def test_a_truncated_file_gives_its_complete_chunks() -> None:
    head, *chunks, _ = parts()
    events, ended, _ = events_of(head + b"".join(chunks[:7]) + chunks[7][:-1])
    assert not ended
    assert check_order(events) == set(range(0, 280, 40))
    # A chunk after a gap, at the end of the stream.
    events, ended, _ = events_of(head + b"".join(chunks[:7]) + chunks[9])
    assert not ended
    assert events[-2:][0] == Gap(280, 80, GapReason.LOST)
    assert check_order(events) == {*range(0, 280, 40), 360}


def test_ancillary_and_critical_chunks() -> None:
    head, *chunks, end = parts()
    ancillary = with_crc(encode_varint(5000 << 2 | 2) + bytes(5000))
    events, ended, reader = events_of(head + chunks[0] + ancillary + b"".join(chunks[1:]) + ancillary + end)
    assert ended
    assert reader.complete
    assert len(check_order(events)) == len(events) == 100
    critical = with_crc(encode_varint(5 << 2 | 3) + bytes(5))
    data = head + chunks[0] + critical + b"".join(chunks[1:]) + end
    with pytest.raises(BitstreamError, match="newer version"):
        events_of(data)
    with pytest.raises(BitstreamError, match="newer version"):
        Reader(io.BytesIO(data)).seek_frame(50)


@given(st.binary(max_size=3000), st.booleans(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_random_bytes_raise_nothing_else(garbage: bytes, known: bool, n_chunks: int) -> None:
    head, *chunks, _ = parts(known)
    events, ended, _ = events_of(head + b"".join(chunks[:n_chunks]) + garbage)
    assert not ended
    assert check_order(events) == set(range(0, 40 * n_chunks, 40))


@pytest.mark.parametrize(
    ("planes", "pattern"),
    [
        (3, b"\x00"),
        (3, b"\x04"),
        (3, b"\x01"),
        (3, b"\xff\xff\xff\x07"),
        (1, b"\x09\x08"),
        (1, b"\x0d\x08\x09\x01"),
        (1, encode_varint((1 + 2 + (1 << 17)) << 2 | 1) + encode_varint(1 << 20)),
        (1, encode_varint((1 + 2 + (1 << 17)) << 2 | 2)),
    ],
)
def test_hostile_bytes_cost_linear_time(planes: int, pattern: bytes) -> None:
    header = replace(HEADER, n_samples=None, n_codebooks=planes, codebook_size=2)
    stream = io.BytesIO()
    Writer(stream, header)
    seconds = []
    for size in (1 << 14, 1 << 16):
        data = stream.getvalue() + pattern * (size // len(pattern))
        began = time.process_time()
        assert events_of(data)[0] == []
        seconds.append(time.process_time() - began)
    assert seconds[1] < 10 * seconds[0] + 0.1


def test_positions_are_found_in_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hostile bytes may claim another length at every other byte, each of which needs a position."""
    positions.position_of(b"", 0)
    steps = []
    multiply = positions._multiply
    monkeypatch.setattr(positions, "_multiply", lambda a, b: steps.append(1) or multiply(a, b))
    for length in range(1000, 1100):
        data = bytes(length)
        assert positions.position_of(data, crc32c(positions.checksum_prefix(length) + data)) == length
    assert len(steps) < 100 * 12


def test_memory_is_bounded_by_the_payload() -> None:
    claim = 1 << 18
    data = parts()[0] + encode_varint(claim << 2 | 2) + bytes(16 * claim // 2)
    stream = Dribble(data, [1 << 16])
    tracemalloc.start()
    with pytest.raises(TruncatedBitstreamError):
        list(Reader(stream).events())  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * claim


# --- writing and seeking ----------------------------------------------------------------------------------------------


def test_flush_writes_pending_frames() -> None:
    stream = io.BytesIO()
    with Writer(stream, HEADER, chunk_frames=400) as writer:
        writer.write(CODES[..., :7])
        size = stream.tell()
        writer.flush()
        assert stream.tell() > size
        writer.flush()
        writer.write(CODES[..., 7:])
    stream.seek(0)
    assert [chunk.codes.shape[-1] for chunk in Reader(stream)] == [7] + 9 * [400] + [393]
    with pytest.raises(ValueError, match="closed"):
        writer.flush()


def test_seek_frame() -> None:
    data = b"junk" + b"".join(parts())
    stream = io.BytesIO(data)
    stream.seek(4)
    reader = Reader(stream)
    for frame in (0, 39, 40, 2017, 3999, 100):
        first = reader.seek_frame(frame)
        assert first == frame // 40 * 40
        np.testing.assert_array_equal(next(iter(reader)).codes, CODES[..., first : first + 40])
    reader.seek_frame(3990)
    np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in reader], axis=-1), CODES[..., 3960:])
    assert reader.complete
    reader.seek_frame(2000)
    assert next(reader.events()).first_frame == 2000
    for frame in (-1, 4000, 10**9):
        with pytest.raises(BitstreamError, match=f"frame {frame} asked for"):
            reader.seek_frame(frame)


def test_seek_frame_needs_a_complete_seekable_file() -> None:
    data = b"".join(parts())
    with pytest.raises(io.UnsupportedOperation):
        Reader(Dribble(data, [100])).seek_frame(3)  # type: ignore[arg-type]
    with pytest.raises(TruncatedBitstreamError):
        Reader(io.BytesIO(data[: len(data) // 2])).seek_frame(3999)


def test_gain_source_is_kept_and_an_unknown_one_ignored() -> None:
    header = replace(HEADER, gain_source=GainSource.BEGINNING)
    data = dumps(header, CODES)
    assert loads(data)[0] == header
    assert len(data) == len(dumps(HEADER, CODES)) + 3
    size = data[5] + 6
    unknown = with_crc(data[: size - 1] + b"\x07") + data[size + 4 :]
    assert loads(unknown)[0] == HEADER
    twice = data[:5] + bytes([data[5] + 3]) + data[6:size] + data[size - 3 : size]
    with pytest.raises(BitstreamError, match="twice"):
        loads(with_crc(twice) + data[size + 4 :])


@pytest.mark.parametrize("bandwidth", [1, 127, 16021, (1 << 24) - 1])
def test_a_bandwidth_is_kept_in_a_few_bytes(bandwidth: int) -> None:
    header = replace(HEADER, bandwidth=bandwidth)
    data = dumps(header, CODES)
    assert loads(data)[0] == header
    assert 3 <= len(data) - len(dumps(HEADER, CODES)) <= 6


@pytest.mark.parametrize("value", [b"\x00", b"", b"\x81", b"\x01\x01", b"\x80\x80\x80\x08", b"\x80\x00"])
def test_an_invalid_bandwidth_is_refused(value: bytes) -> None:
    data = dumps(HEADER, CODES)
    size = data[5] + 6
    extension = bytes([3, len(value)]) + value
    with pytest.raises(BitstreamError, match="bandwidth"):
        loads(with_crc(data[:5] + bytes([data[5] + len(extension)]) + data[6:size] + extension) + data[size + 4 :])
    for wrong in (0, 1 << 24, 440.5):
        with pytest.raises(BitstreamError, match="bandwidth"):
            replace(HEADER, bandwidth=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", [0x3, 0x30, 0x600, 0x80000001])
def test_a_channel_mask_is_kept_in_a_few_bytes(mask: int) -> None:
    header = replace(HEADER, channels=2, channel_mask=mask)
    codes = np.repeat(CODES[:1], 2, axis=0)
    data = dumps(header, codes)
    assert loads(data)[0] == header
    assert 3 <= len(data) - len(dumps(replace(HEADER, channels=2), codes)) <= 7


@pytest.mark.parametrize("mask", [0, 0x1, 0x7, 1 << 32 | 1, 1.5])
def test_an_invalid_channel_mask_is_refused(mask: int) -> None:
    with pytest.raises(BitstreamError, match="channel_mask"):
        replace(HEADER, channels=2, channel_mask=mask)
