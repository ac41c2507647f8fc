"""Measure the gain of coding several files at a time.

    python scripts/benchmarks/files.py --files 40x1.5 4x30 --rounds 5

prints a row for compressing and for decompressing each set of files: the speed of one file after the other with all
cores, of several files at a time with one core each, and the ratio. All rows take turns in one process, with the
bundled model.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from report import speed, table
from timing import interleave, positive, summarize, timed

from dac_codec import DAC, audio, codec
from dac_codec.common.scripts import exit_status
from dac_codec.common.threads import parallel_map
from dac_codec.pretrained import DEFAULT_MODEL

SAMPLE_RATE = 44100


def write_files(folder: Path, n_files: int, seconds: float, n_channels: int = 2) -> list[Path]:
    """Write files of different noise."""
    paths = [folder / f"{index:06d}.wav" for index in range(n_files)]
    for index, path in enumerate(paths):
        noise = np.random.default_rng(index).standard_normal((n_channels, round(seconds * SAMPLE_RATE)))
        audio.write(path, (0.1 * noise).astype(np.float32), SAMPLE_RATE)
    return paths


def code(work: Callable[[Path], object], paths: list[Path], n_at_once: int, n_cores: int) -> float:
    """Return the seconds of `work` for all files, `n_at_once` at a time."""
    torch.set_num_threads(n_cores // n_at_once)
    return timed(lambda: list(parallel_map(work, paths, n_at_once)))


def sounds(text: str) -> tuple[int, float]:
    """Parse the number of files and their seconds, such as `40x1.5`."""
    number, _, seconds = text.partition("x")
    found = int(number), float(seconds)
    if found[0] < 1 or not 0 < found[1] < math.inf:
        raise ValueError(text)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--files", nargs="+", type=sounds, default=[(40, 1.5), (4, 30.0)], metavar="NxSECONDS", help="sets of files"
    )
    parser.add_argument("--rounds", type=positive, default=5, help="counted rounds [%(default)s]")
    arguments = parser.parse_args()

    n_cores = torch.get_num_threads()
    model = DAC.from_pretrained(DEFAULT_MODEL)

    def compress(path: Path) -> None:
        codec.compress_stream(path, path.with_suffix(".dac"), model)

    def decompress(path: Path) -> None:
        codec.decompress_stream(path.with_suffix(".dac"), path, model)

    tasks: dict[tuple[int, float, str, int], Callable[[], float]] = {}
    with ExitStack() as stack:
        for n_files, seconds in arguments.files:
            paths = write_files(Path(stack.enter_context(tempfile.TemporaryDirectory())), n_files, seconds)
            for work in (compress, decompress):
                for n_at_once in (1, n_cores):
                    tasks[n_files, seconds, work.__name__, n_at_once] = partial(code, work, paths, n_at_once, n_cores)
        times = interleave(tasks, arguments.rounds)
    rows = []
    for n_files, seconds, name in dict.fromkeys(key[:3] for key in tasks):
        one, several = (times[n_files, seconds, name, n_at_once] for n_at_once in (1, n_cores))
        speeds = [speed(n_files * seconds, summarize(found).median) for found in (one, several)]
        rows.append([f"{n_files} of {seconds:g} s", name, *speeds, f"{summarize(several, one).ratio:.2f}"])
    print(table(["files", "work", "one at a time", f"{n_cores} at a time", "ratio"], rows, n_left=2))


if __name__ == "__main__":
    sys.exit(exit_status(main))
