"""FORMAT.md and ENTROPY.md: the example of coding 1, and an independent decoder written from them."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import Coding, Header, Order, Writer, dumps, loads, thin
from tests.bitstream.test_format import crc32c, example, varint, varints


class RangeDecoder:
    """ENTROPY.md, section 1."""

    def __init__(self, data: bytes) -> None:
        assert data[:1] != b"\0"
        n_state = len(data) if len(data) <= 4 else 3 if len(data) % 2 else 4
        self.x = int.from_bytes(data[:n_state], "big")
        self.words = [int.from_bytes(data[at : at + 2], "big") for at in range(n_state, len(data), 2)]

    def symbol(self, weights: list[int]) -> int:
        total, n, cumulative = sum(weights), len(weights), 0
        bounds = [0]
        for index, weight in enumerate(weights, 1):
            cumulative += weight
            bounds.append(cumulative * (2**16 - n) // total + index)
        s = self.x & 0xFFFF
        k = next(k for k in range(n) if bounds[k] <= s < bounds[k + 1])
        self.x = (bounds[k + 1] - bounds[k]) * (self.x >> 16) + s - bounds[k]
        if self.x < 2**16 and self.words:
            self.x = self.x << 16 | self.words.pop(0)
        return k

    def check_end(self) -> None:
        assert self.x == 0
        assert not self.words


def decode_plane(data: bytes, present: list[bool], n_entries: int, own_entries: int) -> list[int]:
    """ENTROPY.md, sections 2 and 3."""
    decoder = RangeDecoder(data)
    size = 2 ** (((n_entries - 1).bit_length() + 1) // 2)
    n_groups = -(-n_entries // size)
    second = [[int(size * group + place < own_entries) for place in range(size)] for group in range(n_groups)]
    first = [sum(weights) for weights in second] + [16]
    codes: list[int] = []
    for is_present in present:
        if not is_present:
            codes.append(-1)
            continue
        group = decoder.symbol(first)
        if group == n_groups:
            first[group] += 32
            codes.append(codes[-1])
            continue
        place = decoder.symbol(second[group])
        first[group] += 2
        second[group][place] += 2
        codes.append(size * group + place)
    decoder.check_end()
    return codes


def decode_counts(data: bytes, n_frames: int, n_codebooks: int) -> list[int]:
    """FORMAT.md, "Numbers of codes"."""
    decoder = RangeDecoder(data)
    weights = [
        [(32, 12, 6, 3, 2, 1)[min(abs(p - n), 5)] for n in range(n_codebooks + 1)] for p in range(n_codebooks + 1)
    ]
    counts: list[int] = []
    previous = n_codebooks
    for _ in range(n_frames):
        n = decoder.symbol(weights[previous])
        weights[previous][n] += 8
        previous = n
        counts.append(n)
    decoder.check_end()
    return counts


class Chunk:
    """A CODES chunk: FORMAT.md, "CODES with coding 1"."""

    def __init__(self, payload: bytes, n_channels: int, n_codebooks: int) -> None:
        self.n_inside, at = varint(payload, 0)
        n_covered, at = varint(payload, at)
        self.n_covered = at + n_covered
        self.n_frames, at = varint(payload, at)
        self.counts = []
        for _ in range(n_channels):
            value, at = varint(payload, at)
            if value:
                self.counts.append([value - 1] * self.n_frames)
                continue
            size, at = varint(payload, at)
            self.counts.append(decode_counts(payload[at : at + size], self.n_frames, n_codebooks))
            at += size
        sizes = []
        for _ in range(1, self.n_inside):
            size, at = varint(payload, at)
            sizes.append((size, struct.unpack_from("<I", payload, at)[0] if size else 0))
            at += 4 if size else 0
        self.layers = {1: payload[at : self.n_covered]}
        at = self.n_covered
        for number, (size, crc) in enumerate(sizes, 2):
            self.layers[number] = payload[at : at + size]
            assert crc32c(self.layers[number]) == crc
            at += size
        assert at == len(payload)

    def codes(self, layer_sizes: list[int], n_entries: int, entries: list[int]) -> list[list[list[int]]]:
        """The codes [C][N][F]."""
        bits = (n_entries - 1).bit_length()
        codes: list[list[list[int]]] = [[] for _ in self.counts]
        codebook = 0
        for number, n_codebooks in enumerate(layer_sizes, 1):
            planes = [(i, c) for i in range(codebook, codebook + n_codebooks) for c in range(len(self.counts))]
            present = [[i < n for n in self.counts[c]] for i, c in planes]
            filled = [index for index in range(len(planes)) if any(present[index])]
            data, at = self.layers[number], 0
            lengths = {}
            for index in filled[:-1]:
                u, at = varint(data, at)
                lengths[index] = sum(present[index]) * bits * 15 // 128 + (-(u + 1) // 2 if u % 2 else u // 2)
            for index, (i, c) in enumerate(planes):
                if index not in filled:
                    codes[c].append([-1] * self.n_frames)
                    continue
                end = at + lengths[index] if index in lengths else len(data)
                codes[c].append(decode_plane(data[at:end], present[index], n_entries, entries[i]))
                at = end
            assert at == len(data)
            codebook += n_codebooks
        return codes


def decode(data: bytes) -> dict[str, Any]:
    """Decode a valid file of coding 1 without context model and levels, in plain Python."""
    size, position = varint(data, 5)
    end = position + size
    assert struct.unpack_from("<I", data, end)[0] == crc32c(data[:end])
    position += 1 + 8
    found: dict[str, Any] = {}
    for name in ("sample rate", "channels", "length + 1"):
        found[name], position = varint(data, position)
    position += 4
    for name in ("model sample rate", "hop length", "codebooks", "codebook size"):
        found[name], position = varint(data, position)
    assert data[position] == 1
    position += 1
    extensions = {}
    while position < end:
        tag, position = varint(data, position)
        size, position = varint(data, position)
        extensions[tag] = data[position : position + size]
        position += size
    layer_sizes = varints(extensions[5])
    entries = varints(extensions.get(8, b"")) or [found["codebook size"]] * found["codebooks"]
    position += 4

    chunks: dict[int, Chunk] = {}
    n_before = 0
    while True:
        start = position
        key, position = varint(data, position)
        payload = data[position : position + key // 4]
        covered = data[start : position + len(payload)]
        prefix = struct.pack("<Q", n_before) if key % 4 < 2 else b""
        if key % 4 == 1:
            chunk = chunks[n_before] = Chunk(payload, found["channels"], found["codebooks"])
            n_before += chunk.n_frames
            covered = data[start : position + chunk.n_covered]
        elif key % 4 == 2 and payload[0] == 1:
            first_frame, at = varint(payload, 1)
            number, at = varint(payload, at)
            chunks[first_frame].layers[number] = payload[at:]
        position += len(payload)
        assert struct.unpack_from("<I", data, position)[0] == crc32c(prefix + covered)
        position += 4
        if key % 4 == 0:
            break
    assert position == len(data)
    parts = [np.array(chunk.codes(layer_sizes, found["codebook size"], entries)) for chunk in chunks.values()]
    found["codes"] = np.concatenate(parts, axis=-1)
    return found


EXAMPLE_HEADER = Header(
    bytes.fromhex("00112233445566ff"), "16khz", 16000, 1, 1920, -3.5, 16000, 320, 3, 1024,
    coding=Coding.LAYERED, layers=(2, 1),
)  # fmt: skip
EXAMPLE_CODES = np.array([[[1, 2, 3, 3, 3, 700], [1023, 512, 512, 0, -1, 9], [7, 8, -1, -1, -1, 1000]]])


def test_the_writer_writes_the_example() -> None:
    assert example(1) == dumps(EXAMPLE_HEADER, EXAMPLE_CODES)
    header, codes, levels = loads(example(1))
    assert (header, levels) == (EXAMPLE_HEADER, None)
    np.testing.assert_array_equal(codes, EXAMPLE_CODES)


def test_independent_decoder_reads_the_example() -> None:
    found = decode(example(1))
    np.testing.assert_array_equal(found["codes"], EXAMPLE_CODES)
    assert (found["channels"], found["codebooks"], found["length + 1"]) == (1, 3, 1921)


@given(
    st.integers(1, 2),
    st.integers(1, 5),
    st.sampled_from([2, 3, 20, 1000, 1024]),
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from(list(Order)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_independent_decoder_agrees(
    n_channels: int,
    n_codebooks: int,
    size: int,
    n_frames: int,
    chunk_frames: int,
    order: Order,
    equal: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.full(n_codebooks, size) if equal else rng.integers(2, size + 1, n_codebooks)
    header = replace(
        EXAMPLE_HEADER, channels=n_channels, n_codebooks=n_codebooks, codebook_size=size, layers=(),
        n_samples=n_frames * 320, codebook_sizes=tuple(sizes),
    )  # fmt: skip
    codes = rng.integers(0, sizes[:, None], (n_channels, n_codebooks, n_frames))
    codes[..., 1:] = np.where(rng.random(n_frames - 1) < 0.3, codes[..., :-1], codes[..., 1:])
    counts = rng.integers(0, n_codebooks + 1, (n_channels, 1, n_frames))
    codes[np.arange(n_codebooks)[:, None] >= counts] = -1
    stream = io.BytesIO()
    with Writer(stream, header, chunk_frames, redundancy=seed % 2 == 0) as writer:
        writer.write(codes)
    data = stream.getvalue() if order is Order.TIME else thin(stream.getvalue(), order=order)
    np.testing.assert_array_equal(decode(data)["codes"], codes)


@pytest.mark.parametrize("coding", [2, 3, 255])
def test_later_codings_are_refused(coding: int) -> None:
    data = bytearray(example(1))
    data[31] = coding
    data[43:47] = crc32c(bytes(data[:43])).to_bytes(4, "little")
    with pytest.raises(Exception, match=f"coding {coding}, .* newer version"):
        loads(bytes(data))
