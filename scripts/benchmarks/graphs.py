"""Compare the speed of exported ONNX graphs in onnxruntime with the engine of this package.

    python scripts/benchmarks/graphs.py --seconds 5 --rounds 5

prints a table for docs/interop.md: multiples of real time, and ratios to the exact engine within the rounds.
OMP_NUM_THREADS sets the number of threads of both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from report import speed, table
from streaming import push_all
from timing import duration, interleave, positive, summarize, timed

from dac_codec import StreamingDecoder, StreamingEncoder, prepare
from dac_codec.common.scripts import exit_status
from dac_codec.evaluation.demo import clip_at
from dac_codec.interop import export_onnx
from dac_codec.model import DAC, PRESETS

PRECISIONS: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32", "fp16", "int8")
EXACT = "dac_codec, exact"


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_step(step: Any, values: np.ndarray, size: int, n_frames: int) -> None:
    """Run a graph for chunks over `values` [1, C, T], `size` at a time."""
    states = [value for value in step.get_inputs() if value.name.startswith("past.")]
    state = {value.name: np.zeros([1, *value.shape[1:]], np.float32) for value in states}
    state["past.position"] = np.zeros(1, np.int64)
    names = [value.name.replace("present", "past") for value in step.get_outputs()]
    for start in range(0, values.shape[2] // size * size, size):
        chunk = values[..., start : start + size]
        found = step.run(None, {step.get_inputs()[0].name: chunk, "n_frames": np.array([n_frames]), **state})
        state = dict(zip(names[1:], found[1:], strict=True))


def tasks(
    model: DAC, folder: Path, seconds: float, size: int
) -> tuple[dict[tuple[str, str], Callable[[], float]], float]:
    """The tasks by row and operation, and the seconds of audio of each."""
    hop, n_frames = model.hop_length, max(size, round(seconds * model.config.frame_rate) // size * size)
    audio = torch.from_numpy(np.resize(clip_at(model.sample_rate)[0], (1, 1, n_frames * hop)).astype(np.float32))
    codes = prepare(model, exact=True).encode(audio).codes
    found: dict[tuple[str, str], Callable[[], object]] = {}
    for row, exact in ((EXACT, True), ("dac_codec, default", False)):
        prepared = prepare(model, exact=exact)
        found[row, "encode"] = partial(prepared.encode, audio)
        found[row, "decode"] = partial(prepared.decode_codes, codes)
    for precision in PRECISIONS:
        export_onnx(model, folder, precision, accept=True)
        suffix = "" if precision == "fp32" else f"_{precision}"
        values = {"encode": {"input_values": audio.numpy()}, "decode": {"audio_codes": codes.numpy()}}
        for operation, given in values.items():
            graph = session(folder / f"{operation}r_model{suffix}.onnx")
            found[f"onnxruntime, {precision}", operation] = partial(graph.run, None, given)
    encoder, decoder = StreamingEncoder(prepare(model, exact=True)), StreamingDecoder(prepare(model, exact=True))
    row = f"dac_codec, exact, in chunks of {size} frames"
    found[row, "encode"] = partial(push_all, encoder, audio, size * hop)
    found[row, "decode"] = partial(push_all, decoder, codes, size)
    row = f"onnxruntime, fp32, in chunks of {size} frames"
    found[row, "encode"] = partial(run_step, session(folder / "encoder_step.onnx"), audio.numpy(), size * hop, n_frames)
    found[row, "decode"] = partial(run_step, session(folder / "decoder_step.onnx"), codes.numpy(), size, n_frames)
    return {key: partial(timed, work) for key, work in found.items()}, audio.shape[-1] / model.sample_rate


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["dac-mini-44khz", "44khz"], help="names; presets: random weights"
    )
    parser.add_argument("--seconds", type=duration, default=5.0, help="audio per row and round [%(default)s]")
    parser.add_argument("--rounds", type=positive, default=5, help="[%(default)s]")
    parser.add_argument("--chunk", type=positive, default=16, help="frames of a chunk [%(default)s]")
    arguments = parser.parse_args()
    for name in arguments.models:
        model = DAC(PRESETS[name]).eval() if name in PRESETS else DAC.from_pretrained(name)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            work, length = tasks(model, Path(folder), arguments.seconds, arguments.chunk)
            times = interleave(work, arguments.rounds)
        rows = []
        for row in dict.fromkeys(row for row, _ in times):
            cells = [row]
            for operation in ("encode", "decode"):
                timing = summarize(times[row, operation], times[EXACT, operation])
                cells += [speed(length, timing.median), f"{timing.ratio:.2f}"]
            rows.append(cells)
        print(table([name, "encode", "to exact", "decode", "to exact"], rows), end="\n\n")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    sys.exit(exit_status(main))
