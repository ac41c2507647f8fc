"""Plots of a run: metrics and codebook use over its steps."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from dac_codec.common.errors import DacError
from dac_codec.common.files import atomic_write

_NOT_PLOTTED = frozenset(("step", "learning_rate", "skipped_files"))


def draw_curves(folder: Path, target: Path) -> None:
    """Plot every scalar metric of a run, and the running mean of its last 5%, to a PNG file.

    Raises a DacError if the folder has no readable log.
    """
    curves = {name: curve for name, curve in sorted(_read_log(folder).items()) if "codebook_" not in name}
    rows = -(-len(curves) // 3)
    figure = Figure(figsize=(15, 2.8 * rows), layout="tight")
    for index, (name, (steps, values)) in enumerate(curves.items(), 1):
        width = max(1, len(values) // 20)
        sums = np.convolve(values, np.ones(width))[: len(values)]
        axis = figure.add_subplot(rows, 3, index)
        axis.plot(steps, values, color="tab:blue", alpha=0.25)
        axis.plot(steps, sums / np.minimum(np.arange(1, len(values) + 1), width), color="tab:blue")
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    with atomic_write(target) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def draw_codebooks(folder: Path, target: Path) -> None:
    """Plot entropy and use of each codebook at each validation of a run, to a PNG file.

    Raises a DacError if the folder has no readable log, or the run has not validated its quantizer yet.
    """
    curves = _read_log(folder)
    n_codebooks = sum(name.startswith("val/codebook_use_") for name in curves)
    if not n_codebooks:
        raise DacError(f"the run in {folder} has not validated its quantizer yet")
    figure = Figure(figsize=(12, 4), layout="tight")
    for axis, kind, unit in zip(figure.subplots(1, 2), ("entropy", "use"), ("bits", "share of entries"), strict=True):
        for codebook in range(n_codebooks):
            color = colormaps["plasma"](codebook / n_codebooks)
            axis.plot(*curves[f"val/codebook_{kind}_{codebook}"], marker=".", color=color, label=str(codebook))
        axis.set(title=f"codebook {kind}", xlabel="step", ylabel=unit)
        axis.grid(alpha=0.3)
    axis.legend(title="codebook", fontsize=7, ncol=2)
    with atomic_write(target) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def _read_log(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The metrics of a run by name: their steps and values."""
    path = folder / "log.jsonl"
    curves: defaultdict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            for name in values.keys() - _NOT_PLOTTED:
                curves[name][0].append(int(values["step"]))
                curves[name][1].append(float(values[name]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DacError(f"{path} is not a training log: {error!r}") from error
    if not curves:
        raise DacError(f"{path} has no metrics yet")
    return curves
