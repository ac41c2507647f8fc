"""Measure memory and speed of compressing and decompressing sounds of several lengths.

    python scripts/benchmarks/memory.py --seconds 10 120 1800 --reference ~/reference/bin/python --output docs

Every run is a process of its own on the CPU: `dac-codec`, and the commands of descript-audio-codec if `--reference`
names the interpreter of an environment that has it. Both run the same network with the same weights, the reference in
its default windows; a short sound first verifies that both decode to the same. A row has the frames and bytes written
per second of audio, the peak of the resident memory, the speed of the whole process (start included) with its ratio to
the reference, and for ours the time to decode 10 s from the middle. `--output` writes the rows as memory.json and a
plot as memory.svg.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Neither torch nor matplotlib are imported here: the peak that the system reports for a process includes the memory of
# its parent at the start.
from report import line, save, speed, table, write
from timing import positive

from dac_codec import audio
from dac_codec.bitstream.describe import describe
from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status

SAMPLE_RATE = 44100
PART_SECONDS = 10
REFERENCE = "descript-audio-codec"


@dataclass(frozen=True)
class Codec:
    """The commands of a codec.

    Attributes:
        name: name in the table.
        compress: command without the input and the output.
        decompress: the same for decoding.
        output: option that names the folder of the output.
        cuts: whether it can decode a part of a file.
    """

    name: str
    compress: tuple[str, ...]
    decompress: tuple[str, ...]
    output: str
    cuts: bool


@dataclass(frozen=True)
class Run:
    """A finished process.

    Attributes:
        peak: peak of the resident memory in bytes.
        seconds: from its start to its end.
        failure: why it failed; empty if it did not.
    """

    peak: int
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Row:
    """The runs of a codec for one sound; None for runs that were skipped and values that are unknown.

    Attributes:
        codec: name of the codec.
        seconds, channels: length and channels of the sound.
        frames_per_second, bytes_per_second: frames and bytes written per second of audio.
        compress, decompress: the runs.
        part: the run that decoded 10 s from the middle.
    """

    codec: str
    seconds: int
    channels: int
    frames_per_second: float | None
    bytes_per_second: float | None
    compress: Run
    decompress: Run | None
    part: Run | None

    @property
    def sound(self) -> str:
        """Length and channels of the sound as text."""
        return f"{self.seconds} s, {self.channels} channels"

    @property
    def runs(self) -> dict[str, Run | None]:
        """The runs by name."""
        return {"compress": self.compress, "decompress": self.decompress, "part": self.part}


def ours(model: str) -> Codec:
    """Return the commands of this codec."""
    command = (sys.executable, "-m", "dac_codec")
    options = ("--quiet", "--device", "cpu", "--model", model)
    return Codec("dac_codec", (*command, "compress", *options), (*command, "decompress", *options), "-o", cuts=True)


def theirs(interpreter: Path, model: str, folder: Path) -> Codec:
    """Return the commands of the reference with the same weights, which are written to `folder`.

    Raises:
        DacError: the reference has no such network, or the model can't be loaded.
    """
    weights = folder / "weights.pth"
    # In a process of its own, so that this one does not import torch.
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        executor.submit(write_weights, model, weights).result()
    command = (str(interpreter), "-m", "dac")
    options = ("--device", "cpu", "--weights_path", str(weights))
    return Codec(REFERENCE, (*command, "encode", *options), (*command, "decode", *options), "--output", cuts=False)


def write_weights(name: str, path: Path) -> None:
    """Write a model in the format of the published weights.

    Raises:
        DacError: the reference has no such network, or the model can't be loaded.
    """
    from dac_codec import DAC
    from dac_codec.interop import save_reference

    model = DAC.from_pretrained(name)
    try:
        save_reference(model, path)
    except DacError as error:
        raise DacError(f"{REFERENCE} has no network like that of {name}: leave out --reference ({error})") from error


def versions(interpreter: Path) -> dict[str, str]:
    """Return the versions of the reference and of its torch.

    Raises:
        DacError: the interpreter cannot be started, or has no reference.
    """
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    try:
        done = subprocess.run([interpreter, "-c", script, REFERENCE, "torch"], capture_output=True, text=True)
    except OSError as error:
        raise DacError(f"{interpreter}: {error.strerror}; --reference names a Python interpreter") from error
    if done.returncode != 0:
        raise DacError(f"{interpreter} has no {REFERENCE}: {last_line(done.stderr)}")
    found = json.loads(done.stdout)
    return {REFERENCE: found[REFERENCE], "torch of the reference": found["torch"]}


def check_same(reference: Codec, codec: Codec, folder: Path) -> None:
    """Verify that the reference and this codec decode a file of the reference to the same.

    Raises:
        DacError: they do not, or one fails.
    """
    for name in ("there", "back"):
        (folder / name).mkdir()
    write_sound(folder / "short.wav", 2, 1)
    steps = (
        (*reference.compress, str(folder / "short.wav"), reference.output, str(folder / "there")),
        (*reference.decompress, str(folder / "there" / "short.dac"), reference.output, str(folder / "back")),
        (*codec.decompress, str(folder / "there" / "short.dac"), codec.output, str(folder / "ours.wav")),
    )
    for command in steps:
        if failure := measured(*command).failure:
            raise DacError(f"trying {REFERENCE} on a short sound: {failure}")
    found, expected = audio.read(folder / "back" / "short.wav")[0], audio.read(folder / "ours.wav")[0]
    if found.shape != expected.shape or not np.allclose(found, expected, atol=1e-3):
        raise DacError(f"{REFERENCE} and dac_codec decode the same file differently, so they cannot be compared")


def write_sound(path: Path, seconds: int, channels: int) -> None:
    """Write one second of tones and noise, repeated."""
    with audio.Writer(path, SAMPLE_RATE, channels, seconds * SAMPLE_RATE) as writer:
        random = np.random.default_rng(0)
        time_ = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        tones = 0.2 * np.sin(2 * np.pi * 220 * np.arange(1, channels + 1)[:, None] * time_)
        block = (tones + 0.02 * random.standard_normal((channels, SAMPLE_RATE))).astype(np.float32)
        for _ in range(seconds):
            writer.write(block)


def measured(*command: str) -> Run:
    """Run a command and return its peak memory and time."""
    with tempfile.TemporaryFile() as messages:
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        messages.seek(0)
        text = messages.read().decode(errors="replace")
    failure = ""
    if process.returncode < 0:
        failure = f"killed by signal {-process.returncode}"  # 9 if the system is out of memory
    elif process.returncode > 0:
        failure = last_line(text)
    return Run(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), seconds, failure)


def last_line(messages: str) -> str:
    """Return the last line of the messages of a process: of a traceback, the exception."""
    return next((line.strip() for line in reversed(messages.splitlines()) if line.strip()), "no message")


def measure(codec: Codec, sound: Path, seconds: int, channels: int) -> Row:
    """Compress and decompress a sound."""
    with tempfile.TemporaryDirectory(dir=sound.parent) as folder:
        there, back, part = (Path(folder, name) for name in ("there", "back", "part"))
        for path in (there, back, part):
            path.mkdir()
        compressed = there / sound.with_suffix(".dac").name
        compressing = measured(*codec.compress, str(sound), codec.output, str(there))
        if compressing.failure:
            return Row(codec.name, seconds, channels, None, None, compressing, None, None)
        decompressing = measured(*codec.decompress, str(compressed), codec.output, str(back))
        cutting = None
        if codec.cuts:
            excerpt = ("--start", str(seconds / 2), "--duration", str(PART_SECONDS))
            cutting = measured(*codec.decompress, *excerpt, str(compressed), codec.output, str(part))
        data = compressed.read_bytes()
    frames, n_bytes = int(describe(data)["n_frames"]) / seconds, len(data) / seconds
    return Row(codec.name, seconds, channels, frames, n_bytes, compressing, decompressing, cutting)


def cells(row: Row, reference: Row | None) -> list[str]:
    """Return the cells of a row, with ratios to the row of the reference."""
    frames = "" if row.frames_per_second is None else f"{row.frames_per_second:.1f}"
    n_bytes = "" if row.bytes_per_second is None else f"{row.bytes_per_second:.0f}"
    found = [row.codec, row.sound, frames, n_bytes]
    for name in ("compress", "decompress"):
        run, other = row.runs[name], reference.runs[name] if reference else None
        if run is None:
            found += ["", "", ""]
        elif run.failure:
            found += [f"failed at {run.peak / 2**20:.0f} MiB", "", ""]
        else:
            ratio = f"{other.seconds / run.seconds:.2f}" if other is not None and not other.failure else ""
            found += [f"{run.peak / 2**20:.0f} MiB", speed(row.seconds, run.seconds), ratio]
    return [*found, "" if row.part is None else "failed" if row.part.failure else f"{row.part.seconds:.1f} s"]


def draw(rows: list[Row], path: Path) -> None:
    """Plot peak memory and speed over the length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4))
    memory, rate = figure.subplots(1, 2)
    for colour, codec in zip(("tab:blue", "tab:orange"), dict.fromkeys(row.codec for row in rows), strict=False):
        for what, style in (("compress", "o-"), ("decompress", "s--")):
            found = [(row.seconds, row.runs[what]) for row in rows if row.codec == codec]
            runs = [(seconds, run) for seconds, run in found if run is not None and not run.failure]
            drawn = [seconds for seconds, _ in runs]
            memory.plot(drawn, [run.peak / 2**20 for _, run in runs], style, color=colour, label=f"{codec}, {what}")
            rate.plot(drawn, [seconds / run.seconds for seconds, run in runs], style, color=colour)
    memory.set(title="peak of resident memory", ylabel="MiB")
    rate.set(title="speed", ylabel="times real time")
    lengths = sorted({row.seconds for row in rows})
    for axis in (memory, rate):
        axis.set(xscale="log", xlabel="length of the sound in s")
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    memory.legend(fontsize="small")
    save(figure, path)


