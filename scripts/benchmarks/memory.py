"""Print what compressing and decompressing sounds of several lengths take, as a Markdown table.

    python scripts/benchmarks/memory.py --seconds 10 120 1800 --reference ~/reference/bin/python --output docs

Every run is a process of its own: `dac-codec`, and the commands of descript-audio-codec where `--reference` names the
interpreter of an environment that has it (one of its own, for its dependencies are not ours). Both run the same network
with the same weights on the CPU, the reference in its default windows; that it computes the same is checked on a short
sound first. A row has the frames and bytes that are written per second of audio, the peak of the resident memory, the
sound's duration by the time of the whole process, start included, and for ours how long it takes to decode 10 s from
the middle. `--output` leaves the rows as memory.json, and a plot of them as memory.svg.
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

# Neither torch nor matplotlib: the peak that the system counts for a process includes what its parent held when it was
# started, so that this one has to stay small.
from dac_codec import audio, bitstream
from dac_codec.common.errors import DacError
from dac_codec.common.files import atomic_write
from dac_codec.common.scripts import exit_status

SAMPLE_RATE = 44100
PART_SECONDS = 10
REFERENCE = "descript-audio-codec"
REFERENCE_FIELDS = (
    "encoder_dim",
    "encoder_rates",
    "latent_dim",
    "decoder_dim",
    "decoder_rates",
    "n_codebooks",
    "codebook_size",
    "codebook_dim",
    "quantizer_dropout",
    "sample_rate",
)
"""What the reference can be told of a network."""


@dataclass(frozen=True)
class Codec:
    """How a codec is run.

    Attributes:
        name: what the table calls it.
        compress: a command that lacks the input and where the output goes.
        decompress: the same for the way back.
        output: the option that names the folder of the output.
        cuts: whether it can decode a part of a file, as `dac-codec` does.
    """

    name: str
    compress: tuple[str, ...]
    decompress: tuple[str, ...]
    output: str
    cuts: bool


@dataclass(frozen=True)
class Run:
    """What a process took.

    Attributes:
        peak: of the resident memory, in bytes.
        seconds: from its start to its end.
        failure: why it failed; empty if it didn't.
    """

    peak: int
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Row:
    """What a codec took for a sound; None stands for what was not run, or not written.

    Attributes:
        codec: its name.
        seconds: length of the sound.
        channels: of the sound.
        frames_per_second: frames that were written per second of audio.
        bytes_per_second: size of the file per second of audio.
        compress: the run that wrote the file.
        decompress: the run that read it.
        part: the run that decoded 10 s from the middle of it.
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
        """The sound in words."""
        return f"{self.seconds} s, {self.channels} channels"

    @property
    def runs(self) -> dict[str, Run | None]:
        """The runs by what they do."""
        return {"compress": self.compress, "decompress": self.decompress, "part": self.part}


# ----------------------------------------------------------------------------------------------------------------------
# The codecs
# ----------------------------------------------------------------------------------------------------------------------


def ours(model: str) -> Codec:
    """This codec with a model that `dac-codec` takes."""
    command = (sys.executable, "-m", "dac_codec")
    options = ("--quiet", "--device", "cpu", "--model", model)
    return Codec("dac_codec", (*command, "compress", *options), (*command, "decompress", *options), "-o", cuts=True)


def theirs(interpreter: Path, model: str, folder: Path) -> Codec:
    """The reference with the same weights, which are left in `folder`.

    Raises:
        DacError: the reference has no such network, or the model can't be loaded.
    """
    weights = folder / "weights.pth"
    # In a process of its own, for torch is large.
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        executor.submit(write_weights, model, weights).result()
    command = (str(interpreter), "-m", "dac")
    options = ("--device", "cpu", "--weights_path", str(weights))
    return Codec(REFERENCE, (*command, "encode", *options), (*command, "decode", *options), "--output", cuts=False)


def write_weights(name: str, path: Path) -> None:
    """Write a model in the layout of the published weights, which the reference reads, and `pretrained.load` too.

    Raises:
        DacError: the reference has no such network, or the model can't be loaded.
    """
    import torch

    from dac_codec import DAC, pretrained
    from dac_codec.model import DACConfig

    model = DAC.from_pretrained(name)
    settings = model.config.to_dict()
    kwargs = {field: settings[field] for field in REFERENCE_FIELDS}
    if DACConfig.from_dict(kwargs) != model.config:
        raise DacError(f"{REFERENCE} has no network like that of {name}: leave out --reference")
    # Under other names the reference would pass over them without a word, and run a network of random numbers.
    weights = pretrained.canonical(model.state_dict())
    torch.save({"state_dict": weights, "metadata": {"kwargs": kwargs}}, path)


