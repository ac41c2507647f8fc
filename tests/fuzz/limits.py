"""`dac-codec compress` with little memory and few file descriptors: it succeeds, or fails with one line.

    python -m tests.fuzz.limits 30

prints how each run ended, and exits with 1 if one ended otherwise: by a signal, with a traceback or several lines.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

GOLDEN = Path(__file__).parents[1] / "golden"
MIB = 2**20


def limited(arguments: list[str], kind: int, limit: int) -> tuple[int, str]:
    """Exit code and standard error of `dac-codec` under a limit of `resource`."""
    done = subprocess.run(
        [sys.executable, "-m", "dac_codec", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)),
        timeout=600,
    )
    return done.returncode, done.stderr.decode()


def is_one_line(code: int, messages: str) -> bool:
    """Whether a run succeeded, or failed with one line."""
    lines = messages.splitlines()
    return code == 0 or (code == 1 and len(lines) == 1 and lines[0].startswith("Error: "))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="?", default=30)
    options = parser.parse_args(arguments)
    n_bad = 0
    with tempfile.TemporaryDirectory() as folder:
        sound = 0.1 * np.random.default_rng(0).standard_normal((44100 * 10, 1)).astype(np.float32)
        soundfile.write(Path(folder, "a.wav"), sound, 44100)
        command = ["compress", f"{folder}/a.wav", "--model", str(GOLDEN / "dac_44khz_tiny.pth"), "--force", "--quiet"]
        runs = [(resource.RLIMIT_AS, int(128 * MIB * 40 ** (i / options.n))) for i in range(options.n)]
        runs += [(resource.RLIMIT_NOFILE, n) for n in range(5, 24)]  # below, Python itself doesn't start
        for kind, limit in runs:
            code, messages = limited(command, kind, limit)
            what = f"{limit // MIB} MiB" if kind == resource.RLIMIT_AS else f"{limit} descriptors"
            good = is_one_line(code, messages)
            n_bad += not good
            print(f"{what}: exit code {code}, {messages.strip()[-300:]!r}{'' if good else '  <-- BAD'}", flush=True)
    print(f"{len(runs)} runs, {n_bad} ended otherwise than with success or one line")
    return int(n_bad > 0)


if __name__ == "__main__":
    sys.exit(main())
