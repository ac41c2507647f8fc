"""dac_codec.bitstream.container: valid files, and invalid arguments."""

from __future__ import annotations

import io
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import MAGIC, Header, Reader, Writer, default_chunk_frames, dumps, is_legacy, loads
from dac_codec.bitstream.packing import packed_size
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError

HEADER = Header(
    model_fingerprint=bytes(range(8)),
    model_name="16khz",
    sample_rate=16000,
    channels=1,
    n_samples=160_000,
    gain_db=-3.5,
    model_sample_rate=16000,
    hop_length=320,
    n_codebooks=12,
    codebook_size=1024,
)


def random_codes(header: Header, n_frames: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, header.codebook_size, (header.channels, header.n_codebooks, n_frames), dtype=np.uint16)


class Pipe(io.RawIOBase):
    """A raw stream that is not seekable, and reads and writes only a few bytes at a time."""

    def __init__(self, data: bytes = b"", most: int = 3) -> None:
        self.data = bytearray(data)
        self.most = most
        self.largest_request = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "reads must be bounded"
        self.largest_request = max(self.largest_request, size)
        piece = bytes(self.data[: min(size, self.most)])
        del self.data[: len(piece)]
        return piece

    def write(self, data: Any) -> int:
        piece = bytes(data)[: self.most]
        self.data += piece
        return len(piece)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    model_sample_rate = draw(st.integers(1, (1 << 24) - 1))
    hop_length = draw(st.integers(1, model_sample_rate))
    channels = draw(st.integers(1, 5))
    return Header(
        model_fingerprint=draw(st.binary(min_size=8, max_size=8)),
        model_name=draw(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=16)),
        sample_rate=draw(st.integers(-(-model_sample_rate // hop_length), (1 << 24) - 1)),
        channels=channels,
        n_samples=draw(st.none() | st.integers(0, 2**63 - 2)),
        gain_db=draw(st.floats(width=32, allow_nan=False, allow_infinity=False)),
        model_sample_rate=model_sample_rate,
        hop_length=hop_length,
        n_codebooks=draw(st.integers(1, 5)),
        codebook_size=draw(st.integers(2, 1 << 16)),
    )


# --- round trips ------------------------------------------------------------------------------------------------------


@given(headers())
@settings(max_examples=150, deadline=None)
def test_header_round_trip(header: Header) -> None:
    stream = io.BytesIO()
    Writer(stream, header)
    stream.seek(0)
    assert Reader(stream).header == header


@given(
    headers(),
    st.lists(st.integers(0, 40), max_size=6),
    st.none() | st.integers(1, 50),
    st.booleans(),
    st.integers(-1, 1),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_codes_round_trip(
    header: Header, sizes: list[int], chunk_frames: int | None, known: bool, slack: int, seed: int
) -> None:
    """Any header, any split of the frames over calls of `write`, any chunk size, over a pipe."""
    n_frames = sum(sizes)
    n_samples = header.covered_samples(max(n_frames + slack, 0)) if n_frames else 0
    codes = random_codes(header, n_frames, seed)
    header = replace(header, n_samples=n_samples if known else None)
    pipe = Pipe(most=1000)
    with Writer(pipe, header, chunk_frames) as writer:  # type: ignore[arg-type]
        for part in np.split(codes, np.cumsum(sizes)[:-1], axis=-1):
            writer.write(part)
        writer.close(n_samples)
    data = bytes(pipe.data)

    reader = Reader(pipe)  # type: ignore[arg-type]
    assert reader.n_samples == header.n_samples
    chunks = [chunk.codes for chunk in reader]
    assert all(chunk.dtype == np.int32 and chunk.flags.c_contiguous for chunk in chunks)
    assert all(chunk.shape[-1] == writer.chunk_frames for chunk in chunks[:-1])
    assert reader.complete
    assert reader.n_samples == n_samples
    np.testing.assert_array_equal(np.concatenate([codes[..., :0], *chunks], axis=-1), codes)

    loaded_header, loaded, _ = loads(data)
    assert loaded_header == replace(header, n_samples=n_samples)
    np.testing.assert_array_equal(loaded, codes)


def test_the_split_over_calls_does_not_change_the_file() -> None:
    codes = random_codes(HEADER, 500)
    streams = []
    for step in (1, 7, 176, 500):
        streams.append(io.BytesIO())
        with Writer(streams[-1], HEADER) as writer:
            for start in range(0, 500, step):
                writer.write(codes[..., start : start + step])
    assert {stream.getvalue() for stream in streams} == {dumps(HEADER, codes)}


def test_short_reads_and_short_writes() -> None:
    codes = random_codes(HEADER, 500)
    pipe = Pipe(most=1)
    with Writer(pipe, HEADER) as writer:  # type: ignore[arg-type]
        writer.write(codes)
    assert bytes(pipe.data) == dumps(HEADER, codes)
    np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in Reader(pipe)], axis=-1), codes)  # type: ignore[arg-type]


