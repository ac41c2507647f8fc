"""Spectrograms of tensors [B, C, T] and distances between two signals, for training losses and for evaluation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def single_or_double(audio: Tensor) -> Tensor:
    """Audio of half the precision in single precision: GPUs have no Fourier transform in bfloat16."""
    return audio.float() if audio.dtype in (torch.float16, torch.bfloat16) else audio


class Spectra:
    """Spectrograms of a signal [B, C, T], each computed once for all the losses that use it.

    Periodic Hann window, hop of a quarter window, centred frames with reflection, as in descript-audiotools.
    """

    def __init__(self, audio: Tensor) -> None:
        self.audio = audio
        self._transforms: dict[int, Tensor] = {}
        self._magnitudes: dict[int, Tensor] = {}

    def magnitude(self, window: int) -> Tensor:
        """|STFT| [B * C, window / 2 + 1, frames] for a window length in samples."""
        if window not in self._magnitudes:
            self._magnitudes[window] = self.transform(window).abs()
        return self._magnitudes[window]

    def transform(self, window: int) -> Tensor:
        """STFT [B * C, window / 2 + 1, frames] for a window length in samples, complex."""
        if window not in self._transforms:
            audio = single_or_double(self.audio.flatten(0, 1))
            # Reflection pads by window / 2 and needs one sample more than that; shorter signals are zero-padded.
            audio = F.pad(audio, (0, max(0, window // 2 + 1 - audio.shape[-1])))
            hann = torch.hann_window(window, device=audio.device, dtype=audio.dtype)
            self._transforms[window] = torch.stft(audio, window, window // 4, window=hann, return_complex=True)
        return self._transforms[window]


def mel_filters(sample_rate: int, window: int, n_mels: int) -> Tensor:
    """Triangular mel filters of unit area [n_mels, window / 2 + 1], from 0 Hz to half the sample rate.

    Those of `librosa.filters.mel` with its defaults, as the reference uses: the mel scale of Slaney's Auditory Toolbox
    (1998), linear below 1 kHz and logarithmic above.

    Raises:
        ModuleNotFoundError: librosa is not installed.
    """
    import librosa

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Empty filters detected")  # narrower than a bin, as in the reference
        return torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=n_mels))


class MultiScaleMel(nn.Module):
    """L1 distance of log10-mel spectrograms (and, optionally, of mel magnitudes), summed over scales.

    With M the mel magnitudes of one scale: power * mean |log10 max(M, 1e-5) - log10 max(M', 1e-5)|
    + magnitude_weight * mean |M - M'|. The defaults are the paper's training loss (section 3.4).

    Args:
        sample_rate: of the audio, in Hz.
        n_mels: mel bands of each scale.
        windows: window length of each scale, in samples.
        power: exponent of the magnitude inside the logarithm.
        magnitude_weight: weight of the L1 distance of mel magnitudes.
    """

    def __init__(
        self,
        sample_rate: int,
        n_mels: Sequence[int] = (5, 10, 20, 40, 80, 160, 320),
        windows: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
        power: float = 1.0,
        magnitude_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self._windows, self._power, self._magnitude_weight = tuple(windows), power, magnitude_weight
        for window, bands in zip(windows, n_mels, strict=True):
            self.register_buffer(f"filters_{window}", mel_filters(sample_rate, window, bands), persistent=False)

    def forward(self, estimate: Spectra, reference: Spectra) -> Tensor:
        """Scalar distance between two signals."""
        total = estimate.audio.new_zeros(())
        for window in self._windows:
            filters = self.get_buffer(f"filters_{window}")
            mels = filters @ estimate.magnitude(window), filters @ reference.magnitude(window)
            total = total + self._power * _log_distance(*mels)
            if self._magnitude_weight:
                total = total + self._magnitude_weight * F.l1_loss(*mels)
        return total


def mel_distance(sample_rate: int) -> MultiScaleMel:
    """The "mel distance" of the reference's evaluation, which differs from its training loss."""
    return MultiScaleMel(sample_rate, n_mels=(150, 80), windows=(2048, 512), power=2.0, magnitude_weight=1.0)


def multi_scale_stft(estimate: Spectra, reference: Spectra, windows: Sequence[int] = (2048, 512)) -> Tensor:
    """L1 distance of log10 squared magnitudes plus L1 distance of magnitudes, summed over windows (scalar).

    The "STFT distance" of the reference's evaluation.
    """
    total = estimate.audio.new_zeros(())
    for window in windows:
        magnitudes = estimate.magnitude(window), reference.magnitude(window)
        total = total + 2 * _log_distance(*magnitudes) + F.l1_loss(*magnitudes)
    return total


def compressed_distance(estimate: Spectra, reference: Spectra) -> Tensor:
    """Squared distance of compressed spectrograms, summed over windows of 1024, 512 and 256 samples (scalar).

    With X the STFT and X_c = |X|^0.3 * X / |X|: 0.3 * mean |X_c - Y_c|^2 + 0.7 * mean (|X_c| - |Y_c|)^2. The exponent
    0.3 is near that of loudness, so that noise between harmonics has a weight near its audibility. 1e-6 is added to
    |X|^2, since the gradient is infinite at 0. Source: Braun and Tashev, "Data augmentation and loss normalization for
    deep noise suppression" (2020).
    """
    total = estimate.audio.new_zeros(())
    for window in (1024, 512, 256):
        magnitudes = estimate.magnitude(window), reference.magnitude(window)
        scale, other_scale = ((magnitude.square() + 1e-6) ** ((0.3 - 1) / 2) for magnitude in magnitudes)
        one, other = (torch.view_as_real(spectra.transform(window)) for spectra in (estimate, reference))
        vectors = one * scale[..., None] - other * other_scale[..., None]
        difference = magnitudes[0] * scale - magnitudes[1] * other_scale
        total = total + 0.3 * vectors.square().sum(-1).mean() + 0.7 * difference.square().mean()
    return total


def envelope_distance(estimate: Spectra, reference: Spectra, sample_rate: int) -> Tensor:
    """One minus the correlation over time of band envelopes, averaged over the bands (scalar); 0 if they are equal.

    The bands are those of the short-time objective intelligibility: 15 third-octave bands, the lowest centred at 150 Hz
    (Taal et al., "An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech", 2011). The
    correlation does not depend on level, so that a quiet syllable counts as much as a loud one.
    """
    window = 1024
    bin_width = sample_rate / window
    centres = 150.0 * 2.0 ** (np.arange(15) / 3)
    lows = np.round(centres * 2 ** (-1 / 6) / bin_width).astype(int)
    highs = np.maximum(lows + 1, np.round(centres * 2 ** (1 / 6) / bin_width).astype(int))
    deviations = []
    for spectra in (estimate, reference):
        power = spectra.magnitude(window).square()
        bands = [power[:, low:high].sum(1) for low, high in zip(lows, highs, strict=True)]
        envelopes = (torch.stack(bands, 1) + 1e-8).sqrt()
        deviations.append(envelopes - envelopes.mean(-1, keepdim=True))
    one, other = deviations
    correlation: Tensor = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1) + 1e-6)
    return 1 - correlation.mean()


