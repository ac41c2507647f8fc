"""Crafted and mutated files of coding 1."""

from __future__ import annotations

import io
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import Coding, Reader, Writer, dumps, loads
from dac_codec.bitstream.fields import crc32c, encode_varint, with_crc
from dac_codec.bitstream.layers import covered_size
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError
from tests.bitstream.test_layers import CODES, HEADER, LEVELS, events_of, parts, random_codes
from tests.fuzz.layers import repaired

MONO = replace(HEADER, channels=1, n_codebooks=2, layers=(1, 1), n_samples=None)


def head(header=MONO) -> bytes:  # type: ignore[no-untyped-def]
    stream = io.BytesIO()
    Writer(stream, header)
    return stream.getvalue()


def chunk(payload: bytes, position: int = 0, kind: int = 1, covered: int | None = None) -> bytes:
    """A chunk with a valid checksum, as far as its payload says what it covers."""
    data = encode_varint(len(payload) << 2 | kind) + payload
    if kind == 1:
        covered = covered_size(payload) if covered is None else covered
        data_covered = data[: len(data) - len(payload) + covered]
        return data + crc32c(checksum_prefix(position) + data_covered).to_bytes(4, "little")
    return with_crc(data)


def payload(n_inside: int, fields: bytes, layers: bytes = b"", covered: int | None = None) -> bytes:
    return encode_varint(n_inside) + encode_varint(len(fields) if covered is None else covered) + fields + layers


NO_CODES = payload(2, b"\x03\x01\x00")  # 3 frames without codes; layer 2 is empty


def test_the_helpers_make_valid_chunks() -> None:
    found = loads(head() + chunk(NO_CODES), allow_truncated=True)
    assert found.codes.tolist() == [[[-1] * 3] * 2]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (chunk(payload(0, b"\x03\x01\x00")), r"1\.\.2 layers, found 0"),
        (chunk(payload(3, b"\x03\x01\x00\x00")), r"1\.\.2 layers, found 3"),
        (chunk(payload(2, b"\x00\x01\x00")), r"1\.\.1024 frames, found 0"),
        (chunk(payload(2, encode_varint(1025) + b"\x01\x00")), r"1\.\.1024 frames, found 1025"),
        (chunk(payload(2, b"\x03\x04\x00")), "at most 2 codes, found 3"),
        (chunk(payload(2, b"\x03\x00" + encode_varint(19) + bytes(19) + b"\x00")), "can't take 19 bytes"),
        (chunk(payload(2, b"\x03\x01\x01\x00\x00\x00\x00")), "describes"),
        (chunk(payload(2, b"\x03\x01")), "too short"),
        (chunk(payload(2, b"\x03\x01\x00", b"x")), "describes 5 bytes, found 6"),
        (chunk(payload(2, b"\x03\x01\x00", covered=9), covered=5), "too short"),
        (chunk(payload(2, b"\x03\x00\x01\x00\x00")), "zero byte"),
        (chunk(payload(2, b"\x03\x00\x02\x12\x34\x00")), "does not end"),
        (chunk(payload(2, b"\x03\x01\x00\x99")), "too many"),
        (chunk(payload(2, b"\x03\x02\x00\xff\xff\xff")), "does not have"),
        (chunk(b"\x01\x01\x00\x02", kind=2), "an ancillary chunk is too short|not a layer|must be"),
        (chunk(b"\x01\x00\x01abc", kind=2), r"a layer's number must be in 2\.\.2, found 1"),
        (chunk(b"\x01\x00\x03abc", kind=2), r"a layer's number must be in 2\.\.2, found 3"),
        (chunk(b"\x02\x00" + NO_CODES[:-1], kind=2), "too short|found"),
        (chunk(b"\x00", kind=3), "newer version"),
    ],
)
def test_refused_with_a_reason(data: bytes, message: str) -> None:
    for allow_truncated in (False, True):
        with pytest.raises(BitstreamError, match=message) as caught:
            loads(head() + data, allow_truncated)
        assert not isinstance(caught.value, TruncatedBitstreamError)


def test_unknown_ancillary_types_are_skipped() -> None:
    data = head() + chunk(b"\x63" + bytes(1000), kind=2) + chunk(NO_CODES) + chunk(b"", kind=2)
    assert loads(data, allow_truncated=True).codes.shape == (1, 2, 3)
    assert [event.first_frame for event in events_of(data)[0]] == [0]


def test_extensions_of_coding_1_are_ignored_with_coding_0() -> None:
    fixed = replace(HEADER, coding=Coding.FIXED, layers=())
    data = dumps(fixed, random_codes(fixed, 60, lowest=6))
    size = data[5] + 6
    extensions = b"\x04\x01a\x05\x00\x06\x02??\x06\x00"
    changed = with_crc(data[:5] + bytes([data[5] + len(extensions)]) + data[6:size] + extensions) + data[size + 4 :]
    assert loads(changed).header == fixed
    layered = dumps(HEADER, CODES)
    size = layered[5] + 6
    for extension, message in (
        (b"\x05\x03\x02\x03\x01", "holds extension 5 twice"),
        (b"\x04\x01a", "context_fingerprint must be 8 bytes"),
        (b"\x06\x01\x04", "too short"),
        (b"\x06\x09\x00\x08\x14\x05\x01\x00\x00\x40\x40", "levels: hop"),
    ):
        body = layered[6:size] + extension
        with pytest.raises(BitstreamError, match=message):
            loads(with_crc(layered[:5] + bytes([len(body)]) + body) + layered[size + 4 :])


