"""Measure how fast a collection of sounds becomes codes, and whether memory grows with the number of files.

    python scripts/benchmarks/corpus.py --files 60x10 --workers 1 2
    python scripts/benchmarks/corpus.py --files 10000x0.1 --workers 2 --model tests/golden/dac_44khz_tiny.pth

writes mono wav files of noise and prints, for each number of worker processes, files per second, hours of sound per
hour, seconds of processor time per hour of sound (of the workers, and of the main process, which writes the shards),
bytes of shards per second of sound, and the memory of the main process and of the largest worker after each quarter of
the files. The start of the workers is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from files import sounds, write_files
from report import table
from timing import positive

from dac_codec.common.scripts import exit_status
from dac_codec.corpus import SUFFIXES, Plan, Settings, Totals, on_this_machine
from dac_codec.pretrained import DEFAULT_MODEL


def memory(pid: int) -> float:
    """Resident memory of a process in MiB; 0 if it has ended, or there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def processor_time(pid: int) -> float:
    """Seconds of processor time of a process; 0 if it has ended, or there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Note(NamedTuple):
    """What was measured after a group of files."""

    done: Totals
    time: float
    workers_time: float
    main_time: float
    main_memory: float
    worker_memory: float


class Meter:
    """Measures after each group of files."""

    def __init__(self) -> None:
        self.seen = Totals()
        self.notes: list[Note] = []

    def report(self, done: Totals) -> None:
        """Measure."""
        self.seen += done
        workers = [process.pid or 0 for process in multiprocessing.active_children()]
        times = sum(map(processor_time, workers)), time.process_time()
        memories = memory(os.getpid()), max(map(memory, workers), default=0.0)
        self.notes.append(Note(self.seen, time.perf_counter(), *times, *memories))

    def row(self, n_workers: int, n_bytes: int) -> list[str]:
        """The row of the table."""
        first, last = self.notes[0], self.notes[-1]
        elapsed, seconds = last.time - first.time, last.done.seconds - first.done.seconds
        quarters = [self.notes[(len(self.notes) - 1) * quarter // 4] for quarter in (1, 2, 3, 4)]
        return [
            str(n_workers),
            str(last.done.sounds),
            f"{(last.done.sounds - first.done.sounds) / elapsed:.2f}",
            f"{seconds / elapsed:.1f}",
            f"{3600 * (last.workers_time - first.workers_time) / seconds:.0f}",
            f"{3600 * (last.main_time - first.main_time) / seconds:.2f}",
            f"{n_bytes / last.done.seconds:.0f}",
            " ".join(f"{note.main_memory:.0f}" for note in quarters),
            " ".join(f"{note.worker_memory:.0f}" for note in quarters),
        ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=sounds, default=(60, 10.0), metavar="NxSECONDS", help="files [60x10]")
    parser.add_argument("--workers", nargs="+", type=positive, default=[1, 2], metavar="N", help="processes [1 2]")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or path [%(default)s]")
    parser.add_argument("--format", choices=SUFFIXES, default="parquet", help="format of the shards [%(default)s]")
    arguments = parser.parse_args()

    settings = Settings(arguments.model, device="cpu", as_files=arguments.format == "dac")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sounds").mkdir()
        n_files, seconds = arguments.files
        write_files(folder / "sounds", n_files, seconds, n_channels=1)
        for n_workers in arguments.workers:
            plan = Plan([str(folder / "sounds")], folder / f"corpus{n_workers}", settings, arguments.format)
            meter = Meter()
            with on_this_machine(settings, n_workers) as engine:
                plan.run(engine, meter.report)
                meter.report(Totals())  # with the last shard written
            n_bytes = sum(path.stat().st_size for path in plan.corpus.folder.glob("shard-*"))
            rows.append(meter.row(n_workers, n_bytes))
    names = ["workers", "files", "files/s", "hours per hour", "workers: s per hour", "main: s per hour"]
    names += ["bytes per second", "main: MiB", "worker: MiB"]
    print(table(names, rows, n_left=0))


if __name__ == "__main__":
    sys.exit(exit_status(main))
