"""Scalars, trees, and lattices: the nearest point by brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dac_codec.quantization import (
    KMeansQuantizer,
    LatticeQuantizer,
    LloydMaxQuantizer,
    TreeQuantizer,
    UniformQuantizer,
    allocate,
)
from dac_codec.quantization.lattice import FiniteScalarQuantizer, Lattice, generators, nearest_d, nearest_e8, nearest_z
from tests.quantization.vectors import correlated, error, fitted, generator

COORDINATE = st.floats(-50.0, 50.0, width=32)


def brute_force(x: Tensor, points: Tensor) -> float:
    """Squared distance from x [n] to the nearest of points [N, n]."""
    return float((points - x).square().sum(1).min())


def around(x: Tensor, reach: int = 2) -> Tensor:
    """All integer vectors within `reach` of x [n]."""
    steps = torch.tensor(list(itertools.product(range(-reach, reach + 1), repeat=len(x))), dtype=x.dtype)
    return x.round() + steps


@settings(deadline=None)
@given(st.lists(COORDINATE, min_size=2, max_size=5))
def test_nearest_points_of_d(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float64)
    point = nearest_d(x)
    assert torch.equal(point, point.round())
    assert float(point.sum()) % 2 == 0
    every = around(x)
    assert float((x - point).square().sum()) == pytest.approx(brute_force(x, every[every.sum(1) % 2 == 0]), abs=1e-9)
    assert float((x - nearest_z(x)).square().sum()) == pytest.approx(brute_force(x, every), abs=1e-9)


def short_vectors() -> Tensor:
    """The 240 + 2160 vectors of E_8 of squared length 2 and 4, which bound its Voronoi cell."""
    whole = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=8)), dtype=torch.float64)
    halves = torch.tensor(list(itertools.product((-0.5, 0.5), repeat=8)), dtype=torch.float64)
    longer = [halves * (1 + 2 * torch.eye(8, dtype=torch.float64)[index]) for index in range(8)]
    twos = 2 * torch.eye(8, dtype=torch.float64)
    every = torch.cat([whole, halves, *longer, twos, -twos])
    squares = every.square().sum(1)
    return every[(every.sum(1) % 2 == 0) & ((squares == 2) | (squares == 4))]


SHORT = short_vectors()


@settings(deadline=None)
@given(st.lists(COORDINATE, min_size=8, max_size=8))
def test_nearest_points_of_e8(values: list[float]) -> None:
    """A lattice point is nearest if no short vector leads to a nearer one."""
    assert len(SHORT) == 240 + 2160
    x = torch.tensor(values, dtype=torch.float64)
    point = nearest_e8(x)
    assert torch.equal((2 * point).round(), 2 * point)
    assert len((point % 1).unique()) == 1
    assert float(point.sum()) % 2 == 0
    assert float((x - point).square().sum()) <= brute_force(x, point + SHORT) + 1e-9


@pytest.mark.parametrize(("lattice", "width", "volume"), [("Z", 3, 1.0), ("D", 4, 2.0), ("E8", 8, 1.0)])
def test_generators_span_the_lattice(lattice: Lattice, width: int, volume: float) -> None:
    basis = generators(lattice, width)
    assert float(basis.det().abs()) == pytest.approx(volume)
    near = {"Z": nearest_z, "D": nearest_d, "E8": nearest_e8}[lattice]
    assert torch.equal(near(basis), basis), "its rows are lattice points"


@pytest.mark.parametrize(("lattice", "width", "ratio"), [("Z", 2, 3), ("D", 4, 3), ("D", 2, 4), ("E8", 8, 2)])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_voronoi_codes_are_distinct_points_that_encode_to_themselves(
    lattice: Lattice, width: int, ratio: int, seed: int
) -> None:
    quantizer = fitted(LatticeQuantizer(width, [ratio], lattice), correlated(300, width, seed), seed)
    codes = torch.tensor(list(itertools.product(range(ratio), repeat=width)))
    points = quantizer.decode(codes)
    assert len(points.unique(dim=0)) == ratio**width
    assert torch.equal(quantizer.encode(points), codes)


def test_points_that_are_far_out_are_moved_to_the_edge() -> None:
    quantizer = fitted(LatticeQuantizer(8, [4], "E8"), torch.randn(500, 8, generator=generator()))
    x = torch.randn(50, 8, generator=generator(1))
    far = 100 * x
    decoded = quantizer(far)
    similarity = torch.cosine_similarity(decoded, far)
    assert float(similarity.min()) > 0.7
    assert float(decoded.norm(dim=1).min()) > 1.5


def test_e8_has_less_error_than_cubes_at_high_rate() -> None:
    """Normalized second moments 0.07168 and 1 / 12: 0.65 dB (Conway & Sloane, "Sphere Packings", table 2.3)."""
    x = 20 * torch.rand(2000, 8, generator=generator(), dtype=torch.float64)
    moments = [float((x - near(x)).square().mean()) for near in (nearest_z, nearest_e8)]
    assert moments[0] == pytest.approx(1 / 12, rel=0.02)
    assert moments[1] == pytest.approx(0.07168, rel=0.02)


def test_lloyd_max_has_less_error_than_other_scalars() -> None:
    x = torch.randn(5000, 2, generator=generator()).sinh()  # heavier tails than a Gaussian's
    errors = {
        make: error(fitted(make([5, 8]), x), x) for make in (LloydMaxQuantizer, UniformQuantizer, FiniteScalarQuantizer)
    }
    assert errors[LloydMaxQuantizer] < min(errors[UniformQuantizer], errors[FiniteScalarQuantizer])


@settings(deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), st.floats(0.0, 16.0), st.integers(1, 4))
def test_allocated_levels_fit_the_bits(variances: list[float], bits: float, width: int) -> None:
    levels = torch.tensor(allocate(torch.tensor(variances), bits, width), dtype=torch.float64)
    spent = width * float(levels.log2().sum())
    assert spent <= bits + 1e-6
    assert spent + width * float(((levels + 1) / levels).log2().min()) > bits - 1e-6, "one more level has no room"
    larger = torch.tensor(variances)[:, None] > 1.001 * torch.tensor(variances)
    assert bool((levels[:, None] >= levels)[larger].all()), "more variance, no fewer levels"


def test_a_tree_is_nearly_as_good_as_a_full_search() -> None:
    x = correlated(4000, 4)
    full, tree = error(fitted(KMeansQuantizer(4, 64), x), x), error(fitted(TreeQuantizer(4, 6), x), x)
    assert full < tree < 1.3 * full
