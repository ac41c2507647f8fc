"""k-means."""

from __future__ import annotations

import pytest
import torch

from dac_codec.quantization.base import cell_means, nearest
from dac_codec.quantization.kmeans import Start, k_means


@pytest.mark.parametrize("start", ["random", "k-means++", "lbg"])
def test_k_means_finds_separate_clusters(start: Start) -> None:
    generator = torch.Generator().manual_seed(1)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + 0.1 * torch.randn(3, 50, 2, generator=generator)).flatten(0, 1)
    points = points[torch.randperm(len(points), generator=generator)]
    found = k_means(points, 6, generator, 10, start)
    assert float(torch.cdist(centres, found).amin(1).max()) < 0.2


@pytest.mark.parametrize("start", ["random", "k-means++", "lbg"])
def test_k_means_ends_where_both_conditions_hold(start: Start) -> None:
    """Each centroid is the mean of the points nearest to it."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(500, 2, generator=generator)
    found = k_means(points, 7, generator, 200, start)  # 7 is not a power of two, which splitting has to reach
    means, counts = cell_means(points, nearest(points, found), 7)
    assert counts.min() > 0
    assert torch.allclose(means, found, atol=1e-5)


def test_starts_that_choose_well_have_less_error_than_random_ones() -> None:
    """Thirty clusters, as many centroids: random points miss some and share others."""
    generator = torch.Generator().manual_seed(3)
    centres = 100 * torch.randn(30, 2, generator=generator)
    points = centres.repeat_interleave(20, 0) + torch.randn(600, 2, generator=generator)
    errors = {}
    for start in ("random", "k-means++"):
        found = k_means(points, 30, generator, 20, start)  # type: ignore[arg-type]
        errors[start] = float((points - found[nearest(points, found)]).square().mean())
    assert errors["k-means++"] < 0.5 * errors["random"]


def test_too_few_points() -> None:
    with pytest.raises(ValueError, match="3 vectors are too few for 4 codebook entries"):
        k_means(torch.zeros(3, 2), 4, torch.Generator())
