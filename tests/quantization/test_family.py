"""What holds for every quantizer."""

from __future__ import annotations

import doctest
import math
import pkgutil
from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dac_codec import quantization
from dac_codec.quantization import (
    AdditiveQuantizer,
    CompetitiveQuantizer,
    CompositeQuantizer,
    FiniteScalarQuantizer,
    FiniteStateQuantizer,
    KMeansQuantizer,
    LatticeQuantizer,
    LloydMaxQuantizer,
    OptimizedProductQuantizer,
    PredictiveQuantizer,
    ProductQuantizer,
    Quantizer,
    ResidualQuantizer,
    TreeQuantizer,
    UniformQuantizer,
    snr,
)
from dac_codec.quantization.base import nearest
from tests.quantization.vectors import correlated, error, fitted

# Decoding and encoding again gives the same vector.
STABLE: dict[str, Callable[[], Quantizer]] = {
    "uniform": lambda: UniformQuantizer([4, 3, 2, 1] * 2),
    "Lloyd-Max": lambda: LloydMaxQuantizer([4, 3, 2, 1] * 2),
    "FSQ": lambda: FiniteScalarQuantizer([4, 3, 2, 1] * 2),
    "Z": lambda: LatticeQuantizer(8, [3, 2], "Z"),
    "D": lambda: LatticeQuantizer(8, [4, 1], "D"),
    "E8": lambda: LatticeQuantizer(8, [3], "E8"),
    "k-means": lambda: KMeansQuantizer(8, 16),
    "LBG": lambda: KMeansQuantizer(8, 16, "lbg"),
    "competitive": lambda: CompetitiveQuantizer(8, 16, epochs=2),
    "tree": lambda: TreeQuantizer(8, 5),
    "product": lambda: ProductQuantizer.of_codebooks(8, [8, 16, 4]),
    "optimized product": lambda: OptimizedProductQuantizer(8, [8, 8], 5),
    "predictive": lambda: PredictiveQuantizer(KMeansQuantizer(8, 16), order=2, length=20, rounds=2),
    "finite-state": lambda: FiniteStateQuantizer([KMeansQuantizer(8, 8) for _ in range(3)], length=20, rounds=2),
}
# A sum of entries may be nearer to another sum of the encoder's.
SUMS: dict[str, Callable[[], Quantizer]] = {
    "residual": lambda: ResidualQuantizer(8, [16, 8, 4]),
    "M-search": lambda: ResidualQuantizer(8, [16, 8, 4], beam=4, all_paths=True),
    "joint": lambda: ResidualQuantizer(8, [16, 8, 4], beam=4, design="interleaved", rounds=2),
    "product-residual": lambda: ProductQuantizer([ResidualQuantizer(4, [8, 8]) for _ in range(2)]),
    "additive": lambda: AdditiveQuantizer(8, [16, 8, 4], beam=4, rounds=2, perturbations=2),
    "composite": lambda: CompositeQuantizer(8, [16, 8, 4], beam=4, rounds=2, perturbations=2),
    "predictive residual": lambda: PredictiveQuantizer(ResidualQuantizer(8, [8, 8]), length=20, rounds=2),
}
ALL = STABLE | SUMS


@pytest.mark.parametrize("name", ALL)
def test_codes_bits_and_tables(name: str) -> None:
    x = correlated(300, 8, mean=2.0)
    quantizer = fitted(ALL[name](), x)
    test = correlated(50, 8, seed=1, mean=2.0)
    codes = quantizer.encode(test)
    assert codes.shape == (50, len(quantizer.sizes))
    assert codes.dtype == torch.int64
    assert bool((codes >= 0).all())
    assert bool((codes < torch.tensor(quantizer.sizes)).all())
    assert quantizer.bits == pytest.approx(sum(math.log2(size) for size in quantizer.sizes))
    decoded = quantizer.decode(codes)
    assert decoded.shape == test.shape
    assert snr(test, decoded) > 2.0
    assert torch.equal(quantizer.encode(test), codes), "encoding is deterministic"

    other = ALL[name]()
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other.encode(test), codes)
    assert torch.equal(other.decode(codes), decoded)
    again = fitted(ALL[name](), x)
    assert torch.equal(again.encode(test), codes), "the generator is the only randomness"


@pytest.mark.parametrize("name", STABLE)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 4.0))
@example(seed=954, scale=1.0)  # in the second round, 3 vectors come to a state of 8 entries
def test_decoding_and_encoding_again_changes_nothing(name: str, seed: int, scale: float) -> None:
    quantizer = fitted(STABLE[name](), correlated(200, 8, seed), seed)
    decoded = quantizer(scale * correlated(60, 8, seed + 1))
    assert torch.allclose(quantizer(decoded), decoded, atol=1e-5)


@pytest.mark.parametrize("name", ["k-means", "product", "residual"])
def test_double_precision(name: str) -> None:
    x = correlated(200, 8).double()
    quantizer = fitted(ALL[name]().double(), x)
    assert quantizer(x).dtype == torch.float64


@pytest.mark.parametrize("name", ["k-means", "competitive", "product", "residual", "finite-state"])
def test_too_few_vectors(name: str) -> None:
    with pytest.raises(ValueError, match="vectors are too few for"):
        fitted(ALL[name](), correlated(4, 8))


def test_invalid_sizes() -> None:
    with pytest.raises(ValueError, match="at least 1, not 8 and \\[\\]"):
        ResidualQuantizer(8, [])
    with pytest.raises(ValueError, match="3 blocks of Z do not fill 8 dimensions"):
        LatticeQuantizer(8, [2, 2, 2], "Z")
    with pytest.raises(ValueError, match="2 blocks of E8"):
        LatticeQuantizer(8, [2, 2], "E8")


def test_nearest_is_that_of_all_distances() -> None:
    x, entries = correlated(500, 5), correlated(40, 5, seed=1)
    distances = (x[:, None] - entries).square().sum(2)
    assert torch.equal(nearest(x, entries), distances.argmin(1))


def test_more_bits_less_error() -> None:
    x, test = correlated(2000, 8), correlated(500, 8, seed=1)
    makers: list[Callable[[int], Quantizer]] = [
        lambda bits: KMeansQuantizer(8, 2**bits),
        lambda bits: TreeQuantizer(8, bits),
        lambda bits: LloydMaxQuantizer(quantization.allocate(x.var(0), bits)),
        lambda bits: ResidualQuantizer(8, [4] * (bits // 2), beam=4),
        lambda bits: PredictiveQuantizer(KMeansQuantizer(8, 2**bits)),
    ]
    for make in makers:
        errors = [error(fitted(make(bits), x), test) for bits in (2, 4, 6)]
        assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(quantization.__path__)])
def test_worked_examples(name: str) -> None:
    module = import_module(f"dac_codec.quantization.{name}")
    assert doctest.testmod(module).failed == 0


def test_every_name_is_here() -> None:
    made = {type(make()).__name__ for make in ALL.values()} | {"Quantizer", "LearningVectorQuantizer"}
    assert made == {name for name in quantization.__all__ if name[0].isupper()}
