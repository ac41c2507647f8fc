"""Measures: known values for identical clips, and monotonic with noise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dac_codec.evaluation import metrics
from dac_codec.evaluation.metrics import METRICS, Metric
from tests.conftest import GOLDEN
from tests.evaluation.sounds import RATE, noisy, speech_like

# Scores of identical clips.
PERFECT = {
    "mel_distance": 0.0,
    "stft_distance": 0.0,
    "log_spectral_distance": 0.0,
    "waveform_l1": 0.0,
    "si_sdr": metrics.SI_SDR_LIMIT,
    "visqol": 4.732,
    "visqol_speech": 5.0,
    "pesq": 4.644,
    "stoi": 1.0,
}


def usable(metric: Metric) -> None:
    if metric.package is not None:
        pytest.importorskip({"visqol-python": "visqol"}.get(metric.package, metric.package))


def test_measures_match_the_golden_values() -> None:
    golden = np.load(GOLDEN / "discriminator_and_losses.npz")
    fake, real = golden["fake"][0], golden["real"][0]
    expected = (float(golden["mel_distance"]), float(golden["stft_loss"]), -float(golden["sisdr_loss"]))
    measures = (metrics.mel_distance, metrics.stft_distance, metrics.si_sdr)
    assert [measure(fake, real, RATE) for measure in measures] == pytest.approx(expected, rel=1e-4)
    assert metrics.waveform_l1(fake, real, RATE) == pytest.approx(float(golden["waveform_l1"]), rel=1e-4)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_identity_is_perfect_and_more_noise_is_worse(metric: Metric) -> None:
    usable(metric)
    clean = speech_like(3.0)
    perfect = metric.measure(clean.copy(), clean, RATE)
    assert perfect == pytest.approx(PERFECT[metric.name], abs=2e-3)
    values = [perfect, *(metric.measure(noisy(clean, snr), clean, RATE) for snr in (40, 30, 20, 10, 0))]
    steps = np.diff(values) if metric.higher_is_better else -np.diff(values)
    assert (steps < 0).all(), values


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_silence_and_short_clips_give_a_number_or_none(metric: Metric) -> None:
    usable(metric)
    clean, short = speech_like(1.5), speech_like(0.05)
    for decoded, original in ((np.zeros_like(clean), clean), (clean, np.zeros_like(clean)), (short, short)):
        value = metric.measure(decoded, original, RATE)
        assert math.isfinite(value) or math.isnan(value)


def test_silence_has_the_worst_si_sdr() -> None:
    clean = speech_like(1.0)
    assert metrics.si_sdr(np.zeros_like(clean), clean, RATE) == -metrics.SI_SDR_LIMIT
    assert math.isnan(metrics.si_sdr(clean, np.zeros_like(clean), RATE))


@pytest.mark.parametrize(("name", "worst"), [("visqol", 1.0), ("visqol_speech", 1.0), ("pesq", 1.0427), ("stoi", 0.0)])
def test_a_silent_output_is_the_worst_and_a_silent_original_is_undefined(name: str, worst: float) -> None:
    metric = next(one for one in METRICS if one.name == name)
    usable(metric)
    clean = speech_like(1.5)
    silence = np.zeros_like(clean)
    assert metric.measure(silence, clean, RATE) == pytest.approx(worst, abs=1e-4)
    assert math.isnan(metric.measure(clean, silence, RATE))
    assert math.isnan(metric.measure(silence, silence, RATE))
    assert metric.measure(noisy(clean, -20), clean, RATE) >= worst


@pytest.mark.parametrize(
    ("name", "seconds"), [("visqol", 0.96), ("visqol_speech", 0.96), ("pesq", 0.25), ("stoi", 0.42)]
)
def test_short_clips_have_no_score_even_if_the_output_is_silent(name: str, seconds: float) -> None:
    metric = next(one for one in METRICS if one.name == name)
    usable(metric)
    for length in (1 / RATE, 0.001, 0.006, 0.1, seconds - 0.02):
        clip = speech_like(length)
        assert math.isnan(metric.measure(clip.copy(), clip, RATE)), length
        assert math.isnan(metric.measure(np.zeros_like(clip), clip, RATE)), length
    clip = speech_like(seconds + 0.02)
    assert metric.measure(clip.copy(), clip, RATE) == pytest.approx(PERFECT[name], abs=2e-3)
    assert math.isfinite(metric.measure(np.zeros_like(clip), clip, RATE))


def test_half_the_level_is_six_decibels_of_log_spectral_distance() -> None:
    clean = np.random.default_rng(0).standard_normal((1, RATE)).astype(np.float32)
    found = metrics.log_spectral_distance(clean / 2, clean, RATE)
    assert found == pytest.approx(20 * math.log10(2), rel=1e-4)


def test_entropy_of_codebooks() -> None:
    counts = np.array([[4, 4, 4, 4], [16, 0, 0, 0], [8, 8, 0, 0], [0, 0, 0, 0]])
    bits, used = metrics.codebook_use(counts)
    assert bits.tolist() == [2.0, 0.0, 1.0, 0.0]
    assert used.tolist() == [1.0, 0.25, 0.5, 0.0]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Metric("absent", "Absent", "", True, "nowhere", metrics.stoi, package="no-such-package")
    monkeypatch.setattr(metrics, "METRICS", (METRICS[1], absent))
    found, missing = metrics.usable_metrics()
    assert found == [METRICS[1]]
    assert missing == ["Absent is left out, it needs no-such-package: pip install 'dac_codec[evaluate]'"]