def test_chunks_are_written_and_read_one_at_a_time() -> None:
    """Neither the writer nor the reader waits for the rest of the file."""
    codes = random_codes(HEADER, 500)
    stream = io.BytesIO()
    writer = Writer(stream, HEADER)
    sizes = []
    for start in range(0, 500, 100):
        writer.write(codes[..., start : start + 100])
        sizes.append(stream.tell())
    assert sizes[0] < sizes[1] == sizes[2] < sizes[3]
    writer.close()

    read = io.BytesIO(stream.getvalue())
    first = next(iter(Reader(read))).codes
    np.testing.assert_array_equal(first, codes[..., :176])
    assert read.tell() == sizes[1]


def test_caller_may_reuse_its_array() -> None:
    codes = random_codes(HEADER, 500)
    stream = io.BytesIO()
    with Writer(stream, HEADER) as writer:
        buffer = codes[..., :100].copy()
        writer.write(buffer)
        buffer[:] = 0
        writer.write(codes[..., 100:])
    np.testing.assert_array_equal(loads(stream.getvalue())[1], codes)


def test_cutting_the_payload_drops_the_finest_codebooks() -> None:
    header = replace(HEADER, channels=2)
    codes = random_codes(header, 500)
    full = chunk_payloads(dumps(header, codes))
    kept = chunk_payloads(dumps(replace(header, n_codebooks=5), codes[:, :5]))
    assert len(full) == len(kept) == 3
    for long, short in zip(full, kept, strict=True):
        assert long.startswith(short)
        assert len(short) < len(long) // 2


def chunk_payloads(data: bytes) -> list[bytes]:
    """Payloads of all CODES chunks of a file with a header body below 128 bytes."""
    payloads, position = [], 4 + 1 + 1 + data[5] + 4
    while True:
        key, shift = 0, 0
        while True:
            key |= (data[position] & 0x7F) << shift
            shift += 7
            position += 1
            if data[position - 1] < 0x80:
                break
        if key & 3 == 0:
            return payloads
        payloads.append(data[position : position + (key >> 2)])
        position += (key >> 2) + 4


def test_empty_file() -> None:
    header = replace(HEADER, n_samples=0)
    loaded_header, codes, _ = loads(dumps(header, random_codes(header, 0)))
    assert loaded_header == header
    assert codes.shape == (1, 12, 0)