def versions(interpreter: Path) -> dict[str, str]:
    """The versions of the reference and of its torch.

    Raises:
        DacError: the interpreter can't be run, or has no reference.
    """
    script = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    try:
        done = subprocess.run([interpreter, "-c", script, REFERENCE, "torch"], capture_output=True, text=True)
    except OSError as error:
        raise DacError(f"{interpreter}: {error.strerror}; --reference names a Python interpreter") from error
    if done.returncode != 0:
        raise DacError(f"{interpreter} has no {REFERENCE}: {last_line(done.stderr)}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def check_same(reference: Codec, codec: Codec, folder: Path) -> None:
    """See that the reference decodes to the same as this codec, which reads the reference's files.

    Raises:
        DacError: it doesn't, or fails.
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
        raise DacError(
            f"{REFERENCE} doesn't decode to what dac_codec makes of the same file: there is no comparing them"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Measuring
# ----------------------------------------------------------------------------------------------------------------------


def write_sound(path: Path, seconds: int, channels: int) -> None:
    """A second of tones and noise, over and over."""
    with audio.Writer(path, SAMPLE_RATE, channels, seconds * SAMPLE_RATE) as writer:
        random = np.random.default_rng(0)
        time_ = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        tones = 0.2 * np.sin(2 * np.pi * 220 * np.arange(1, channels + 1)[:, None] * time_)
        block = (tones + 0.02 * random.standard_normal((channels, SAMPLE_RATE))).astype(np.float32)
        for _ in range(seconds):
            writer.write(block)


def measured(*command: str) -> Run:
    """Run a command to its end."""
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
        failure = f"killed by signal {-process.returncode}"  # 9 is what the system does where memory is short
    elif process.returncode > 0:
        failure = last_line(text)
    return Run(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), seconds, failure)


def last_line(messages: str) -> str:
    """The last that a process said, which of a traceback is the exception."""
    return next((line.strip() for line in reversed(messages.splitlines()) if line.strip()), "it doesn't say why")


def measure(codec: Codec, sound: Path, seconds: int, channels: int) -> Row:
    """Send a sound there and back."""
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
    frames, n_bytes = n_frames(data) / seconds, len(data) / seconds
    return Row(codec.name, seconds, channels, frames, n_bytes, compressing, decompressing, cutting)


def n_frames(data: bytes) -> int:
    """Frames in a .dac file of either kind."""
    codes = bitstream.read_legacy(data).codes if bitstream.is_legacy(data) else bitstream.loads(data)[1]
    return int(codes.shape[-1])


# ----------------------------------------------------------------------------------------------------------------------
# Showing
# ----------------------------------------------------------------------------------------------------------------------


def line(row: Row) -> str:
    """A row of the table."""
    frames = "" if row.frames_per_second is None else f"{row.frames_per_second:.1f}"
    n_bytes = "" if row.bytes_per_second is None else f"{row.bytes_per_second:.0f}"
    cells = [row.codec, row.sound, frames, n_bytes]
    for run in (row.compress, row.decompress):
        if run is None:
            cells += ["", ""]
        elif run.failure:
            cells += [f"failed at {run.peak / 2**20:.0f} MiB", ""]
        else:
            cells += [f"{run.peak / 2**20:.0f} MiB", f"{row.seconds / run.seconds:.1f}x"]
    cells.append("" if row.part is None else "failed" if row.part.failure else f"{row.part.seconds:.1f} s")
    return f"| {' | '.join(cells)} |"


def draw(rows: list[Row], path: Path) -> None:
    """Draw peak memory and rate against the length."""
    import matplotlib
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
    rate.set(title="rate", ylabel="times real time")
    lengths = sorted({row.seconds for row in rows})
    for axis in (memory, rate):
        axis.set(xscale="log", xlabel="length of the sound in s")
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    memory.legend(fontsize="small")
    figure.tight_layout()
    # The same rows make the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dac_codec"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def positive(text: str) -> int:
    """An integer above 0."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def compare(arguments: argparse.Namespace) -> list[Row]:
    """Measure, and print the table.

    Raises:
        DacError: a codec can't be run at all, or the table can't be kept.
    """
    if arguments.output is not None and importlib.util.find_spec("matplotlib") is None:
        raise DacError("the plot needs matplotlib: pip install 'dac_codec[train]'")
    environment: dict[str, Any] = {
        "model": arguments.model,
        "dac_codec": importlib.metadata.version("dac_codec"),
        "torch": importlib.metadata.version("torch"),
        "cores": os.cpu_count(),
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codecs = [ours(arguments.model)]
        if arguments.reference is not None:
            environment["reference"] = versions(arguments.reference)
            codecs.append(theirs(arguments.reference, arguments.model, folder))
            check_same(codecs[1], codecs[0], folder)
        print("| codec | sound | frames/s | bytes/s | compress: peak | rate | decompress: peak | rate | 10 s inside |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
        for seconds in arguments.seconds:
            sound = folder / "sound.wav"
            write_sound(sound, seconds, arguments.channels)
            for codec in codecs:
                if codec.name != REFERENCE or seconds <= (arguments.reference_up_to or seconds):
                    rows.append(measure(codec, sound, seconds, arguments.channels))
                    print(line(rows[-1]), flush=True)
    print("\n" + ", ".join(f"{key} {value}" for key, value in environment.items() if key != "reference"))
    if "reference" in environment:
        print(", ".join(f"{key} {value}" for key, value in environment["reference"].items()))
    if arguments.output is not None:
        try:
            arguments.output.mkdir(parents=True, exist_ok=True)
            content = {**environment, "rows": [asdict(row) for row in rows]}
            with atomic_write(arguments.output / "memory.json") as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n")
            with atomic_write(arguments.output / "memory.svg") as temporary:
                draw(rows, temporary)
        except OSError as error:
            raise DacError(f"{arguments.output} can't be written: {error.strerror}") from error
    return rows


def main() -> int:
    """Measure and show. Returns the exit status: 1 if a run of this codec failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=positive, nargs="+", default=[10, 120], help="lengths of the sounds")
    parser.add_argument("--channels", type=positive, default=2, help="channels of the sounds")
    parser.add_argument("--model", default="dac-mini-44khz", help="name, folder or file, as for dac-codec")
    parser.add_argument("--reference", type=Path, help=f"Python interpreter of an environment with {REFERENCE}")
    parser.add_argument("--reference-up-to", type=positive, help="longest sound that the reference is given, in s")
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
