"""SIGINT at random moments of `dac-codec compress`: exit code 130, no file left behind, and at most two lines: how many
files are done, and "Interrupted".

    python -m tests.fuzz.interrupts 50

prints each run that ends otherwise, and exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from tests.cli.shell import interruptible
from tests.conftest import GOLDEN

TEARDOWN_SECONDS = 0.5
"""Upper limit of the time in which the system frees the memory of an ended process, which signals do not reach."""


def prepare(folder: Path, seconds: int) -> None:
    """Write the sounds for `interrupt`."""
    (folder / "in").mkdir()
    sound = 0.1 * np.random.default_rng(0).standard_normal((44100 * seconds, 1)).astype(np.float32)
    for index in range(3):
        soundfile.write(folder / "in" / f"{index}.wav", sound, 44100)


def interrupt(folder: Path, delay: float, n_files: int, n_signals: int) -> tuple[int, str, list[str]] | None:
    """Compress the sounds in `folder`/in, and send SIGINT `delay` seconds after `run` begins.

    Before that the interpreter starts, where nothing can be done about a signal.

    Returns:
        Exit code, standard error, and the files left that are no complete output; None if the run ended before.
    """
    inputs = sorted((folder / "in").iterdir())[:n_files]
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    program = "from dac_codec.__main__ import run; print(end='.', flush=True); run()"
    command = [sys.executable, "-c", program, "compress", *map(str, inputs), "-o", f"{out}/", "--quiet"]
    with subprocess.Popen(
        [*command, "--model", str(GOLDEN / "dac_44khz_tiny.pth")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=interruptible,
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        time.sleep(delay)
        if process.poll() is not None:
            return None
        for _ in range(n_signals):
            process.send_signal(signal.SIGINT)
        sent = time.perf_counter()
        _, messages = process.communicate(timeout=600)
        if process.returncode == 0 and time.perf_counter() - sent < TEARDOWN_SECONDS:
            return None
    left = [path.name for path in out.glob("*") if path.suffix != ".dac"] + [path.name for path in out.glob(".*.tmp")]
    # A process that has not yet installed its handlers is ended by the signal itself, which a shell calls 130 too.
    code = 128 + signal.SIGINT if process.returncode == -signal.SIGINT else process.returncode
    return code, messages.decode(), left


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="?", default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    n_done = n_bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, seconds=10)
        longest = time.perf_counter()
        interrupt(folder, 1e-3, 3, 0)
        longest = time.perf_counter() - longest
        while n_done < options.n:
            result = interrupt(folder, rng.uniform(0.01, longest), rng.choice((1, 3)), rng.choice((1, 1, 2)))
            if result is None:
                longest *= 0.98
                continue
            n_done += 1
            code, messages, left = result
            *first, last = messages.splitlines() or [""]
            done = [line for line in first if " files are done; " in line]
            if code != 130 or last not in ("", "Interrupted") or first != done[:1] or left:
                n_bad += 1
                print(f"exit code {code}, left {left}, {messages!r}")
    print(f"{n_done} interrupted, {n_bad} ended otherwise")
    return int(n_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
