"""Test signals."""

from __future__ import annotations

import numpy as np

RATE = 44100


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """A modulated buzz [1, T], which measures of speech accept."""
    time = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 120 * k * time + k) / k for k in range(1, 30))
    noise = 0.05 * np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * (buzz + noise) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time)))[None].astype(np.float32)


def noisy(clean: np.ndarray, snr_db: float) -> np.ndarray:
    """A signal [1, T] with white noise at a signal-to-noise ratio."""
    noise = np.random.default_rng(9).standard_normal(clean.shape)
    level = np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return (clean + level * noise).astype(np.float32)