def test_layers_of_other_chunks_are_ignored() -> None:
    data = head() + chunk(NO_CODES) + chunk(b"\x01\x00\x02abc", kind=2) + chunk(b"\x01\x63\x02abc", kind=2)
    assert loads(data, allow_truncated=True).codes.tolist() == [[[-1] * 3] * 2]
    repeat = chunk(b"\x02\x00" + payload(1, b"\x03\x01"), kind=2)
    events, _ = events_of(head() + chunk(NO_CODES) + repeat + repeat + chunk(NO_CODES, 3))
    assert [event.first_frame for event in events] == [0, 3]


def test_invalid_codes_under_valid_checksums_are_a_gap() -> None:
    """A checksum can't tell who wrote a chunk."""
    invalid = chunk(payload(2, b"\x03\x02\x00\xff\xff\xff"), 3)
    events, reader = events_of(head() + chunk(NO_CODES) + invalid + chunk(NO_CODES, 6))
    assert [type(event).__name__ for event in events] == ["Chunk", "Gap", "Chunk"]
    assert not reader.complete


def test_few_bytes_ask_for_few_frames() -> None:
    largest = chunk(payload(2, encode_varint(1024) + b"\x01\x00"))
    data = head() + largest
    tracemalloc.start()
    found = loads(data, allow_truncated=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.codes.shape == (1, 2, 1024)
    assert peak < 300_000


@pytest.mark.parametrize(
    "claim",
    [
        encode_varint((1 << 22) << 2 | 1)
        + payload(2, encode_varint(1024) + b"\x03", covered=(1 << 22) - 9)
        + bytes(99),
        encode_varint((1 << 22) << 2 | 2) + bytes(100),
        encode_varint(100 << 2 | 1) + b"\x02\x50\x08\x00\xff\xff\xff\x7f" + bytes(100),
    ],
)
def test_claims_cost_no_memory(claim: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(BitstreamError):
        loads(head() + claim)
    assert events_of(head() + claim)[0] == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000


@pytest.mark.parametrize(
    "pattern",
    [
        b"\x00",
        b"\x01",
        b"\x05",
        b"\x09\x01\x01\x01",
        encode_varint(5000 << 2 | 1) + b"\x01\x05\x01\x01",
        encode_varint(5000 << 2 | 1) + b"\x01" + encode_varint(4990) + b"\x01\x01",
        encode_varint((1 << 20) << 2 | 1) + b"\x02" + encode_varint(1 << 19) + b"\x01\x01",
        encode_varint(5000 << 2 | 2) + b"\x01\x01\x02",
        encode_varint(5000 << 2 | 2) + b"\x02\x01\x01\x02\x01\x01",
    ],
)
def test_hostile_bytes_cost_linear_time(pattern: bytes) -> None:
    seconds = []
    for size in (1 << 14, 1 << 16):
        data = head() + pattern * (size // len(pattern))
        began = time.process_time()
        assert events_of(data)[0] == []
        seconds.append(time.process_time() - began)
    assert seconds[1] < 10 * seconds[0] + 0.2


@given(st.binary(max_size=2000), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_random_bytes_raise_nothing_else(garbage: bytes, n_chunks: int) -> None:
    start, *chunks, _ = parts(redundancy=True)
    events, reader = events_of(start + b"".join(chunks[:n_chunks]) + garbage)
    assert not reader.complete
    assert [event.first_frame for event in events] == list(range(0, 10 * n_chunks, 10))
    with pytest.raises(BitstreamError):
        loads(start + garbage)


def test_memory_of_reading_is_a_few_chunks() -> None:
    header = replace(MONO, n_codebooks=9, layers=(), codebook_size=1024)
    stream = io.BytesIO()
    codes = random_codes(header, 1000, lowest=9)
    writer = Writer(stream, header, 20)
    for _ in range(8):
        writer.write(codes)
    writer.close(8000 * 320)
    tracemalloc.start()
    for events in (False, True):
        stream.seek(0)
        reader = Reader(stream)
        assert sum(event.n_frames for event in (reader.events() if events else reader)) == 8000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_repaired_mutants_are_valid_where_they_can_be() -> None:
    data = dumps(replace(HEADER, levels=LEVELS), CODES, np.zeros((2, 3, 15), int))
    assert repaired(data) == data
    damaged = bytearray(data)
    damaged[-20] ^= 1
    damaged[-7] ^= 1
    mended = repaired(bytes(damaged))
    assert len(mended) == len(data)
    assert [event.first_frame for event in events_of(mended)[0]] == [0]