def test_largest_numbers_of_planes() -> None:
    for channels, n_codebooks in ((65535, 1), (1, 65536), (256, 256)):
        header = replace(HEADER, channels=channels, n_codebooks=n_codebooks, codebook_size=1 << 16, n_samples=9 * 320)
        codes = random_codes(header, 9)
        np.testing.assert_array_equal(loads(dumps(header, codes))[1], codes)


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("name", "sample_rate", "model_sample_rate", "hop_length", "n_codebooks", "n_frames", "budget"),
    [
        ("16khz", 16000, 16000, 320, 12, 500, 75),
        ("16khz", 48000, 16000, 320, 12, 500, 75),
        ("n" * 16, 44100, 44100, 512, 9, 862, 96),
        ("n" * 16, 48000, 44100, 512, 9, 862, 96),
        ("24khz", 24000, 24000, 320, 32, 750, 96),
    ],
)
def test_overhead_of_ten_seconds_is_below_one_percent(
    name: str,
    sample_rate: int,
    model_sample_rate: int,
    hop_length: int,
    n_codebooks: int,
    n_frames: int,
    budget: int,
    known: bool,
) -> None:
    header = replace(
        HEADER,
        model_name=name,
        sample_rate=sample_rate,
        n_samples=10 * sample_rate if known else None,
        model_sample_rate=model_sample_rate,
        hop_length=hop_length,
        n_codebooks=n_codebooks,
    )
    stream = io.BytesIO()
    writer = Writer(stream, header)
    writer.write(random_codes(header, n_frames))
    writer.close(10 * sample_rate)
    payload = n_frames * n_codebooks * 10 / 8
    overhead = len(stream.getvalue()) - payload
    assert 0 < overhead <= budget
    assert overhead <= 0.01 * payload


def test_overhead_grows_by_less_than_one_chunk_header_a_second() -> None:
    sizes = []
    for seconds in (100, 200):
        header = replace(HEADER, n_samples=16000 * seconds)
        sizes.append(len(dumps(header, random_codes(header, 50 * seconds))) - seconds * 750)
    assert 0 < sizes[1] - sizes[0] <= 100 * 8


@pytest.mark.parametrize(("rate", "hop"), [(16000, 320), (24000, 320), (44100, 512), (8000, 1), (8000, 8000)])
def test_default_chunk_is_about_three_seconds_and_wastes_nothing(rate: int, hop: int) -> None:
    frames = default_chunk_frames(rate, hop)
    assert frames % 8 == 0
    assert 3.5 <= frames * hop / rate < 3.5 + 8 * hop / rate
    assert packed_size(frames, 10) * 8 == frames * 10


# --- header -----------------------------------------------------------------------------------------------------------


def test_rates() -> None:
    assert (HEADER.bits_per_code, HEADER.frame_rate, HEADER.bitrate) == (10, 50.0, 6000.0)
    sizes = {2: 1, 3: 2, 4: 2, 5: 3, 1023: 10, 1024: 10, 1025: 11, 65536: 16}
    assert {size: replace(HEADER, codebook_size=size).bits_per_code for size in sizes} == sizes
    assert replace(HEADER, channels=2).bitrate == 12000.0


def test_frames_and_samples() -> None:
    header = replace(HEADER, sample_rate=48000)
    assert [header.expected_frames(n) for n in (0, 1, 960, 961)] == [0, 1, 1, 2]
    assert [header.covered_samples(n) for n in (0, 1, 2)] == [0, 960, 1920]


def test_header_is_frozen_and_normalised() -> None:
    with pytest.raises(FrozenInstanceError):
        HEADER.channels = 2  # type: ignore[misc]
    header = replace(HEADER, channels=np.int64(2), gain_db=0.1)  # type: ignore[arg-type]
    assert type(header.channels) is int
    assert header.gain_db == float(np.float32(0.1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_fingerprint", b"1234567"),
        ("model_fingerprint", "12345678"),
        ("model_name", "n" * 65),
        ("model_name", "é" * 33),
        ("model_name", "line\nbreak"),
        ("model_name", "\x9b31m"),
        ("model_name", "\ud800"),
        ("model_name", None),
        ("sample_rate", 0),
        ("sample_rate", 1 << 24),
        ("sample_rate", 44100.0),
        ("sample_rate", 49),
        ("channels", 0),
        ("channels", 65536),
        ("channels", True),
        ("channels", 65536 // 12 + 1),
        ("n_samples", -1),
        ("n_samples", 2**63 - 1),
        ("gain_db", float("nan")),
        ("gain_db", float("inf")),
        ("gain_db", 1e39),
        ("gain_db", "loud"),
        ("gain_db", None),
        ("model_sample_rate", 0),
        ("model_sample_rate", 1 << 24),
        ("hop_length", 0),
        ("hop_length", 16001),
        ("n_codebooks", 0),
        ("n_codebooks", 65537),
        ("codebook_size", 1),
        ("codebook_size", 65537),
    ],
)
def test_header_refuses(field: str, value: Any) -> None:
    with pytest.raises(BitstreamError, match=field.split("_")[0]):
        replace(HEADER, **{field: value})


def test_magic_is_neither_text_nor_numpy() -> None:
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()
    assert len(MAGIC) == 4
    assert not is_legacy(dumps(HEADER, random_codes(HEADER, 500)))


# --- writer -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((12, 500), dtype=np.uint16),
        np.zeros((2, 12, 5), dtype=np.uint16),
        np.zeros((1, 11, 5), dtype=np.uint16),
        np.zeros((1, 12, 5)),
        np.full((1, 12, 5), 1024),
        np.full((1, 12, 5), -1),
        np.full((1, 12, 5), 65536),
    ],
)
def test_writer_refuses_codes(codes: np.ndarray) -> None:
    stream = io.BytesIO()
    writer = Writer(stream, HEADER, chunk_frames=1)
    before = stream.tell()
    with pytest.raises(BitstreamError, match="codes must"):
        writer.write(codes)
    assert stream.tell() == before


