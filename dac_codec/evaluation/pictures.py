"""Spectrograms to look at, before a number is believed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from dac_codec.common.errors import DacError
from dac_codec.common.files import atomic_write
from dac_codec.common.spectral import Spectra


def spectrograms(clips: Mapping[str, tuple[np.ndarray, np.ndarray]], sample_rate: int, path: Path) -> None:
    """Draw log spectrograms of clips side by side, to a PNG or JPEG file: above the original, below what was decoded.

    Args:
        clips: by title, the two signals [1, T].
        sample_rate: of all, in Hz.
        path: of the file; its ending says of which kind.

    Raises:
        DacError: matplotlib is not installed.
        ValueError: matplotlib knows no such kind of picture.
        OSError: the file can't be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DacError("pictures need matplotlib: pip install 'dac_codec[train]'") from error
    figure = Figure(figsize=(10 if len(clips) == 1 else 5 * len(clips), 7))
    columns = figure.subplots(2, len(clips), sharex="col", sharey=True, squeeze=False).T
    for axes, (title, pair) in zip(columns, clips.items(), strict=True):
        for axis, clip, what in zip(axes, pair, ("original", "decoded"), strict=True):
            magnitude = Spectra(torch.from_numpy(clip)[None]).magnitude(2048)[0]
            level = 20 * np.log10(magnitude.clamp(min=1e-5).numpy())
            extent = (0.0, clip.shape[-1] / sample_rate, 0.0, sample_rate / 2000)
            axis.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=40, cmap="magma")
            axis.set(title=f"{title}, {what}", ylabel="kHz" if axes is columns[0] else None)
        axes[1].set_xlabel("s")
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=80)
