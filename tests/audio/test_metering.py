"""dac_codec.audio.metering: loudness and gain."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio
from dac_codec.audio import samples
from dac_codec.common.errors import AudioError
from tests.audio.sounds import RATE, noise
from tests.conftest import GOLDEN


def sine(
    frequency: float, seconds: float, sample_rate: int = RATE, channels: int = 1, level: float = 1.0
) -> audio.Audio:
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.repeat(level * np.sin(2 * np.pi * frequency * t)[None], channels, axis=0).astype(np.float32)


def normalized(sound: audio.Audio, target_lufs: float = -16.0) -> tuple[audio.Audio, float]:
    meter = audio.LoudnessMeter(RATE, sound.shape[0])
    meter.push(sound)
    gain = audio.gain_to(target_lufs, meter.loudness(), meter.peak)
    return audio.apply_gain(sound, gain), gain


def test_loudness_of_the_reference() -> None:
    golden = np.load(GOLDEN / "discriminator_and_losses.npz")
    assert audio.loudness(golden["real"][0], 44100) == pytest.approx(golden["lufs_x"].item(), abs=1e-3)


@pytest.mark.parametrize("sample_rate", [16000, 44100, 48000, 96000])
def test_loudness_is_calibrated(sample_rate: int) -> None:
    """BS.1770-4: a full-scale sine of 997 Hz in one front channel measures -3.01 LUFS.

    The filters of the reference approximate those of the standard to within 0.1 dB.
    """
    assert audio.loudness(sine(997, 3, sample_rate), sample_rate) == pytest.approx(-3.01, abs=0.1)
    assert audio.loudness(sine(997, 3, sample_rate, level=0.1), sample_rate) == pytest.approx(-23.01, abs=0.1)


def test_loudness_adds_channels_by_weight() -> None:
    one = audio.loudness(sine(997, 2), RATE)
    for channels, weight in ((2, 2.0), (3, 3.0), (4, 4.41), (5, 5.82), (6, 6.0), (8, 8.0)):
        expected = one + 10 * math.log10(weight)
        assert audio.loudness(sine(997, 2, channels=channels), RATE) == pytest.approx(expected, abs=1e-4)
    assert audio.loudness(sine(997, 2)[0], RATE) == one


def test_loudness_does_not_depend_on_the_sample_rate() -> None:
    band = audio.resample(noise(3 * 24000), 24000, 48000)
    at_48k = audio.loudness(band, 48000)
    assert audio.loudness(audio.resample(band, 48000, 44100), 44100) == pytest.approx(at_48k, abs=0.05)


@pytest.mark.parametrize("length", [RATE // 2, 100_000, 123_457])
def test_loudness_agrees_with_pyloudnorm(length: int) -> None:
    """pyloudnorm rounds the number of blocks, the reference pads the last one."""
    import pyloudnorm

    sound = noise(length, 2) * np.linspace(0.01, 1, length, dtype=np.float32)
    theirs = pyloudnorm.Meter(RATE).integrated_loudness(sound.T.astype(np.float64))
    assert audio.loudness(sound, RATE) == pytest.approx(theirs, abs=0.15)


@pytest.mark.parametrize("sample_rate", [60, 2000, 16000, 44100, 192000])
@given(cuts=st.lists(st.integers(0, 3000), max_size=5))
@settings(max_examples=10, deadline=None)
def test_k_weighting_equals_pyloudnorm(sample_rate: int, cuts: list[int]) -> None:
    """Sample by sample, for any division into blocks."""
    import pyloudnorm
    from scipy.signal import sosfilt

    stages = [(4.0, 1 / math.sqrt(2), 1500.0, "high_shelf"), (0.0, 0.5, 38.0, "high_pass")]
    kept = [stage for stage in stages if sample_rate > 2 * stage[2]]
    filters = [pyloudnorm.IIRfilter(*stage[:3], sample_rate, stage[3]) for stage in kept]
    sections = [[*stage.b, *stage.a] for stage in filters] or [[1, 0, 0, 1, 0, 0]]
    sound = noise(3000, 2)
    meter = audio.LoudnessMeter(sample_rate, 2)
    powers = []
    for start, stop in itertools.pairwise([0, *sorted(cuts), 3000]):
        power, meter._state = meter._power(sound[:, start:stop])
        powers.append(power)
    expected = np.square(sosfilt(sections, sound.astype(np.float64)))
    np.testing.assert_allclose(np.concatenate(powers, axis=1), expected, rtol=0, atol=1e-9 * expected.max())


def test_loudness_is_gated() -> None:
    loud = sine(997, 10)
    alone = audio.loudness(loud, RATE)
    silence = np.zeros_like(loud)
    assert audio.loudness(np.concatenate([loud, silence], axis=1), RATE) == pytest.approx(alone, abs=0.1)
    quiet = 0.05 * loud  # 26 dB lower: below the relative gate
    assert audio.loudness(np.concatenate([loud, quiet], axis=1), RATE) == pytest.approx(alone, abs=0.1)
    near = 0.5 * loud  # 6 dB lower: within it
    expected = alone + 10 * math.log10((1 + 0.25) / 2)
    assert audio.loudness(np.concatenate([loud, near], axis=1), RATE) == pytest.approx(expected, abs=0.05)


def test_loudness_is_gated_at_minus_70_lufs() -> None:
    faint = sine(997, 5, level=10 ** (-64 / 20))
    alone = audio.loudness(faint, RATE)
    assert alone == pytest.approx(-67.0, abs=0.1)
    fainter = 0.5 * faint  # within the relative gate, but below -70 LUFS
    assert audio.loudness(np.concatenate([faint, fainter], axis=1), RATE) == pytest.approx(alone, abs=0.1)


def test_loudness_of_silence_is_the_floor() -> None:
    assert audio.loudness(np.zeros((2, RATE), np.float32), RATE) == -70.0
    assert audio.loudness(1e-6 * noise(RATE), RATE) == -70.0


def test_loudness_of_a_short_sound_includes_its_padding() -> None:
    assert audio.loudness(np.zeros((1, 1), np.float32), RATE) == -70.0
    tenth, half = sine(997, 0.1), sine(997, 0.5)
    padded = np.pad(tenth, ((0, 0), (0, half.shape[1] - tenth.shape[1])))
    assert audio.loudness(tenth, RATE) == pytest.approx(audio.loudness(padded, RATE), abs=1e-6)
    assert audio.loudness(tenth, RATE) < audio.loudness(half, RATE) - 5


@pytest.mark.parametrize("sample_rate", [1, 10, 19, 76, 1000, 3000, 3001, 8000, 11025, 192000, np.int32(8000)])
def test_loudness_at_any_sample_rate(sample_rate: int) -> None:
    """White noise at -20 dB measures -20.7 LUFS without the weighting, and up to 4 dB more with its shelf."""
    measured = audio.loudness(noise(max(200, 2 * sample_rate)), sample_rate)
    assert -22.5 < measured < -16.0


def test_loudness_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = noise(123_457, 2)
    whole = audio.loudness(sound, RATE)
    monkeypatch.setattr(samples, "BLOCK_VALUES", 2 * 777)
    assert audio.loudness(sound, RATE) == pytest.approx(whole, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(-50, 20), st.floats(-40, 6), st.integers(1, 3), st.integers(0, 100))
def test_gain(level_db: float, target: float, channels: int, seed: int) -> None:
    sound = noise(RATE // 2, channels, 10 ** (level_db / 20), seed)
    scaled, gain = normalized(sound, target)
    assert isinstance(gain, float)
    assert float(np.float32(gain)) == gain
    assert np.abs(scaled).max() <= 1.0
    reached = audio.loudness(scaled, RATE)
    assert reached == pytest.approx(target, abs=1e-3) or (reached < target and np.abs(scaled).max() > 1 - 1e-5)
    restored = audio.apply_gain(scaled, -gain)
    np.testing.assert_allclose(restored, sound, atol=1e-6 * np.abs(sound).max())


def test_gain_reaches_its_target_where_it_can() -> None:
    scaled, gain = normalized(sine(997, 1, level=0.1))
    assert audio.loudness(scaled, RATE) == pytest.approx(-16.0, abs=1e-3)
    assert gain == pytest.approx(-16.0 + 23.05, abs=0.05)


def test_gain_is_rounded_towards_full_scale() -> None:
    sound = sine(997, 1)
    for peak in np.arange(3.0, 5.0, 1 / 16):
        scaled, _ = normalized(sound * np.float32(peak) / np.abs(sound).max(), 20.0)
        assert 1 - 1e-6 < np.abs(scaled).max() <= 1.0


def test_one_gain_for_all_channels() -> None:
    sound = np.stack([sine(997, 1)[0], sine(997, 1, level=0.25)[0]])
    scaled, _ = normalized(sound, 10.0)
    np.testing.assert_allclose(scaled[1], scaled[0] / 4, atol=1e-6)


def test_gain_leaves_silence_and_the_input_unchanged() -> None:
    silence = np.zeros((2, 100), np.float32)
    scaled, gain = normalized(silence)
    assert gain == 0.0
    np.testing.assert_array_equal(scaled, silence)
    sound = noise(RATE)
    before = sound.copy()
    normalized(sound)
    np.testing.assert_array_equal(sound, before)


@pytest.mark.parametrize("target", [math.nan, math.inf])
def test_gain_refuses_infinite_targets(target: float) -> None:
    with pytest.raises(AudioError, match="finite"):
        normalized(noise(RATE), target)
