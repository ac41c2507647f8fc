"""Means and how sure they are: percentile bootstrap over the sources that clips were cut from.

Clips of one source resemble each other, so that whole sources are drawn with replacement, each with all of its clips
(Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8; Field & Welsh, "Bootstrapping
clustered data", 2007). Where each clip has a source of its own, that is the bootstrap over clips of Efron & Tibshirani,
1993.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

N_RESAMPLES = 2000
CONFIDENCE = 0.95

LEAST_SOURCES = 5
"""Of fewer there is no interval: n of them have no more than binomial(2n - 1, n) resamples, 35 of four, and the
percentiles of so few are hardly more than the lowest and the highest value."""


class Estimate(NamedTuple):
    """A mean over clips, and the ends of its confidence interval; None where there are too few sources to say.

    Attributes:
        mean: of the clips where the measure is defined.
        low, high: percentiles of the means of resampled sources; None below `LEAST_SOURCES`.
        clips: how many there are.
        sources: how many independent sources they come from.
    """

    mean: float | None
    low: float | None
    high: float | None
    clips: int
    sources: int


def estimate(
    values: Sequence[float],
    sources: Sequence[int] | NDArray[np.int64] | None = None,
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> Estimate:
    """The mean of one value per clip. For the difference of two codecs, give each clip's difference.

    Args:
        values: one for each clip.
        sources: the number of each clip's source, see `groups`; None: each clip has its own.
        weights: of the clips, more than 0; None: all the same.
        seed: of the resampling.
    """
    if not values:
        return Estimate(None, None, None, 0, 0)
    numbers = np.asarray(values, np.float64)
    shares = np.ones(len(numbers)) if weights is None else np.asarray(weights, np.float64)
    mean = float(np.average(numbers, weights=weights))
    _, places = np.unique(np.arange(len(numbers)) if sources is None else np.asarray(sources), return_inverse=True)
    totals, parts = np.bincount(places, shares * numbers), np.bincount(places, shares)
    n_sources = len(totals)
    if n_sources < LEAST_SOURCES:
        return Estimate(mean, None, None, len(numbers), n_sources)
    draws = np.random.default_rng(seed).integers(0, n_sources, (N_RESAMPLES, n_sources))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(totals[draws].sum(1) / parts[draws].sum(1), [tail, 100 - tail])
    return Estimate(mean, float(low), float(high), len(numbers), n_sources)


def groups(names: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Numbers for clips, by the names of the files that each has something of: equal for those that hang together.

    Two clips hang together if they are mostly of one file, which each names first, or have more than half of their
    files in common, directly or by way of others (connected components). A clip that lies across the seam of two long
    files doesn't make one of them. The numbers are in the order of the first clip of each.

    >>> groups([["a"], ["b", "c"], ["d"], ["a", "c"], ["c"], ["d", "e", "f"], ["f", "e", "d"]]).tolist()
    [0, 1, 2, 0, 3, 2, 2]
    """
    leader = list(range(len(names)))  # of each clip one that it hangs together with, in the end the first of them

    def first(clip: int) -> int:
        while leader[clip] != clip:
            leader[clip] = clip = leader[leader[clip]]
        return clip

    def join(one: int, other: int) -> None:
        low, high = sorted((first(one), first(other)))
        leader[high] = low

    mains: dict[str, int] = {}
    joined: list[tuple[int, set[str]]] = []
    for clip, own in enumerate(names):
        if own:
            join(mains.setdefault(own[0], clip), clip)
        if len(own) > 1:
            files = set(own)
            for other, those in joined:
                if 2 * len(files & those) > len(files | those):
                    join(other, clip)
            joined.append((clip, files))
    _, numbers = np.unique([first(clip) for clip in range(len(names))], return_inverse=True)
    return numbers.astype(np.int64)
