"""Product quantization: parts of the vector have quantizers of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dac_codec.quantization.base import Quantizer, cell_means
from dac_codec.quantization.kmeans import KMeansQuantizer


def divided(dim: int, parts: int) -> list[int]:
    """Widths of nearly equal parts of `dim` dimensions.

    >>> divided(16, 3)
    [6, 5, 5]
    """
    return [dim // parts + (index < dim % parts) for index in range(parts)]


class ProductQuantizer(Quantizer):
    """The first dimensions go to the first part, the next ones to the second, and so on (Jegou, Douze & Schmid,
    "Product quantization for nearest neighbor search", 2011).

    Costs are the sums of those of the parts: with M codebooks of K entries, K D products and K D numbers for M log2 K
    bits. What the parts have in common is not used.

    >>> quantizer = ProductQuantizer.of_codebooks(16, [256, 256])
    >>> quantizer.bits, quantizer.storage
    (16.0, 4096)

    Args:
        parts: a quantizer of each part; residual quantizers give a product-residual quantizer.
    """

    def __init__(self, parts: Sequence[Quantizer]) -> None:
        super().__init__(sum(part.dim for part in parts), [size for part in parts for size in part.sizes])
        self._parts = nn.ModuleList(parts)

    @classmethod
    def of_codebooks(cls, dim: int, sizes: Sequence[int]) -> ProductQuantizer:
        """Codebooks for parts of nearly equal width, fitted by k-means."""
        return cls([KMeansQuantizer(width, size) for width, size in zip(divided(dim, len(sizes)), sizes, strict=True)])

    @property
    def parts(self) -> list[Quantizer]:
        """The quantizers, in order."""
        return [part for part in self._parts if isinstance(part, Quantizer)]

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The columns of x [n, D] of each part."""
        return torch.split(x, [part.dim for part in self.parts], 1)

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        for part, columns in zip(self.parts, self.split(x), strict=True):
            part.fit(columns, generator)

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([part.encode(columns) for part, columns in zip(self.parts, self.split(x), strict=True)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        columns = codes.split([len(part.sizes) for part in self.parts], 1)
        return torch.cat([part.decode(own) for part, own in zip(self.parts, columns, strict=True)], 1)


class OptimizedProductQuantizer(Quantizer):
    """Product quantization after a rotation R that is fitted with the codebooks (Ge et al., "Optimized product
    quantization", 2013).

    Codebooks and rotation take turns: one step of k-means on x R, then the orthogonal Procrustes problem
    min |x R - y|^2 for the decoded y: R = U V^T with U S V^T the singular value decomposition of x^T y (Schoenemann,
    1966). The start is their parametric solution: principal axes, dealt out so that the parts have equal products of
    variances. Encoding costs D^2 products more than product quantization, storage D^2 numbers.

    Args:
        dim: width D.
        sizes: entries of each codebook.
        iterations: turns.
    """

    rotation: Tensor

    def __init__(self, dim: int, sizes: Sequence[int], iterations: int = 50) -> None:
        super().__init__(dim, sizes)
        self.iterations = iterations
        self.product: ProductQuantizer = ProductQuantizer.of_codebooks(dim, sizes)
        self.register_buffer("rotation", torch.eye(dim))

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        self.rotation.copy_(_balanced_axes(x, [part.dim for part in self.product.parts]))
        self.product.fit(x @ self.rotation, generator)
        for _ in range(self.iterations):
            rotated = x @ self.rotation
            codes, split = self.product.encode(rotated), self.product.split(rotated)
            for part, columns, code in zip(self.product.parts, split, codes.unbind(1), strict=True):
                if isinstance(part, KMeansQuantizer):
                    means, counts = cell_means(columns, code, part.sizes[0])
                    part.entries.copy_(torch.where(counts[:, None] > 0, means, part.entries))
            u, _, v = torch.linalg.svd(x.t() @ self.product.decode(codes))
            self.rotation.copy_(u @ v)

    def encode(self, x: Tensor) -> Tensor:
        return self.product.encode(x @ self.rotation)

    def decode(self, codes: Tensor) -> Tensor:
        return self.product.decode(codes).matmul(self.rotation.t())


def _balanced_axes(x: Tensor, widths: Sequence[int]) -> Tensor:
    """Principal axes of x [n, D] as columns [D, D]: each, from the largest variance on, goes to the part with the
    smallest product of variances that has room (Ge et al., section 3.3)."""
    centred = x - x.mean(0)
    variances, axes = torch.linalg.eigh(centred.t() @ centred / len(x))
    logs = variances.clamp(min=1e-12 * float(variances.max())).log().tolist()
    chosen: list[list[int]] = [[] for _ in widths]
    # Variances below 1 would make a product smaller: they are measured from the smallest one.
    for axis in reversed(range(len(logs))):
        room = [part for part, width in enumerate(widths) if len(chosen[part]) < width]
        least = min(room, key=lambda part: sum(logs[other] - logs[0] for other in chosen[part]))
        chosen[least].append(axis)
    order = torch.tensor([axis for part in chosen for axis in part], device=x.device)
    return torch.index_select(axes, 1, order)
