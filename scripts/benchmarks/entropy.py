"""Measure entropy coding: the share of the bits that it leaves, by domain and codebook, and its speed on one core.

    OMP_NUM_THREADS=1 python scripts/benchmarks/entropy.py dac-mini-44khz --sounds data/manifest.csv

encodes sounds of a split with the model, and codes their codes with its context model and with adaptive counts, in
chunks of the default length. Shares count whole bytes, relative to codes of fixed length; mean is the mean over the
domains. Speeds are those of 64 chunks side by side, in times real time, and the median time of a chunk of 16 frames;
they count the time of the processor, not what others use. `--codes codes.npz` keeps the codes for the next time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from report import table
from timing import positive

from dac_codec.bitstream import default_chunk_frames
from dac_codec.bitstream.adaptive import AdaptiveModel
from dac_codec.bitstream.code_model import CodeModel
from dac_codec.codec.models import load_model
from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status
from dac_codec.pretrained import context_model
from dac_codec.training.context import chunks_of, codes_of
from dac_codec.training.sounds import find_sounds

LIVE_FRAMES = 16
MOST_LANES = 64

Codes = npt.NDArray[np.int16]


def read_codes(options: argparse.Namespace) -> dict[str, list[Codes]]:
    """Return the codes of excerpts by domain, from the file of `--codes` if it exists."""
    if options.codes is not None and options.codes.exists():
        codes: dict[str, list[Codes]] = {}
        with np.load(options.codes) as arrays:
            for name in arrays.files:
                codes.setdefault(name.partition("/")[0], []).append(arrays[name])
        return codes
    if options.sounds is None:
        raise DacError("give --sounds, or --codes with a file that exists")
    sounds = find_sounds(options.sounds, options.split)[0][options.split]
    codes = codes_of(load_model(options.model), sounds, options.minutes, np.random.default_rng(0))
    if options.codes is not None:
        named = {f"{domain}/{index}": file for domain, files in codes.items() for index, file in enumerate(files)}
        np.savez_compressed(options.codes, **named)  # type: ignore[arg-type]
    return codes


def shares(coder: CodeModel, files: Sequence[Codes], chunk_frames: int, bits: float) -> npt.NDArray[np.float64]:
    """Return the share of the bits of each codebook [N], of codes that take `bits` each."""
    chunks = chunks_of(files, chunk_frames)
    sizes = np.array([[len(plane) for plane in planes] for planes in coder.encode(chunks)]).sum(0)
    found: npt.NDArray[np.float64] = 8 * sizes / (sum(chunk.shape[1] for chunk in chunks) * bits)
    return found


def processor_seconds(work: Callable[[], object], rounds: int) -> float:
    """Return the median processor time of some calls."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def speeds(coder: CodeModel, files: Sequence[Codes], chunk_frames: int, frame_rate: float, rounds: int) -> list[str]:
    """Return the cells of a row of the table of speeds."""
    chunks = [chunk for chunk in chunks_of(files, chunk_frames) if chunk.shape[1] == chunk_frames][:MOST_LANES]
    if not chunks:
        raise DacError(f"no excerpt has {chunk_frames} frames, a whole chunk")
    cells = []
    for lanes in (chunks, [np.ascontiguousarray(chunks[0][:, :LIVE_FRAMES])]):
        coded, n_codes = coder.encode(lanes), [(chunk >= 0).sum(0) for chunk in lanes]
        for task in (partial(coder.encode, lanes), partial(coder.decode, coded, n_codes)):
            taken = processor_seconds(task, rounds)
            seconds = sum(chunk.shape[1] for chunk in lanes) / frame_rate
            cells.append(f"{seconds / taken:.0f}x" if lanes is chunks else f"{1000 * taken:.1f} ms")
    return cells


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name, a folder with a saved model, or a .pth file")
    parser.add_argument("--sounds", type=Path, help="a manifest, or a folder of sounds")
    parser.add_argument("--split", default="test", help="of the manifest (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=30.0, help="of sound in all (default: %(default)s)")
    parser.add_argument("--codes", type=Path, help="a file for the codes: read if it exists, otherwise written")
    parser.add_argument("--rounds", type=positive, default=5, help="of each timing (default: %(default)s)")
    options = parser.parse_args()
    model = load_model(options.model)
    codes = read_codes(options)
    chunk_frames = default_chunk_frames(model.sample_rate, model.hop_length)
    frame_rate = model.sample_rate / model.hop_length
    context = context_model(options.model)
    coders: dict[str, CodeModel] = {"adaptive": AdaptiveModel(model.codebook_size)}
    if context is not None:
        coders = {"context": context, **coders}
    rows, timings = [], []
    for name, coder in coders.items():
        by_domain = [shares(coder, files, chunk_frames, math.log2(model.codebook_size)) for files in codes.values()]
        weights = [sum(file.shape[1] for file in files) for files in codes.values()]
        everything = np.average(by_domain, 0, weights)
        for label, found in zip((*codes, "all", "mean"), (*by_domain, everything, np.mean(by_domain, 0)), strict=True):
            rows.append([name, label, f"{found.mean():.4f}", " ".join(f"{share:.3f}" for share in found)])
        files = [file for some in codes.values() for file in some]
        timings.append([name, *speeds(coder, files, chunk_frames, frame_rate, options.rounds)])
    minutes = {domain: sum(file.shape[1] for file in files) / frame_rate / 60 for domain, files in codes.items()}
    print(", ".join(f"{found:.1f} min of {domain}" for domain, found in minutes.items()), end="\n\n")
    print(table(["model", "domain", "share of bits", "by codebook"], rows, 2), end="\n\n")
    print(table(["model", "encode", "decode", "encode a live chunk", "decode a live chunk"], timings))


if __name__ == "__main__":
    sys.exit(exit_status(main))
