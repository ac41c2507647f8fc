"""Measure the speed of streaming by chunk size.

    python scripts/benchmarks/streaming.py --model dac-mini-44khz

prints a row for each chunk size: the algorithmic latency (a chunk, and the look-ahead of encoder and decoder), and the
speeds of encoder and decoder for mono, with their ratios to the last row, which codes the signal as a whole. All rows
take turns in one process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial

import torch
from report import speed, table
from timing import duration, interleave, summarize, timed
from torch import Tensor

from dac_codec import DAC, StreamingDecoder, StreamingEncoder, inference, prepare
from dac_codec.common.scripts import exit_status
from dac_codec.pretrained import DEFAULT_MODEL

CHUNK_FRAMES = (1, 4, 16, 64)
ROUNDS = 5


def push_all(stream: StreamingEncoder | StreamingDecoder, signal: Tensor, size: int) -> None:
    """Push a signal [1, C, T] in chunks of `size`."""
    for chunk in signal.split(size, -1):
        stream.push(chunk)


def tasks_of(model: DAC, seconds: float) -> tuple[dict[tuple[int | None, str], Callable[[], float]], float]:
    """Return the tasks by frames per chunk (None: the whole signal) and operation, and the seconds of audio of each.

    The seconds are rounded up to whole chunks of the largest size.
    """
    largest = max(CHUNK_FRAMES)
    n_frames = largest * max(1, -(-round(seconds * model.sample_rate) // (largest * model.hop_length)))
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(1, 1, n_frames * model.hop_length, generator=generator)
    codes = inference.encode(model, audio)
    tasks: dict[tuple[int | None, str], Callable[[], float]] = {}
    # A stream continues from round to round, so only its first chunks, in the warm-up, wait for the look-ahead.
    for frames in CHUNK_FRAMES:
        tasks[frames, "encode"] = partial(timed, push_all, StreamingEncoder(model), audio, frames * model.hop_length)
        tasks[frames, "decode"] = partial(timed, push_all, StreamingDecoder(model), codes, frames)
    tasks[None, "encode"] = partial(timed, inference.encode, model, audio)
    tasks[None, "decode"] = partial(timed, inference.decode, model, codes)
    return tasks, audio.shape[-1] / model.sample_rate


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name, folder or file [%(default)s]")
    parser.add_argument("--seconds", type=duration, default=3.0, help="audio per row and round [%(default)s]")
    arguments = parser.parse_args()
    model = prepare(DAC.from_pretrained(arguments.model), exact=True)
    ahead = inference.encoder_look_ahead(model) + inference.decoder_look_ahead(model)
    tasks, length = tasks_of(model, arguments.seconds)
    times = interleave(tasks, ROUNDS)
    rows = []
    for frames in (*CHUNK_FRAMES, None):
        cells = ["whole", ""]
        if frames is not None:
            cells = [str(frames), f"{1000 * (frames * model.hop_length + ahead) / model.sample_rate:.1f} ms"]
        for operation in ("encode", "decode"):
            timing = summarize(times[frames, operation], times[None, operation])
            cells += [speed(length, timing.median), f"{timing.ratio:.2f}"]
        rows.append(cells)
    print(table(["frames per chunk", "latency", "encoder", "to whole", "decoder", "to whole"], rows, n_left=0))
    print(f"\n{model.name}, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    sys.exit(exit_status(main))
