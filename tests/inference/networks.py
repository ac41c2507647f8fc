"""Small networks with random weights, and helpers to cut signals into chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.model.layers import Snake, convolutions
from dac_codec.model.quantizer import FiniteScalarQuantize

TINY = DACConfig(
    encoder_dim=2,
    encoder_rates=(2, 3),
    latent_dim=6,
    decoder_dim=8,
    decoder_rates=(3, 2),
    n_codebooks=3,
    codebook_dim=4,
)


def lively(config: DACConfig, dtype: torch.dtype = torch.float64) -> DAC:
    """A network with random weights that keep the signal's level; freshly initialized ones output almost zero."""
    generator = torch.Generator().manual_seed(0)
    model = DAC(config)
    with torch.no_grad():
        for conv in convolutions(model):
            fan_in = conv.in_channels * conv.kernel_size[0] / (conv.stride[0] if conv in up_samplings(model) else 1)
            conv.weight = torch.randn(conv.weight.shape, generator=generator) / math.sqrt(fan_in)
            conv.bias.copy_(0.1 * torch.randn(conv.bias.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, Snake):
                module.alpha.copy_(0.5 + torch.rand(module.alpha.shape, generator=generator))
        learned = [stage for stage in model.quantizer.stages() if not isinstance(stage, FiniteScalarQuantize)]
        for stage in learned:
            stage.codebook.weight.copy_(torch.randn(stage.codebook.weight.shape, generator=generator))
    return model.to(dtype).eval()


def up_samplings(model: DAC) -> set[torch.nn.Module]:
    return {conv for conv in convolutions(model) if isinstance(conv, torch.nn.ConvTranspose1d)}


def shape_of(preset: str, causal: bool = False) -> DACConfig:
    """A preset with few channels."""
    return replace(
        PRESETS[preset],
        encoder_dim=2,
        latent_dim=8,
        decoder_dim=32,
        n_codebooks=3,
        codebook_size=256,
        causal=causal,
    )


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pieces(signal: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """The signal in chunks of these sizes, repeated to its end."""
    start = index = 0
    while start < signal.shape[-1]:
        size = sizes[index % len(sizes)]
        yield signal[..., start : start + size]
        start, index = start + size, index + 1


def run(push: Callable[[Tensor], Tensor], flush: Callable[[], Tensor], chunks: Iterator[Tensor]) -> Tensor:
    """The concatenated output of a stream."""
    return torch.cat([*map(push, chunks), flush()], -1)
