"""Plot a training run: `python scripts/plot_run.py runs/44khz` writes curves.png and codebooks.png to its folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dac_codec.common.scripts import exit_status


def main() -> None:
    """Plot."""
    from dac_codec.training.plots import draw_codebooks, draw_curves

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--output", type=Path, help="folder for the plots [folder of the run]")
    arguments = parser.parse_args()
    output = arguments.output or arguments.run
    if arguments.output:
        output.mkdir(parents=True, exist_ok=True)
    for draw, name in ((draw_curves, "curves.png"), (draw_codebooks, "codebooks.png")):
        draw(arguments.run, output / name)
        print(output / name)


if __name__ == "__main__":
    sys.exit(exit_status(main))
