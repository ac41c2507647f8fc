"""Compare the speed of this checkout with that of another one, side by side.

    git worktree add ../before HEAD~1
    python scripts/benchmarks/before_after.py --before ../before

prints the ratio before / after (above 1: this checkout is faster) of encoding and decoding with the prepared model, in
the exact and the default mode, each checkout in a process of its own; and of `dac-codec compress` and `decompress` of a
file as whole processes. The tasks of both checkouts take turns in every round. Only public names are used, so that the
other checkout may have other modules. OMP_NUM_THREADS sets the number of threads.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from processes import LeftOutError, Remote, WorkerError, remote, seconds_of, serve
from timing import duration, interleave, positive, summarize, timed

ROOT = Path(__file__).resolve().parents[2]
MODES: dict[str, dict[str, bool]] = {"exact": {"exact": True}, "default": {}}


class Checkout:
    """Answers requests in a process that imports `dac_codec` from one checkout."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], Callable[[], object]] = {}

    def prepare(self, model: str, seconds: float) -> str:
        """Prepare the model in every mode. Return the file that `dac_codec` was imported from."""
        import torch

        package: Any = import_module("dac_codec")
        for mode, settings in MODES.items():
            network = package.prepare(package.DAC.from_pretrained(model), **settings)
            generator = torch.Generator().manual_seed(0)
            audio = 0.1 * torch.randn(1, 1, round(seconds * network.sample_rate), generator=generator)
            codes = network.encode(audio).codes
            self._calls[mode, "encode"] = partial(network.encode, audio)
            self._calls[mode, "decode"] = partial(network.decode_codes, codes)
        return str(package.__file__)

    def time(self, mode: str, operation: str) -> float:
        """Return the seconds of one call."""
        return timed(self._calls[mode, operation])


def command_line(checkout: Path) -> list[str]:
    """Return the command `dac-codec` of a checkout, to be run in its folder."""
    module = "dac_codec" if (checkout / "dac_codec" / "__main__.py").exists() else "dac_codec.cli"
    return [sys.executable, "-m", module]


def write_noise(path: Path, seconds: float) -> None:
    """Write mono noise at 44.1 kHz."""
    import numpy as np
    import soundfile

    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(round(44100 * seconds)), 44100)


def tasks_of(
    side: str, checkout: Path, worker: Remote, model: str, wav: Path, seconds: float
) -> dict[tuple[str, str], Callable[[], float]]:
    """Return the tasks of one checkout, by name and side.

    Raises:
        WorkerError: the process of the checkout imports another one.
    """
    found = Path(worker.ask("prepare", model=model, seconds=seconds))
    if checkout not in found.parents:
        raise WorkerError(f"{checkout} has no dac_codec: the process imported {found}")
    tasks: dict[tuple[str, str], Callable[[], float]] = {}
    for mode in MODES:
        for operation in ("encode", "decode"):
            tasks[f"{operation}, {mode}", side] = partial(worker.ask, "time", mode=mode, operation=operation)
    command, dac = command_line(checkout), wav.with_name(f"{side}.dac")
    options = ["--model", model, "--device", "cpu", "--force", "--quiet"]
    for name, source, target in (("compress", wav, dac), ("decompress", dac, wav.with_name(f"{side}.wav"))):
        whole = [*command, name, source, "-o", target, *options]
        tasks[f"dac-codec {name}", side] = partial(seconds_of, whole, {"PYTHONPATH": str(checkout)}, checkout)
    return tasks


def main() -> None:
    """Measure and print the table."""
    from report import table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="folder of the other checkout")
    parser.add_argument("--model", default="dac-mini-44khz", help="name, folder or file that both checkouts can load")
    parser.add_argument("--rounds", type=positive, default=5, help="counted rounds [%(default)s]")
    parser.add_argument("--warm-up", type=int, default=1, help="rounds before them [%(default)s]")
    parser.add_argument("--seconds", type=duration, default=10.0, help="audio per call of the model [%(default)s]")
    parser.add_argument("--file-seconds", type=duration, default=30.0, help="audio in the file [%(default)s]")
    arguments = parser.parse_args()
    if not (arguments.before / "dac_codec").is_dir():
        parser.error(f"{arguments.before} is no checkout: it has no folder dac_codec")
    model = str(Path(arguments.model).resolve()) if Path(arguments.model).exists() else arguments.model
    by_side: dict[str, dict[tuple[str, str], Callable[[], float]]] = {}
    with ExitStack() as stack:
        wav = Path(stack.enter_context(tempfile.TemporaryDirectory()), "noise.wav")
        write_noise(wav, arguments.file_seconds)
        for side, folder in (("before", arguments.before.resolve()), ("after", ROOT)):
            command = [sys.executable, "-W", "ignore", Path(__file__).resolve(), "--serve"]
            worker = stack.enter_context(remote(command, {"PYTHONPATH": str(folder)}, folder))
            by_side[side] = tasks_of(side, folder, worker, model, wav, arguments.seconds)
        names = [name for name, _ in by_side["after"]]
        tasks = {(name, side): by_side[side][name, side] for name in names for side in by_side}
        times = interleave(tasks, arguments.rounds, arguments.warm_up)
    rows = []
    for name in names:
        before, after = times[name, "before"], times[name, "after"]
        old, new = summarize(before), summarize(after, before)
        cells = [f"{1000 * value:.0f}" for value in (old.least, old.median, new.least, new.median)]
        rows.append([name, *cells, f"{old.least / new.least:.2f}", f"{new.ratio:.2f}"])
    head = ["ms", "before: min", "median", "after: min", "median", "before / after: min", "median"]
    print(table(head, rows))
    print(f"\n{model}, {arguments.rounds} rounds, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads")


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve(Checkout())
    else:
        from dac_codec.common.scripts import exit_status

        sys.exit(exit_status(main, (LeftOutError, WorkerError)))
