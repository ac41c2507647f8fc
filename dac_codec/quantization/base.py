"""The interface of all quantizers, and what several of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

_VALUES_AT_ONCE = 1 << 22
"""Distances computed at a time: a block of them stays in the processor's cache."""


class Quantizer(nn.Module, ABC):
    """Maps vectors [n, D] to codes [n, M], and codes to vectors.

    Its tables are buffers, so that `state_dict`, `load_state_dict`, `to` and `double` work as for any module. Encoding
    is deterministic. Costs in the docstrings are multiplications for one vector, and numbers stored.

    Attributes:
        dim: width D of the vectors.
        sizes: number of values of each of the M codes.
    """

    def __init__(self, dim: int, sizes: Sequence[int]) -> None:
        super().__init__()
        if dim < 1 or not sizes or min(sizes) < 1:
            raise ValueError(f"expected a dimension and sizes of at least 1, not {dim} and {list(sizes)}")
        self.dim = dim
        self.sizes: tuple[int, ...] = tuple(sizes)

    @property
    def bits(self) -> float:
        """Bits of a vector at a fixed rate: the sum of log2 of the sizes."""
        return sum(math.log2(size) for size in self.sizes)

    @property
    def storage(self) -> int:
        """Numbers that the tables hold."""
        return sum(buffer.numel() for buffer in self.buffers())

    @abstractmethod
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        """Fit the tables to training vectors x [n, D]; `generator`, on the CPU, is the source of randomness.

        Raises:
            ValueError: fewer vectors than entries.
        """

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Codes [n, M], int64, of vectors x [n, D]."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Vectors [n, D] of codes [n, M]."""

    def forward(self, x: Tensor) -> Tensor:
        """The decoded codes of x [n, D]."""
        return self.decode(self.encode(x))


def snr(x: Tensor, decoded: Tensor) -> float:
    """Signal-to-noise ratio in dB of vectors [n, D]: the variance of x over the mean squared error.

    >>> round(snr(torch.tensor([[1.0], [-1.0]]), torch.tensor([[0.9], [-0.9]])), 3)
    20.0
    """
    power = (x - x.mean(0)).double().square().sum()
    return 10 * math.log10(float(power / (x - decoded).double().square().sum()))


def blocks(x: Tensor, width: int) -> Iterator[Tensor]:
    """Parts of the rows of x, so small that `width` numbers for each row fit into the cache."""
    yield from x.split(max(1, _VALUES_AT_ONCE // width))


def nearest(x: Tensor, entries: Tensor) -> Tensor:
    """Indices [n] of the entries [K, D] that are nearest to x [n, D]; of equally near ones, the first. K D products.

    >>> nearest(torch.tensor([[0.2], [0.9]]), torch.tensor([[1.0], [0.0]])).tolist()
    [1, 0]
    """
    half = entries.square().sum(1) / 2  # |x - e|^2 / 2 = |x|^2 / 2 - x e + |e|^2 / 2
    return torch.cat([torch.addmm(half, part, entries.t(), alpha=-1).argmin(1) for part in blocks(x, len(entries))])


def cell_means(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Means [size, ...] of the rows of x [n, ...] with each code, 0 where there are none, and their counts [size].

    The mean of a cell is the entry with the least squared error (the centroid condition).
    """
    counts = torch.bincount(codes, minlength=size)
    sums = x.new_zeros(size, *x.shape[1:]).index_add_(0, codes, x)
    return sums / counts.clamp(min=1).view(-1, *[1] * (x.ndim - 1)), counts
