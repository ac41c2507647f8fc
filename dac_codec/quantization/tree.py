"""Tree-structured vector quantization."""

from __future__ import annotations

import torch
from torch import Tensor

from dac_codec.quantization.base import Quantizer, cell_means


class TreeQuantizer(Quantizer):
    """A binary tree: each code chooses the nearer of the two children of a node; the last node is the output.

    Level l has 2^l nodes; node i has the children 2 i and 2 i + 1. Encoding costs 2 D products a bit instead of the
    2^bits D of a full search; storage is twice that of a codebook. A vector may be led away from its nearest leaf.
    Sources: Buzo, Gray, Gray & Markel, "Speech coding based upon vector quantization", 1980; Gersho & Gray, section
    12.4.

    >>> x = torch.tensor([[0.0], [1.0], [10.0], [13.0]])
    >>> quantizer = TreeQuantizer(dim=1, depth=2)
    >>> quantizer.fit(x, torch.Generator())
    >>> quantizer.encode(x).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> quantizer.decode(torch.tensor([[1, 0]])).tolist()
    [[10.0]]

    Args:
        dim: width D.
        depth: bits of a vector.
        iterations: of Lloyd's algorithm at each level.
    """

    nodes: Tensor

    def __init__(self, dim: int, depth: int, iterations: int = 10) -> None:
        super().__init__(dim, [2] * depth)
        self.iterations = iterations
        self.register_buffer("nodes", torch.zeros(2 ** (depth + 1), dim))  # level l starts at 2^l

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        """Split all nodes of a level at once: two-means in each, started along the principal axis of its cell."""
        self.nodes[1] = x.mean(0)
        place = torch.ones(len(x), dtype=torch.long, device=x.device)
        for level in range(1, len(self.sizes) + 1):
            size = 2**level  # nodes of the level, which start at this index too
            parents = self.nodes[size // 2 : size]
            shift = self._axes(x, place - size // 2, size // 2)
            children = torch.stack([parents - shift, parents + shift], 1).flatten(0, 1)
            self.nodes[size : 2 * size] = children
            for _ in range(self.iterations):
                means, counts = cell_means(x, self._child(x, place) - size, size)
                # An empty child stays at its parent: never nearer than its sibling, which holds all vectors.
                means = torch.where(counts[:, None] > 0, means, parents.repeat_interleave(2, 0))
                self.nodes[size : 2 * size] = means
            place = self._child(x, place)

    def _axes(self, x: Tensor, codes: Tensor, size: int) -> Tensor:
        """A standard deviation along the principal axis of each cell [size, D], by power iteration."""
        means, _ = cell_means(x, codes, size)
        centred = x - means[codes]
        axes = cell_means(centred.square(), codes, size)[0].sqrt()
        for _ in range(8):
            along = (centred * axes[codes]).sum(1, keepdim=True)
            axes = torch.nn.functional.normalize(cell_means(centred * along, codes, size)[0])
        along = (centred * axes[codes]).sum(1)
        return axes * cell_means(along.square(), codes, size)[0].sqrt()[:, None]

    def _child(self, x: Tensor, place: Tensor) -> Tensor:
        """The nodes [n] below `place` [n] that are nearer to x [n, D]."""
        left, right = self.nodes[2 * place], self.nodes[2 * place + 1]
        return 2 * place + ((x - right).square().sum(1) < (x - left).square().sum(1))

    def encode(self, x: Tensor) -> Tensor:
        place = torch.ones(len(x), dtype=torch.long, device=x.device)
        codes = []
        for _ in self.sizes:
            place = self._child(x, place)
            codes.append(place % 2)
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        place = torch.ones(len(codes), dtype=torch.long, device=codes.device)
        for code in codes.unbind(1):
            place = 2 * place + code
        return self.nodes[place]
