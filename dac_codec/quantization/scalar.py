"""Scalar quantization: each dimension on its own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dac_codec.quantization.base import Quantizer, cell_means

GRID_VECTORS = 8192  # training vectors that a grid search uses


class ScalarQuantizer(Quantizer):
    """A quantizer for each dimension: code k if the value lies above k thresholds.

    Encoding costs log2 L comparisons a dimension; storage is 2 L - 1 numbers a dimension.

    Args:
        levels: number L of values of each of the D dimensions.
    """

    thresholds: Tensor
    values: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__(len(levels), levels)
        self.register_buffer("thresholds", torch.full((self.dim, max(levels) - 1), math.inf))
        self.register_buffer("values", torch.zeros(self.dim, max(levels)))

    def encode(self, x: Tensor) -> Tensor:
        return torch.searchsorted(self.thresholds, x.t().contiguous()).t()

    def decode(self, codes: Tensor) -> Tensor:
        return self.values.gather(1, codes.t()).t()

    @property
    def storage(self) -> int:
        return sum(2 * size - 1 for size in self.sizes)

    def cells(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means [D, max L] of the training values in each cell, and their counts."""
        codes = self.encode(x) + torch.arange(self.dim, device=x.device) * self.values.shape[1]
        means, counts = cell_means(x.flatten(), codes.flatten(), self.values.numel())
        return means.view_as(self.values), counts.view_as(self.values)

    def place(self, values: Tensor) -> None:
        """Set values [D, max L], and thresholds halfway between them: the nearest value is chosen."""
        last = torch.tensor(self.sizes, device=values.device)[:, None] - 1
        number = torch.arange(self.thresholds.shape[1], device=values.device)
        self.values.copy_(values)
        self.thresholds.copy_(torch.where(number < last, (values[:, 1:] + values[:, :-1]) / 2, math.inf))


class ScaledQuantizer(ScalarQuantizer):
    """Cells of one shape, scaled to each dimension by the least squared error among `candidates` [S] of scales."""

    candidates: Tensor

    @abstractmethod
    def scaled(self, x: Tensor, mean: Tensor, scale: Tensor) -> None:
        """Set the tables for a mean and a scale of each dimension [D, 1], with training vectors x [n, D]."""

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        some = x[torch.randperm(len(x), generator=generator)[:GRID_VECTORS]]
        mean, deviation = x.mean(0)[:, None], x.std(0)[:, None]
        errors = []
        for candidate in self.candidates:
            self.scaled(some, mean, candidate * deviation)
            errors.append((self(some) - some).square().mean(0))
        best = self.candidates.to(x)[torch.stack(errors).argmin(0)]
        self.scaled(x, mean, best[:, None] * deviation)


class UniformQuantizer(ScaledQuantizer):
    """Uniform steps d: values m + d (k - (L - 1) / 2), m the mean. d has the least error of 48 steps
    (Max, "Quantizing for minimum distortion", 1960).

    >>> x = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(100000.0) + 0.5) / 100000)[:, None]
    >>> quantizer = UniformQuantizer([4])
    >>> quantizer.fit(x, torch.Generator().manual_seed(0))
    >>> step = quantizer.values[0].diff()[0].item()
    >>> print(f"{(quantizer(x) - x).square().mean().item():.3f}, {step:.1f}")  # Max, table II: 0.1188 at 0.9957
    0.119, 1.0
    """

    candidates: Tensor = torch.logspace(math.log10(0.4), math.log10(8.0), 48)  # half the range, in standard deviations

    def scaled(self, x: Tensor, mean: Tensor, scale: Tensor) -> None:
        levels = torch.tensor(self.sizes, device=x.device)[:, None]
        number = torch.arange(self.values.shape[1], device=x.device)
        self.place(mean + 2 * scale / levels * (number - (levels - 1) / 2))


class LloydMaxQuantizer(ScalarQuantizer):
    """The scalar quantizer with the least error: thresholds halfway between values, values the means of their cells,
    repeated (Lloyd, "Least squares quantization in PCM", 1957/1982; Max, 1960).

    >>> x = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(100000.0) + 0.5) / 100000)[:, None]
    >>> quantizer = LloydMaxQuantizer([4])
    >>> quantizer.fit(x, torch.Generator())
    >>> [round(value, 3) for value in quantizer.values[0].tolist()]  # Max, table I: 0.4528 and 1.510
    [-1.51, -0.453, 0.453, 1.51]
    >>> round((quantizer(x) - x).square().mean().item(), 4)
    0.1175

    Args:
        levels: number L of values of each dimension.
        iterations: of the two conditions.
    """

    def __init__(self, levels: Sequence[int], iterations: int = 100) -> None:
        super().__init__(levels)
        self.iterations = iterations

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        levels = torch.tensor(self.sizes, device=x.device)[:, None]
        share = ((torch.arange(self.values.shape[1], device=x.device) + 0.5) / levels).clamp(max=1.0)
        quantiles = (share * (len(x) - 1)).round().long()
        self.place(x.sort(0).values.t().gather(1, quantiles))
        for _ in range(self.iterations):
            means, counts = self.cells(x)
            self.place(torch.where(counts > 0, means, self.values))


def allocate(variances: Tensor, bits: float, width: int = 1) -> list[int]:
    """Levels of each dimension, or of each block of `width` dimensions, that spend at most `bits`.

    The error of a Gaussian dimension with L levels is about its variance over L^2. A level goes where it reduces the
    error most for its bits, until none fits: reverse water-filling (Cover & Thomas, "Elements of Information Theory",
    section 10.3.3) with whole levels.

    >>> allocate(torch.tensor([16.0, 4.0, 0.01]), 5.0)
    [8, 4, 1]

    Args:
        variances: of each dimension or block [B].
        bits: of a vector.
        width: dimensions of a block, all of which get the same levels.

    Returns:
        B levels of at least 1.
    """
    variance, levels = variances.double(), torch.ones(len(variances), dtype=torch.float64)
    left = bits
    while True:
        cost = width * torch.log2((levels + 1) / levels)
        gain = variance * (levels**-2 - (levels + 1) ** -2) / cost
        best = int(torch.where(cost <= left + 1e-9, gain, -1.0).argmax())
        if float(cost[best]) > left + 1e-9:
            return [int(level) for level in levels]
        left -= float(cost[best])
        levels[best] += 1
