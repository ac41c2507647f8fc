"""Measure other ways to run the same networks on a CPU beside the engine, and what they cost in accuracy.

    pip install onnxscript onnxruntime openvino
    OMP_NUM_THREADS=2 python scripts/benchmark_backends.py --rounds 3

prints the tables of "What was tried and left out" in docs/speed.md. What needs a package that is missing is left out.

- Encoding is from samples to what goes into the quantizer, decoding from what comes out of it to samples: the quantizer
  is ours in every row. The sound is the bundled clip.
- The other runtimes get a network as an ONNX file for this very length, its weights folded. "rough sine" is the
  polynomial that the engine, too, takes for the sine of Snake in bfloat16.
- int8: weights, a scale for each output channel, and inputs of all convolutions of the decoder but the transposed ones,
  by ONNX Runtime's static quantization. Their ranges are those of the measured clip itself, which flatters it.
- "a clip for each thread" codes as many clips at once as there are threads. It is what sharing out the time of one clip
  would gain at best, as its parts would have to overlap.
- Every round times every row once, after one that doesn't count; the tables have medians. With one thread, it is the
  processor's time that is measured: other work on the machine hardly lengthens it. With more, it is the clock.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from benchmark import PAUSE, LeftOutError, clip, duration, load, positive, processor
from torch import Tensor, nn
from tqdm import tqdm

from dac_codec.engine import prepare
from dac_codec.errors import exit_status
from dac_codec.model import DAC, PRESETS
from dac_codec.model.layers import CausalConv1d, CausalConvTranspose1d, Snake, convolutions
from dac_codec.model.snake import SQUARED_SINE, scales
from dac_codec.overlap import side_by_side
from dac_codec.pretrained import DEFAULT_MODEL
from dac_codec.spectral import Spectra, mel_distance

Step = Callable[[Tensor], Tensor]

RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


class Row(NamedTuple):
    """A way to run a network.

    Attributes:
        title: what it is called.
        arithmetic: what its convolutions multiply in.
        steps: "encode", audio [1, 1, T] to latents [1, D, F], and "decode", the way back; or one of them.
        ready: seconds that exporting and making it ready took.
        n_clips: that a call codes.
    """

    title: str
    arithmetic: str
    steps: dict[str, Step]
    ready: float
    n_clips: int = 1


class PlainSnake(nn.Module):
    """Snake in operations that every runtime has.

    Args:
        alpha: [1, C, 1].
        rough: whether the sine is the polynomial of `SQUARED_SINE`.
    """

    def __init__(self, alpha: Tensor, rough: bool) -> None:
        super().__init__()
        for name, values in scales(alpha.detach())._asdict().items():
            self.register_buffer(name, values)
        self._rough = rough

    def forward(self, x: Tensor) -> Tensor:
        if not self._rough:
            return x + torch.sin(self.get_buffer("alpha") * x).square() * self.get_buffer("inverse")
        turns = self.get_buffer("turns") * x
        squared = (turns - torch.round(turns)).square()
        for factor in SQUARED_SINE:
            squared = squared - factor * squared * squared
        return x + squared * self.get_buffer("height")


def plain(module: nn.Module, rough: bool) -> nn.Module:
    """A copy of an encoder or a decoder that others can read: weight norm multiplied out, Snake in plain operations."""
    replaced: dict[int, object] = {
        id(layer): PlainSnake(layer.alpha, rough) for layer in module.modules() if isinstance(layer, Snake)
    }
    kinds: tuple[Any, ...] = (CausalConv1d, CausalConvTranspose1d, nn.Conv1d, nn.ConvTranspose1d)
    for conv in convolutions(module):
        kind = next(kind for kind in kinds if isinstance(conv, kind))
        shape = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        folded = kind(conv.in_channels, conv.out_channels, **shape)
        folded.load_state_dict({"weight": conv.weight, "bias": conv.bias})
        replaced[id(conv)] = folded
    return copy.deepcopy(module, replaced).eval()


def ours(model: DAC, title: str, exact: bool = False) -> Row:
    """The engine."""
    started = time.perf_counter()
    prepared = prepare(model, exact=exact)
    encoder, decoder = prepared.encoder_network, prepared.decoder_network
    steps: dict[str, Step] = {
        "encode": lambda audio: encoder.whole(audio.transpose(1, 2)).transpose(1, 2),
        "decode": lambda z: decoder.whole(z.transpose(1, 2)).transpose(1, 2),
    }
    return Row(title, str(prepared.dtype).removeprefix("torch."), steps, time.perf_counter() - started)


def clip_for_each_thread(row: Row) -> Row:
    """The same way for as many clips at once as there are threads."""
    n_threads = torch.get_num_threads()

    def together(step: Step, x: Tensor) -> Tensor:
        torch.set_num_threads(1)
        try:
            first, *_ = side_by_side(torch.inference_mode()(step), [x] * n_threads, n_threads)
            return first
        finally:
            torch.set_num_threads(n_threads)

    steps: dict[str, Step] = {operation: partial(together, step) for operation, step in row.steps.items()}
    return Row(f"{row.title}, a clip for each thread", row.arithmetic, steps, row.ready, n_threads)


def need(package: str) -> Any:
    """A package that not everyone has.

    Raises:
        LeftOutError: it is missing.
    """
    if find_spec(package) is None:
        raise LeftOutError(f"{package} is missing: pip install {package}")
    return import_module(package)


class Runtimes:
    """The other runtimes.

    Args:
        model: whose networks they run.
        inputs: audio [1, 1, T] and latents [1, D, F], by operation.
        folder: for ONNX files.
    """

    def __init__(self, model: DAC, inputs: dict[str, Tensor], folder: Path) -> None:
        self._networks = {"encode": model.encoder, "decode": model.decoder}
        self._inputs, self._folder = inputs, folder

    def row(self, runtime: str, arithmetic: str, rough: bool = False) -> Row:
        """A network's halves in "onnxruntime" or "openvino"; int8 has the decoder alone.

        Raises:
            LeftOutError: a package is missing, or this processor has no such arithmetic.
        """
        load = {"onnxruntime": self._in_onnxruntime, "openvino": self._in_openvino}[runtime]
        started, steps = time.perf_counter(), {}
        for operation in ("decode",) if arithmetic == "int8" else ("encode", "decode"):
            steps[operation] = load(need(runtime), arithmetic, partial(self._export, operation, arithmetic, rough))
        title = f"{RUNTIMES[runtime]}{', rough sine' if rough else ''}"
        return Row(title, arithmetic, steps, time.perf_counter() - started)

    def _export(self, operation: str, arithmetic: str, rough: bool) -> Path:
        need("onnxscript")
        path, network = self._folder / f"{operation}.onnx", plain(self._networks[operation], rough)
        torch.onnx.export(network, (self._inputs[operation],), path, input_names=["x"], dynamo=True, verbose=False)
        if arithmetic != "int8":
            return path
        need("onnxruntime")
        tools, target = import_module("onnxruntime.quantization"), path.with_suffix(".int8.onnx")
        sounds = iter([{"x": self._inputs[operation].numpy()}])

        class Calibration(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
            def get_next(self) -> dict[str, Any] | None:
                return next(sounds, None)

        types = {"activation_type": tools.QuantType.QUInt8, "weight_type": tools.QuantType.QInt8}
        tools.quantize_static(path, target, Calibration(), op_types_to_quantize=["Conv"], per_channel=True, **types)
        return target

    def _in_onnxruntime(self, library: Any, arithmetic: str, export: Callable[[], Path]) -> Step:
        options = library.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that wait for the next call would take the processor from the other rows.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = library.InferenceSession(export(), options, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])

    def _in_openvino(self, library: Any, arithmetic: str, export: Callable[[], Path]) -> Step:
        core = library.Core()
        # By itself it takes bfloat16 where the processor has it.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if arithmetic == "bfloat16" else "f32"}
        if arithmetic == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise LeftOutError("this processor has no bfloat16")
        settings |= {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        network = core.compile_model(export(), "CPU", settings)
        return lambda x: torch.from_numpy(network(x.numpy())[0].copy())


def rows(model: DAC, inputs: dict[str, Tensor], folder: Path) -> Iterator[Row]:
    """The exact row, the default one, and the others that can be had here; why not is said for the rest."""
    yield ours(model, "dac_codec, exact", exact=True)
    yield (default := ours(model, "dac_codec, default"))
    if torch.get_num_threads() > 1:
        yield clip_for_each_thread(default)
    runtimes = Runtimes(model, inputs, folder)
    wanted = [("onnxruntime", "float32", False), ("onnxruntime", "int8", False), ("openvino", "float32", False)]
    wanted += [("openvino", arithmetic, True) for arithmetic in ("float32", "bfloat16", "int8")]
    for runtime, arithmetic, rough in wanted:
        try:
            yield runtimes.row(runtime, arithmetic, rough)
        except LeftOutError as error:
            print(f"{RUNTIMES[runtime]} in {arithmetic} is left out: {error}", file=sys.stderr)


def table(model: DAC, seconds: float, n_rounds: int) -> Iterator[str]:
    """Measure a model: the lines of its table."""
    audio = model.preprocess(torch.from_numpy(clip(seconds, model.sample_rate))[None])
    encoded = prepare(model, exact=True).encode(audio)
    inputs = {"encode": audio, "decode": encoded.z}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    outputs: dict[tuple[int, str], Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        ready = list(rows(model, inputs, Path(folder)))
        for index in tqdm(range(1 + n_rounds), desc="measuring", disable=None):
            for place, row in enumerate(ready):
                for operation, step in row.steps.items():
                    time.sleep(PAUSE)
                    started = clock()
                    outputs[place, operation] = step(inputs[operation])
                    if index:
                        times[place, operation].append((clock() - started) / row.n_clips)
    exact, distance = Spectra(outputs[0, "decode"]), mel_distance(model.sample_rate)
    head = "{0}: x real time | to the default"
    yield (
        f"| | arithmetic | {head.format('encode')} | equal codes "
        f"| {head.format('decode')} | largest difference | mel distance | made ready in |"
    )
    yield "|---|---|" + "---:|" * 8
    for place, row in enumerate(ready):
        cells = [row.title, row.arithmetic]
        for operation in ("encode", "decode"):
            if operation not in row.steps:
                cells += [""] * 3
                continue
            taken, of_default = (median(times[index, operation]) for index in (place, 1))
            cells += [f"{audio.shape[-1] / model.sample_rate / taken:.3g}", f"{of_default / taken:.2f}x"]
            output = outputs[place, operation]
            if operation == "encode":
                cells.append(f"{(model.quantizer(output).codes == encoded.codes).double().mean():.2%}")
            else:
                cells.append(f"{(output - exact.audio).abs().max():.1e}")
                cells.append(f"{distance(Spectra(output), exact):.4f}")
        yield f"| {' | '.join([*cells, f'{row.ready:.1f} s'])} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["44khz", DEFAULT_MODEL],
        metavar="MODEL",
        help="networks: a preset, with random weights, or a model's name, folder or file [44khz and the bundled model]",
    )
    parser.add_argument("--seconds", type=duration, default=5.0, help="length of the sound [%(default)s]")
    parser.add_argument("--rounds", type=positive, default=5, help="that count, after one that doesn't [%(default)s]")
    arguments = parser.parse_args()
    n_threads = torch.get_num_threads()
    threads = "1 thread, processor time" if n_threads == 1 else f"{n_threads} threads, by the clock"
    print(f"{processor()}, {threads}; torch {torch.__version__}; {arguments.seconds:g} s, {arguments.rounds} rounds.")
    # Of the ways to quantize, which the tools recommend.
    logging.disable(logging.WARNING)
    try:
        for name in arguments.models:
            model = load(name)
            print(f"\n#### {name}, {'random' if name in PRESETS else 'its own'} weights\n")
            with torch.inference_mode():
                for line in table(model, arguments.seconds, arguments.rounds):
                    print(line, flush=True)
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    sys.exit(exit_status(main, (LeftOutError,)))
