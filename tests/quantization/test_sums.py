"""Residual, additive and composite quantization: searches and designs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.quantization import AdditiveQuantizer, CompositeQuantizer, ResidualQuantizer
from dac_codec.quantization.least_squares import least_squares
from dac_codec.quantization.residual import Design, search
from tests.quantization.vectors import correlated, error, fitted, generator

SEEDS = st.integers(0, 10000)
FEW = settings(max_examples=8, deadline=None)


@FEW
@given(seed=SEEDS, dim=st.integers(1, 6), sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5))
def test_the_error_falls_with_every_stage(seed: int, dim: int, sizes: list[int]) -> None:
    x = correlated(150, dim, seed, mean=1.0)
    quantizer = fitted(ResidualQuantizer(dim, sizes), x, seed)
    codes = quantizer.encode(x)
    errors = [float((x - quantizer.decode(codes[:, : n + 1])).square().sum()) for n in range(len(sizes))]
    assert all(after <= before * 1.0001 for before, after in pairwise(errors))
    assert errors[0] < float(x.square().sum())


@FEW
@given(seed=SEEDS, beam=st.integers(2, 9), design=st.sampled_from(["greedy", "interleaved"]))
def test_m_search_is_never_worse_than_greedy(seed: int, beam: int, design: Design) -> None:
    quantizer = ResidualQuantizer(4, [8, 8, 8], beam, design, rounds=2)
    quantizer.fit(correlated(150, 4, seed), generator(seed))
    x = correlated(100, 4, seed + 1)
    greedy = quantizer.errors(x, search(x, quantizer.codebooks, 1))
    assert bool((quantizer.errors(x, quantizer.encode(x)) <= greedy).all())


def test_a_beam_of_all_paths_finds_the_best_sum() -> None:
    x = correlated(40, 3)
    quantizer = ResidualQuantizer(3, [6, 5, 4], beam=120)
    quantizer.fit(correlated(200, 3, 1), generator())
    codes = torch.cartesian_prod(*(torch.arange(size) for size in quantizer.sizes))
    best = (x[:, None] - quantizer.decode(codes)).square().sum(2).amin(1)
    assert torch.allclose(quantizer.errors(x, quantizer.encode(x)), best, atol=1e-5)
    decoded = quantizer(x)
    assert torch.allclose(quantizer(decoded), decoded, atol=1e-5)


@pytest.mark.parametrize("design", ["sequential", "interleaved"])
@FEW
@given(seed=SEEDS, beam=st.sampled_from([1, 4]))
def test_joint_design_is_never_worse_than_greedy_on_the_training_set(design: Design, seed: int, beam: int) -> None:
    x = correlated(200, 4, seed)
    greedy = error(fitted(ResidualQuantizer(4, [8] * 4, beam), x, seed), x)
    assert error(fitted(ResidualQuantizer(4, [8] * 4, beam, design, rounds=3), x, seed), x) <= greedy


def test_joint_design_gains_with_many_stages() -> None:
    x, test = correlated(3000, 8), correlated(1000, 8, 1)
    gains = {}
    for n_stages in (2, 8):
        greedy = error(fitted(ResidualQuantizer(8, [16] * n_stages, 4), x), test)
        joint = error(fitted(ResidualQuantizer(8, [16] * n_stages, 4, "interleaved"), x), test)
        gains[n_stages] = greedy / joint
    assert gains[8] > gains[2] > 1.0
    assert gains[8] > 1.02


def test_least_squares_is_that_of_the_normal_equations() -> None:
    x = correlated(60, 3, mean=1.0).double()
    rows = torch.stack(
        [torch.randint(4, (60,), generator=generator()), 4 + torch.randint(5, (60,), generator=generator(1))], 1
    )
    old = correlated(9, 3, 2).double()
    chosen = torch.zeros(60, 9, dtype=torch.float64).scatter_(1, rows, 1.0)
    expected = torch.linalg.solve(
        chosen.t() @ chosen + 0.5 * torch.eye(9, dtype=torch.float64), chosen.t() @ x + 0.5 * old
    )
    assert torch.allclose(least_squares(x, rows, old, 0.5, iterations=40), expected, atol=1e-9)
    # The sums with ridge 0 have a free constant, and the error still falls at each step.
    errors = [
        float((x - chosen @ least_squares(x, rows, old, 0.0, iterations)).square().sum()) for iterations in range(1, 12)
    ]
    assert all(after <= before + 1e-9 for before, after in pairwise(errors))


def test_an_unused_entry_stays() -> None:
    old = correlated(5, 2)
    rows = torch.randint(4, (50, 1), generator=generator())
    new = least_squares(correlated(50, 2, 1), rows, old, 1.0)
    assert torch.equal(new[4], old[4])
    assert not torch.isclose(new[:4], old[:4]).any()


@FEW
@given(seed=SEEDS)
def test_iterated_modes_are_never_worse_than_m_search(seed: int) -> None:
    quantizer = AdditiveQuantizer(4, [8, 8, 8], beam=4, rounds=2, perturbations=2)
    quantizer.fit(correlated(150, 4, seed), generator(seed))
    x = correlated(100, 4, seed + 1)
    found = quantizer.errors(x, search(x, quantizer.codebooks, 4))
    assert bool((quantizer.errors(x, quantizer.encode(x)) <= found + 1e-5).all())


def test_composite_codes_allow_distances_by_look_up() -> None:
    x = correlated(1500, 8, mean=0.5)
    additive = AdditiveQuantizer(8, [16] * 3, rounds=5, perturbations=2)
    composite = CompositeQuantizer(8, [16] * 3, penalty=1.0, rounds=5, perturbations=2)
    for quantizer in (additive, composite):
        quantizer.fit(x, generator())
    codes = composite.encode(x)
    spread = float(composite.cross_terms(codes).std())
    free = CompositeQuantizer(8, [16] * 3)
    free.entries.copy_(additive.entries)
    assert spread < 0.4 * float(free.cross_terms(additive.encode(x)).std())
    queries = correlated(5, 8, 3)
    looked_up = composite.distances(queries, codes)
    exact = torch.cdist(queries, composite.decode(codes)).square()
    assert float((looked_up - exact).abs().mean()) < 3 * spread
    assert torch.allclose(looked_up - composite.constant, exact - composite.cross_terms(codes), atol=1e-3), (
        "the difference is what the inner products vary by"
    )
    assert error(composite, x) < 2 * error(additive, x)


def test_the_gradient_of_composite_codebooks() -> None:
    x = correlated(40, 3).double()
    quantizer = CompositeQuantizer(3, [4, 4]).double()
    quantizer.entries.copy_(correlated(8, 3, 1))
    quantizer.weight.fill_(0.3)
    quantizer.constant.fill_(0.2)
    codes = torch.randint(4, (40, 2), generator=generator())
    gradient = quantizer._gradient(x, codes)
    step = 1e-6
    before = quantizer.entries.clone()
    for row, column in ((0, 0), (5, 2), (7, 1)):
        sums = []
        for sign in (1, -1):
            quantizer.entries.copy_(before)
            quantizer.entries[row, column] += sign * step
            sums.append(float(quantizer.errors(x, codes).sum()))
        assert float(gradient[row, column]) == pytest.approx((sums[0] - sums[1]) / (2 * step), rel=1e-5)


def test_least_squares_with_maps_equals_the_normal_equations() -> None:
    x, maps = correlated(200, 5).double(), torch.randn(2, 3, 5, generator=generator(), dtype=torch.float64)
    rows = torch.stack([torch.randint(4, (200,), generator=generator(one)) + 4 * one for one in range(2)], 1)
    start = torch.randn(8, 3, generator=generator(), dtype=torch.float64)
    found = least_squares(x, rows, start, 2.0, 200, list(maps))
    design = torch.zeros(200, 5, 8, 3, dtype=torch.float64)
    for stage in range(2):
        design[torch.arange(200), :, rows[:, stage]] = maps[stage].t()
    a = design.view(1000, 24)
    right = a.t() @ x.flatten() + 2.0 * start.flatten()
    expected = torch.linalg.solve(a.t() @ a + 2.0 * torch.eye(24, dtype=torch.float64), right)
    assert torch.allclose(found.flatten(), expected, atol=1e-6)
