"""Entries of sums by least squares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def least_squares(
    x: Tensor, rows: Tensor, entries: Tensor, ridge: float, iterations: int = 25, maps: Sequence[Tensor] | None = None
) -> Tensor:
    """Entries E [K, d] with the least |x - A E|^2 + ridge |E - entries|^2, where A E adds up the entries that `rows`
    [n, M] choose, each multiplied by the matrix [d, D] of its stage in `maps`, if given.

    By conjugate gradients, scaled by the diagonal of A^T A, from `entries` on: no step makes the sum larger. An
    iteration costs 2 n M D additions, and 2 K M d D products with maps; A^T A, with K^2 numbers, is not formed.

    >>> least_squares(torch.tensor([[1.0], [3.0]]), torch.tensor([[0], [0]]), torch.zeros(1, 1), ridge=2.0).item()
    1.0
    """
    n_parts = 1 if maps is None else len(maps)
    places = rows if maps is None else rows + len(entries) * torch.arange(n_parts, device=rows.device)

    def decoded(e: Tensor) -> Tensor:
        table = e if maps is None else torch.cat([e @ one for one in maps])
        return F.embedding_bag(places, table, mode="sum")

    def adjoint(y: Tensor) -> Tensor:
        sums = y.new_zeros(n_parts * len(entries), y.shape[1])
        for column in places.unbind(1):
            sums.index_add_(0, column, y)
        if maps is None:
            return sums
        return torch.stack([part @ one.t() for part, one in zip(sums.chunk(n_parts), maps, strict=True)]).sum(0)

    counts = torch.bincount(places.flatten(), minlength=n_parts * len(entries)).to(x).view(n_parts, -1, 1)
    lengths = 1.0 if maps is None else torch.stack([one.square().sum(1) for one in maps])[:, None]
    scale = (counts * lengths).sum(0) + max(ridge, 1e-6)
    change = torch.zeros_like(entries)
    left = adjoint(x - decoded(entries))
    direction = left / scale
    product = (left * direction).sum()
    for _ in range(iterations):
        curved = adjoint(decoded(direction)) + ridge * direction
        step = product / (direction * curved).sum().clamp(min=torch.finfo(x.dtype).tiny)
        change += step * direction
        left = left - step * curved
        before, product = product, (left * left / scale).sum()
        direction = left / scale + product / before.clamp(min=torch.finfo(x.dtype).tiny) * direction
    return entries + change
