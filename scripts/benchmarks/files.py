"""Print what doing several files side by side gains, as a Markdown table.

    python scripts/benchmarks/files.py --files 40x1.5 4x30 --rounds 5

Each round compresses and decompresses the files one after the other with all cores, and then side by side with a core
each, in one process and with the bundled model. The two share what else the machine does; the table gives the median
of the rounds' ratios, and their range.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dac_codec import DAC, audio, codec
from dac_codec.common.scripts import exit_status
from dac_codec.common.threads import parallel_map

SAMPLE_RATE = 44100


def write_sounds(folder: Path, n_files: int, seconds: float) -> list[Path]:
    """Stereo noise, another one in each file."""
    paths = [folder / f"{index}.wav" for index in range(n_files)]
    for index, path in enumerate(paths):
        noise = np.random.default_rng(index).standard_normal((2, round(seconds * SAMPLE_RATE)))
        audio.write(path, (0.1 * noise).astype(np.float32), SAMPLE_RATE)
    return paths


def measured(work: Callable[[Path], object], paths: list[Path], n_at_once: int, n_cores: int) -> float:
    """Seconds that the work takes for all files."""
    torch.set_num_threads(n_cores // n_at_once)
    started = time.perf_counter()
    list(parallel_map(work, paths, n_at_once))
    return time.perf_counter() - started


def sounds(text: str) -> tuple[int, float]:
    """How many sounds of how many seconds: `40x1.5`."""
    number, _, seconds = text.partition("x")
    found = int(number), float(seconds)
    if found[0] < 1 or not 0 < found[1] < math.inf:
        raise ValueError(text)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--files", nargs="+", type=sounds, default=[(40, 1.5), (4, 30.0)], metavar="NxSECONDS", help="files to code"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each")
    arguments = parser.parse_args()

    n_cores = torch.get_num_threads()
    model = DAC.from_pretrained("dac-mini-44khz")

    def compress(path: Path) -> None:
        codec.compress_stream(path, path.with_suffix(".dac"), model)

    def decompress(path: Path) -> None:
        codec.decompress_stream(path.with_suffix(".dac"), path, model)

    print(f"| files | work | one after the other | {n_cores} side by side | gain |")
    print("|---|---|---:|---:|---:|")
    for n_files, seconds in arguments.files:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_sounds(Path(folder), n_files, seconds)
            for work in (compress, decompress):
                work(paths[0])  # the first time takes longer
                rounds = [
                    [measured(work, paths, n_at_once, n_cores) for n_at_once in (1, n_cores)]
                    for _ in range(arguments.rounds)
                ]
                speeds = [f"{n_files * seconds / min(column):.1f}x" for column in zip(*rounds, strict=True)]
                gains = sorted(alone / together for alone, together in rounds)
                gain = f"{statistics.median(gains):.2f} ({gains[0]:.2f} to {gains[-1]:.2f})"
                cells = [f"{n_files} of {seconds:g} s", work.__name__, *speeds, gain]
                print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
