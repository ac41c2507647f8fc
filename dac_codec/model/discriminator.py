"""The discriminators of adversarial training (section 3.3 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from dac_codec.common.spectral import single_or_double
from dac_codec.model.layers import without_autocast

BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
"""Bands with convolutions of their own, as shares of the spectrum."""

_LEAST_PEAK = 1e-3
"""Lower peaks are not raised to full scale: gradients of silence would have no bound. The reference has no limit."""

_Size = tuple[int, int]


def _conv2d(before: int, after: int, kernel: _Size, stride: _Size = (1, 1), padding: _Size = (0, 0)) -> nn.Conv2d:
    conv: nn.Conv2d = weight_norm(nn.Conv2d(before, after, kernel, stride, padding))
    return conv


def _conv1d(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv1d:
    conv: nn.Conv1d = weight_norm(nn.Conv1d(before, after, kernel, stride, kernel // 2, groups=groups))
    return conv


def _activated(conv: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.LeakyReLU(0.1))


def _feature_maps(convs: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The outputs of all convolutions in sequence."""
    return list(accumulate(convs, lambda x, conv: conv(x), initial=x))[1:]


class MultiPeriodDiscriminator(nn.Module):
    """Discriminates the waveform folded to rows of `period` samples (Kong et al., HiFi-GAN, 2020).

    Shapes:
        [B, 1, T] -> feature maps [B, channels, rows, period], the logits last
    """

    def __init__(self, period: int) -> None:
        super().__init__()
        self.name: str = f"period {period}"
        self.period = period
        channels = (1, 32, 128, 512, 1024, 1024)
        self.convs: nn.ModuleList = nn.ModuleList(
            _activated(_conv2d(before, after, (5, 1), (3 if after > before else 1, 1), (2, 0)))
            for before, after in pairwise(channels)
        )
        self.conv_post: nn.Conv2d = _conv2d(1024, 1, (3, 1), padding=(1, 0))

    def forward(self, audio: Tensor) -> list[Tensor]:
        # The reference adds a whole row if the length is a multiple of the period.
        x = F.pad(audio, (0, self.period - audio.shape[-1] % self.period), mode="reflect")
        x = rearrange(x, "b c (rows period) -> b c rows period", period=self.period)
        maps = _feature_maps(self.convs, x)
        return [*maps, self.conv_post(maps[-1])]


class MultiScaleDiscriminator(nn.Module):
    """Discriminates the waveform at a lower rate (Kumar et al., MelGAN, 2019); in the paper only an ablation.

    Shapes:
        [B, 1, T] -> feature maps [B, channels, T'], the logits last
    """

    def __init__(self, divisor: int) -> None:
        super().__init__()
        self.name: str = f"rate 1/{divisor}"
        self.divisor = divisor
        self.convs: nn.ModuleList = nn.ModuleList(
            [
                _activated(_conv1d(1, 16, 15)),
                _activated(_conv1d(16, 64, 41, stride=4, groups=4)),
                _activated(_conv1d(64, 256, 41, stride=4, groups=16)),
                _activated(_conv1d(256, 1024, 41, stride=4, groups=64)),
                _activated(_conv1d(1024, 1024, 41, stride=4, groups=256)),
                _activated(_conv1d(1024, 1024, 5)),
            ]
        )
        self.conv_post: nn.Conv1d = _conv1d(1024, 1, 3)

    def forward(self, audio: Tensor) -> list[Tensor]:
        maps = _feature_maps(self.convs, _decimate(audio, self.divisor))
        return [*maps, self.conv_post(maps[-1])]


