"""Means with confidence intervals: percentile bootstrap over the sources that clips were cut from.

Clips of one source resemble each other, so whole sources are drawn with replacement, each with all of its clips: the
cluster bootstrap (Davison & Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8; Field & Welsh,
"Bootstrapping clustered data", 2007). If each clip has a source of its own, this is the bootstrap over clips (Efron &
Tibshirani, 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dac_codec.common.components import connected_components

N_RESAMPLES = 2000
CONFIDENCE = 0.95

MIN_SOURCES = 5
"""No interval below: n sources have binomial(2n - 1, n) distinct resamples, 35 for n = 4, too few for percentiles."""


class Estimate(NamedTuple):
    """A mean over clips with its confidence interval.

    Attributes:
        mean: over the clips for which the measure is defined.
        low, high: limits of the confidence interval; None below `MIN_SOURCES`.
        clips: number of clips.
        sources: number of independent sources of the clips.
    """

    mean: float
    low: float | None
    high: float | None
    clips: int
    sources: int

    def __str__(self) -> str:
        """The mean and its confidence interval.

        >>> str(Estimate(1.5, 1.25, 1.75, 9, 9))
        '1.500 [1.250, 1.750]'
        """
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}{interval}"


def estimate(
    values: Sequence[float],
    sources: Sequence[int] | NDArray[np.int64] | None = None,
    weights: Sequence[float] | None = None,
) -> Estimate:
    """The mean of one value per clip, with its confidence interval; always the same for the same arguments.

    Args:
        values: one for each clip, at least one; for a comparison of two codecs, the differences.
        sources: number of each clip's source, see `source_numbers`; None: one per clip.
        weights: positive weights of the clips; None: all equal.
    """
    numbers = np.asarray(values, np.float64)
    shares = np.ones(len(numbers)) if weights is None else np.asarray(weights, np.float64)
    mean = float(np.average(numbers, weights=weights))
    _, places = np.unique(np.arange(len(numbers)) if sources is None else np.asarray(sources), return_inverse=True)
    totals, parts = np.bincount(places, shares * numbers), np.bincount(places, shares)
    n_sources = len(totals)
    if n_sources < MIN_SOURCES:
        return Estimate(mean, None, None, len(numbers), n_sources)
    draws = np.random.default_rng(0).integers(0, n_sources, (N_RESAMPLES, n_sources))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(totals[draws].sum(1) / parts[draws].sum(1), [tail, 100 - tail])
    return Estimate(mean, float(low), float(high), len(numbers), n_sources)


def source_numbers(files: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Number the independent sources of clips, by the names of the files that each clip was cut from.

    Two clips have the same source if most of both is from one file, which each lists first, or if they have more than
    half of their files in common, directly or through other clips. A clip across the boundary of two long files does
    not merge them. Sources are numbered in the order of their first clip.

    >>> source_numbers([["a"], ["b", "c"], ["d"], ["a", "c"], ["c"], ["d", "e", "f"], ["f", "e", "d"]]).tolist()
    [0, 1, 2, 0, 3, 2, 2]

    Args:
        files: of each clip; a clip without files is a source of its own.
    """
    pairs = []
    main_file: dict[str, int] = {}
    joined: list[tuple[int, set[str]]] = []
    for clip, own in enumerate(files):
        if own:
            pairs.append((main_file.setdefault(own[0], clip), clip))
        if len(own) > 1:
            names = set(own)
            pairs += [(other, clip) for other, those in joined if 2 * len(names & those) > len(names | those)]
            joined.append((clip, names))
    _, numbers = np.unique(connected_components(len(files), pairs), return_inverse=True)
    return numbers.astype(np.int64)
