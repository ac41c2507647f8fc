"""Compare the speed of the codec with that of others, side by side, and the output of its modes with the reference's.

    python -m venv others && others/bin/pip install descript-audio-codec==1.0.0 encodec snac transformers
    python scripts/benchmarks/compare.py --other others/bin/python --output speed
    python scripts/benchmarks/compare.py --other others/bin/python --device cuda --seconds 10 --batch 1 16

prints the tables of docs/speed.md and writes them to the output folder as report.md, with all figures in report.json
and a plot in speed.svg. The codecs are in two worker processes, because the others' requirements conflict with ours;
only one of them works at a time. Every round times every row once. OMP_NUM_THREADS sets the number of threads.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from compare_tables import draw, markdown
from processes import LeftOutError, Remote, WorkerError, remote, seconds_of
from report import write
from timing import duration, interleave, positive, summarize
from torch import Tensor, nn
from tqdm import tqdm

from dac_codec import audio, pretrained
from dac_codec.common.errors import CheckpointError, DacError
from dac_codec.common.scripts import exit_status
from dac_codec.common.spectral import Spectra, mel_distance
from dac_codec.evaluation.demo import clip_at
from dac_codec.interop import save_reference
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.model.layers import convolutions

OURS = {
    "plain": "dac_codec, the network as it is trained",
    "exact": "dac_codec, exact",
    "float32": "dac_codec, float32",
    "default": "dac_codec, default",
    "compiled": "dac_codec, compiled",
    "bfloat16": "dac_codec, bfloat16",
}
REFERENCE = "descript-audio-codec"
SAME_NETWORK = {REFERENCE: REFERENCE, "transformers": "transformers, DacModel"}
OTHER_NETWORKS = {
    "encodec": "EnCodec 24 kHz, 6 kbit/s",
    "snac-24khz": "SNAC 24 kHz, 0.98 kbit/s",
    "snac-44khz": "SNAC 44.1 kHz, 2.6 kbit/s",
}
TITLES = {**OURS, **SAME_NETWORK, **OTHER_NETWORKS}
COMMAND_LINE = "command-line"
COMMANDS = {"default": "dac-codec", REFERENCE: "python -m dac"}
PRODUCT = "matrix product"

OPERATIONS = ("encode", "decode")
WARM_UP = 1
PAUSE = 0.05  # seconds; the threads of the process that was timed last still spin for some milliseconds


class Cell(NamedTuple):
    """A task of every round; `network` is None for codecs that have their own."""

    network: str | None
    codec: str
    batch: int
    operation: str


@dataclass(frozen=True)
class Network:
    """A network of ours.

    Attributes:
        name: name given on the command line.
        config: its configuration.
        folder: folder of its weights.
        reference: file of its weights for the reference; None if the reference has no such network.
        random: whether its weights are random.
        operations: floating-point operations per second of audio of "encode" and "decode".
    """

    name: str
    config: DACConfig
    folder: Path
    reference: Path | None
    random: bool
    operations: dict[str, float]


def operations_per_second(module: nn.Module, rate: float) -> float:
    """Floating-point operations of a module's convolutions per second of audio, two per multiply-add.

    Args:
        module: convolutions in sequence.
        rate: samples or frames per second of the module's input.
    """
    total = 0.0
    for conv in convolutions(module):
        each = 2.0 * conv.in_channels * conv.out_channels // conv.groups * conv.kernel_size[0]
        if isinstance(conv, nn.ConvTranspose1d):
            total += each * rate
            rate *= conv.stride[0]
        else:
            rate /= conv.stride[0]
            total += each * rate
    return total


def costs(model: DAC) -> dict[str, float]:
    """Return `Network.operations` of a model: those of its convolutions, without the codebook search."""
    frame_rate, stages = model.config.frame_rate, model.quantizer.stages()
    return {
        "encode": operations_per_second(model.encoder, model.sample_rate)
        + operations_per_second(model.quantizer, frame_rate),
        "decode": operations_per_second(model.decoder, frame_rate)
        + sum(operations_per_second(stage.out_proj, frame_rate) for stage in stages),
    }


def write_network(name: str, folder: Path) -> Network:
    """Write a network's weights for all workers: random ones, always the same, for a preset, or those of a model.

    Raises:
        CheckpointError: there is no such preset or model.
    """
    if name in PRESETS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = DAC(PRESETS[name]).eval()
    else:
        model = DAC.from_pretrained(name)
    folder.mkdir()
    pretrained.save(model, folder / "ours")
    reference = folder / "reference.pth"
    with suppress(CheckpointError):  # the reference has no such network
        save_reference(model, reference)
    found = reference if reference.exists() else None
    return Network(name, model.config, folder / "ours", found, name in PRESETS, costs(model))


def clip(seconds: float, sample_rate: int) -> np.ndarray:
    """Return the bundled clip as mono [1, T], repeated to the length."""
    mono = clip_at(sample_rate).mean(0)
    return np.resize(mono, (1, max(1, round(seconds * sample_rate)))).astype(np.float32)


class Benchmark:
    """Prepares rows, and compares their outputs.

    Args:
        ours, others: the workers.
        arguments: of the command line.
        networks: networks of ours.

    Attributes:
        cells: what every round times.
        arithmetic: type of the products of each network and codec.
        left_out: rows that cannot be measured here, and why.
    """

    def __init__(self, ours: Remote, others: Remote, arguments: argparse.Namespace, networks: list[Network]) -> None:
        self._ours, self._others, self._arguments = ours, others, arguments
        self.cells: dict[Cell, Callable[[], float]] = {}
        self.arithmetic: dict[tuple[str | None, str], str] = {}
        self.left_out: list[str] = []
        rows = arguments.rows
        wanted: list[tuple[Network | None, str]] = [
            (network, codec) for network in networks for codec in (*OURS, *SAME_NETWORK) if codec in rows
        ]
        wanted += [(None, codec) for codec in OTHER_NETWORKS if codec in rows]
        for network, codec in tqdm(wanted, desc="preparing", disable=None):
            self._try(network, TITLES[codec], partial(self._prepare, network, codec))
        for network in networks if COMMAND_LINE in rows else ():
            if not network.random:
                for codec, commands in self._command_lines(network).items():
                    self._try(network, f"command line of {TITLES[codec]}", partial(self._add, network, codec, commands))
        for arithmetic in ("float32", "bfloat16") if arguments.device == "cpu" else ("float32", "tf32", "bfloat16"):
            self.cells[Cell(None, PRODUCT, 1, arithmetic)] = partial(ours.ask, "multiply", arithmetic=arithmetic)

    def accuracy(self, network: Network, folder: Path) -> list[dict[str, Any]]:
        """Return the differences of our modes from the reference with the same weights; empty without the reference."""
        if (network.name, REFERENCE) not in self.arithmetic:
            return []
        batch, expected_file, found_file = self._arguments.batch[0], folder / "expected.pt", folder / "found.pt"
        row = f"{network.name}/{REFERENCE}"
        self._others.ask("outputs", row=row, batch=batch, codes=None, target=str(expected_file))
        expected: dict[str, Tensor] = torch.load(expected_file, weights_only=True)
        rows = []
        for codec in [codec for codec in OURS if (network.name, codec) in self.arithmetic]:
            request = {"row": f"{network.name}/{codec}", "batch": batch, "codes": str(expected_file)}
            work = partial(self._ours.ask, "outputs", target=str(found_file), **request)
            if self._try(network, f"the output of {OURS[codec]}", work):
                found: dict[str, Tensor] = torch.load(found_file, weights_only=True)
                rows.append({"title": OURS[codec], **compare(found, expected, network.config.sample_rate)})
        return rows

    def _prepare(self, network: Network | None, codec: str) -> None:
        worker = self._ours if codec in OURS else self._others
        name = path = None
        if network is not None:
            name, path = network.name, network.folder if codec in OURS else network.reference
            if path is None:
                raise LeftOutError("it has no such networks")
        row, batches = f"{name}/{codec}", self._arguments.batch
        ready = worker.ask("prepare", row=row, codec=codec, network=path and str(path), batches=batches)
        self.arithmetic[name, codec] = ready["arithmetic"]
        for batch in batches:
            for operation in OPERATIONS:
                task = partial(worker.ask, "time", row=row, operation=operation, batch=batch)
                self.cells[Cell(name, codec, batch, operation)] = task

    def _command_lines(self, network: Network) -> dict[str, list[list[object]]]:
        """Return the commands that compress and decompress a file, ours and those of the reference."""
        folder, device = network.folder.parent, self._arguments.device
        wav, out = folder / "clip.wav", folder / "out"
        audio.write(wav, clip(self._arguments.file_seconds, 44100), 44100)
        ours: list[object] = [sys.executable, "-m", "dac_codec"]
        options: list[object] = ["--model", network.folder, "--device", device, "--force", "--quiet"]
        commands = {
            "default": [
                [*ours, "compress", wav, "-o", folder / "ours.dac", *options],
                [*ours, "decompress", folder / "ours.dac", "-o", folder / "ours.wav", *options],
            ]
        }
        if (network.name, REFERENCE) in self.arithmetic:
            theirs: list[object] = [self._arguments.other, "-W", "ignore", "-m", "dac"]
            options = ["--output", out, "--weights_path", network.reference, "--device", device]
            commands[REFERENCE] = [
                [*theirs, "encode", wav, *options],
                [*theirs, "decode", out / "clip.dac", *options],
            ]
        return commands

    def _add(self, network: Network, codec: str, commands: list[list[object]]) -> None:
        environment = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        tasks = [partial(seconds_of, command, environment) for command in commands]
        for task in tasks:
            task()
        for operation, task in zip(("compress", "decompress"), tasks, strict=True):
            self.cells[Cell(network.name, codec, 1, operation)] = task

    def _try(self, network: Network | None, title: str, work: Callable[[], object]) -> bool:
        """Run `work`. Return whether it succeeded; if not, note what is left out."""
        try:
            work()
        except LeftOutError as error:
            where = "" if network is None else f" with {network.name}"
            self.left_out.append(f"{title}{where} is left out: {error}")
            tqdm.write(self.left_out[-1], file=sys.stderr)
            return False
        return True


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], sample_rate: int) -> dict[str, float]:
    """Return the differences of the outputs of one of our modes from those of the reference."""
    distance, theirs = mel_distance(sample_rate), Spectra(expected["audio"])
    # The reference returns fewer samples if a stride is odd.
    same, own = (found[name][..., : theirs.audio.shape[-1]] for name in ("audio of given codes", "audio"))
    return {
        "equal_codes": float((found["codes"] == expected["codes"]).double().mean()),
        "largest_difference": float((same - theirs.audio).abs().max()),
        "largest_sample": float(theirs.audio.abs().max()),
        "mel_distance_same_codes": float(distance(Spectra(same), theirs)),
        "mel_distance_own_codes": float(distance(Spectra(own), theirs)),
    }


def speeds(network: Network, benchmark: Benchmark, times: dict[Cell, list[float]], seconds: float) -> Iterator[Any]:
    """Yield the rows of speed of a network, and those of the codecs with networks of their own."""
    peaks = {cell.operation: 1e-9 / min(taken) for cell, taken in times.items() if cell.codec == PRODUCT}
    for batch in sorted({cell.batch for cell in times}):
        for codec, title in TITLES.items():
            name = None if codec in OTHER_NETWORKS else network.name
            row: dict[str, Any] = {"title": title, "batch": batch}
            for operation in OPERATIONS:
                if (cell := Cell(name, codec, batch, operation)) in times:
                    row["arithmetic"] = arithmetic = benchmark.arithmetic[name, codec]
                    row[operation] = found = figures(times, cell, network, batch * seconds)
                    if name is not None:
                        found["gflops"] = network.operations[operation] * found["real_time"] / 1e9
                        found["share_of_peak"] = found["gflops"] / peaks[arithmetic]
            if "arithmetic" in row:
                yield row


def command_lines(network: Network, times: dict[Cell, list[float]], seconds: float) -> Iterator[Any]:
    """Yield the rows of whole processes that coded `seconds` of audio."""
    for codec, title in COMMANDS.items():
        cells = {operation: Cell(network.name, codec, 1, operation) for operation in ("compress", "decompress")}
        found = {
            operation: figures(times, cell, network, seconds) for operation, cell in cells.items() if cell in times
        }
        if found:
            yield {"title": title, **found}


def figures(times: dict[Cell, list[float]], cell: Cell, network: Network, length: float) -> dict[str, Any]:
    """Return the timing of a cell that coded `length` seconds of audio, with the ratio to the reference."""
    reference = times.get(cell._replace(network=network.name, codec=REFERENCE))
    timing = summarize(times[cell], reference)
    return {**asdict(timing), "times": times[cell], "real_time": length / timing.median}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the content of report.json.

    Raises:
        DacError: a model cannot be loaded.
        WorkerError: a worker cannot be started, or has ended.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        networks = [write_network(name, folder / str(index)) for index, name in enumerate(arguments.models)]
        rates = {24000, 44100, *(network.config.sample_rate for network in networks)}
        torch.save({rate: torch.from_numpy(clip(arguments.seconds, rate)[0]) for rate in rates}, folder / "audio.pt")
        script, threads = Path(__file__).with_name("worker.py"), torch.get_num_threads()
        ours, others = (
            stack.enter_context(remote([python, "-W", "ignore", script, folder, arguments.device, threads]))
            for python in (sys.executable, arguments.other)
        )
        machine = {"processor": processor(), "ours": ours.ask("describe"), "others": others.ask("describe")}
        benchmark = Benchmark(ours, others, arguments, networks)
        times = interleave(benchmark.cells, arguments.rounds, WARM_UP, PAUSE)
        found = {
            network.name: {
                "random_weights": network.random,
                "gflop_per_second": {operation: network.operations[operation] / 1e9 for operation in OPERATIONS},
                "speed": list(speeds(network, benchmark, times, arguments.seconds)),
                "command_line": list(command_lines(network, times, arguments.file_seconds)),
                "accuracy": benchmark.accuracy(network, folder),
            }
            for network in networks
        }
        return {
            "machine": machine,
            "seconds": arguments.seconds,
            "rounds": arguments.rounds,
            "peak_gflops": {cell.operation: 1e-9 / min(times[cell]) for cell in times if cell.codec == PRODUCT},
            "left_out": benchmark.left_out,
            "networks": found,
        }


def processor() -> str:
    """Return the name of the processor."""
    with suppress(OSError):
        for entry in Path("/proc/cpuinfo").read_text().splitlines():
            if entry.startswith("model name"):
                return entry.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["44khz", pretrained.DEFAULT_MODEL],
        metavar="MODEL",
        help="a preset, with random weights, or a model's name, folder or file [44khz and the bundled model]",
    )
    rows = (*TITLES, COMMAND_LINE)
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows), help="what to measure [everything]")
    parser.add_argument("--seconds", type=duration, default=5.0, help="length of the audio [%(default)s]")
    parser.add_argument("--file-seconds", type=duration, default=30.0, help="audio in the file [%(default)s]")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1], help="batch sizes [1]")
    parser.add_argument("--rounds", type=positive, default=5, help=f"rounds after {WARM_UP} of warm-up [%(default)s]")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="[%(default)s]")
    parser.add_argument("--other", metavar="PYTHON", default=sys.executable, help="the others' interpreter [this one]")
    parser.add_argument("--output", type=Path, required=True, help="folder for report.json, report.md and speed.svg")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise DacError("there is no CUDA device that this torch can use")
    arguments.output.mkdir(parents=True, exist_ok=True)
    report = measure(arguments)
    text = markdown(report)
    print(text)
    write(arguments.output / "report.json", report)
    write(arguments.output / "report.md", text)
    draw(report, arguments.output / "speed.svg")


if __name__ == "__main__":
    sys.exit(exit_status(main, (LeftOutError, WorkerError)))
