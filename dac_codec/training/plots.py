"""Plots of a run: metrics and codebook use over its steps."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dac_codec.common.errors import DacError
from dac_codec.common.files import atomic_write

_NOT_PLOTTED = frozenset(("step", "learning_rate", "skipped_files"))


def read_log(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """The metrics of a run by name: their steps and values.

    Raises:
        DacError: the folder has no readable log.
    """
    path = folder / "log.jsonl"
    curves: defaultdict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            for name in values.keys() - _NOT_PLOTTED:
                curves[name][0].append(int(values["step"]))
                curves[name][1].append(float(values[name]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DacError(f"{path} is not a training log: {error!r}") from error
    if not curves:
        raise DacError(f"{path} has no metrics yet")
    return dict(curves)


def draw_curves(folder: Path, target: Path) -> None:
    """Plot every scalar metric of a run, and its running mean, to a PNG file.

    Raises:
        DacError: the folder has no readable log.
    """
    curves = {name: curve for name, curve in sorted(read_log(folder).items()) if "codebook_" not in name}
    columns = 3
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(5 * columns, 2.8 * rows))
    for index, (name, (steps, values)) in enumerate(curves.items()):
        axis = figure.add_subplot(rows, columns, index + 1)
        axis.plot(steps, values, color="tab:blue", alpha=0.25)
        axis.plot(steps, _running_mean(values), color="tab:blue")
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    _save(figure, target)


def draw_codebooks(folder: Path, target: Path) -> None:
    """Plot entropy and use of each codebook at each validation of a run, to a PNG file.

    Raises:
        DacError: the folder has no readable log, or the run has not validated its quantizer yet.
    """
    curves = read_log(folder)
    figure = Figure(figsize=(12, 4))
    for index, (kind, unit) in enumerate((("entropy", "bits"), ("use", "share of entries"))):
        codebooks = sorted(
            (int(name.rpartition("_")[2]), curve) for name, curve in curves.items() if f"codebook_{kind}_" in name
        )
        if not codebooks:
            raise DacError(f"the run in {folder} has not validated its quantizer yet")
        axis = figure.add_subplot(1, 2, index + 1)
        for codebook, (steps, values) in codebooks:
            shade = codebook / max(1, len(codebooks) - 1)
            axis.plot(steps, values, marker=".", color=(0.1 + 0.8 * shade, 0.3, 0.9 - 0.8 * shade), label=str(codebook))
        axis.set(title=f"codebook {kind}", xlabel="step", ylabel=unit)
        axis.grid(alpha=0.3)
    axis.legend(title="codebook", fontsize=7, ncol=2)
    _save(figure, target)


def _save(figure: Figure, target: Path) -> None:
    figure.tight_layout()
    with atomic_write(target) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def _running_mean(values: list[float]) -> np.ndarray:
    """Mean of the last 5% of the values up to each one."""
    width = max(1, len(values) // 20)
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - width)
    return np.asarray((sums[ends] - sums[begins]) / (ends - begins))
