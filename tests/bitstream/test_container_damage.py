"""dac_codec.bitstream.container: truncated, damaged and crafted files, and files of later versions."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import Header, Reader, Writer, dumps, loads
from dac_codec.bitstream.fields import encode_varint, with_crc
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError

HEADER = Header(b"12345678", "tiny", 16000, 2, 20 * 320, -3.5, 16000, 320, 2, 1000)
CODES = np.random.default_rng(0).integers(0, 1000, (2, 2, 20), dtype=np.uint16)
END, KIND_CODES, ANCILLARY, CRITICAL = range(4)


def chunk(kind: int, payload: bytes, size: int | None = None, position: int = 0) -> bytes:
    """A chunk with a valid checksum, after `position` frames; `size` is a false payload size."""
    prefix = checksum_prefix(position) if kind in (END, KIND_CODES) else b""
    data = encode_varint((len(payload) if size is None else size) << 2 | kind) + payload
    return with_crc(prefix + data)[len(prefix) :]


def body(**changes: bytes) -> bytes:
    fields = {
        "features": b"\x01",
        "fingerprint": b"12345678",
        "sample_rate": encode_varint(16000),
        "channels": b"\x01",
        "length": encode_varint(321),
        "gain": struct.pack("<f", 0.0),
        "model_sample_rate": encode_varint(16000),
        "hop_length": encode_varint(320),
        "n_codebooks": b"\x01",
        "codebook_size": encode_varint(1000),
        "coding": b"\x00",
        "extensions": b"",
    }
    assert changes.keys() <= fields.keys()
    return b"".join({**fields, **changes}.values())


def head(content: bytes | None = None, version: int = 1, size: int | None = None) -> bytes:
    content = body() if content is None else content
    return with_crc(b"\x8aDAC" + bytes([version]) + encode_varint(len(content) if size is None else size) + content)


ONE_FRAME = chunk(KIND_CODES, b"\x01\x00\x40")  # code 1
ONE_END = chunk(END, b"", position=1)


def sample_file(known: bool = True, chunk_frames: int = 8) -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream, HEADER if known else replace(HEADER, n_samples=None), chunk_frames)
    writer.write(CODES)
    writer.close(HEADER.n_samples)
    return stream.getvalue()


@contextmanager
def peak_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_the_helpers_make_a_valid_file() -> None:
    header, codes, _ = loads(head() + ONE_FRAME + ONE_END)
    assert (header.n_samples, header.model_name, codes.tolist()) == (320, "", [[[1]]])


# --- truncated --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_cut_at_every_byte(known: bool) -> None:
    data = sample_file(known)
    frames_seen = set()
    for size in range(len(data)):
        with pytest.raises(TruncatedBitstreamError, match="ends early"):
            loads(data[:size])
        try:
            header, codes, _ = loads(data[:size], allow_truncated=True)
        except TruncatedBitstreamError:
            assert size < 60  # within the header
            continue
        n_frames = codes.shape[-1]
        frames_seen.add(n_frames)
        np.testing.assert_array_equal(codes, CODES[..., :n_frames])
        assert header == replace(HEADER, n_samples=n_frames * 320)
        np.testing.assert_array_equal(loads(dumps(header, codes))[1], codes)  # the rest can be written again
    assert frames_seen == {0, 8, 16, 20}


def test_intact_chunks_come_before_the_error() -> None:
    data = sample_file()
    reader = Reader(io.BytesIO(data[:-7]))
    chunks = []
    with pytest.raises(TruncatedBitstreamError):
        chunks.extend(chunk.codes for chunk in reader)
    assert not reader.complete
    np.testing.assert_array_equal(np.concatenate(chunks, axis=-1), CODES[..., :16])


def test_truncation_lowers_the_length_but_never_raises_it() -> None:
    header = replace(HEADER, n_samples=20 * 320 - 100)
    data = dumps(header, CODES)
    assert loads(data[:-1], allow_truncated=True)[0].n_samples == header.n_samples


def test_whole_file_with_allow_truncated() -> None:
    header, codes, _ = loads(sample_file(known=False), allow_truncated=True)
    assert header == HEADER
    np.testing.assert_array_equal(codes, CODES)


# --- damaged ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
def test_every_single_bit_flip_is_detected(known: bool) -> None:
    data = sample_file(known)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            loads(bytes(damaged))
        try:
            header, codes, _ = loads(bytes(damaged), allow_truncated=True)
        except BitstreamError:
            continue
        assert replace(header, n_samples=HEADER.n_samples) == HEADER
        np.testing.assert_array_equal(codes, CODES[..., : codes.shape[-1]])


@given(st.integers(0, 200), st.integers(0, 12), st.binary(max_size=12), st.booleans())
@settings(max_examples=300, deadline=None)
def test_replaced_bytes_are_detected(position: int, length: int, replacement: bytes, known: bool) -> None:
    data = sample_file(known)
    damaged = data[:position] + replacement + data[position + length :]
    if damaged == data:
        return
    with pytest.raises(BitstreamError):
        loads(damaged)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x8aDAC", b"\x8aDAC\x01", head(), head() + ONE_FRAME]))
@settings(max_examples=300, deadline=None)
def test_garbage(garbage: bytes, prefix: bytes) -> None:
    with pytest.raises(BitstreamError):
        loads(prefix + garbage)


@given(st.binary(max_size=80), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_header_bodies_with_a_valid_checksum(garbage: bytes, kept: int) -> None:
    """Any body gives either a valid header or a BitstreamError."""
    try:
        header = Reader(io.BytesIO(head(body(extensions=b"\x01\x04name")[:kept] + garbage))).header
    except TruncatedBitstreamError as error:
        raise AssertionError("the header is whole") from error
    except BitstreamError:
        return
    assert replace(header) == header


@given(st.sampled_from([END, KIND_CODES, ANCILLARY, CRITICAL]), st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_payloads_with_a_valid_checksum(kind: int, payload: bytes) -> None:
    try:
        n_frames = payload[0] if kind == KIND_CODES and payload else 0
        codes = loads(head() + chunk(kind, payload) + chunk(END, b"", position=n_frames))[1]
    except BitstreamError:
        return
    assert kind == KIND_CODES
    assert codes.shape[:2] == (1, 1)
    assert 1 <= codes.shape[2] <= 2
    assert codes.max() < 1000


def test_missing_and_repeated_chunks_are_detected() -> None:
    first, second, third = (chunk(KIND_CODES, b"\x08" + bytes(10), position=8 * index) for index in range(3))
    start, end = head(body(length=encode_varint(16 * 320 + 1))), chunk(END, b"", position=16)
    assert loads(start + first + second + end)[1].shape == (1, 1, 16)
    for chunks in (first, second + first, first + second + first):
        with pytest.raises(BitstreamError, match="checksum"):
            loads(start + chunks + end)
    for chunks, n_frames in ((first, 8), (first + second + third, 24)):
        with pytest.raises(BitstreamError, match="frames"):
            loads(start + chunks + chunk(END, b"", position=n_frames))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (head() + ONE_FRAME + ONE_END + b"\x00", "continues after its END"),
        (head() + ONE_FRAME + ONE_END + ONE_END, "continues after its END"),
        (head() + ONE_FRAME + chunk(END, b"\x00", position=1), "too many"),
        (head() + chunk(KIND_CODES, b"\x00") + ONE_END, "frames, found 0"),
        (
            head(body(length=b"\x00", codebook_size=b"\x02"))
            + chunk(KIND_CODES, encode_varint((1 << 20) + 8) + bytes((1 << 17) + 1)),
            r"1\.\.1048576 frames, found 1048584",
        ),
        (head() + chunk(KIND_CODES, b"\x02\x00\x40") + ONE_END, "takes 3 bytes of codes, found 2"),
        (head() + chunk(KIND_CODES, b"\x01\x00\x40\x00") + ONE_END, "takes 2 bytes of codes, found 3"),
        (head() + chunk(KIND_CODES, b"\x01\x00\x41") + ONE_END, "padding"),
        (head() + chunk(KIND_CODES, b"\x01\xfa\x00") + ONE_END, "below the codebook size 1000, found 1000"),
        (head() + chunk(KIND_CODES, b"\x81\x00\x00\x40") + ONE_END, "longer than its value needs"),
        (head() + chunk(KIND_CODES, b"") + ONE_END, "too short"),
        (head() + with_crc(b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), "varint of more than 9"),
        (head() + with_crc(b"\x80\x00"), "longer than its value needs"),
        (head() + chunk(KIND_CODES, b"", size=(1 << 22) + 1), "the format allows 4194304"),
        (head() + chunk(CRITICAL, b"\x01") + ONE_FRAME + ONE_END, "newer version"),
        (head() + chunk(END, b""), "take 1 frames, found 0"),
        (head(body(length=encode_varint(961))) + ONE_FRAME + ONE_END, "take 3 frames, found 1"),
        (head() + b"".join(chunk(KIND_CODES, b"\x01\x00\x40", position=n) for n in range(3)), "more frames"),
        (head(body(length=b"\x00")) + ONE_FRAME + ONE_END, "too short"),
        (head(body(length=b"\x00")) + ONE_FRAME + chunk(END, encode_varint(10**6), position=1), "found 1"),
        (head(body(length=b"\x00")) + ONE_FRAME + chunk(END, encode_varint(2**63 - 1), position=1), "found 1"),
        (head(version=2) + ONE_FRAME + ONE_END, r"version 2 .*reads version 1"),
        (head(body(features=b"\x04")), "features 0x4"),
        (head(body(coding=b"\x02")), "coding 2, .* newer version"),
        (head(body() + b"\x01"), "too short"),
        (head(body()[:-1]), "too short"),
        (head(body(extensions=b"\x01\x01a\x01\x01b")), "twice"),
        (head(body(extensions=b"\x01\x02\xc3\x28")), "UTF-8"),
        (head(body(extensions=b"\x01\x41" + b"a" * 65)), "at most 64 bytes"),
        (head(body(extensions=b"\x01\x01\x1b")), "control"),
        (head(body(gain=struct.pack("<f", float("nan")))), "gain_db"),
        (head(body(gain=struct.pack("<f", float("inf")))), "gain_db"),
        (head(body(n_codebooks=encode_varint(65537))), "n_codebooks"),
        (head(body(hop_length=encode_varint(16001))), "hop_length"),
        (head(b"", size=4097), "the format allows 4096"),
        (b"\x93NUMPY\x01\x00", "read_legacy"),
        (b"RIFF", "must begin with"),
        (b"R", "must begin with"),
    ],
)
def test_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(BitstreamError, match=message) as caught:
        loads(data)
    assert not isinstance(caught.value, TruncatedBitstreamError)
    with pytest.raises(BitstreamError, match=message):
        loads(data, allow_truncated=True)


def test_no_codes_come_from_a_damaged_chunk() -> None:
    data = bytearray(sample_file())
    data[-12] ^= 1  # in the last CODES chunk
    chunks = []
    with pytest.raises(BitstreamError, match="checksum"):
        chunks.extend(iter(Reader(io.BytesIO(data))))
    assert len(chunks) <= 2


# --- later versions ---------------------------------------------------------------------------------------------------


def test_optional_elements_are_skipped() -> None:
    extensions = b"\x01\x02hi" + encode_varint(300) + b"\x03???" + b"\x02\x00"
    index = chunk(ANCILLARY, b"\x05" + bytes(100_000))
    data = head(body(extensions=extensions)) + index + ONE_FRAME + index + ONE_END
    header, codes, _ = loads(data)
    assert header.model_name == "hi"
    assert codes.tolist() == [[[1]]]
    damaged = bytearray(data)
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(BitstreamError, match="ancillary chunk is damaged"):
        loads(bytes(damaged))


# --- crafted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        head(b"", size=4096),
        head() + chunk(KIND_CODES, encode_varint(1 << 20) + bytes(100), size=1 << 22),
        head() + chunk(KIND_CODES, encode_varint(1 << 20) + bytes(100)),
        head() + chunk(KIND_CODES, encode_varint(2**63 - 1)),
        head() + chunk(ANCILLARY, bytes(100), size=1 << 22),
        head(body(length=encode_varint(2**63 - 1))) + ONE_FRAME + ONE_END,
        head(body(length=b"\x00")) + ONE_FRAME + chunk(END, encode_varint(2**62), position=1),
        head(body(n_codebooks=encode_varint(65536))) + chunk(KIND_CODES, b"\x10" + bytes(100), size=1 << 21),
        head(body(n_codebooks=encode_varint(65536))) + chunk(KIND_CODES, b"\x10" + bytes(100)),
    ],
)
def test_claims_cost_no_memory(data: bytes) -> None:
    for allow_truncated in (False, True):
        try:
            with peak_below(300_000):
                loads(data, allow_truncated)
        except BitstreamError:
            continue
        assert allow_truncated


def test_peak_measures() -> None:
    """`peak_below` counts the allocations of NumPy, so the test above can fail."""
    with pytest.raises(AssertionError), peak_below(300_000):
        np.zeros(1_000_000, dtype=np.uint8)


@pytest.mark.parametrize("kind", [KIND_CODES, ANCILLARY])
def test_reading_asks_for_bounded_pieces(kind: int) -> None:
    class Endless(io.RawIOBase):
        """Sends a header, the start of a chunk, then zeros forever."""

        start = io.BytesIO(head() + encode_varint((1 << 22) << 2 | kind))
        sent = 0

        def read(self, size: int = -1) -> bytes:
            assert 0 < size <= 1 << 16
            piece = self.start.read(size) or bytes(size)
            self.sent += len(piece)
            return piece

    stream = Endless()
    # A chunk of codes is held while it is read, an ancillary one is not.
    with peak_below(1_000_000 if kind == ANCILLARY else 12_000_000), pytest.raises(BitstreamError, match="is damaged"):
        list(Reader(stream))  # type: ignore[arg-type]
    assert stream.sent < (1 << 22) + 1000


def test_memory_of_reading_is_one_chunk() -> None:
    header = replace(HEADER, n_samples=200_000 * 320)
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    with Writer(stream, header) as writer:
        writer.write(rng.integers(0, 1000, (2, 2, 200_000), dtype=np.uint16))
    assert stream.tell() > 900_000
    stream.seek(0)
    with peak_below(200_000):
        assert sum(chunk.codes.shape[-1] for chunk in Reader(stream)) == 200_000
