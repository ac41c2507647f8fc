"""Means and how sure they are: percentile bootstrap over clips (Efron & Tibshirani, 1993)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

N_RESAMPLES = 2000
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over clips, and the ends of its confidence interval; None where there are too few clips to say.

    Attributes:
        mean: of the clips where the measure is defined.
        low, high: percentiles of the means of resampled clips.
        clips: how many there are.
    """

    mean: float | None
    low: float | None
    high: float | None
    clips: int


def estimate(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of one value per clip. For the difference of two codecs, give each clip's difference."""
    if not values:
        return Estimate(None, None, None, 0)
    numbers = np.asarray(values, np.float64)
    if len(numbers) == 1:
        return Estimate(float(numbers[0]), None, None, 1)
    draws = np.random.default_rng(seed).integers(0, len(numbers), (N_RESAMPLES, len(numbers)))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(numbers[draws].mean(1), [tail, 100 - tail])
    return Estimate(float(numbers.mean()), float(low), float(high), len(numbers))
