"""Spectrograms of tensors [B, C, T], and how far two signals are from each other: for losses and for measures alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Spectra:
    """Magnitude spectrograms of one signal, each window computed once however many losses ask for it.

    Periodic Hann window, hop of a quarter window, centred with reflection, as descript-audiotools computes them.
    """

    def __init__(self, audio: Tensor) -> None:
        self.audio = audio
        self._magnitudes: dict[int, Tensor] = {}

    def magnitude(self, window: int) -> Tensor:
        """|STFT| [B * C, window / 2 + 1, frames] for a window length in samples."""
        if window not in self._magnitudes:
            audio = self.audio.flatten(0, 1)
            # Reflection needs more samples than it reflects; a signal that short is filled up with zeros.
            audio = F.pad(audio, (0, max(0, window // 2 + 1 - audio.shape[-1])))
            stft = torch.stft(
                audio,
                window,
                hop_length=window // 4,
                window=torch.hann_window(window, device=audio.device, dtype=audio.dtype),
                return_complex=True,
            )
            self._magnitudes[window] = stft.abs()
        return self._magnitudes[window]


def mel_filters(sample_rate: int, window: int, n_mels: int) -> Tensor:
    """Triangular mel filters of unit area [n_mels, window / 2 + 1], from 0 Hz to half the sampling rate.

    The mel scale of Slaney's Auditory Toolbox (1998): linear below 1 kHz, logarithmic above. Equal to
    `librosa.filters.mel`, which the codec can't ask of everyone who only wants to know how good a file is.
    """
    linear_step, corner, log_step = 200.0 / 3, 1000.0, np.log(6.4) / 27
    top = sample_rate / 2
    top_mel = top / linear_step if top < corner else corner / linear_step + np.log(top / corner) / log_step
    mels = np.linspace(0.0, top_mel, n_mels + 2)
    above = corner * np.exp(log_step * (mels - corner / linear_step))
    edges = np.where(mels < corner / linear_step, mels * linear_step, above)
    bins = np.linspace(0.0, top, window // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32))


class MultiScaleMel(nn.Module):
    """L1 distance of log-mel spectrograms (and, where asked, of their magnitudes), summed over scales.

    Args:
        sample_rate: rate of the audio in Hz.
        n_mels: mel bands of each scale.
        windows: window length of each scale, in samples.
        power: exponent of the magnitude inside the logarithm.
        magnitude_weight: weight of the L1 distance of the mel magnitudes themselves.
        floor: smallest magnitude that the logarithm sees.

    The defaults are the training loss of the paper (section 3.4).
    """

    def __init__(
        self,
        sample_rate: int,
        n_mels: Sequence[int] = (5, 10, 20, 40, 80, 160, 320),
        windows: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048),
        power: float = 1.0,
        magnitude_weight: float = 0.0,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.windows = tuple(windows)
        self.power = power
        self.magnitude_weight = magnitude_weight
        self.floor = floor
        for window, bands in zip(windows, n_mels, strict=True):
            self.register_buffer(f"filters_{window}", mel_filters(sample_rate, window, bands), persistent=False)

    def forward(self, estimate: Spectra, reference: Spectra) -> Tensor:
        """Scalar distance of two signals."""
        total = estimate.audio.new_zeros(())
        for window in self.windows:
            filters = self.get_buffer(f"filters_{window}")
            one, other = (filters @ spectra.magnitude(window) for spectra in (estimate, reference))
            total = total + self.power * _log_distance(one, other, self.floor)
            if self.magnitude_weight:
                total = total + self.magnitude_weight * F.l1_loss(one, other)
        return total


def mel_distance(sample_rate: int) -> MultiScaleMel:
    """The distance that the reference's evaluation reports as "mel distance": another one than the training loss."""
    return MultiScaleMel(sample_rate, n_mels=(150, 80), windows=(2048, 512), power=2.0, magnitude_weight=1.0)


def multi_scale_stft(
    estimate: Spectra, reference: Spectra, windows: Sequence[int] = (2048, 512), floor: float = 1e-5
) -> Tensor:
    """L1 distance of log10 squared magnitudes plus L1 distance of magnitudes, summed over windows (scalar)."""
    total = estimate.audio.new_zeros(())
    for window in windows:
        one, other = estimate.magnitude(window), reference.magnitude(window)
        total = total + 2 * _log_distance(one, other, floor) + F.l1_loss(one, other)
    return total


def envelope_distance(estimate: Spectra, reference: Spectra, sample_rate: int, window: int = 1024) -> Tensor:
    """One minus the mean correlation over time of band envelopes (scalar): 0 where they rise and fall alike.

    The bands are those that the short-time objective intelligibility looks at: 15 thirds of an octave from 150 Hz on
    (Taal et al., "An Algorithm for Intelligibility Prediction of Time-Frequency Weighted Noisy Speech", 2011). It is
    blind to level, so that a quiet syllable counts as much as a loud one.
    """
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


def _log_distance(one: Tensor, other: Tensor, floor: float) -> Tensor:
    return F.l1_loss(one.clamp(min=floor).log10(), other.clamp(min=floor).log10())


def si_sdr(estimate: Tensor, reference: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB of each item, [B, C, T] -> [B]; means removed.

    It is finite whatever the signals: 100 dB without distortion, 0 dB where the estimate is silent (as a constant is,
    without its mean), and -80 dB for any sound where only the reference is.

    Source: Le Roux et al., "SDR - half-baked or well done?" (2019).
    """
    estimate = estimate.flatten(1) - estimate.flatten(1).mean(1, keepdim=True)
    reference = reference.flatten(1) - reference.flatten(1).mean(1, keepdim=True)
    tiny = torch.finfo(estimate.dtype).tiny  # which no sound comes near: quiet ones have the ratios of loud ones
    scale = ((estimate * reference).sum(1) + tiny) / (reference.square().sum(1) + tiny)
    target = scale[:, None] * reference
    signal, distortion = target.square().sum(1), (estimate - target).square().sum(1)
    return 10 * torch.log10((signal + tiny) / (distortion + 1e-10 * signal + tiny) + epsilon)
