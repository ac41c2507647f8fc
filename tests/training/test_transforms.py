"""Changes of an excerpt."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.audio import Audio, loudness
from dac_codec.training import transforms

RATE = 44100
ANGLES = st.floats(-math.pi, math.pi)
SEEDS = st.integers(0, 2**32)


def noise(seed: int, n_samples: int = 16384, level: float = 0.1) -> Audio:
    return (level * np.random.default_rng(seed).standard_normal((1, n_samples))).astype(np.float32)


def test_mono_is_the_mean_or_one_of_the_channels() -> None:
    samples = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 7.0]], np.float32)
    random = np.random.default_rng(0)
    np.testing.assert_array_equal(transforms.to_mono(samples, "mix", random), [[3.0, 5.0]])
    drawn = [tuple(transforms.to_mono(samples, "random", random)[0]) for _ in range(60)]
    assert set(drawn) == {(1.0, 2.0), (3.0, 6.0), (5.0, 7.0)}
    assert min(drawn.count(one) for one in set(drawn)) > 8


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.floats(1e-3, 1.0), st.floats(-40.0, 0.0))
def test_the_loudness_is_the_target(seed: int, level: float, target: float) -> None:
    audio = noise(seed, level=level)
    before = audio.copy()
    scaled, measured = transforms.normalize_loudness(audio, RATE, target)
    assert loudness(scaled, RATE) == pytest.approx(target, abs=0.01)
    assert measured == pytest.approx(loudness(audio, RATE))
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(audio, before)


def test_silence_is_unchanged() -> None:
    scaled, measured = transforms.normalize_loudness(np.zeros((1, 1000), np.float32), RATE)
    assert not scaled.any()
    assert measured == -70.0


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(1e-3, 100.0), st.floats(0.1, 1.0))
def test_the_peak_is_never_exceeded(seed: int, level: float, peak: float) -> None:
    audio = noise(seed, 100, level)
    limited = transforms.limit_peak(audio, peak)
    assert np.abs(limited).max() <= np.float32(peak)
    if np.abs(audio).max() <= peak:
        assert limited is audio
    else:
        assert np.abs(limited).max() == pytest.approx(peak, rel=1e-6)
        np.testing.assert_allclose(limited / audio, limited[0, 0] / audio[0, 0], rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 20000))
def test_rotations_by_0_and_by_pi(seed: int, n_samples: int) -> None:
    audio = noise(seed, n_samples)
    np.testing.assert_allclose(transforms.rotate_phase(audio, 0.0), audio, atol=1e-6)
    np.testing.assert_allclose(transforms.rotate_phase(audio, math.pi), -audio, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(ANGLES, ANGLES, st.floats(200.0, 20000.0))
def test_a_rotation_moves_the_phase_of_a_tone(angle: float, start: float, frequency: float) -> None:
    phase = 2 * np.pi * frequency * np.arange(16384)[None] / RATE + start
    rotated = transforms.rotate_phase(np.cos(phase).astype(np.float32), angle)
    middle = slice(1000, -1000)
    np.testing.assert_allclose(rotated[:, middle], np.cos(phase + angle)[:, middle], atol=0.03)
    # There is no peak at the ends, where the tone is cut off.
    assert np.abs(rotated).max() < 1.5


@settings(max_examples=20, deadline=None)
@given(SEEDS, ANGLES)
def test_a_rotation_keeps_the_energy_and_the_spectrum(seed: int, angle: float) -> None:
    audio = noise(seed)
    rotated = transforms.rotate_phase(audio, angle)
    assert rotated.shape == audio.shape
    assert rotated.dtype == np.float32
    assert np.square(rotated).sum() == pytest.approx(np.square(audio).sum(), rel=0.03)
    window = np.hanning(audio.shape[1])
    before, after = (np.abs(np.fft.rfft(one * window)).reshape(1, -1)[:, 100:8000] for one in (audio, rotated))
    np.testing.assert_allclose(after, before, atol=0.05 * before.max())


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.05, 0.45), st.floats(0.002, 0.03))
def test_a_low_pass_keeps_low_frequencies_and_removes_high_ones(seed: int, cutoff: float, width: float) -> None:
    audio = noise(seed)
    passed = transforms.low_pass(audio, cutoff, width)
    assert passed.shape == audio.shape
    assert passed.dtype == np.float32
    middle = slice(2000, -2000)
    window = np.hanning(audio[:, middle].shape[1])
    before, after = (np.abs(np.fft.rfft(one[:, middle] * window)).reshape(-1) for one in (audio, passed))
    frequencies = np.fft.rfftfreq(len(window))
    below, above = frequencies < cutoff - width, frequencies > cutoff + width
    np.testing.assert_allclose(after[below], before[below], atol=0.02 * before.max())
    assert after[above].max() < 1e-4 * before.max()


@pytest.mark.parametrize("slope", [-4.0, 3.0])
def test_a_tilt_amplifies_each_octave(slope: float) -> None:
    times = np.arange(RATE)[None] / RATE
    levels = []
    for frequency in (50.0, 100.0, 500.0, 1000.0, 2000.0, 8000.0):
        tone = np.sin(2 * np.pi * frequency * times).astype(np.float32)
        tilted = transforms.tilt(tone, RATE, slope)
        assert tilted.shape == tone.shape
        assert tilted.dtype == np.float32
        middle = slice(RATE // 4, -RATE // 4)
        levels.append(20 * math.log10(np.std(tilted[:, middle]) / np.std(tone[:, middle])))
    lowest = slope * math.log2(0.1)
    assert levels == pytest.approx([lowest, lowest, -slope, 0.0, slope, 3 * slope], abs=0.05)


@pytest.mark.parametrize("slope", [-4.0, 4.0])
def test_a_tilt_has_no_click_where_the_audio_begins_and_ends(slope: float) -> None:
    tone = np.cos(2 * np.pi * 100 * np.arange(RATE)[None] / RATE).astype(np.float32)
    tilted = np.abs(transforms.tilt(tone, RATE, slope))
    assert tilted.max() < 1.1 * tilted[:, RATE // 4 : -RATE // 4].max()


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.floats(0.05, 0.5), st.floats(-20.0, 0.0))
def test_the_echoes_of_a_room(seed: int, decay: float, level: float) -> None:
    pulse = np.zeros((1, RATE), np.float32)
    pulse[0, 100] = 1.0
    heard = transforms.reverberate(pulse, RATE, decay, level, np.random.default_rng(seed))
    assert heard.shape == pulse.shape
    assert heard.dtype == np.float32
    assert np.abs(heard[0, :100]).max() < 1e-6
    echoes = (heard - pulse)[0, 100:]
    assert 10 * math.log10(np.square(echoes).sum()) == pytest.approx(level, abs=0.1)
    assert np.abs(echoes[round(decay * RATE) + 1 :]).max() < 1e-6
    half = round(decay * RATE / 2)
    first, last = (np.square(part).mean() for part in (echoes[: half // 4], echoes[half : half + half // 4]))
    assert 10 * math.log10(first / last) == pytest.approx(30.0, abs=3.0)


@given(SEEDS, st.floats(0.0, 20.0))
def test_clipping_takes_from_the_peak(seed: int, amount: float) -> None:
    audio = noise(seed, 1000)
    clipped = transforms.clip(audio, amount)
    limit = np.abs(audio).max() * 10 ** (-amount / 20)
    assert np.abs(clipped).max() == pytest.approx(limit, rel=1e-5)
    inside = np.abs(audio) < limit * 0.999
    np.testing.assert_array_equal(clipped[inside], audio[inside])
    assert clipped.dtype == np.float32


@given(SEEDS, st.integers(1, 50))
def test_a_silenced_part_is_at_an_end(seed: int, n_samples: int) -> None:
    audio = np.ones((1, n_samples), np.float32)
    silenced = transforms.silence_part(audio, np.random.default_rng(seed))
    kept = int(silenced.sum())
    assert kept < n_samples
    expected = np.arange(n_samples)
    at_end, at_beginning = expected < kept, expected >= n_samples - kept
    assert (silenced[0] == at_end).all() or (silenced[0] == at_beginning).all()
    assert audio.all()


def test_silence_is_at_either_end() -> None:
    random = np.random.default_rng(0)
    firsts = [transforms.silence_part(np.ones((1, 100), np.float32), random)[0, 0] for _ in range(50)]
    assert 10 < sum(firsts) < 40
