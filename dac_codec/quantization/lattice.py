"""Lattice vector quantization, and finite scalar quantization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dac_codec.quantization.base import Quantizer
from dac_codec.quantization.scalar import GRID_VECTORS, ScaledQuantizer

Lattice: TypeAlias = Literal["Z", "D", "E8"]


def nearest_z(x: Tensor) -> Tensor:
    """Nearest points of Z^n, the integers, to x [..., n]."""
    return x.round()


def nearest_d(x: Tensor) -> Tensor:
    """Nearest points of D_n, the integers with an even sum, to x [..., n].

    If the rounded values have an odd sum, the one with the largest rounding error is rounded the other way. Source:
    Conway & Sloane, "Fast quantizing and decoding algorithms for lattice quantizers and codes", 1982.

    >>> nearest_d(torch.tensor([0.6, -1.1, 1.7, 0.1])).tolist()
    [1.0, -1.0, 2.0, 0.0]
    >>> nearest_d(torch.tensor([0.6, -1.1, 1.7, 0.8])).tolist()
    [0.0, -1.0, 2.0, 1.0]
    """
    rounded = x.round()
    error = x - rounded
    worst = error.abs().argmax(-1, keepdim=True)
    step = torch.where(error.gather(-1, worst) < 0, -1.0, 1.0).to(x)
    return rounded.scatter_add(-1, worst, step * rounded.sum(-1, keepdim=True).remainder(2))


def nearest_e8(x: Tensor) -> Tensor:
    """Nearest points of E_8, the union of D_8 and D_8 + 1/2, to x [..., 8]: the nearer of two (Conway & Sloane, 1982).

    >>> nearest_e8(torch.tensor([0.1, 0.1, 0.8, 1.3, 2.2, -0.6, -0.7, 0.9])).tolist()
    [0.0, 0.0, 1.0, 1.0, 2.0, 0.0, -1.0, 1.0]
    """
    whole, half = nearest_d(x), nearest_d(x - 0.5) + 0.5
    nearer = (x - half).square().sum(-1, keepdim=True) < (x - whole).square().sum(-1, keepdim=True)
    return torch.where(nearer, half, whole)


_NEAREST: dict[Lattice, Callable[[Tensor], Tensor]] = {"Z": nearest_z, "D": nearest_d, "E8": nearest_e8}


def generators(lattice: Lattice, width: int) -> Tensor:
    """A basis of a lattice as rows [n, n], n being `width` (Conway & Sloane, "Sphere Packings", chapter 4)."""
    if lattice == "Z":
        return torch.eye(width)
    steps = torch.eye(width) - torch.eye(width).roll(1, 1)  # row i: 1 at i, -1 at i + 1
    if lattice == "D":
        return torch.cat([steps[:-1], torch.eye(width)[-2:].sum(0, keepdim=True)])
    return torch.cat([2 * torch.eye(8)[:1], -steps[:6], torch.full((1, 8), 0.5)])


class LatticeQuantizer(Quantizer):
    """Voronoi codes: the r^n points of a lattice within the Voronoi cell of the r times larger lattice around 0.

    A block of n dimensions, divided by its deviations and a step, is mapped to the nearest point of the lattice moved
    by an offset. The codes are its coordinates modulo r, n log2 r bits. A point outside of the cell (overload) moves to
    the centre until it is inside. No table of entries: encoding costs 2 n additions and n^2 products, storage is 3 D
    numbers at any rate. Source: Conway & Sloane, "A fast encoding method for lattice codes and quantizers", 1983.

    Step and offset of a block have the least error on the training vectors, out of a grid.

    >>> quantizer = LatticeQuantizer(8, [2], "E8")
    >>> quantizer.bits, quantizer.storage
    (8.0, 24)

    Args:
        dim: width D.
        ratios: r of each block; the blocks are of equal width.
        lattice: "Z" (a block's cells are cubes), "D", or "E8" (of width 8).
    """

    mean: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, dim: int, ratios: Sequence[int], lattice: Lattice) -> None:
        width = self._width = dim // len(ratios)
        super().__init__(dim, [ratio for ratio in ratios for _ in range(width)])
        if width * len(ratios) != dim or (lattice == "E8" and width != 8) or width < 2 * (lattice == "D"):
            raise ValueError(f"{len(ratios)} blocks of {lattice} do not fill {dim} dimensions")
        self.lattice = lattice
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("offset", torch.zeros(dim))

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        some = x[torch.randperm(len(x), generator=generator)[: GRID_VECTORS // 4]]
        self.mean.copy_(x.mean(0))
        ratio = self._ratio(x).expand(-1, self._width).flatten()
        volume = float(generators(self.lattice, self._width).det().abs()) ** (1 / self._width)
        deviation = x.std(0) / (ratio * volume)
        best = torch.full((self.dim,), math.inf).to(x)
        kept = self.scale.clone(), self.offset.clone()
        starts = torch.rand(2, self.dim, generator=generator).to(x)
        for offset in torch.cat([torch.full_like(starts[:1], 0.5), starts]):
            for half in torch.logspace(math.log10(0.6), math.log10(8.0), 12).tolist():
                self.scale.copy_(2 * half * deviation)
                self.offset.copy_(torch.where(ratio > 1, offset, 0.0))
                error = (self(some) - some).square().mean(0).view(-1, self._width).sum(1, keepdim=True)
                error = error.expand(-1, self._width).flatten()
                better = error < best
                best = torch.where(better, error, best)
                kept = torch.where(better, self.scale, kept[0]), torch.where(better, self.offset, kept[1])
        self.scale.copy_(kept[0])
        self.offset.copy_(kept[1])

    def encode(self, x: Tensor) -> Tensor:
        scaled = self._blocks((x - self.mean) / self.scale)
        offset = self._blocks(self.offset[None])
        codes = self._index(scaled + offset)
        gap = self._points(codes) - (_NEAREST[self.lattice](scaled + offset) - offset)
        outside = (gap.abs() * (self._ratio(gap) > 1)).amax((1, 2)) > 0.25
        if outside.any():
            codes[outside] = self._shrunk(scaled[outside], offset)
        return codes.flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        return self._points(self._blocks(codes)).flatten(1).mul(self.scale).add(self.mean)

    def _shrunk(self, scaled: Tensor, offset: Tensor) -> Tensor:
        """Codes of overloaded blocks [n, blocks, width]: the last point inside, by bisection of the way to 0."""
        low = torch.zeros_like(scaled[..., :1])
        bound = self._ratio(scaled) * math.sqrt(self._width)  # no cell reaches further
        high = (bound / scaled.norm(dim=2, keepdim=True)).clamp(max=1.0)
        for step in range(7):
            middle = (low + high) / 2 if step else high
            moved = middle * scaled + offset
            gap = self._points(self._index(moved)) - (_NEAREST[self.lattice](moved) - offset)
            inside = gap.abs().amax(2, keepdim=True) < 0.25
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return self._index(low * scaled + offset)

    def _index(self, moved: Tensor) -> Tensor:
        """Coordinates modulo r of the lattice points nearest to [n, blocks, width]."""
        basis = generators(self.lattice, self._width).to(moved)
        coordinates = (_NEAREST[self.lattice](moved) @ torch.linalg.inv(basis)).round()
        return torch.remainder(coordinates, self._ratio(moved)).long()

    def _points(self, codes: Tensor) -> Tensor:
        """The point of a class of codes [n, blocks, width] that lies in the Voronoi cell of the larger lattice."""
        ratio = self._ratio(self.offset)
        point = codes.to(self.offset) @ generators(self.lattice, self._width).to(self.offset)
        point = point - self._blocks(self.offset[None])
        return point - ratio * _NEAREST[self.lattice](point / ratio)

    def _blocks(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, self._width)

    def _ratio(self, x: Tensor) -> Tensor:
        return torch.tensor(self.sizes[:: self._width]).to(x)[:, None]


class FiniteScalarQuantizer(ScaledQuantizer):
    """Finite scalar quantization: round(h tanh(x / s)), h = (L - 1) / 2, to L values (Mentzer et al., 2023).

    In a codec, the networks on both sides learn what the values mean. Here, the scale s of a dimension has the least
    error out of a grid, and a value is decoded to the mean of the training values in its cell. Thresholds:
    s atanh((k - h + 1/2) / h). Costs as for any scalar quantizer.

    >>> x = torch.linspace(-1.0, 1.0, 1001)[:, None]
    >>> quantizer = FiniteScalarQuantizer([3])
    >>> quantizer.fit(x, torch.Generator().manual_seed(0))
    >>> [round(value, 1) for value in quantizer(torch.tensor([[-0.9], [0.6]])).flatten().tolist()]
    [-0.7, 0.7]

    Args:
        levels: number L of values of each dimension.
    """

    candidates: Tensor = torch.logspace(-1.0, 1.0, 48)

    def scaled(self, x: Tensor, mean: Tensor, scale: Tensor) -> None:
        half = (torch.tensor(self.sizes, device=x.device)[:, None] - 1) / 2
        number = torch.arange(self.values.shape[1], device=x.device)
        bounded = ((number[:-1] - half + 0.5) / half).clamp(max=1.0)
        self.thresholds.copy_(mean + scale * torch.where(half > 0, bounded, 1.0).atanh())
        # An empty cell decodes to the inverse of its value; the outermost ones are moved inside the range of tanh.
        inverse = (((number - half) / (half + 0.25)).clamp(max=0.999)).atanh() * scale + mean
        means, counts = self.cells(x)
        self.values.copy_(torch.where(counts > 0, means, inverse))
