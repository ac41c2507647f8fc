"""Entropy coding of band levels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import LevelParameters
from dac_codec.bitstream import levels as levels_module
from dac_codec.bitstream.levels import Levels, decode_levels, encode_levels, first_counts
from dac_codec.common.errors import BitstreamError

LEVELS_MD = Path(levels_module.__file__).with_name("LEVELS.md")


def steady_levels(parameters: LevelParameters, channels: int, n_windows: int, seed: int = 0) -> Levels:
    """Levels that change slowly, as those of sounds do [C, bands, w]."""
    random = np.random.default_rng(seed)
    changes = random.integers(-1, 2, (channels, parameters.bands, n_windows)) * (random.random(n_windows) < 0.3)
    return np.clip(changes.cumsum(-1), parameters.lowest, parameters.highest).astype(np.int8)


@st.composite
def parameter_sets(draw: st.DrawFn) -> LevelParameters:
    lowest = -draw(st.integers(0, 15))
    return LevelParameters(bands=draw(st.integers(1, 8)), lowest=lowest, highest=draw(st.integers(0, 15 + lowest)))


@given(parameter_sets(), st.integers(1, 3), st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_round_trip(parameters: LevelParameters, channels: int, n_windows: list[int], seed: int) -> None:
    """Chunks of any lengths, of any levels and of none but 0, coded together as alone."""
    random = np.random.default_rng(seed)
    chunks = [
        (random.integers(parameters.lowest, parameters.highest + 1, (channels, parameters.bands, n)) * (n % 3 > 0))
        .astype(np.int8)
        for n in n_windows
    ]  # fmt: skip
    coded = encode_levels(parameters, chunks)
    assert coded == [encode_levels(parameters, [chunk])[0] for chunk in chunks]
    for found, chunk in zip(decode_levels(parameters, coded, channels, n_windows), chunks, strict=True):
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, chunk)


def test_levels_of_zero_take_no_bytes() -> None:
    parameters = LevelParameters()
    assert encode_levels(parameters, [np.zeros((2, 40, 76), np.int8), np.zeros((2, 40, 0), np.int8)]) == [b"", b""]


def test_steady_levels_take_few_bytes() -> None:
    """A third of those of a fixed width."""
    parameters = LevelParameters()
    levels = steady_levels(parameters, 1, 76)
    (coded,) = encode_levels(parameters, [levels])
    assert 8 * len(coded) < 0.34 * np.log2(13) * levels.size


def test_first_counts() -> None:
    """By hand: levels -1, 0 and 1, symbols 0, 1 and 2 are the levels 0, 1 and -1."""
    counts = first_counts(-1, 1)
    # After -1 and 0, the zero weights are those of "that below is 0".
    weights = np.array([37 * 256 * 14, 14 * 3 * 16, 256 * 3 * 16])
    np.testing.assert_array_equal(counts[2, 0], weights * 1024 // weights.sum() + 1)


class PlainDecoder:
    """The range coder of ENTROPY.md, section 1, in plain Python."""

    def __init__(self, data: bytes) -> None:
        head = len(data) if len(data) <= 4 else 4 - len(data) % 2
        self.state = int.from_bytes(data[:head], "big")
        self.words = [int.from_bytes(data[at : at + 2], "big") for at in range(head, len(data), 2)]

    def symbol(self, weights: list[int]) -> int:
        n, total = len(weights), sum(weights)
        bounds = [sum(weights[:k]) * (65536 - n) // total + k for k in range(n + 1)]
        slot = self.state & 0xFFFF
        k = next(k for k in range(n) if bounds[k] <= slot < bounds[k + 1])
        self.state = (bounds[k + 1] - bounds[k]) * (self.state >> 16) + slot - bounds[k]
        if self.state < 65536 and self.words:
            self.state = self.state << 16 | self.words.pop(0)
        return k


def plain_levels(data: bytes, lowest: int, highest: int, bands: int, n_windows: int) -> list[list[int]]:
    """The levels [bands, w] of one channel, by LEVELS.md, section 3, in plain Python."""
    time, band_below, zero = (256, 37, 14, 8, 1), (256, 3, 15, 23, 5), ((89, 16), (14, 16), (29, 16), (5, 16))
    order = [*range(highest + 1), *range(lowest, 0)]
    counts: dict[tuple[int, int], list[int]] = {}
    for p in order:
        for q in order:
            u = [
                time[min(abs(s - p), 4)] * band_below[min(abs(s - q), 4)] * zero[2 * (p == 0) + (q == 0)][s != 0]
                for s in order
            ]
            counts[p, q] = [1024 * one // sum(u) + 1 for one in u]
    decoder = PlainDecoder(data)
    levels = [[0] * n_windows for _ in range(bands)]
    for window in range(n_windows):
        for band in range(bands):
            p = levels[band][window - 1] if window else 0
            q = levels[band - 1][window] if band else 0
            symbol = decoder.symbol(counts[p, q])
            counts[p, q][symbol] += 32
            levels[band][window] = order[symbol]
    assert decoder.state == 0
    assert not decoder.words
    return levels


def test_the_specification_decodes() -> None:
    parameters = LevelParameters(bands=5)
    levels = steady_levels(parameters, 1, 30, seed=2)
    (coded,) = encode_levels(parameters, [levels])
    assert plain_levels(coded, -10, 2, 5, 30) == levels[0].tolist()


def test_the_example_of_the_specification() -> None:
    expected = [[0, 0, -1, -1, 0], [0, -2, -1, -1, 1], [-1, -1, -1, 0, 0]]
    text = LEVELS_MD.read_text(encoding="utf-8")
    one, two = (bytes.fromhex(found) for found in re.findall(r"`((?:[0-9a-f]{2} )+[0-9a-f]{2})`", text))
    assert plain_levels(one, -2, 1, 3, 5) == expected
    parameters = LevelParameters(bands=3, lowest=-2, highest=1)
    assert decode_levels(parameters, [one], 1, [5])[0].tolist() == [expected]
    assert decode_levels(parameters, [two], 2, [5])[0].tolist() == [expected, [[0] * 5] * 3]


@pytest.mark.parametrize("level", [-11, 3])
def test_levels_out_of_range_are_refused(level: int) -> None:
    with pytest.raises(BitstreamError, match=r"levels must be in -10\.\.2"):
        encode_levels(LevelParameters(), [np.full((1, 40, 1), level, np.int8)])


def test_mutated_bytes_are_refused_or_decode_to_levels() -> None:
    parameters = LevelParameters(bands=6)
    levels = steady_levels(parameters, 2, 12, seed=1)
    (coded,) = encode_levels(parameters, [levels])
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        data = bytearray(coded)
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] = random.integers(256)
        cut = random.integers(len(data) // 2, len(data) + 1)
        try:
            (found,) = decode_levels(parameters, [bytes(data[:cut])], 2, [12])
        except BitstreamError:
            refused += 1
        else:
            assert found.shape == levels.shape
            assert found.min() >= parameters.lowest
            assert found.max() <= parameters.highest
    assert refused > 250
