"""Vector quantization with one codebook, fitted by k-means."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dac_codec.quantization.base import Quantizer, cell_means, nearest

Start: TypeAlias = Literal["random", "k-means++", "lbg"]

_SEEDED = 16  # points per centroid that k-means++ chooses from


class Codebook(Quantizer):
    """K entries, of which the nearest is chosen (Gersho & Gray, "Vector Quantization and Signal Compression", 1992,
    chapter 10). Encoding costs K D products, storage K D numbers: both grow as 2^bits.

    Args:
        dim: width D.
        size: number K of entries.
    """

    entries: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__(dim, [size])
        self.register_buffer("entries", torch.zeros(size, dim))

    def encode(self, x: Tensor) -> Tensor:
        return nearest(x, self.entries)[:, None]

    def decode(self, codes: Tensor) -> Tensor:
        return self.entries[codes[:, 0]]


class KMeansQuantizer(Codebook):
    """A codebook of centroids: `k_means`.

    >>> x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])
    >>> quantizer = KMeansQuantizer(dim=2, size=2)
    >>> quantizer.fit(x, torch.Generator().manual_seed(0))
    >>> sorted(quantizer.entries.tolist())
    [[0.0, 1.0], [10.0, 1.0]]
    >>> (quantizer(x) - x).square().sum().item()
    4.0

    Args:
        dim: width D.
        size: number K of entries.
        start: as for `k_means`.
        iterations: of Lloyd's algorithm.
    """

    def __init__(self, dim: int, size: int, start: Start = "k-means++", iterations: int = 20) -> None:
        super().__init__(dim, size)
        self._start, self._iterations = start, iterations

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        self.entries.copy_(k_means(x, self.sizes[0], generator, self._iterations, self._start))


def k_means(
    points: Tensor, n_centroids: int, generator: torch.Generator, iterations: int = 20, start: Start = "random"
) -> Tensor:
    """Centroids [n_centroids, d] of points [n, d] by Lloyd's algorithm: nearest centroid, then mean of each cell.

    A centroid without points is replaced by a random point. An iteration costs n K d products.

    Args:
        points: at least as many as centroids.
        n_centroids: K.
        generator: source of randomness, on the CPU.
        iterations: of Lloyd's algorithm.
        start: "random": points without replacement; "k-means++": points drawn with a probability in proportion to the
            squared distance to those drawn already (Arthur & Vassilvitskii, 2007), from at most 16 K points; "lbg": the
            mean, split in two along the spread of its cell, and so on, with four iterations after each split (Linde,
            Buzo & Gray, 1980).

    Raises:
        ValueError: fewer points than centroids.
    """
    if len(points) < n_centroids:
        raise ValueError(f"{len(points)} vectors are too few for {n_centroids} codebook entries")
    if start == "lbg":
        centroids = points.mean(0, keepdim=True)
        while len(centroids) < n_centroids:
            centroids = _split(points, centroids, min(n_centroids, 2 * len(centroids)))
            centroids = _lloyd(points, centroids, generator, 4)
    else:
        order = torch.randperm(len(points), generator=generator)
        candidates = points[order[: _SEEDED * n_centroids if start == "k-means++" else n_centroids]]
        centroids = candidates if start == "random" else _plus_plus(candidates, n_centroids, generator)
    return _lloyd(points, centroids, generator, iterations)


def _lloyd(points: Tensor, centroids: Tensor, generator: torch.Generator, iterations: int) -> Tensor:
    """Centroids after some iterations."""
    for _ in range(iterations):
        means, counts = cell_means(points, nearest(points, centroids), len(centroids))
        spare = points[torch.randint(len(points), (len(centroids),), generator=generator)]
        centroids = torch.where(counts[:, None] > 0, means, spare)
    return centroids


def _plus_plus(points: Tensor, n_centroids: int, generator: torch.Generator) -> Tensor:
    """Points [K, d] drawn by k-means++; the first is the first point."""
    chosen = [0]
    distance = (points - points[0]).square().sum(1)
    for _ in range(n_centroids - 1):
        total = distance.cumsum(0, dtype=torch.float64)
        draw = torch.rand((), generator=generator, dtype=torch.float64).to(total.device) * total[-1]
        chosen.append(min(int(torch.searchsorted(total, draw, right=True)), len(points) - 1))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]


def _split(points: Tensor, centroids: Tensor, n_centroids: int) -> Tensor:
    """Centroids [n_centroids, d], at most twice as many: those with the largest error become two."""
    codes = nearest(points, centroids)
    squares, counts = cell_means((points - centroids[codes]).square(), codes, len(centroids))
    worst = (squares.sum(1) * counts).topk(n_centroids - len(centroids)).indices
    shift = 0.1 * squares[worst].sqrt()
    split = centroids.clone()
    split[worst] -= shift
    return torch.cat([split, centroids[worst] + shift])
