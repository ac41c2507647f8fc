"""Spectrograms to look at, before a number is believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dac_codec.errors import DacError
from dac_codec.spectral import Spectra


def spectrograms(original: np.ndarray, decoded: np.ndarray, sample_rate: int, path: Path) -> None:
    """Draw log spectrograms of two clips [1, T], one above the other, to a PNG file.

    Raises:
        DacError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DacError("pictures need matplotlib: pip install 'dac_codec[train]'") from error
    figure = Figure(figsize=(10, 7))
    axes = figure.subplots(2, 1, sharex=True, sharey=True)
    extent = (0.0, original.shape[-1] / sample_rate, 0.0, sample_rate / 2000)
    for axis, clip, title in zip(axes, (original, decoded), ("original", "decoded"), strict=True):
        magnitude = Spectra(torch.from_numpy(clip)[None]).magnitude(2048)[0]
        level = 20 * np.log10(magnitude.clamp(min=1e-5).numpy())
        axis.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=40, cmap="magma")
        axis.set(title=title, ylabel="kHz")
    axes[1].set_xlabel("s")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