def _decimate(audio: Tensor, divisor: int, zero_crossings: int = 24, rolloff: float = 0.945) -> Tensor:
    """Audio [B, 1, T] at a rate lower by an integer factor: [B, 1, T // divisor].

    A Hann-windowed sinc with the reference's parameters, and its last samples repeated at both ends.
    """
    if divisor == 1:
        return audio
    from torchaudio.functional import resample  # Part of the extra `train`: inference has no discriminators.

    reach = math.ceil(zero_crossings / rolloff) + 1
    padded = F.pad(audio, (reach * divisor, reach * divisor), mode="replicate")
    decimated: Tensor = resample(padded, divisor, 1, zero_crossings, rolloff)
    return decimated[..., reach : reach + audio.shape[-1] // divisor]


class MultiBandDiscriminator(nn.Module):
    """Discriminates the complex STFT with convolutions per band (the paper's multi-band multi-scale discriminator).

    Args:
        window: length of the STFT's window in samples, four times the hop.
        bands: edges of each band, as shares of the spectrum.

    Shapes:
        [B, 1, T] -> feature maps [B, channels, frames, bins], band by band, the logits of all bands last
    """

    def __init__(self, window: int, bands: Sequence[tuple[float, float]] = BANDS) -> None:
        super().__init__()
        self.window = window
        n_bins = window // 2 + 1
        self.bands: list[tuple[int, int]] = [(int(low * n_bins), int(high * n_bins)) for low, high in bands]
        self.name: str = f"window {window}, bins {', '.join(f'{low} to {high}' for low, high in self.bands)}"
        self.band_convs: nn.ModuleList = nn.ModuleList(
            nn.ModuleList(
                [
                    _activated(_conv2d(2, 32, (3, 9), padding=(1, 4))),
                    *(_activated(_conv2d(32, 32, (3, 9), (1, 2), (1, 4))) for _ in range(3)),
                    _activated(_conv2d(32, 32, (3, 3), padding=(1, 1))),
                ]
            )
            for _ in self.bands
        )
        self.conv_post: nn.Conv2d = _conv2d(32, 1, (3, 3), padding=(1, 1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        spectrum = self._spectrum(audio)
        maps, ends = [], []
        for (low, high), convs in zip(self.bands, self.band_convs, strict=True):
            assert isinstance(convs, nn.ModuleList)
            maps += _feature_maps(convs, spectrum[..., low:high])
            ends.append(maps[-1])
        return [*maps, self.conv_post(torch.cat(ends, -1))]

    def _spectrum(self, audio: Tensor) -> Tensor:
        """Real and imaginary part [B, 2, frames, bins], ceil(T / hop) frames."""
        hop = self.window // 4
        right = -audio.shape[-1] % hop
        padding = (self.window - hop) // 2
        with without_autocast(audio.device):  # GPUs have no Fourier transform in bfloat16
            audio = F.pad(single_or_double(audio), (padding, padding + right), mode="reflect")
            window = torch.hann_window(self.window, device=audio.device, dtype=audio.dtype)
            stft = torch.stft(audio[:, 0], self.window, hop_length=hop, window=window, return_complex=True)
        # Without the two frames at each end that are centred in the padding.
        return rearrange(torch.view_as_real(stft[..., 2:-2]), "b bins frames parts -> b parts frames bins")


class Discriminator(nn.Module):
    """All discriminators, with the paper's defaults and the reference's argument names.

    Args:
        rates: divisors of the sampling rate, one multi-scale discriminator each.
        periods: in samples, one multi-period discriminator each.
        fft_sizes: window lengths in samples, one multi-band discriminator each.
        sample_rate: rate of the audio in Hz; the network does not depend on it.
        bands: edges of the multi-band discriminators' bands, as shares of the spectrum.

    Shapes:
        audio [B, 1, T] -> a list per sub-discriminator of its feature maps, the logits last

    Raises:
        ValueError: a value out of range, or no sub-discriminator at all.
    """

    def __init__(
        self,
        rates: Sequence[int] = (),
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        fft_sizes: Sequence[int] = (2048, 1024, 512),
        sample_rate: int = 44100,
        bands: Sequence[tuple[float, float]] = BANDS,
    ) -> None:
        super().__init__()
        for name, values in (("rates", rates), ("periods", periods), ("fft_sizes", fft_sizes)):
            if any(not isinstance(value, int) or value < 1 for value in values):
                raise ValueError(f"{name} must be positive integers, not {list(values)}")
        if any(window % 4 or window < 64 for window in fft_sizes):
            raise ValueError(f"fft_sizes must be multiples of 4 from 64 on, not {list(fft_sizes)}")
        if not bands or any(not 0.0 <= low < high <= 1.0 for low, high in bands):
            raise ValueError(f"bands must be pairs of rising shares between 0 and 1, not {list(bands)}")
        if not (rates or periods or fft_sizes):
            raise ValueError("there must be at least one of rates, periods and fft_sizes")
        self.sample_rate = sample_rate
        self.discriminators: nn.ModuleList = nn.ModuleList(
            [
                *(MultiPeriodDiscriminator(period) for period in periods),
                *(MultiScaleDiscriminator(rate) for rate in rates),
                *(MultiBandDiscriminator(window, bands) for window in fft_sizes),
            ]
        )

    def parts(self) -> dict[str, nn.Module]:
        """The sub-discriminators by name; equal names have weights of equal shapes."""
        return {str(part.name): part for part in self.discriminators}

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        audio = audio - audio.mean(-1, keepdim=True)
        audio = 0.8 * audio / audio.abs().amax(-1, keepdim=True).clamp_min(_LEAST_PEAK)
        return [discriminator(audio) for discriminator in self.discriminators]
