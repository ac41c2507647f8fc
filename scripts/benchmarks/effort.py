"""Measure the speed of whole files, by how codes are chosen, and beside other programs.

    python scripts/benchmarks/effort.py --seconds 30 --rounds 5

prints the speed of `codec.compress_stream` and `codec.decompress_stream` for one channel of the bundled clip, repeated:
by default, and at each effort in files of constant and of variable numbers of codes. All rows take turns in one
process, with the bundled model. OMP_NUM_THREADS sets the number of threads.

    python scripts/benchmarks/effort.py --busy

prints how fast these threads are while other programs keep all cores but one busy, against one thread beside the same
programs.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from report import speed, table
from timing import interleave, positive, summarize, timed

from dac_codec import audio, codec
from dac_codec.common.scripts import exit_status
from dac_codec.common.threads import available_cores
from dac_codec.evaluation.demo import clip_at
from dac_codec.pretrained import DEFAULT_MODEL

SAMPLE_RATE = 44100
Work = Callable[[], object]


def clip(seconds: float) -> bytes:
    """Return the bundled clip as a wav file in one channel, repeated or cut."""
    stream = io.BytesIO()
    mono = np.resize(clip_at(SAMPLE_RATE)[0], (1, max(1, round(seconds * SAMPLE_RATE))))
    audio.write(stream, mono, SAMPLE_RATE, "wav")
    return stream.getvalue()


def work_of(sound: bytes, wishes: dict[str, dict[str, Any]], device: str) -> dict[tuple[str, str], Work]:
    """Return functions that encode and decode a sound with the arguments of `compress_stream`, by their names."""
    model = codec.load_model(DEFAULT_MODEL, device)
    found: dict[tuple[str, str], Work] = {}
    for name, wish in wishes.items():

        def encode(wish: dict[str, Any] = wish) -> bytes:
            target = io.BytesIO()
            codec.compress_stream(sound, target, model, **wish)
            return target.getvalue()

        def decode(coded: bytes) -> None:
            codec.decompress_stream(io.BytesIO(coded), io.BytesIO(), model, fmt="wav")

        found[name, "encode"], found[name, "decode"] = encode, partial(decode, encode())
    return found


def with_threads(n_threads: int, n_programs: int, work: Work) -> float:
    """Return the seconds of work by a number of threads beside programs that each keep a core busy."""
    torch.set_num_threads(n_threads)
    with ExitStack() as stack:
        for _ in range(n_programs):
            program = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(program.kill)
        return timed(work)


def by_effort(works: dict[tuple[str, str], Work], seconds: float, rounds: int) -> str:
    """Return the table of speeds on idle cores."""
    times = interleave({key: partial(timed, work) for key, work in works.items()}, rounds)
    rows = []
    for name in dict.fromkeys(name for name, _ in works):
        cells = [name]
        for what in ("encode", "decode"):
            timing = summarize(times[name, what])
            cells += [speed(seconds, timing.median), speed(seconds, timing.least)]
        rows.append(cells)
    return table(["codes", "encode", "fastest", "decode", "fastest"], rows)


def beside_others(works: dict[tuple[str, str], Work], seconds: float, rounds: int) -> str:
    """Return the table of speeds beside busy programs."""
    n_threads, n_others = torch.get_num_threads(), available_cores() - 1
    kinds = {"alone": (n_threads, 0), "one": (1, n_others), "beside": (n_threads, n_others)}
    tasks = {
        (key, kind): partial(with_threads, *settings, work)
        for key, work in works.items()
        for kind, settings in kinds.items()
    }
    times = interleave(tasks, rounds)
    torch.set_num_threads(n_threads)
    rows = []
    for key in works:
        timings = {kind: summarize(times[key, kind], times[key, "one"]) for kind in kinds}
        speeds = [speed(seconds, timing.median) for timing in timings.values()]
        rows.append([", ".join(key), *speeds, f"{timings['beside'].ratio:.2f}"])
    head = [
        f"{n_threads} threads, idle",
        f"1 thread beside {n_others} busy",
        f"{n_threads} threads beside {n_others} busy",
    ]
    return table(["codes", *head, "ratio"], rows)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of sound [%(default)s]")
    parser.add_argument("--efforts", nargs="*", type=int, choices=range(4), default=[0, 1], metavar="0..3")
    parser.add_argument("--device", default="cpu", help="of the model [%(default)s]")
    parser.add_argument("--busy", action="store_true", help="beside other programs")
    parser.add_argument("--rounds", type=positive, default=5, help="counted rounds [%(default)s]")
    arguments = parser.parse_args()
    wishes: dict[str, dict[str, Any]] = {"default": {}}
    for effort in arguments.efforts:
        wishes[f"constant, effort {effort}"] = {"effort": effort, "constant": True}
        wishes[f"variable, effort {effort}"] = {"effort": effort}
    works = work_of(clip(arguments.seconds), wishes, arguments.device)
    print((beside_others if arguments.busy else by_effort)(works, arguments.seconds, arguments.rounds))
    where = f"{torch.get_num_threads()} threads, {arguments.device}"
    print(f"\n{DEFAULT_MODEL}, {arguments.seconds:g} s, torch {torch.__version__}, {where}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
