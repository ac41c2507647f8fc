"""The discriminators that the codec is trained against (section 3.3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
"""Bands of the spectrum, as shares of it, that have convolutions of their own."""


def _conv2d(
    before: int,
    after: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
) -> nn.Conv2d:
    conv: nn.Conv2d = weight_norm(nn.Conv2d(before, after, kernel, stride, padding))
    return conv


def _activated(conv: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, nn.LeakyReLU(0.1))


class MultiPeriodDiscriminator(nn.Module):
    """Looks at the waveform folded to rows of `period` samples (Kong et al., HiFi-GAN, 2020).

    Shapes:
        [B, 1, T] -> feature maps [B, channels, rows, period], the logits last
    """

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        channels = (1, 32, 128, 512, 1024, 1024)
        self.convs = nn.ModuleList(
            _activated(_conv2d(before, after, (5, 1), (3 if after > before else 1, 1), (2, 0)))
            for before, after in pairwise(channels)
        )
        self.conv_post = _conv2d(1024, 1, (3, 1), padding=(1, 0))

    def forward(self, audio: Tensor) -> list[Tensor]:
        # The reference adds a whole row even where the length is a multiple of the period.
        x = F.pad(audio, (0, self.period - audio.shape[-1] % self.period), mode="reflect")
        x = x.unflatten(-1, (-1, self.period))
        maps = []
        for conv in self.convs:
            x = conv(x)
            maps.append(x)
        return [*maps, self.conv_post(x)]


class MultiBandDiscriminator(nn.Module):
    """Looks at the complex STFT, each band of it with its own convolutions (the paper's multi-band multi-scale one).

    Shapes:
        [B, 1, T] -> feature maps [B, channels, frames, bins], band by band, the logits of all bands last
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        n_bins = window // 2 + 1
        self.bands = [(int(low * n_bins), int(high * n_bins)) for low, high in BANDS]
        self.band_convs = nn.ModuleList(
            nn.ModuleList(
                [
                    _activated(_conv2d(2, 32, (3, 9), padding=(1, 4))),
                    *(_activated(_conv2d(32, 32, (3, 9), (1, 2), (1, 4))) for _ in range(3)),
                    _activated(_conv2d(32, 32, (3, 3), padding=(1, 1))),
                ]
            )
            for _ in self.bands
        )
        self.conv_post = _conv2d(32, 1, (3, 3), padding=(1, 1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        spectrum = self._spectrum(audio)
        maps, ends = [], []
        for (low, high), convs in zip(self.bands, self.band_convs, strict=True):
            x = spectrum[..., low:high]
            assert isinstance(convs, nn.ModuleList)
            for conv in convs:
                x = conv(x)
                maps.append(x)
            ends.append(x)
        return [*maps, self.conv_post(torch.cat(ends, -1))]

    def _spectrum(self, audio: Tensor) -> Tensor:
        """Real and imaginary part [B, 2, frames, bins], with exactly ceil(T / hop) frames."""
        hop = self.window // 4
        right = -audio.shape[-1] % hop
        padding = (self.window - hop) // 2
        audio = F.pad(audio, (padding, padding + right), mode="reflect")
        window = torch.hann_window(self.window, device=audio.device, dtype=audio.dtype)
        stft = torch.stft(audio[:, 0], self.window, hop_length=hop, window=window, return_complex=True)
        # Centred frames that hang over the padded ends are none of the signal's.
        return torch.view_as_real(stft[..., 2:-2]).permute(0, 3, 2, 1)


class Discriminator(nn.Module):
    """All discriminators; the defaults are the paper's.

    Args:
        periods: one multi-period discriminator for each.
        windows: one multi-band discriminator for each window length in samples.
        sample_rate: rate of the audio in Hz.

    Shapes:
        audio [B, 1, T] -> for each sub-discriminator its feature maps, the logits last
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        windows: Sequence[int] = (2048, 1024, 512),
        sample_rate: int = 44100,
    ) -> None:
        super().__init__()
        self.sample_rate = sample_rate
        self.discriminators = nn.ModuleList(
            [
                *(MultiPeriodDiscriminator(period) for period in periods),
                *(MultiBandDiscriminator(window) for window in windows),
            ]
        )

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        audio = audio - audio.mean(-1, keepdim=True)
        audio = 0.8 * audio / (audio.abs().amax(-1, keepdim=True) + 1e-9)
        return [discriminator(audio) for discriminator in self.discriminators]
