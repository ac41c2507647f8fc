"""Vectors that the tests quantize."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dac_codec.quantization import Quantizer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(n: int, dim: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Gaussian vectors [n, dim] of which neighbouring dimensions have the correlation 0.9."""
    x = torch.randn(n, dim, generator=generator(seed))
    for index in range(1, dim):
        x[:, index] = 0.9 * x[:, index - 1] + math.sqrt(0.19) * x[:, index]
    return x + mean


def gauss_markov(n: int, dim: int, seed: int = 0) -> Tensor:
    """Successive samples of a source with the correlation 0.9, `dim` at a time [n, dim]."""
    return correlated(1, n * dim, seed).view(n, dim)


def fitted(quantizer: Quantizer, x: Tensor, seed: int = 0) -> Quantizer:
    quantizer.fit(x, generator(seed))
    return quantizer


def error(quantizer: Quantizer, x: Tensor) -> float:
    """Mean squared error for each dimension."""
    return float((x - quantizer(x)).square().mean())
