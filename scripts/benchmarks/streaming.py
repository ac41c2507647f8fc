"""Print how fast a model streams, chunk size by chunk size, as a Markdown table.

    python scripts/benchmarks/streaming.py --model dac-mini-44khz

A row has how late a sound is with chunks of that size if computing takes no time (a chunk, and what the encoder and the
decoder look ahead), and the seconds of mono that each of them takes in per second of work. The last row is the whole
sound, as files are coded. Every stream is warmed up first; then the rows take turns, so that what else the machine does
falls on all of them, and the median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dac_codec import DAC, StreamingDecoder, StreamingEncoder, inference, prepare
from dac_codec.common.scripts import exit_status
from dac_codec.pretrained import DEFAULT_MODEL

CHUNK_FRAMES = (1, 4, 16, 64)
ROUNDS = 5


def timed(work: Callable[..., object], *arguments: object) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def push_all(stream: StreamingEncoder | StreamingDecoder, signal: Tensor, size: int) -> None:
    """Push a signal [1, C, T] in pieces of `size`."""
    for chunk in signal.split(size, -1):
        stream.push(chunk)


def rates(model: DAC, seconds: float) -> dict[int | None, tuple[float, float]]:
    """Times real time of the encoder and of the decoder, by frames per chunk; None is for the whole at once.

    Args:
        model: the model.
        seconds: of sound in each round, rounded up to whole chunks of the largest size.
    """
    largest = max(CHUNK_FRAMES)
    n_frames = largest * max(1, -(-round(seconds * model.sample_rate) // (largest * model.hop_length)))
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(1, 1, n_frames * model.hop_length, generator=generator)
    codes = inference.encode(model, audio)
    # A stream goes on from round to round, so that only its first chunks, in the warm-up, wait for the look-ahead.
    encoders = {frames: StreamingEncoder(model) for frames in CHUNK_FRAMES}
    decoders = {frames: StreamingDecoder(model) for frames in CHUNK_FRAMES}
    found: dict[int | None, list[tuple[float, float]]] = {frames: [] for frames in (*CHUNK_FRAMES, None)}
    for _ in range(1 + ROUNDS):
        for frames in CHUNK_FRAMES:
            encoding = timed(push_all, encoders[frames], audio, frames * model.hop_length)
            found[frames].append((encoding, timed(push_all, decoders[frames], codes, frames)))
        encoding = timed(inference.encode, model, audio)
        found[None].append((encoding, timed(inference.decode, model, codes)))
    duration = audio.shape[-1] / model.sample_rate
    medians = {}
    for size, times in found.items():
        encodings, decodings = zip(*times[1:], strict=True)  # the first round warms up
        medians[size] = duration / statistics.median(encodings), duration / statistics.median(decodings)
    return medians


def main() -> int:
    """Print the table. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name, folder or file, as for dac-codec")
    parser.add_argument("--seconds", type=float, default=3.0, help="of sound that each row codes in each round")
    arguments = parser.parse_args()
    model = prepare(DAC.from_pretrained(arguments.model), exact=True)
    ahead = inference.encoder_look_ahead(model) + inference.decoder_look_ahead(model)
    print("| frames a chunk | algorithmic latency | encoder | decoder |")
    print("|---:|---:|---:|---:|")
    for frames, (encoding, decoding) in rates(model, arguments.seconds).items():
        size, latency = "whole", ""
        if frames is not None:
            size, latency = str(frames), f"{1000 * (frames * model.hop_length + ahead) / model.sample_rate:.1f} ms"
        print(f"| {size} | {latency} | {encoding:.1f}x | {decoding:.1f}x |")
    print(f"\n{model.name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
