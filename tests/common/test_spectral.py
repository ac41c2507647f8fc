"""Distances, against the values of the reference, and mel filters."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from dac_codec.common import spectral
from dac_codec.common.spectral import Spectra
from tests.conftest import GOLDEN

golden = np.load(GOLDEN / "discriminator_and_losses.npz")
real, fake = torch.from_numpy(golden["real"]), torch.from_numpy(golden["fake"])


def test_mel_loss() -> None:
    value = spectral.MultiScaleMel(44100)(Spectra(fake), Spectra(real))
    assert float(value) == pytest.approx(float(golden["mel_loss"]), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_half_precision_is_transformed_in_single(dtype: torch.dtype) -> None:
    """A GPU has no Fourier transform in bfloat16."""
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert Spectra(fake.to(dtype)).magnitude(64).dtype == expected


def test_mel_distance() -> None:
    value = spectral.mel_distance(44100)(Spectra(fake), Spectra(real))
    assert float(value) == pytest.approx(float(golden["mel_distance"]), rel=1e-4)


def test_stft_loss() -> None:
    value = spectral.multi_scale_stft(Spectra(fake), Spectra(real))
    assert float(value) == pytest.approx(float(golden["stft_loss"]), rel=1e-4)


def test_si_sdr() -> None:
    assert -float(spectral.si_sdr(fake, real)) == pytest.approx(float(golden["sisdr_loss"]), rel=1e-4)


def test_si_sdr_of_silence() -> None:
    silence, sound = torch.zeros(1, 1, 4000), 0.1 * torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(0))
    assert float(spectral.si_sdr(silence, silence)) == 0.0
    assert float(spectral.si_sdr(silence, sound)) == pytest.approx(0.0, abs=0.01)
    assert float(spectral.si_sdr(sound, silence)) == pytest.approx(-80.0, abs=0.01)
    for level in (1.0, 1e-6):  # quiet sounds are no worse
        assert float(spectral.si_sdr(0.5 * level * sound, level * sound)) == pytest.approx(100.0, abs=0.5)
        noisy = level * (sound + 0.1 * sound.roll(1))
        assert float(spectral.si_sdr(noisy, level * sound)) == pytest.approx(20.0, abs=0.3)


@pytest.mark.parametrize(("rate", "window", "bands"), [(44100, 2048, 80), (44100, 32, 5), (16000, 512, 20)])
def test_mel_filters_have_unit_area(rate: int, window: int, bands: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # librosa warns of filters that are narrower than a bin
        filters = spectral.mel_filters(rate, window, bands)
    assert filters.shape == (bands, window // 2 + 1)
    assert filters.dtype == torch.float32
    areas = filters.sum(1) * rate / window
    assert areas[-1] == pytest.approx(1.0, abs=0.3 if window == 32 else 0.01)


def test_each_window_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    stft = torch.stft
    monkeypatch.setattr(torch, "stft", lambda *args, **kwargs: calls.append(args[1]) or stft(*args, **kwargs))
    estimate, reference = Spectra(fake), Spectra(real)
    spectral.mel_distance(44100)(estimate, reference)
    spectral.multi_scale_stft(estimate, reference)
    assert sorted(calls) == [512, 512, 2048, 2048]


def test_signals_shorter_than_a_window() -> None:
    assert torch.isfinite(spectral.mel_distance(44100)(Spectra(torch.zeros(1, 1, 1)), Spectra(torch.ones(1, 1, 1))))


def test_envelope_distance_does_not_depend_on_level() -> None:
    def distance(estimate: torch.Tensor, reference: torch.Tensor) -> float:
        return float(spectral.envelope_distance(Spectra(estimate), Spectra(reference), 44100))

    random = torch.Generator().manual_seed(0)
    swell = torch.linspace(0, 20, 44100).sin().square()
    sound = 0.1 * swell * torch.randn(1, 1, 44100, generator=random)
    other = 0.1 * swell * torch.randn(1, 1, 44100, generator=random)
    flat = 0.1 * torch.randn(1, 1, 44100, generator=random)
    assert distance(sound, sound) < 0.01
    assert distance(0.1 * sound, sound) < 0.01
    assert 0.1 < distance(other, sound) < distance(flat, sound) - 0.2
    assert distance(flat, sound) > 0.9


def test_compressed_distance_against_its_formula() -> None:
    def compressed(sound: torch.Tensor, window: int) -> np.ndarray:
        transform = torch.stft(
            sound.double().flatten(0, 1),
            window,
            window // 4,
            window=torch.hann_window(window).double(),
            return_complex=True,
        )
        return np.asarray(transform) * (np.abs(transform.numpy()) ** 2 + 1e-6) ** -0.35

    expected = 0.0
    for window in (1024, 512, 256):
        one, other = compressed(fake, window), compressed(real, window)
        expected += 0.3 * (np.abs(one - other) ** 2).mean() + 0.7 * ((np.abs(one) - np.abs(other)) ** 2).mean()
    assert float(spectral.compressed_distance(Spectra(fake), Spectra(real))) == pytest.approx(expected, rel=1e-3)
    silence = torch.zeros_like(real, requires_grad=True)
    spectral.compressed_distance(Spectra(silence), Spectra(real)).backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()
    assert float(spectral.compressed_distance(Spectra(real), Spectra(real))) == 0.0