@pytest.mark.parametrize("chunk_frames", [0, -8, (1 << 20) // 12 + 1])
def test_writer_refuses_chunk_size(chunk_frames: int) -> None:
    stream = io.BytesIO()
    with pytest.raises(BitstreamError, match="chunk_frames"):
        Writer(stream, HEADER, chunk_frames)
    assert stream.getvalue() == b""


def test_writer_omits_end_after_an_exception() -> None:
    stream = io.BytesIO()
    writer = Writer(stream, HEADER)
    writer.write(random_codes(HEADER, 500))
    with pytest.raises(KeyboardInterrupt), writer:
        raise KeyboardInterrupt
    with pytest.raises(TruncatedBitstreamError):
        loads(stream.getvalue())
    np.testing.assert_array_equal(loads(stream.getvalue(), True)[1], random_codes(HEADER, 500)[..., : 2 * 176])
    size = stream.tell()
    writer.close()
    assert stream.tell() == size
    with pytest.raises(ValueError, match="closed"):
        writer.write(random_codes(HEADER, 1))


def test_close_twice_writes_one_end() -> None:
    stream = io.BytesIO()
    with Writer(stream, HEADER) as writer:
        writer.write(random_codes(HEADER, 500))
        writer.close()
        writer.close()
    assert stream.getvalue() == dumps(HEADER, random_codes(HEADER, 500))


@pytest.mark.parametrize(
    ("declared", "n_samples", "n_frames"),
    [
        (None, None, 500),
        (160_000, 160_001, 500),
        (160_000, None, 498),
        (None, 160_000, 502),
        (None, 160_000, 498),
        (None, -1, 0),
        (320, None, 0),
    ],
)
def test_writer_does_not_end_an_invalid_file(declared: int | None, n_samples: int | None, n_frames: int) -> None:
    stream = io.BytesIO()
    header = replace(HEADER, n_samples=declared)
    writer = Writer(stream, header)
    writer.write(random_codes(header, n_frames))
    with pytest.raises(BitstreamError):
        writer.close(n_samples)
    with pytest.raises(TruncatedBitstreamError):
        loads(stream.getvalue())


def test_writer_stops_at_the_declared_length() -> None:
    stream = io.BytesIO()
    writer = Writer(stream, HEADER)
    writer.write(random_codes(HEADER, 500))
    with pytest.raises(BitstreamError, match="more frames"):
        writer.write(random_codes(HEADER, 2))
    writer.close()
    assert stream.getvalue() == dumps(HEADER, random_codes(HEADER, 500))


@pytest.mark.parametrize("n_frames", [499, 501])
def test_one_frame_more_or_less_is_rounding(n_frames: int) -> None:
    codes = random_codes(HEADER, n_frames)
    np.testing.assert_array_equal(loads(dumps(HEADER, codes))[1], codes)
