"""dac_codec.audio.resampling: other sample rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio
from dac_codec.common.errors import AudioError
from tests.audio.sounds import RATE, noise, tones

RATES = st.sampled_from([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), RATES, RATES, st.one_of(st.none(), st.integers(0, 5000)))
def test_resample_length(length: int, from_rate: int, to_rate: int, n_samples: int | None) -> None:
    sound = noise(length, 2)
    resampled = audio.resample(sound, from_rate, to_rate, n_samples)
    expected = math.ceil(length * to_rate / from_rate) if n_samples is None else n_samples
    assert resampled.shape == (2, expected)
    assert resampled.dtype == np.float32
    assert np.isfinite(resampled).all()


def test_resample_returns_the_input_if_nothing_changes() -> None:
    sound = tones(0.01)
    assert audio.resample(sound, RATE, RATE) is sound
    assert audio.resample(sound, RATE, RATE, sound.shape[1]) is sound
    np.testing.assert_array_equal(audio.resample(sound, RATE, RATE, 3), sound[:, :3])
    longer = audio.resample(sound, RATE, RATE, 500)
    np.testing.assert_array_equal(longer, np.pad(sound, ((0, 0), (0, 20))))


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 48000), (48000, 44100), (8000, 192000), (192000, 16000)])
def test_resample_is_aligned_and_keeps_channels(from_rate: int, to_rate: int) -> None:
    resampled = audio.resample(tones(0.5, 2, from_rate), from_rate, to_rate)
    inner = slice(to_rate // 10, -to_rate // 10)
    np.testing.assert_allclose(resampled[:, inner], tones(0.5, 2, to_rate)[:, inner], atol=1e-4)


def test_resample_pads_and_trims_at_the_end() -> None:
    sound = tones(0.1, 2, 44100)
    natural = audio.resample(sound, 44100, RATE)
    np.testing.assert_array_equal(audio.resample(sound, 44100, RATE, 1000), natural[:, :1000])
    longer = audio.resample(sound, 44100, RATE, natural.shape[1] + 7)
    np.testing.assert_array_equal(longer, np.pad(natural, ((0, 0), (0, 7))))


def test_resample_of_one_sample_is_not_silent() -> None:
    one = np.array([[0.5]], np.float32)
    for from_rate, to_rate in ((44100, 48000), (48000, 44100), (192000, 8000), (8000, 192000)):
        assert np.abs(audio.resample(one, from_rate, to_rate)).max() > 0.01


@pytest.mark.parametrize("function", [audio.resample, audio.resample_windowed_sinc])
@pytest.mark.parametrize(("from_rate", "to_rate"), [(0, 44100), (44100, -1), (1, 44100), (44100, 44), (44100.0, 48000)])
def test_resample_refuses_rates(function: Callable[..., Any], from_rate: int, to_rate: int) -> None:
    with pytest.raises(AudioError, match=r"^resample: "):
        function(tones(0.01), from_rate, to_rate)


def test_resample_refuses_lengths() -> None:
    with pytest.raises(AudioError, match="-1 samples"):
        audio.resample(tones(0.01), 44100, RATE, -1)
    assert audio.resample(np.zeros((2, 0), np.float32), 44100, RATE).shape == (2, 0)
    with pytest.raises(AudioError, match="no samples"):
        audio.resample_windowed_sinc(np.zeros((2, 0), np.float32), 44100, RATE)


# Output of julius 0.2.7, julius.resample_frac(x, from_rate, to_rate), for x[n] = 0.5 cos(n * n / 400), n < 300:
# its length, and samples 0, 1, 50, 100 and the last two.
JULIUS = [
    (48000, 44100, 275, [0.499997, 0.499995, 0.217328, -0.1129404, 0.32012, -0.3448621]),
    (16000, 44100, 826, [0.499997, 0.4999982, 0.3401199, -0.4944424, -0.456625, -0.445147]),
    (44100, 24000, 163, [0.4999995, 0.4999821, -0.3152459, -0.4579651, 0.1491862, 0.0878712]),
]


@pytest.mark.parametrize(("from_rate", "to_rate", "length", "expected"), JULIUS)
def test_windowed_sinc_equals_the_reference(from_rate: int, to_rate: int, length: int, expected: list[float]) -> None:
    n = np.arange(300)
    chirp = (0.5 * np.cos(n * n / 400)).astype(np.float32)
    resampled = audio.resample_windowed_sinc(np.stack([chirp, -chirp]), from_rate, to_rate)
    assert resampled.shape == (2, length)
    assert resampled.dtype == np.float32
    picked = resampled[:, [0, 1, 50, 100, length - 2, length - 1]]
    np.testing.assert_allclose(picked, [expected, [-value for value in expected]], atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500), st.sampled_from([8000, 16000, 44100, 44101]), st.sampled_from([11025, 16000, 48000]))
def test_windowed_sinc_keeps_a_constant(length: int, from_rate: int, to_rate: int) -> None:
    sound = np.full((2, length), 0.25, np.float32)
    resampled = audio.resample_windowed_sinc(sound, from_rate, to_rate)
    assert resampled.shape == (2, length * to_rate // from_rate)
    np.testing.assert_allclose(resampled, 0.25, atol=1e-6)
