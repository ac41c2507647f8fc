"""The losses of the paper (section 3.4), and others; the distances are those of `common.spectral`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.common.spectral import (
    MultiScaleMel,
    Spectra,
    compressed_distance,
    envelope_distance,
    multi_scale_stft,
    si_sdr,
)
from dac_codec.training.config import LossConfig


class ReconstructionLosses(nn.Module):
    """Distances between a decoded signal and the original: those with a weight above 0 in the configuration."""

    def __init__(self, config: LossConfig, sample_rate: int) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = sample_rate
        self.mel: MultiScaleMel = MultiScaleMel(sample_rate, config.mel_bands, config.mel_windows)

    def forward(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        """Unweighted scalars by name, for audio [B, 1, T]. Each spectrogram is computed once for all of them."""
        if self.config.centred:
            estimate, reference = (Spectra(one - one.mean(-1, keepdim=True)) for one in (fake, real))
        else:
            estimate, reference = Spectra(fake), Spectra(real)
        losses: dict[str, Callable[[], Tensor]] = {
            "mel": lambda: self.mel(estimate, reference),
            "stft": lambda: multi_scale_stft(estimate, reference, self.config.stft_windows),
            "waveform": lambda: F.l1_loss(fake, real),
            "si_sdr": lambda: -si_sdr(fake, real).mean(),
            "compressed": lambda: compressed_distance(estimate, reference),
            "envelope": lambda: envelope_distance(estimate, reference, self.sample_rate),
        }
        return {name: loss() for name, loss in losses.items() if getattr(self.config, name)}


def discriminator_loss(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Least-squares loss of the discriminators, from the feature maps of each sub-discriminator, the logits last."""
    return torch.stack(
        [
            one[-1].float().square().mean() + (1 - other[-1].float()).square().mean()
            for one, other in zip(fake, real, strict=True)
        ]
    ).sum()


def halves(maps: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """The feature maps of the first and of the second half of a batch."""
    split = [[tuple(one.chunk(2)) for one in group] for group in maps]
    return [[first for first, _ in group] for group in split], [[second for _, second in group] for group in split]


def generator_losses(fake: list[list[Tensor]], real: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Least-squares adversarial loss, and feature matching loss: the summed L1 distances of all maps but the logits."""
    adversarial = torch.stack([(1 - one[-1].float()).square().mean() for one in fake]).sum()
    matching = torch.stack(
        [
            F.l1_loss(one_map.float(), other_map.detach().float())
            for one, other in zip(fake, real, strict=True)
            for one_map, other_map in zip(one[:-1], other[:-1], strict=True)
        ]
    ).sum()
    return adversarial, matching


def weighted_sum(losses: dict[str, Tensor], config: LossConfig) -> Tensor:
    """Weighted sum of the losses, which the generator minimizes."""
    return torch.stack([getattr(config, name) * loss for name, loss in losses.items()]).sum()
