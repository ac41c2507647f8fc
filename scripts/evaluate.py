"""Measure a model on sounds that it was not trained on.

    python scripts/evaluate.py --manifest data/manifest.csv --output report

prints a table: one codebook and all of them, beside noise and silence. It is `dac-codec evaluate`
with these codecs and bitrates, which docs/evaluation.md tells about.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from dac_codec.errors import exit_status
from dac_codec.evaluation.report import evaluate
from dac_codec.pretrained import DEFAULT_MODEL


def main() -> int:
    """Evaluate. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="written by scripts/prepare_data.py")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name, folder or file")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="which files to take clips from")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report")
    arguments = parser.parse_args()
    say = functools.partial(print, file=sys.stderr)
    report = evaluate(
        arguments.manifest,
        arguments.output,
        codecs=("ours", "noise", "silence"),
        bitrates=(0.0, 1000.0),
        model=arguments.model,
        split=arguments.split,
        say=say,
    )
    print(report.table)
    for failure in report.failures:
        say(f"evaluate: {failure}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
