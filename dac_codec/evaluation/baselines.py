"""What any codec has to beat."""

from __future__ import annotations

import numpy as np

from dac_codec import audio as sound


def silence(original: np.ndarray) -> np.ndarray:
    """Nothing at all, as long as the original [C, T]."""
    return np.zeros_like(original)


def noise(original: np.ndarray, sample_rate: int, random: np.random.Generator) -> np.ndarray:
    """White noise as long and as loud (BS.1770) as the original [C, T]."""
    white = random.standard_normal(original.shape).astype(np.float32)
    return sound.apply_gain(white, sound.loudness(original, sample_rate) - sound.loudness(white, sample_rate))
