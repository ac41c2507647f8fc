"""Measure what the search for better codes costs.

    python scripts/benchmarks/effort.py --seconds 60 --rounds 5

prints the speed of `codec.compress_stream` for a wav file at each effort, in files of constant and of variable numbers
of codes, and the ratio to effort 0 with constant numbers. All rows take turns in one process, with the bundled model.
OMP_NUM_THREADS sets the number of threads.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from report import speed, table
from timing import interleave, positive, summarize, timed

from dac_codec import audio, codec
from dac_codec.common.scripts import exit_status
from dac_codec.pretrained import DEFAULT_MODEL

SAMPLE_RATE = 44100


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of mono noise [%(default)s]")
    parser.add_argument("--efforts", nargs="+", type=int, choices=range(4), default=[0, 1, 2], metavar="0..3")
    parser.add_argument("--rounds", type=positive, default=5, help="counted rounds [%(default)s]")
    arguments = parser.parse_args()

    model = codec.load_model(DEFAULT_MODEL, "cpu")
    noise = np.random.default_rng(0).standard_normal((1, round(arguments.seconds * SAMPLE_RATE)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "noise.wav")
        audio.write(path, (0.1 * noise).astype(np.float32), SAMPLE_RATE)

        def compress(effort: int, constant: bool) -> None:
            codec.compress_stream(path, io.BytesIO(), model, effort=effort, constant=constant)

        kinds = [(effort, constant) for constant in (True, False) for effort in arguments.efforts]
        times = interleave({kind: partial(timed, partial(compress, *kind)) for kind in kinds}, arguments.rounds)
    rows = [
        [
            str(effort),
            "constant" if constant else "variable",
            speed(arguments.seconds, summarize(times[effort, constant]).median),
            f"{summarize(times[effort, constant], times[kinds[0]]).ratio:.2f}",
        ]
        for effort, constant in kinds
    ]
    print(table(["effort", "codes per frame", "speed", "against the first row"], rows, n_left=2))


if __name__ == "__main__":
    sys.exit(exit_status(main))
