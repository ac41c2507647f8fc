"""Composite quantization: sums of entries whose inner products have a constant sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dac_codec.quantization.additive import AdditiveQuantizer


class CompositeQuantizer(AdditiveQuantizer):
    """Additive quantization with sum_{i != j} <e_i, e_j> near a constant c for all vectors.

    Then distances from a query to many coded vectors need M look-ups each (`distances`), as with product quantization,
    while the codebooks are not restricted to parts of the vector. Codes and codebooks minimize

        |x - sum e_i|^2 + penalty / P * (sum_{i != j} <e_i, e_j> - c)^2,    P = mean |x|^2

    the codebooks by L-BFGS, and c is the mean. Costs as for additive quantization, with twice the products in ICM.
    Source: Zhang, Du & Wang, "Composite quantization for approximate nearest neighbor search", 2014.

    >>> quantizer = CompositeQuantizer(2, [2, 2])  # with codebooks of other dimensions, the inner products are 0
    >>> _ = quantizer.entries.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]))
    >>> quantizer.distances(torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 1]])).item()  # from (0, 1) to (2, 3)
    8.0

    Args:
        dim: width D.
        sizes: entries K of each of the M codebooks.
        penalty: weight of the constraint, without unit.
        beam, rounds, perturbations, sweeps: as for `AdditiveQuantizer`.
    """

    weight: Tensor
    constant: Tensor

    def __init__(
        self,
        dim: int,
        sizes: Sequence[int],
        penalty: float = 1.0,
        beam: int = 8,
        rounds: int = 20,
        perturbations: int = 8,
        sweeps: int = 2,
    ) -> None:
        super().__init__(dim, sizes, beam, rounds, perturbations, sweeps)
        self.penalty = penalty
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("constant", torch.zeros(()))

    def cross_terms(self, codes: Tensor) -> Tensor:
        """sum_{i != j} <e_i, e_j> [n] = |sum e_i|^2 - sum |e_i|^2 of codes [n, M]."""
        norms = self.entries.square().sum(1)[self.rows(codes)]
        return self.decode(codes).square().sum(1) - norms.sum(1)

    def errors(self, x: Tensor, codes: Tensor) -> Tensor:
        """Squared error and penalty [n] of codes of x."""
        return super().errors(x, codes) + self.weight * (self.cross_terms(codes) - self.constant).square()

    def costs(self, x: Tensor, others: Tensor, codebook: Tensor, codes: Tensor, stage: int) -> Tensor:
        norms = self.entries.square().sum(1)[self.rows(codes)]
        rest = others.square().sum(1) - norms.sum(1) + norms[:, stage]
        cross = torch.addmm((rest - self.constant)[:, None], others, codebook.t(), alpha=2)
        return super().costs(x, others, codebook, codes, stage) + self.weight * cross.square()

    def refine(self, x: Tensor, generator: torch.Generator) -> None:
        self.weight.copy_(self.penalty / x.square().sum(1).mean())
        self.constant.zero_()
        super().refine(x, generator)

    def update(self, x: Tensor, codes: Tensor) -> None:
        self.constant.copy_(self.cross_terms(codes).mean())
        optimizer = torch.optim.LBFGS([self.entries], max_iter=10, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            self.entries.grad = self._gradient(x, codes)
            return self.errors(x, codes).sum()

        optimizer.step(closure)
        self.entries.grad = None

    def _gradient(self, x: Tensor, codes: Tensor) -> Tensor:
        """Derivative of the sum of `errors` by the entries: 2 (y - x) + 4 weight (cross - c) (y - e_i) for each use."""
        total, gradient = self.decode(codes), torch.zeros_like(self.entries)
        slope = 4 * self.weight * (self.cross_terms(codes) - self.constant)[:, None]
        for row in self.rows(codes).unbind(1):
            gradient.index_add_(0, row, 2 * (total - x) + slope * (total - self.entries[row]))
        return gradient

    def distances(self, queries: Tensor, codes: Tensor) -> Tensor:
        """Squared distances [q, n] from queries [q, D] to coded vectors [n, M], approximately
        sum_i (|e_i|^2 - 2 <q, e_i>) + c + |q|^2. K D M products per query for its table, and M additions per vector."""
        table = self.entries.square().sum(1) - 2 * queries @ self.entries.t()
        looked_up = torch.cat([table[:, rows].sum(2) for rows in self.rows(codes).split(4096)], 1)
        return looked_up + self.constant + queries.square().sum(1, keepdim=True)
