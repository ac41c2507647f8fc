"""Measure how fast the codec is beside others, all in the same run, and what its quick modes cost in accuracy.

    python -m venv others && others/bin/pip install descript-audio-codec==1.0.0 encodec snac transformers
    python scripts/benchmarks/compare.py --other others/bin/python --output speed
    python scripts/benchmarks/compare.py --other others/bin/python --device cuda --seconds 10 --batch 1 16

prints the tables of docs/speed.md and leaves them in the output folder as report.md, with every figure in report.json
and a picture in speed.svg. The codecs live in two processes, as the others' requirements clash with ours; one of them
works at a time. Every round times every row once, after rounds that don't count, so that all rows see the same machine.
The number of threads is torch's: OMP_NUM_THREADS sets it.
"""

from __future__ import annotations

import argparse
import importlib.resources
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from report import draw, tables
from torch import Tensor
from tqdm import tqdm

from dac_codec import audio as sound
from dac_codec import pretrained
from dac_codec.common.errors import DacError
from dac_codec.common.files import atomic_write
from dac_codec.common.scripts import exit_status
from dac_codec.common.spectral import Spectra, mel_distance
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.model.layers import operations_per_second

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
COMMAND_LINE = "command-line"
TITLES = {**OURS, **SAME_NETWORK, **OTHER_NETWORKS}

OPERATIONS = ("encode", "decode")
WARM_UP = 1
COMMAND_LINE_SECONDS = 30
# The threads of the process that was timed last still spin for some milliseconds.
PAUSE = 0.05


class LeftOutError(Exception):
    """A row that can't be had here; the others can."""


class Cell(NamedTuple):
    """One thing that every round times once; `network` is None for codecs that have their own."""

    network: str | None
    codec: str
    batch: int
    operation: str


@dataclass(frozen=True)
class Network:
    """A network of ours that is measured.

    Attributes:
        name: what the user calls it.
        config: its shape.
        folder: where its weights are, for us.
        reference: where they are for the reference, or None if it has no such networks.
        random: whether nobody trained it.
        operations: floating-point operations for each second of sound, by part: "encoder", "decoder", and "quantizing"
            and "dequantizing", the two directions of the quantizer.
    """

    name: str
    config: DACConfig
    folder: Path
    reference: Path | None
    random: bool
    operations: dict[str, float]

    def cost(self, operation: str) -> float:
        """Floating-point operations for each second of sound that is encoded or decoded."""
        parts = ("encoder", "quantizing") if operation == "encode" else ("decoder", "dequantizing")
        return sum(self.operations[part] for part in parts)


# ----------------------------------------------------------------------------------------------------------------------
# What is measured
# ----------------------------------------------------------------------------------------------------------------------


def costs(model: DAC) -> dict[str, float]:
    """`Network.operations` of a model. The look-up in the codebooks is not a convolution, and left out."""
    frame_rate, stages = model.config.frame_rate, model.quantizer.stages()
    return {
        "encoder": operations_per_second(model.encoder, model.sample_rate),
        "quantizing": operations_per_second(model.quantizer, frame_rate),
        "dequantizing": sum(operations_per_second(stage.out_proj, frame_rate) for stage in stages),
        "decoder": operations_per_second(model.decoder, frame_rate),
    }


