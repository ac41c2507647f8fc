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

from dac_codec.errors import DacError
from dac_codec.evaluation import pictures, report
from dac_codec.model import DAC
from dac_codec.pretrained import DEFAULT_MODEL


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
                path = arguments.output / f"{row.clip}.png"
                pictures.spectrograms(originals[row.clip], decoded, model.sample_rate, path)
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
