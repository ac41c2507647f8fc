"""Faiss as the judge: the same kinds of quantizers, on the same vectors, at the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dac_codec.quantization import (
    AdditiveQuantizer,
    OptimizedProductQuantizer,
    ProductQuantizer,
    Quantizer,
    ResidualQuantizer,
    snr,
)
from tests.quantization.vectors import correlated, fitted

DIM, STAGES, BITS = 16, 4, 5
SIZES = [2**BITS] * STAGES
MARGIN = 0.05  # dB


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    faiss.omp_set_num_threads(1)


def vectors() -> tuple[Tensor, Tensor]:
    """Training vectors and others, of dimensions that are mixed up."""
    mix = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(7)))[0]
    return correlated(3000, DIM) @ mix, correlated(1500, DIM, seed=1) @ mix


class _Rotated:
    """A product quantizer behind a fitted rotation."""

    def __init__(self) -> None:
        self.rotation, self.product = faiss.OPQMatrix(DIM, STAGES), faiss.ProductQuantizer(DIM, STAGES, BITS)
        self.rotation.pq = self.product
        self.rotation.niter = 30

    def train(self, x: NDArray[np.float32]) -> None:
        self.rotation.train(x)
        self.product.train(self.rotation.apply(x))

    def compute_codes(self, x: NDArray[np.float32]) -> Any:
        return self.product.compute_codes(self.rotation.apply(x))

    def decode(self, codes: Any) -> Any:
        return self.rotation.reverse_transform(self.product.decode(codes))


def residual(beam: int, refine: bool = False) -> Any:
    quantizer = faiss.ResidualQuantizer(DIM, STAGES, BITS)
    quantizer.max_beam_size = beam
    if refine:
        quantizer.train_type |= faiss.ResidualQuantizer.Train_refine_codebook
    return quantizer


def halves() -> Quantizer:
    return ProductQuantizer([ResidualQuantizer(DIM // 2, SIZES[:2], 5, all_paths=True) for _ in range(2)])


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Quantizer]]] = {
    "product": (lambda: faiss.ProductQuantizer(DIM, STAGES, BITS), lambda: ProductQuantizer.of_codebooks(DIM, SIZES)),
    "optimized product": (_Rotated, lambda: OptimizedProductQuantizer(DIM, SIZES)),
    "residual, greedy": (lambda: residual(1), lambda: ResidualQuantizer(DIM, SIZES)),
    "residual, 5 paths": (lambda: residual(5), lambda: ResidualQuantizer(DIM, SIZES, 5, all_paths=True)),
    "residual, joint": (
        lambda: residual(5, refine=True),
        lambda: ResidualQuantizer(DIM, SIZES, 5, "interleaved", all_paths=True),
    ),
    "product-residual": (lambda: faiss.ProductResidualQuantizer(DIM, 2, STAGES // 2, BITS), halves),
    "additive": (
        lambda: faiss.LocalSearchQuantizer(DIM, STAGES, BITS),
        lambda: AdditiveQuantizer(DIM, SIZES, rounds=10),
    ),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_as_good_as_faiss(kind: str) -> None:
    x, test = vectors()
    theirs, ours = PAIRS[kind][0](), fitted(PAIRS[kind][1](), x)
    assert ours.bits == STAGES * BITS
    theirs.train(x.numpy())
    expected = snr(test, torch.from_numpy(theirs.decode(theirs.compute_codes(test.numpy()))))
    print(f"{kind}: {snr(test, ours(test)):.3f} dB, Faiss {expected:.3f} dB")
    assert snr(test, ours(test)) > expected - MARGIN