def load(name: str) -> DAC:
    """A preset with random weights, always the same ones, or a model with its own.

    Raises:
        CheckpointError: there is no such preset or model.
    """
    if name not in PRESETS:
        return DAC.from_pretrained(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DAC(PRESETS[name]).eval()


def write_network(name: str, folder: Path) -> Network:
    """Put a network's weights where all processes find them: random ones for a preset, or those of a model.

    Raises:
        CheckpointError: there is no such preset or model.
    """
    model = load(name)
    folder.mkdir()
    pretrained.save(model, folder / "ours")
    fields = model.config.to_dict()
    like_the_reference = replace(
        model.config, activation="snake", lookup="cosine", codebook_learning="gradient", causal=False
    )
    reference = None
    if like_the_reference == model.config:
        reference = folder / "reference.pth"
        kwargs = {
            key: fields[key] for key in fields if key not in ("activation", "lookup", "codebook_learning", "causal")
        }
        torch.save({"state_dict": pretrained.canonical(model.state_dict()), "metadata": {"kwargs": kwargs}}, reference)
    return Network(name, model.config, folder / "ours", reference, name in PRESETS, costs(model))


def clip(seconds: float, sample_rate: int) -> np.ndarray:
    """The bundled clip as mono [1, T], begun again until it is long enough."""
    data = importlib.resources.files("dac_codec.evaluation").joinpath("demo.flac").read_bytes()
    waveform, rate = sound.read(io.BytesIO(data), name="demo.flac")
    mono = sound.resample(waveform.mean(0, keepdims=True), rate, sample_rate)
    return np.resize(mono, (1, max(1, round(seconds * sample_rate)))).astype(np.float32)


# ----------------------------------------------------------------------------------------------------------------------
# The processes that measure
# ----------------------------------------------------------------------------------------------------------------------


class Worker:
    """The near end of a `benchmark_worker.py`."""

    def __init__(self, process: subprocess.Popen[str], python: str) -> None:
        self._process = process
        self._python = python

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            LeftOutError: the process can't do that, and says why.
            DacError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise DacError(f"the process of {self._python} ended with status {self._process.wait()}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise LeftOutError(reply["error"])
        return reply


@contextmanager
def working(python: str, folder: Path, device: str) -> Iterator[Worker]:
    """A process of another or the same interpreter, which ends with the block.

    Raises:
        DacError: there is no such interpreter.
    """
    script = Path(__file__).with_name("worker.py")
    # Warnings of codecs about their own past would tear the progress bar.
    command = [python, "-W", "ignore", str(script), str(folder), device, str(torch.get_num_threads())]
    # So would the profiler's complaint that a machine has no GPU.
    environment = {**os.environ, "KINETO_LOG_LEVEL": "99"}
    try:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise DacError(f"{python} can't be started: {error.strerror}") from error
    assert process.stdin is not None
    with process:
        try:
            yield Worker(process, python)
        except BaseException:
            process.kill()
            raise
        finally:
            # A process that has ended leaves a request behind that nobody takes.
            with suppress(BrokenPipeError):
                process.stdin.close()


def seconds_of(command: list[object]) -> float:
    """Seconds that a whole process takes.

    Raises:
        LeftOutError: it fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    started = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise LeftOutError((done.stderr.strip() or f"status {done.returncode}").splitlines()[-1])
    return seconds


class Benchmark:
    """Rows that are made ready, timed round by round, and compared.

    Args:
        ours, others: the processes.
        other: interpreter of the latter.
        networks: of ours.
        batches: numbers of clips that are coded at once.
        device: "cpu" or "cuda".
    """

    def __init__(
        self, ours: Worker, others: Worker, other: str, networks: list[Network], batches: list[int], device: str
    ) -> None:
        self._ours, self._others, self._other = ours, others, other
        self._networks, self._batches, self._device = networks, batches, device
        self.arithmetic: dict[tuple[str | None, str], str] = {}
        self.left_out: list[str] = []
        self.cells: dict[Cell, Callable[[], float]] = {}

    def prepare(self, rows: list[str]) -> None:
        """Make the rows ready that can be had here, of those that are named."""
        wanted: list[tuple[Network | None, str]] = [
            (network, codec) for network in self._networks for codec in (*OURS, *SAME_NETWORK) if codec in rows
        ]
        wanted += [(None, codec) for codec in OTHER_NETWORKS if codec in rows]
        for network, codec in tqdm(wanted, desc="making ready", disable=None):
            try:
                self._prepare_codec(network, codec)
            except LeftOutError as error:
                self._leave_out(network, TITLES[codec], error)
        if COMMAND_LINE in rows:
            for network in self._networks:
                self._prepare_command_lines(network)
        for arithmetic in ("float32", "bfloat16") if self._device == "cpu" else ("float32", "tf32", "bfloat16"):
            self.cells[Cell(None, "matrix product", 1, arithmetic)] = self._product(arithmetic)

    def rounds(self, n_rounds: int) -> dict[Cell, list[float]]:
        """Seconds that each cell took in the rounds that count."""
        seconds: defaultdict[Cell, list[float]] = defaultdict(list)
        with tqdm(total=(WARM_UP + n_rounds) * len(self.cells), desc="measuring", disable=None) as bar:
            for index in range(WARM_UP + n_rounds):
                for cell, measure in self.cells.items():
                    time.sleep(PAUSE)
                    taken = measure()
                    if index >= WARM_UP:
                        seconds[cell].append(taken)
                    bar.update()
        return dict(seconds)

    def accuracy(self, network: Network, folder: Path) -> list[dict[str, Any]]:
        """How far our modes are from the reference with the same weights; nothing where the reference is missing."""
        if (network.name, REFERENCE) not in self.arithmetic:
            return []
        batch, row = self._batches[0], {codec: f"{network.name}/{codec}" for codec in (*OURS, REFERENCE)}
        expected_file, found_file = folder / "expected.pt", folder / "found.pt"
        self._others.ask("outputs", row=row[REFERENCE], batch=batch, codes=None, target=str(expected_file))
        expected: dict[str, Tensor] = torch.load(expected_file, weights_only=True)
        distance, rows = mel_distance(network.config.sample_rate), []
        theirs = Spectra(expected["audio"])
        modes = [codec for codec in OURS if (network.name, codec) in self.arithmetic]
        for codec in tqdm(modes, desc=f"comparing {network.name}", disable=None):
            try:
                self._ours.ask("outputs", row=row[codec], batch=batch, codes=str(expected_file), target=str(found_file))
            except LeftOutError as error:
                self._leave_out(network, f"the output of {OURS[codec]}", error)
                continue
            found: dict[str, Tensor] = torch.load(found_file, weights_only=True)
            # The reference gives some samples less where a stride is odd.
            same, own = (found[name][..., : theirs.audio.shape[-1]] for name in ("audio of given codes", "audio"))
            rows.append(
                {
                    "title": OURS[codec],
                    "equal_codes": float((found["codes"] == expected["codes"]).double().mean()),
                    "largest_difference": float((same - theirs.audio).abs().max()),
                    "largest_sample": float(theirs.audio.abs().max()),
                    "mel_distance_same_codes": float(distance(Spectra(same), theirs)),
                    "mel_distance_own_codes": float(distance(Spectra(own), theirs)),
                }
            )
        return rows

    def stages(self, network: Network) -> list[dict[str, Any]]:
        """Seconds of a call of our modes, by the kind of work that they are spent on."""
        rows: list[dict[str, Any]] = []
        for codec in ("plain", "exact", "default"):
            if (network.name, codec) in self.arithmetic:
                row = f"{network.name}/{codec}"
                try:
                    for operation in OPERATIONS:
                        spent = self._ours.ask("profile", row=row, operation=operation, batch=self._batches[0])
                        rows.append({"codec": codec, "operation": operation, "seconds": spent})
                except LeftOutError as error:
                    self._leave_out(network, f"the profile of {OURS[codec]}", error)
        return rows

    def _prepare_codec(self, network: Network | None, codec: str) -> None:
        worker = self._ours if codec in OURS else self._others
        name = path = None
        if network is not None:
            name, path = network.name, network.folder if codec in OURS else network.reference
            if path is None:
                raise LeftOutError("it has no such networks")
        row = f"{name}/{codec}"
        ready = worker.ask("prepare", row=row, codec=codec, network=path and str(path), batches=self._batches)
        self.arithmetic[name, codec] = ready["arithmetic"]
        for batch in self._batches:
            for operation in OPERATIONS:
                self.cells[Cell(name, codec, batch, operation)] = self._call(worker, row, operation, batch)

    def _prepare_command_lines(self, network: Network) -> None:
        """Whole processes, of ours and of the reference; networks that nobody trained have none."""
        if network.random:
            return
        folder = network.folder.parent
        wav, out = folder / "clip.wav", folder / "out"
        sound.write(wav, clip(COMMAND_LINE_SECONDS, 44100), 44100)
        ours: list[object] = [sys.executable, "-m", "dac_codec"]
        options: list[object] = ["--model", network.folder, "--device", self._device, "--force", "--quiet"]
        commands = {
            "default": (
                [*ours, "compress", wav, "-o", folder / "ours.dac", *options],
                [*ours, "decompress", folder / "ours.dac", "-o", folder / "ours.wav", *options],
            )
        }
        if (network.name, REFERENCE) in self.arithmetic:
            theirs: list[object] = [self._other, "-W", "ignore", "-m", "dac"]
            options = ["--output", out, "--weights_path", network.reference, "--device", self._device]
            commands[REFERENCE] = (
                [*theirs, "encode", wav, *options],
                [*theirs, "decode", out / "clip.dac", *options],
            )
        for codec, pair in commands.items():
            try:
                for command in pair:
                    seconds_of(command)
            except LeftOutError as error:
                self._leave_out(network, f"command line of {TITLES[codec]}", error)
                continue
            for operation, command in zip(("compress", "decompress"), pair, strict=True):
                self.cells[Cell(network.name, codec, 1, operation)] = partial(seconds_of, command)

    def _call(self, worker: Worker, row: str, operation: str, batch: int) -> Callable[[], float]:
        return lambda: float(worker.ask("time", row=row, operation=operation, batch=batch)["seconds"])

    def _product(self, arithmetic: str) -> Callable[[], float]:
        """Seconds for each floating-point operation of a matrix product."""

        def measure() -> float:
            reply = self._ours.ask("multiply", arithmetic=arithmetic)
            return float(reply["seconds"] / reply["operations"])

        return measure

    def _leave_out(self, network: Network | None, title: str, error: LeftOutError) -> None:
        where = "" if network is None else f" with {network.name}"
        self.left_out.append(f"{title}{where} is left out: {error}")
        tqdm.write(self.left_out[-1], file=sys.stderr)


# ----------------------------------------------------------------------------------------------------------------------
# What is made of it
# ----------------------------------------------------------------------------------------------------------------------


def figures(times: list[float], length: float, reference: list[float] | None = None) -> dict[str, Any]:
    """The median of some times and what follows from it.

    Args:
        times: seconds, one a round.
        length: seconds of sound that each of them coded.
        reference: the same for what it is compared with.
    """
    low, median, high = (float(value) for value in np.percentile(times, (25, 50, 75)))
    return {
        "seconds": median,
        "quartiles": [low, high],
        "real_time": length / median,
        "ratio": None if reference is None else float(np.median(reference)) / median,
    }


def speeds(
    network: Network, benchmark: Benchmark, times: dict[Cell, list[float]], peaks: dict[str, float], seconds: float
) -> list[dict[str, Any]]:
    """The rows of a network's tables: its own, and those of the codecs that have networks of their own."""
    rows = []
    for batch in sorted({cell.batch for cell in times}):
        for codec, title in TITLES.items():
            name = None if codec in OTHER_NETWORKS else network.name
            row: dict[str, Any] = {"title": title, "batch": batch}
            for operation in OPERATIONS:
                cell = Cell(name, codec, batch, operation)
                if cell in times:
                    reference = times.get(Cell(network.name, REFERENCE, batch, operation))
                    found = row[operation] = figures(times[cell], batch * seconds, reference)
                    row["arithmetic"] = arithmetic = benchmark.arithmetic[name, codec]
                    if name is not None:
                        found["gflops"] = network.cost(operation) * found["real_time"] / 1e9
                        found["share_of_peak"] = found["gflops"] / peaks[arithmetic]
            if "arithmetic" in row:
                rows.append(row)
    return rows


def command_lines(network: Network, times: dict[Cell, list[float]]) -> list[dict[str, Any]]:
    """The rows of a network's table of whole processes."""
    rows = []
    for codec, title in (("default", "dac-codec"), (REFERENCE, "python -m dac")):
        row: dict[str, Any] = {"title": title}
        for operation in ("compress", "decompress"):
            cell = Cell(network.name, codec, 1, operation)
            if cell in times:
                row[operation] = figures(
                    times[cell], COMMAND_LINE_SECONDS, times.get(Cell(network.name, REFERENCE, 1, operation))
                )
        if len(row) > 1:
            rows.append(row)
    return rows


def stages(network: Network, benchmark: Benchmark, peaks: dict[str, float], length: float) -> list[dict[str, Any]]:
    """The rows of a network's table of stages; `length` is the seconds of sound that each call codes."""
    rows = benchmark.stages(network)
    for row in rows:
        part = "encoder" if row["operation"] == "encode" else "decoder"
        row["gflops"] = network.operations[part] * length / row["seconds"]["convolutions"] / 1e9
        row["share_of_peak"] = row["gflops"] / peaks[benchmark.arithmetic[network.name, row["codec"]]]
        row["title"] = OURS[row.pop("codec")]
    return rows


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that report.json says.

    Raises:
        DacError: a model or an interpreter can't be had, or a process has ended.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        networks = [write_network(name, folder / str(index)) for index, name in enumerate(arguments.models)]
        rates = {24000, 44100, *(network.config.sample_rate for network in networks)}
        torch.save({rate: torch.from_numpy(clip(arguments.seconds, rate)[0]) for rate in rates}, folder / "audio.pt")
        ours, others = (
            stack.enter_context(working(python, folder, arguments.device))
            for python in (sys.executable, arguments.other)
        )
        machine = {"processor": processor(), "ours": ours.ask("describe"), "others": others.ask("describe")}
        benchmark = Benchmark(ours, others, arguments.other, networks, arguments.batch, arguments.device)
        benchmark.prepare(arguments.rows)
        times = benchmark.rounds(arguments.rounds)
        peaks = {cell.operation: 1e-9 / min(taken) for cell, taken in times.items() if cell.codec == "matrix product"}
        measured = {cell: taken for cell, taken in times.items() if cell.codec != "matrix product"}
        return {
            "machine": machine,
            "seconds": arguments.seconds,
            "rounds": arguments.rounds,
            "peak_gflops": peaks,
            "left_out": benchmark.left_out,
            "networks": {
                network.name: {
                    "random_weights": network.random,
                    "gflop_per_second": {operation: network.cost(operation) / 1e9 for operation in OPERATIONS},
                    "speed": speeds(network, benchmark, measured, peaks, arguments.seconds),
                    "command_line": command_lines(network, measured),
                    "accuracy": benchmark.accuracy(network, folder),
                    "stages": stages(network, benchmark, peaks, arguments.batch[0] * arguments.seconds),
                }
                for network in networks
            },
        }


def processor() -> str:
    """What the machine calls its processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


def duration(text: str) -> float:
    """A time in seconds."""
    if not 0.01 <= (value := float(text)) <= 3600:
        raise ValueError
    return value


def main() -> int:
    """Measure, print and write. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["44khz", pretrained.DEFAULT_MODEL],
        metavar="MODEL",
        help="networks: a preset, with random weights, or a model's name, folder or file [44khz and the bundled model]",
    )
    parser.add_argument("--rows", nargs="+", choices=(*TITLES, COMMAND_LINE), default=[*TITLES, COMMAND_LINE])
    parser.add_argument("--seconds", type=duration, default=5.0, help="length of the sound [%(default)s]")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1], help="sounds that are coded at once [1]")
    parser.add_argument(
        "--rounds", type=positive, default=5, help=f"that count, after {WARM_UP} that don't [%(default)s]"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="[%(default)s]")
    parser.add_argument(
        "--other", metavar="PYTHON", default=sys.executable, help="interpreter that has the other codecs [this one]"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for report.json, report.md and speed.svg")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise DacError("there is no CUDA device that this torch can use")
    arguments.output.mkdir(parents=True, exist_ok=True)
    report = measure(arguments)
    text = tables(report)
    print(text)
    for name, content in (("report.json", json.dumps(report, indent=1)), ("report.md", text)):
        with atomic_write(arguments.output / name) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")
    with atomic_write(arguments.output / "speed.svg") as temporary:
        draw(report, temporary)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, (LeftOutError,)))
