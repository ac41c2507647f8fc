"""Print how much memory and time compressing and decompressing take for sounds of several lengths, as a Markdown table.

    python scripts/benchmark_memory.py --seconds 120 7200 --channels 2

Every run is a process of its own: `dac-codec` with the bundled model, and descript-audio-codec with its own weights
where it is installed. The peak is that of the resident memory; the rate is the sound's duration by the time of the
whole process, start included.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dac_codec import audio

SAMPLE_RATE = 44100


class Run(NamedTuple):
    """What a process took: bytes of memory and seconds."""

    peak: int
    seconds: float


def write_sound(path: Path, seconds: int, channels: int) -> None:
    """A second of tones and noise, over and over."""
    random = np.random.default_rng(0)
    time_ = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tones = 0.2 * np.sin(2 * np.pi * 220 * np.arange(1, channels + 1)[:, None] * time_)
    block = (tones + 0.02 * random.standard_normal((channels, SAMPLE_RATE))).astype(np.float32)
    with audio.Writer(path, SAMPLE_RATE, channels, seconds * SAMPLE_RATE) as writer:
        for _ in range(seconds):
            writer.write(block)


def measured(*command: object) -> Run | None:
    """Run a command; None if it fails, as where memory is short."""
    started = time.perf_counter()
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(usage.ru_maxrss * unit, seconds) if process.returncode == 0 else None


def cells(run: Run | None, seconds: int) -> str:
    """A run as two cells of the table."""
    return "failed |" if run is None else f"{run.peak / 2**20:.0f} MiB | {seconds / run.seconds:.1f}x"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 120], help="lengths of the sounds")
    parser.add_argument("--channels", type=int, default=2, help="channels of the sounds")
    arguments = parser.parse_args()

    ours = [sys.executable, "-m", "dac_codec.cli"]
    rows: list[tuple[str, list[object], list[object], str]] = [
        ("dac_codec", [*ours, "compress", "--quiet"], [*ours, "decompress", "--quiet", "--force"], "-o")
    ]
    reference = importlib.util.find_spec("dac") is not None
    if reference:
        theirs: list[object] = [sys.executable, "-m", "dac"]
        rows.append(("descript-audio-codec", [*theirs, "encode"], [*theirs, "decode"], "--output"))
    print("| codec | sound | compress: peak | real time | decompress: peak | real time |")
    print("|---|---:|---:|---:|---:|---:|")
    for seconds in arguments.seconds:
        for name, compress, decompress, output in rows:
            with tempfile.TemporaryDirectory() as folder:
                there, back = Path(folder, "there"), Path(folder, "back")
                there.mkdir()
                back.mkdir()
                write_sound(Path(folder, "a.wav"), seconds, arguments.channels)
                encoded = measured(*compress, Path(folder, "a.wav"), output, there)
                compressed = next(there.rglob("*.dac"), None)
                decoded = None if compressed is None else measured(*decompress, compressed, output, back)
            sound = f"{seconds} s, {arguments.channels} channels"
            print(f"| {name} | {sound} | {cells(encoded, seconds)} | {cells(decoded, seconds)} |", flush=True)
    if not reference:
        print("\nWithout the reference: `pip install descript-audio-codec` adds it to the table.")


if __name__ == "__main__":
    main()
