"""dac_codec.audio.samples: what counts as a waveform."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dac_codec import audio
from dac_codec.common.errors import AudioError
from tests.audio.sounds import RATE, tones


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_check_returns_contiguous_float32(dtype: type) -> None:
    fortran: np.ndarray = np.asfortranarray(tones(0.01).astype(dtype))
    checked = audio.check(fortran, RATE)
    assert checked.dtype == np.float32
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, fortran.astype(np.float32))


def test_check_adds_a_channel_axis_without_a_copy() -> None:
    vector = tones(0.01, channels=1)[0]
    checked = audio.check(vector, np.int64(RATE))
    assert checked.shape == (1, len(vector))
    assert np.shares_memory(checked, vector)


@pytest.mark.parametrize(
    ("samples", "sample_rate", "message"),
    [
        (np.zeros((1, 4), np.int16), RATE, r"int16.*divide"),
        (np.zeros((1, 4), bool), RATE, "bool"),
        (np.zeros((1, 4), np.complex64), RATE, "complex64"),
        (np.zeros((1, 1, 4), np.float32), RATE, r"shape is \[1, 1, 4\]"),
        (np.float32(0.0), RATE, r"shape is \[\]"),
        (np.zeros((2, 0), np.float32), RATE, "at least one"),
        (np.zeros((0, 2), np.float32), RATE, "at least one"),
        (np.zeros((RATE, 2), np.float32), RATE, "transpose"),
        (np.full((1, 4), 1e300), RATE, "4 of 4 samples"),
        (np.zeros((1, 4), np.float32), 0, "sample rate is 0"),
        (np.zeros((1, 4), np.float32), -8000, "sample rate is -8000"),
        (np.zeros((1, 4), np.float32), 44100.0, r"sample rate is 44100\.0"),
        (np.zeros((1, 4), np.float32), True, "sample rate is True"),
    ],
)
def test_check_refuses_invalid_waveforms(samples: Any, sample_rate: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        audio.check(samples, sample_rate, name="take 7")
    assert str(caught.value).startswith("take 7: ")


def test_check_counts_and_locates_samples_that_are_not_finite() -> None:
    samples = tones(1.0)
    samples[1, RATE // 4] = np.nan
    samples[0, RATE // 2 : RATE // 2 + 3] = [np.inf, -np.inf, np.nan]
    with pytest.raises(AudioError, match=rf"4 of {samples.size} samples .* first at 0\.250 s"):
        audio.check(samples, RATE)
