"""Entropy coding of band levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import LevelParameters
from dac_codec.bitstream.levels import Levels, decode_levels, encode_levels, first_counts
from dac_codec.common.errors import BitstreamError


def steady_levels(parameters: LevelParameters, channels: int, n_windows: int, seed: int = 0) -> Levels:
    """Levels that change slowly, as those of sounds do [C, bands, w]."""
    random = np.random.default_rng(seed)
    changes = random.integers(-1, 2, (channels, parameters.bands, n_windows)) * (random.random(n_windows) < 0.3)
    return np.clip(changes.cumsum(-1), parameters.lowest, parameters.highest).astype(np.int8)


@st.composite
def parameter_sets(draw: st.DrawFn) -> LevelParameters:
    lowest = -draw(st.integers(0, 31))
    return LevelParameters(
        bands=draw(st.integers(1, 8)), lowest=lowest, highest=draw(st.integers(0, min(31, 31 + lowest)))
    )


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
