"""Codebooks from k-means."""

from __future__ import annotations

from itertools import pairwise

import torch

from dac_codec.model import DAC, DACConfig
from dac_codec.training import codebooks


@torch.no_grad()
def test_each_codebook_takes_a_good_part_of_what_is_left() -> None:
    config = DACConfig(
        encoder_dim=4,
        encoder_rates=(2,),
        latent_dim=24,
        decoder_dim=8,
        decoder_rates=(2,),
        n_codebooks=4,
        codebook_size=64,
    )
    generator = torch.Generator().manual_seed(0)
    model = DAC(config).eval()
    latents = torch.randn(4000, 10, generator=generator) @ torch.randn(10, 24, generator=generator) + 3.0
    codebooks.initialise(model, latents, generator)
    spread = (latents - latents.mean(0)).square().sum()
    left = []
    for n_quantizers in (1, 2, 3, 4):
        quantized = model.quantizer(latents.t()[None], n_quantizers)
        left.append(float((quantized.z[0].t() - latents).square().sum() / spread))
        assert quantized.codes[0, -1].unique().numel() > 50
    assert left[0] < 0.7
    assert all(after < 0.85 * before for before, after in pairwise(left))


def test_k_means_finds_separate_clusters() -> None:
    generator = torch.Generator().manual_seed(1)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    points = points[torch.randperm(len(points), generator=generator)]
    found = codebooks.k_means(points, 6, generator, 10)
    assert float(torch.cdist(centres, found).amin(1).max()) < 0.2
