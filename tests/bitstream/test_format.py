"""FORMAT.md: its example, and an independent decoder written from it."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dac_codec.bitstream
from dac_codec.bitstream import MAGIC, Header, Writer, dumps, loads
from dac_codec.bitstream.fields import with_crc
from dac_codec.bitstream.header import VERSION
from dac_codec.bitstream.positions import position_of
from dac_codec.common.errors import BitstreamError

FORMAT = (Path(dac_codec.bitstream.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value += (byte & 0x7F) << shift
        shift += 7
        position += 1
        if byte < 0x80:
            return value, position


def varints(data: bytes) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values


def decode_by_format_md(data: bytes) -> dict[str, Any]:
    """Decode a valid file in plain Python, following FORMAT.md element by element."""
    assert data[:4] == bytes.fromhex("8A 44 41 43")
    assert data[4] == 1
    size, position = varint(data, 5)
    end = position + size
    assert struct.unpack_from("<I", data, end)[0] == crc32c(data[:end])
    found: dict[str, Any] = {"extensions": {}}
    found["features"], position = varint(data, position)
    assert found["features"] in (1, 3)
    found["fingerprint"] = data[position : position + 8]
    position += 8
    for name in ("sample rate", "channels", "length + 1"):
        found[name], position = varint(data, position)
    found["gain"] = struct.unpack_from("<f", data, position)[0]
    position += 4
    for name in ("model sample rate", "hop length", "codebooks", "codebook size"):
        found[name], position = varint(data, position)
    found["coding"] = data[position]
    position += 1
    while position < end:
        tag, position = varint(data, position)
        size, position = varint(data, position)
        found["extensions"][tag] = data[position : position + size]
        position += size
    assert position == end
    position += 4

    sizes = [found["codebook size"]] * found["codebooks"]
    if found["features"] & 2:
        sizes = varints(found["extensions"][8])
    n_channels, n_codebooks = found["channels"], found["codebooks"]
    codes: list[list[list[int]]] = [[[] for _ in range(n_codebooks)] for _ in range(n_channels)]
    n_before = 0
    while True:
        start = position
        key, position = varint(data, position)
        payload = data[position : position + key // 4]
        position += len(payload)
        prefix = struct.pack("<Q", n_before) if key % 4 < 2 else b""
        assert struct.unpack_from("<I", data, position)[0] == crc32c(prefix + data[start:position])
        position += 4
        if key % 4 == 0:
            found["end"] = payload
            break
        assert key % 4 == 1
        n_frames, place = varint(payload, 0)
        n_before += n_frames
        for codebook in range(n_codebooks):
            bits = 1
            while 2**bits < sizes[codebook]:
                bits += 1
            plane_size = (n_frames * bits + 7) // 8
            for channel in range(n_channels):
                plane = int.from_bytes(payload[place : place + plane_size], "big")
                place += plane_size
                for frame in range(n_frames):
                    code = plane >> 8 * plane_size - (frame + 1) * bits & (1 << bits) - 1
                    codes[channel][codebook].append(code)
        assert place == len(payload)
    assert position == len(data)
    found["codes"] = codes
    return found


def example(coding: int = 0) -> bytes:
    block = re.findall(r"```hex\n(.*?)```", FORMAT, flags=re.DOTALL)[coding]
    return bytes.fromhex("".join(line.split("#")[0] for line in block.splitlines()))


def test_the_writer_writes_the_example() -> None:
    header = Header(bytes.fromhex("00112233445566ff"), "16khz", 48000, 1, 2880, -3.5, 16000, 320, 2, 1024)
    codes = np.array([[[1, 2, 3], [1023, 512, 0]]])
    assert example() == dumps(header, codes)
    loaded_header, loaded, _ = loads(example())
    assert loaded_header == header
    np.testing.assert_array_equal(loaded, codes)


def test_independent_decoder_reads_the_example() -> None:
    assert decode_by_format_md(example()) == {
        "features": 1,
        "fingerprint": bytes.fromhex("00112233445566ff"),
        "sample rate": 48000,
        "channels": 1,
        "length + 1": 2881,
        "gain": -3.5,
        "model sample rate": 16000,
        "hop length": 320,
        "codebooks": 2,
        "codebook size": 1024,
        "coding": 0,
        "extensions": {1: b"16khz"},
        "end": b"",
        "codes": [[[1, 2, 3], [1023, 512, 0]]],
    }


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(2, 65536),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_independent_decoder_agrees(
    n_channels: int, n_codebooks: int, size: int, n_frames: int, chunk_frames: int, known: bool, equal: bool, seed: int
) -> None:
    n_samples = n_frames * 512 - 5
    header = Header(
        b"abcdefgh", "é", 44100, n_channels, n_samples if known else None, 1.5, 44100, 512, n_codebooks, size
    )
    rng = np.random.default_rng(seed)
    sizes = np.full(n_codebooks, size) if equal else rng.integers(2, size + 1, n_codebooks)
    header = replace(header, codebook_sizes=tuple(sizes))
    codes = rng.integers(0, sizes[:, None], (n_channels, n_codebooks, n_frames))
    stream = io.BytesIO()
    writer = Writer(stream, header, chunk_frames)
    writer.write(codes)
    writer.close(n_samples)
    found = decode_by_format_md(stream.getvalue())
    np.testing.assert_array_equal(found["codes"], codes)
    assert found["extensions"].pop(1) == "é".encode()
    differ = bool((sizes < size).any())
    assert list(found["extensions"]) == [8] * differ
    assert found["features"] == 1 + 2 * differ
    again, loaded, _ = loads(stream.getvalue())
    assert again.codebook_sizes == header.codebook_sizes
    np.testing.assert_array_equal(loaded, codes)
    if known:
        assert (found["length + 1"], found["end"]) == (n_samples + 1, b"")
    else:
        assert (found["length + 1"], varint(found["end"], 0)) == (0, (n_samples, len(found["end"])))


def test_numbers_in_the_text() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert "0xE3069283" in FORMAT
    assert MAGIC.hex(" ").upper() in FORMAT
    assert FORMAT.startswith(f"# The .dac container, version {VERSION}\n")
    for number, encoded in ((0, "00"), (127, "7F"), (128, "80 01"), (300, "AC 02")):
        assert f"{number} is `{encoded}`" in FORMAT
        assert varint(bytes.fromhex(encoded), 0)[0] == number


def times_x(polynomial: int, power: int) -> int:
    """Multiply by x^power, which may be negative, one step at a time."""
    for _ in range(power):
        polynomial = polynomial >> 1 ^ (0x82F63B78 if polynomial & 1 else 0)
    for _ in range(-power):
        polynomial = (polynomial ^ 0x82F63B78) << 1 | 1 if polynomial >> 31 else polynomial << 1
    return polynomial


@given(st.binary(min_size=7, max_size=40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_formula_for_the_position(data: bytes, position: int) -> None:
    checksum = crc32c(struct.pack("<Q", position) + data)
    empty = 0
    for byte in data:
        empty = times_x(empty ^ byte, 8)
    expected = 0xFFFFFFFF ^ times_x(checksum ^ 0xFFFFFFFF ^ empty, -(8 * len(data) + 64))
    assert expected == position == position_of(data, checksum)


@pytest.mark.parametrize("features", [0, 2, 4, 5, 7])
def test_other_required_features_are_refused(features: int) -> None:
    data = bytearray(example())
    data[6] = features
    with pytest.raises(BitstreamError, match=f"requires features {features:#x}, this package reads features 0x3"):
        loads(with_crc(bytes(data[:40])) + bytes(data[44:]))


def test_sizes_of_codebooks_that_are_required() -> None:
    data = bytearray(example())
    data[6] = 3
    with pytest.raises(BitstreamError, match="the header does not give the sizes of its codebooks"):
        loads(with_crc(bytes(data[:40])) + bytes(data[44:]))
    header = Header(bytes(8), "m", 48000, 1, 2880, 0.0, 16000, 320, 2, 1024)
    for sizes, message in (
        ((1024,), "must be n_codebooks = 2 numbers"),
        ((9, 1), "in 2..1024"),
        ((2, 2048), "in 2"),
    ):
        with pytest.raises(BitstreamError, match=message):
            replace(header, codebook_sizes=sizes)
    assert replace(header, codebook_sizes=(1024, 1024)) == header
    sized = replace(header, codebook_sizes=(1024, 5))
    assert (sized.widths, sized.bitrate) == ((10, 3), 50 * 13)
    with pytest.raises(BitstreamError, match="codes of codebook 1 must be below its size 5, found 5"):
        dumps(sized, np.array([[[1, 2, 3], [4, 5, 0]]]))