def _log_distance(one: Tensor, other: Tensor) -> Tensor:
    return F.l1_loss(one.clamp(min=1e-5).log10(), other.clamp(min=1e-5).log10())


def si_sdr(estimate: Tensor, reference: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of each item, [B, C, T] -> [B], after removal of the means.

    With s = (e . r / |r|^2) r, the projection of the estimate e onto the reference r: 10 log10(|s|^2 / |e - s|^2).
    Source: Le Roux et al., "SDR - half-baked or well done?" (2019).

    Small constants keep it finite: 100 dB without distortion, 0 dB for a silent or constant estimate, -80 dB where only
    the reference is silent.
    """
    estimate = estimate.flatten(1) - estimate.flatten(1).mean(1, keepdim=True)
    reference = reference.flatten(1) - reference.flatten(1).mean(1, keepdim=True)
    tiny = torch.finfo(estimate.dtype).tiny  # far below the energy of any sound: level does not affect the ratio
    scale = ((estimate * reference).sum(1) + tiny) / (reference.square().sum(1) + tiny)
    target = scale[:, None] * reference
    signal, distortion = target.square().sum(1), (estimate - target).square().sum(1)
    return 10 * torch.log10((signal + tiny) / (distortion + 1e-10 * signal + tiny) + 1e-8)
