"""Measure a model on sounds that it was not trained on.

    python scripts/evaluate.py --manifest data/manifest.csv --output report

prints the table of the model card, and leaves it in the output folder with every clip's figures and pictures of some
spectrograms, the original above what was decoded.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import astuple, fields
from pathlib import Path

import matplotlib
import numpy as np
import torch

from dac_codec.errors import DacError
from dac_codec.evaluation import report
from dac_codec.model import DAC
from dac_codec.pretrained import DEFAULT_MODEL
from dac_codec.spectral import Spectra

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(original: np.ndarray, decoded: np.ndarray, sample_rate: int, path: Path) -> None:
    """Log spectrograms of two clips [1, T], one above the other."""
    figure, axes = pyplot.subplots(2, 1, figsize=(10, 7), sharex=True, sharey=True)
    extent = (0.0, original.shape[-1] / sample_rate, 0.0, sample_rate / 2000)
    for axis, clip, title in zip(axes, (original, decoded), ("original", "decoded"), strict=True):
        magnitude = Spectra(torch.from_numpy(clip)[None]).magnitude(2048)[0]
        level = 20 * np.log10(magnitude.clamp(min=1e-5).numpy())
        axis.imshow(level, origin="lower", aspect="auto", extent=extent, vmin=-80, vmax=40, cmap="magma")
        axis.set(title=title, ylabel="kHz")
    axes[1].set_xlabel("s")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> int:
    """Evaluate. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="written by scripts/prepare_data.py")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name, folder or file")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="which files to take clips from")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        model = DAC.from_pretrained(arguments.model)
        clips = report.held_out_clips(arguments.manifest, model.sample_rate, split=arguments.split)
        originals = {clip.name: clip.waveform for clip in clips}
        rows = []
        for row, decoded in report.evaluate(model, clips):
            rows.append(row)
            if row.coder == "all codebooks" and row.clip.endswith(("-00", "-03")):
                draw(originals[row.clip], decoded, model.sample_rate, arguments.output / f"{row.clip}.png")
    except DacError as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    with (arguments.output / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(report.Row))
        writer.writerows(astuple(row) for row in rows)
    text = report.table(rows)
    (arguments.output / "report.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