HEAD = ["codec", "sound", "frames/s", "bytes/s"]
HEAD += [f"{name}: {what}" for name in ("compress", "decompress") for what in ("peak", "speed", "to the reference")]
HEAD += ["10 s inside"]


def compare(arguments: argparse.Namespace) -> list[Row]:
    """Measure and print the table, row by row.

    Raises:
        DacError: a codec cannot be run, or the output cannot be written.
    """
    if arguments.output is not None and importlib.util.find_spec("matplotlib") is None:
        raise DacError("the plot needs matplotlib: pip install 'dac_codec[train]'")
    environment: dict[str, Any] = {"model": arguments.model, "cores": os.cpu_count()}
    environment |= {package: importlib.metadata.version(package) for package in ("dac_codec", "torch")}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codecs = [ours(arguments.model)]
        if arguments.reference is not None:
            environment |= versions(arguments.reference)
            codecs.insert(0, theirs(arguments.reference, arguments.model, folder))
            check_same(codecs[0], codecs[1], folder)
        print(table(HEAD))
        for seconds in arguments.seconds:
            sound, reference = folder / "sound.wav", None
            write_sound(sound, seconds, arguments.channels)
            for codec in codecs:
                if codec.name != REFERENCE or seconds <= (arguments.reference_up_to or seconds):
                    rows.append(measure(codec, sound, seconds, arguments.channels))
                    reference = rows[-1] if codec.name == REFERENCE else reference
                    print(line(cells(rows[-1], reference)), flush=True)
    print("\n" + ", ".join(f"{key} {value}" for key, value in environment.items()))
    if arguments.output is not None:
        try:
            arguments.output.mkdir(parents=True, exist_ok=True)
            write(arguments.output / "memory.json", {**environment, "rows": [asdict(row) for row in rows]})
            draw(rows, arguments.output / "memory.svg")
        except OSError as error:
            raise DacError(f"{arguments.output} can't be written: {error.strerror}") from error
    return rows


def main() -> int:
    """Measure, print and write. Returns the exit status: 1 if a run of this codec failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=positive, nargs="+", default=[10, 120], help="lengths of the sounds [10 120]")
    parser.add_argument("--channels", type=positive, default=2, help="channels of the sounds [%(default)s]")
    parser.add_argument("--model", default="dac-mini-44khz", help="name, folder or file [%(default)s]")
    parser.add_argument("--reference", type=Path, help=f"Python interpreter of an environment with {REFERENCE}")
    parser.add_argument("--reference-up-to", type=positive, help="longest sound for the reference, in s")
    parser.add_argument("--output", type=Path, help="folder for memory.json and memory.svg")
    arguments = parser.parse_args()
    rows = compare(arguments)
    for row in rows:
        for what, run in row.runs.items():
            if run is not None and run.failure:
                print(f"memory: {row.codec}, {row.sound}, {what}: {run.failure}", file=sys.stderr)
    failed = [run for row in rows if row.codec != REFERENCE for run in row.runs.values() if run and run.failure]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
