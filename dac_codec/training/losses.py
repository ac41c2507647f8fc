"""The adversarial losses of the paper (section 3.4); the reconstruction losses are in `dac_codec.spectral`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def discriminator_loss(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Least-squares loss of the discriminators; each list holds a sub-discriminator's maps, the logits last."""
    return torch.stack(
        [one[-1].square().mean() + (1 - other[-1]).square().mean() for one, other in zip(fake, real, strict=True)]
    ).sum()


def generator_losses(fake: list[list[Tensor]], real: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Least-squares adversarial loss, and feature matching: the L1 distance of all maps but the logits, summed."""
    adversarial = torch.stack([(1 - one[-1]).square().mean() for one in fake]).sum()
    matching = torch.stack(
        [
            F.l1_loss(one_map, other_map.detach())
            for one, other in zip(fake, real, strict=True)
            for one_map, other_map in zip(one[:-1], other[:-1], strict=True)
        ]
    ).sum()
    return adversarial, matching
