"""dac_codec.audio.dsp: bandwidth and low-pass filter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.common.errors import AudioError
from tests.audio import sounds

RATE = 44100


def noise(seconds: float, rate: int = RATE, channels: int = 1, seed: int = 0) -> Audio:
    generator = np.random.default_rng(seed)
    return (0.1 * generator.standard_normal((channels, int(seconds * rate)))).astype(np.float32)


def low_passed(waveform: Audio, bandwidth: float, rate: int = RATE) -> Audio:
    return sounds.low_passed(waveform, bandwidth, rate)


def measured(waveform: Audio, gain_db: float = 0.0, rate: int = RATE) -> float | None:
    meter = audio.BandwidthMeter(rate, waveform.shape[0])
    meter.push(waveform)
    return meter.bandwidth(gain_db)


@pytest.mark.parametrize("bandwidth", [1000.0, 7000.0, 16000.0])
@pytest.mark.parametrize("rate", [44100, 48000])
def test_bandwidth_of_low_passed_noise(bandwidth: float, rate: int) -> None:
    found = measured(low_passed(noise(3, rate), bandwidth, rate), rate=rate)
    assert found is not None
    assert bandwidth <= found <= bandwidth + 600


def test_bandwidth_of_white_noise_is_half_the_sample_rate() -> None:
    assert measured(noise(1)) == RATE / 2


def test_content_counts_from_minus_106_decibels_on() -> None:
    # One sine at each of the nine bins that are averaged.
    time = np.arange(2 * RATE) / RATE
    sines = sum(np.sin(2 * np.pi * (466 + bin) / 2048 * RATE * time + bin) for bin in range(-4, 5))
    narrow = low_passed(noise(2), 3000)
    audible = measured((narrow + 10 ** (-104 / 20) * sines).astype(np.float32))
    assert audible is not None
    assert 9991 <= audible <= 10200
    inaudible = measured((narrow + 10 ** (-112 / 20) * sines).astype(np.float32))
    assert inaudible is not None
    assert inaudible <= 3600
    assert measured((narrow + 10 ** (-112 / 20) * sines).astype(np.float32), gain_db=8.0) == audible


def test_short_wide_band_section_counts() -> None:
    waveform = low_passed(noise(60), 3000)
    waveform[:, 30 * RATE : 30 * RATE + RATE // 5] += low_passed(noise(0.2, seed=1), 15000)
    found = measured(waveform)
    assert found is not None
    assert found >= 15000


def test_click_does_not_count() -> None:
    waveform = low_passed(noise(3), 3000)
    waveform[:, RATE] += 0.1
    assert (measured(waveform) or 0) <= 3600


@pytest.mark.parametrize("gain_db", [0.0, 60.0])
def test_rounding_to_16_bits_does_not_count(gain_db: float) -> None:
    waveform = low_passed(noise(3), 3000)
    quiet = waveform * np.float32(10 ** (-gain_db / 20))
    assert (measured(np.round(waveform * 32768) / np.float32(32768)) or 0) <= 3600
    assert (measured(quiet, gain_db) or 0) <= 3600


def test_incomplete_last_section_counts() -> None:
    narrow = low_passed(noise(1), 3000)[:, : 2 * 8192 + 2048]
    wide = narrow.copy()
    wide[:, -2048:] += noise(1, seed=1)[:, :2048]
    assert (measured(narrow) or 0) <= 3600
    assert (measured(wide) or 0) >= 20000


@pytest.mark.parametrize("waveform", [np.zeros((2, RATE), np.float32), noise(0.01), np.zeros((1, 0), np.float32)])
def test_bandwidth_of_silence_and_of_short_sounds_is_unknown(waveform: Audio) -> None:
    assert measured(waveform) is None


def test_bandwidth_is_that_of_the_widest_channel() -> None:
    both = np.concatenate((low_passed(noise(1), 3000), low_passed(noise(1, seed=1), 12000)))
    assert measured(both) == measured(both[1:])


def test_low_pass_keeps_the_pass_band_and_removes_the_stop_band() -> None:
    kept = np.sin(2 * np.pi * 7900 / RATE * np.arange(RATE))[None].astype(np.float32)
    gone = np.sin(2 * np.pi * 8600 / RATE * np.arange(RATE))[None].astype(np.float32)
    inside = slice(2000, -2000)
    assert np.abs(low_passed(kept, 8000) - kept)[:, inside].max() < 2e-4
    assert np.abs(low_passed(gone, 8000))[:, inside].max() < 2e-4


def test_low_pass_without_room_for_a_stop_band_does_nothing() -> None:
    waveform = noise(0.5)
    assert low_passed(waveform, RATE / 2 - 499).tolist() == waveform.tolist()
    assert audio.leaves_room(RATE, RATE / 2 - 500)
    assert not audio.leaves_room(RATE, RATE / 2 - 499)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_blocks_do_not_change_the_result(data: st.DataObject) -> None:
    waveform = noise(1, channels=2)[:, : data.draw(st.integers(0, RATE), "samples")]
    cuts = sorted(data.draw(st.lists(st.integers(0, waveform.shape[1]), max_size=6), "cuts"))
    low_pass, meter = audio.LowPass(RATE, 2, 5000.0), audio.BandwidthMeter(RATE, 2)
    parts = []
    for block in np.split(waveform, cuts, axis=1):
        meter.push(block)
        parts.append(low_pass.push(block))
    parts.append(low_pass.flush())
    assert np.array_equal(np.concatenate(parts, axis=1), low_passed(waveform, 5000.0))
    assert meter.bandwidth(0.0) == measured(waveform)


def test_low_pass_of_a_part_equals_the_part_of_the_whole() -> None:
    waveform, reach = noise(1), audio.low_pass_reach(RATE)
    part = low_passed(waveform[:, 10000 - reach : 20000 + reach], 5000.0)
    assert np.allclose(part[:, reach:-reach], low_passed(waveform, 5000.0)[:, 10000:20000], atol=1e-6)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan")])
def test_invalid_bandwidth_is_refused(bandwidth: float) -> None:
    with pytest.raises(AudioError, match="bandwidth"):
        audio.LowPass(RATE, 1, bandwidth)
