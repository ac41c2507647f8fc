"""The command line: flags, progress bars and exit codes.

What a command does to a file is in `codec`, which files it reads and writes in `jobs`. Exit codes: 0 all went well, 1 a
file (or the whole run) failed, 2 the command line is wrong, 130 interrupted (143 by SIGTERM, 129 by SIGHUP), 141 the
reader of the output went away. Data alone goes to standard output, messages go to standard error. What is slow to
import is imported when a command needs it: `--help` is instant.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dac_codec.cli.jobs import (
    DASH,
    STDIN_CLOSED,
    Guard,
    Job,
    Plan,
    decompressed_names,
    find_audio,
    find_dac,
    make_plan,
    shown,
)
from dac_codec.common.errors import AudioError, BitstreamError, DacError, TruncatedBitstreamError

if TYPE_CHECKING:
    from dac_codec.bitstream import Header, LegacyFile
    from dac_codec.codec import Batches, Coder
    from dac_codec.model import DAC

_SIGNALLED = 128  # and the signal's number, as shells count
_INTERRUPTED = _SIGNALLED + signal.SIGINT
_PIPE_CLOSED = 141  # 128 + SIGPIPE
_MOST_AT_ONCE = 8  # files; each takes as much memory as one alone

_held_back: ContextVar[list[str] | None] = ContextVar("held_back", default=None)
"""Lines of a job that is done beside others, until it is its turn to be heard; None: each is shown at once."""


class _Commands(click.Group):
    """Commands in the order of their definition, whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _stopped_tidily() as signals:
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted", err=True)
            raise click.exceptions.Exit(_SIGNALLED + signals[0] if signals else _INTERRUPTED) from None
        except BrokenPipeError:  # the reader of a pipe may leave when it has enough
            with suppress(OSError):  # where standard output has a file descriptor; Python would complain at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(_PIPE_CLOSED) from None
        except (DacError, OSError, MemoryError) as error:
            raise click.ClickException(_one_line(error)) from error


@contextmanager
def _stopped_tidily() -> Iterator[list[int]]:
    """Let what ends a process do as Ctrl-C does, so that nothing half-written stays; gives the signals that came."""
    came: list[int] = []

    def stop(number: int, frame: object) -> None:
        came.append(number)
        raise KeyboardInterrupt

    changed = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # What a parent lets its children ignore, as nohup does, stays ignored.
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                changed[number] = signal.signal(number, stop)
    try:
        yield came
    finally:
        for number, before in changed.items():
            signal.signal(number, before)


@contextmanager
def _ended_by_signals(live: Job | None) -> Iterator[list[int]]:
    """Let the first signal that would end the process end a live input alone, so that what has come can be kept.

    Gives that signal, when it has come. From then on signals do what they did before, as they do where nothing is live.
    """
    came: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def end(number: int, frame: object) -> None:
        came.append(number)
        restore()
        if live is not None:
            live.end_input()

    if live is not None and threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, end)
    try:
        yield came
    finally:
        restore()


def _raw_sound(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int, str] | None:
    """RATE,CHANNELS,ENCODING: what headerless samples don't say of themselves."""
    if value is None:
        return None
    rate, _, rest = value.partition(",")
    channels, _, encoding = rest.partition(",")
    if not (rate.isdecimal() and channels.isdecimal()):
        raise click.BadParameter(f"{value!r} is not RATE,CHANNELS,ENCODING, such as 44100,1,s16le", ctx, param)
    _raw_encoding(ctx, param, encoding)
    return int(rate), int(channels), encoding


def _raw_encoding(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The sample format of headerless samples."""
    if value is None:
        return None
    from dac_codec.audio import RAW_ENCODINGS

    if value not in RAW_ENCODINGS:
        raise click.BadParameter(f"{value!r} is none of the encodings {', '.join(RAW_ENCODINGS)}", ctx, param)
    return value


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A time that is given in seconds, or as m:s or h:m:s."""
    if value is None:
        return None
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is no time: give seconds, or h:m:s", ctx, param)
    seconds = 0.0
    for part in value.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _names(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Codecs with commas between them."""
    from dac_codec.evaluation.codecs import NAMES

    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in NAMES:
            raise click.BadParameter(f"{name!r} is none of the codecs {', '.join(NAMES)}", ctx, param)
    return names


def _bitrates(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """Bitrates in kbit/s with commas between them."""
    try:
        bitrates = tuple(float(part) for part in value.split(","))
    except ValueError:
        bitrates = ()
    if not bitrates or not all(0 < bitrate < 10_000 for bitrate in bitrates):
        raise click.BadParameter(f"{value!r} is not a list of bitrates in kbit/s, such as 2,4,6,8", ctx, param)
    return bitrates


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dac_codec", prog_name="dac-codec")
def main() -> None:
    """Compress audio to a few kilobits per second with a neural codec, and bring it back."""


_inputs = click.argument("inputs", metavar="IN...", nargs=-1, required=True, type=click.Path())
_model = click.option(
    "--model",
    metavar="MODEL",
    help="A name (see `dac-codec models`), a folder with a saved model, or a .pth file.",
)
_device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the network runs; auto takes a GPU if there is one.",
)
_fast = click.option(
    "--fast",
    is_flag=True,
    help="Compute in bfloat16 where the processor is quicker at that: near to the exact result, and not the same.",
)
_force = click.option("--force", is_flag=True, help="Overwrite files that exist.")
_quiet = click.option("--quiet", is_flag=True, help="Show only warnings and errors.")


def _output(text: str, required: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option("-o", "--output", metavar="OUT", type=click.Path(), required=required, help=text)


# ----------------------------------------------------------------------------------------------------------------------
# The commands
# ----------------------------------------------------------------------------------------------------------------------


@main.command()
@_inputs
@_output("The .dac file, or a folder for several inputs; - is standard output. [default: beside each input]")
@_model
@click.option("--quantizers", metavar="N", type=click.IntRange(min=1), help="Codebooks to use. [default: all]")
@click.option(
    "--bitrate",
    metavar="KBPS",
    type=click.FloatRange(min=0, min_open=True),
    help="Highest bitrate of each channel in kbit/s, instead of --quantizers.",
)
@click.option(
    "--chunk-frames",
    metavar="N",
    type=click.IntRange(min=1),
    help="Frames that are written together, and lost together if damaged. [default: 3.5 s; from a pipe, 16]",
)
@click.option(
    "--raw",
    metavar="RATE,CHANNELS,ENCODING",
    callback=_raw_sound,
    help="Standard input is samples without a header; ENCODING is s16le, s24le, s32le or f32le.",
)
@_device
@_fast
@_force
@_quiet
def compress(
    inputs: tuple[str, ...],
    output: str | None,
    model: str | None,
    quantizers: int | None,
    bitrate: float | None,
    chunk_frames: int | None,
    raw: tuple[int, int, str] | None,
    device: str,
    fast: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Compress sound files to .dac files.

    IN... are files and folders; a folder is searched for sound files, and its tree is made again in OUT. A single -
    is standard input. Files whose outputs would have the same name keep their extension in it: a.wav and a.flac become
    a.wav.dac and a.flac.dac.

    A pipe of wav or raw samples is coded as it comes. Its loudness is that of its first second; after that second, what
    has come is written every 16 frames (186 ms at 44.1 kHz), or --chunk-frames. Ctrl-C ends the sound: what came until
    then is kept.
    """
    if raw is not None and inputs != (DASH,):
        raise click.UsageError("--raw tells of standard input: give - as the input")
    if quantizers is not None and bitrate is not None:
        raise click.UsageError("--quantizers and --bitrate can't both be given")
    plan = _not_empty(
        make_plan(inputs, output, "sound files", find_audio, lambda name: [f"{Path(name).stem}.dac", f"{name}.dac"])
    )
    from dac_codec import audio, codec, pretrained

    _check_device(device)
    # What is compiled for a long job is so for the number of threads that its files have.
    with _side_by_side(plan, device) as (n_at_once, batches):
        seconds = plan.total(_sound_seconds) if fast else 0.0
        loaded = codec.load_model(model or pretrained.DEFAULT_MODEL, device, not quiet, fast, seconds)
        try:
            quantizers = codec.choose_quantizers(loaded, quantizers, None if bitrate is None else 1000 * bitrate)
        except DacError as error:
            raise click.UsageError(str(error)) from error
        show_progress = not quiet and len(plan.jobs) == 1

        def work(job: Job, coder: Coder) -> str:
            started = time.perf_counter()
            source = job.input()
            if raw is None or isinstance(source, Path):
                reader = audio.Reader(source, job.source_name)
            else:
                reader = audio.Reader.raw(source, *raw, name=job.source_name)
            with reader, _ended_by_signals(job if job.can_end and not reader.rewindable else None) as signals:
                try:
                    result = codec.compress_stream(
                        reader,
                        job.output(),
                        loaded,
                        quantizers,
                        device=device,
                        progress=show_progress,
                        chunk_frames=chunk_frames,
                        coder=coder,
                    )
                except AudioError:
                    if signals:  # before there was any sound
                        signal.raise_signal(signals[0])
                    raise
            job.flush()
            if signals:
                click.echo(f"{job.target_name} holds the {result.duration:.2f} s until then", err=True)
                signal.raise_signal(signals[0])
            sizes = f"{_size(job.input_size())} -> {_size(result.n_bytes)}"
            return _told(sizes, f"{result.header.bitrate / 1000:.1f} kbit/s", _speed(result.duration, started, coder))

        _run(plan, work, force, quiet, n_at_once, batches)


@main.command()
@_inputs
@_output("The sound file, or a folder for several inputs; - is standard output. [default: beside each input]")
@_model
@_device
@_fast
@_force
@click.option("--start", metavar="TIME", callback=_seconds, help="Leave out what is before: seconds, or h:m:s.")
@click.option("--duration", metavar="TIME", callback=_seconds, help="Decode no more than this.")
@click.option(
    "--conceal/--no-conceal",
    default=None,
    help="Go on behind damage, and fade out where something is missing. [default: from a pipe alone]",
)
@click.option("--allow-gaps", is_flag=True, help="Exit with 0 although something was concealed.")
@click.option("--allow-truncated", is_flag=True, help="Exit with 0 although a file ends early.")
@click.option(
    "--raw",
    metavar="ENCODING",
    callback=_raw_encoding,
    help="Write samples without a header to standard output, as s16le, s24le, s32le or f32le.",
)
@_quiet
def decompress(
    inputs: tuple[str, ...],
    output: str | None,
    model: str | None,
    device: str,
    fast: bool,
    force: bool,
    start: float | None,
    duration: float | None,
    conceal: bool | None,
    allow_gaps: bool,
    allow_truncated: bool,
    raw: str | None,
    quiet: bool,
) -> None:
    """Decompress .dac files to sound files.

    IN... are files and folders; a folder is searched for .dac files, and its tree is made again in OUT. A single - is
    standard input. Outputs are wav files; a single output may have another format, which its extension names (x.flac).
    A file that ends early is decoded up to there, with exit code 1 unless --allow-truncated is given. The files of
    descript-audio-codec can be decompressed too; they don't say which model they need, so --model has to.

    A pipe is decoded as it comes. Where something of it was lost or damaged, the sound fades out and comes back, and
    the exit code is 1 unless --allow-gaps is given; a damaged file gives nothing at all, unless --conceal is given.
    """
    plan = _not_empty(make_plan(inputs, output, ".dac files", find_dac, decompressed_names))
    if raw is not None and any(job.target is not None for job in plan.jobs):
        raise click.UsageError("--raw is for standard output: give -o -")
    from dac_codec import audio, codec

    _check_device(device)
    with _side_by_side(plan, device) as (n_at_once, batches):
        seconds = plan.total(_dac_seconds) if fast and duration is None else 0.0
        models = _Models(model, device, not quiet, fast, seconds)
        show_progress = not quiet and len(plan.jobs) == 1

        def work(job: Job, coder: Coder) -> str:
            started = time.perf_counter()
            with codec.DacStream(job.input()) as stream:
                loaded = models.of(stream.header)
                result = codec.decompress_stream(
                    stream,
                    job.output(),
                    loaded,
                    device,
                    show_progress,
                    start,
                    duration,
                    conceal,
                    allow_truncated=True,
                    fmt=None if raw is None else "raw",
                    subtype=None if raw is None else audio.RAW_ENCODINGS[raw],
                    coder=coder,
                )
            job.flush()
            speed = _speed(result.duration, started, coder)
            if result.cut is not None:
                kept = f"{result.cut}; the {result.duration:.2f} s before that are in {job.target_name}"
                if not allow_truncated:
                    raise TruncatedBitstreamError(f"{kept} (--allow-truncated accepts that)")
                warnings.warn(kept, stacklevel=1)
            if result.gaps and not allow_gaps:
                raise BitstreamError(
                    f"{len(result.gaps)} gaps are concealed in {job.target_name} (--allow-gaps accepts that)"
                )
            return _told(f"{_size(job.input_size())} -> {result.duration:.2f} s", speed)

        _run(plan, work, force, quiet, n_at_once, batches)


@main.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array with an object for each file.")
def info(files: tuple[str, ...], as_json: bool) -> None:
    """Show what .dac files hold."""
    failures = []
    described = []
    for name in files:
        try:
            described.append(_describe(name))
        except (DacError, OSError, MemoryError) as error:
            failures.append(_named(name, error))
    if as_json:
        click.echo(json.dumps(described, indent=2))
    else:
        click.echo("\n\n".join(map(_as_text, described)), nl=bool(described))
    _finish(failures)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array with an object for each model.")
def models(as_json: bool) -> None:
    """List the models that have a name."""
    from dac_codec import pretrained

    rows = [{**asdict(model), "default": model.name == pretrained.DEFAULT_MODEL} for model in pretrained.available()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(
            f"{row['name']:<16}  {row['sample_rate']:>6} Hz  up to {row['bitrate'] / 1000:>5.2f} kbit/s  "
            f"{row['n_codebooks']:>2} codebooks  {row['where']}{', default' if row['default'] else ''}"
        )


@main.command()
@_inputs
@_output("The converted file, or a folder for several inputs; - is standard output.", required=True)
@_model
@_force
@_quiet
def convert(inputs: tuple[str, ...], output: str, model: str | None, force: bool, quiet: bool) -> None:
    """Convert to or from descript-audio-codec's files.

    IN... are .dac files, and folders with such files; each is converted to the other format. The codes stay as they
    are. Our files name their model; for those of descript-audio-codec, --model has to.
    """
    plan = _not_empty(make_plan(inputs, output, ".dac files", find_dac, lambda name: [name]))
    from dac_codec import bitstream, codec

    models = _Models(model, "cpu", progress=not quiet)

    def work(job: Job, _: Coder) -> str:
        file = codec.load(job.input())
        loaded = models.of(None if isinstance(file, bitstream.LegacyFile) else file.header)
        if isinstance(file, bitstream.LegacyFile):
            if loaded is None:
                raise DacError("a file of descript-audio-codec does not say which model wrote it: give --model")
            data = codec.from_legacy(file, loaded).to_bytes()
            kind = "dac_codec"
        else:
            assert loaded is not None
            data = bitstream.write_legacy(codec.to_legacy(file, loaded))
            kind = "descript-audio-codec"
        job.write(data)
        return f"{_size(job.input_size())} -> {_size(len(data))} (now of {kind})"

    _run(plan, work, force, quiet)


@main.command()
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dac-demo"),
    show_default=True,
    help="Where to leave the three files; those of an earlier demo are overwritten.",
)
@_model
@_device
def demo(output: Path, model: str | None, device: str) -> None:
    """Compress and decompress a bundled clip.

    Shows size, speed and quality, and leaves original.wav, compressed.dac and decoded.wav in FOLDER.
    """
    from dac_codec.evaluation.demo import run_demo

    _check_device(device)
    result = run_demo(output, model, device)
    files = (result.original, result.compressed, result.decoded)
    width = max(len(shown(file)) for file in files)
    kbps = result.bitrate / 1000
    rates = f"{kbps / result.channels:.2f} kbit/s per channel, {kbps:.2f} kbit/s in all"
    notes = (
        f"{result.seconds:.1f} s, {result.channels} channels, {_size(result.pcm_bytes)} as 16-bit PCM",
        f"{_size(result.compressed_bytes)}, {rates}, {result.ratio:.0f} times smaller",
        f"SI-SDR {result.si_sdr:.2f} dB",
    )
    for file, note in zip(files, notes, strict=True):
        click.echo(f"{shown(file):<{width}}  {note}")
    speeds = f"encodes {result.encode_speed:.1f}x and decodes {result.decode_speed:.1f}x as fast as real time"
    click.echo(f"After a first run, the model {speeds}.")


@main.command()
@click.argument("data", metavar="DATA", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--codecs",
    metavar="NAMES",
    default="ours,opus,mp3,vorbis",
    show_default=True,
    callback=_names,
    help="Which to measure; the others are compared with the first. Also dac, encodec24, encodec48, snac, and points "
    "of reference: original, anchor, noise, silence.",
)
@click.option(
    "--bitrates",
    metavar="KBPS",
    default="2,4,6,8",
    show_default=True,
    callback=_bitrates,
    help="In kbit/s; each codec takes what comes nearest.",
)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("report"),
    show_default=True,
    help="Where to leave the report; what an earlier run has left there is not computed again.",
)
@_model
@click.option("--split", metavar="NAME", default="test", show_default=True, help="Which files of a manifest to take.")
@_device
@_quiet
def evaluate(
    data: Path,
    codecs: tuple[str, ...],
    bitrates: tuple[float, ...],
    output: Path,
    model: str | None,
    split: str,
    device: str,
    quiet: bool,
) -> None:
    """Measure codecs on sounds, and make a page to compare them on.

    DATA is a folder of sounds, whose subfolders are domains, a sound file, or a manifest of scripts/prepare_data.py.
    Leaves index.html, report.md, report.json and clips.csv in FOLDER. A codec or measure that is not installed is left
    out, with a line that says how to get it.
    """
    from dac_codec.evaluation.report import evaluate as run_evaluation
    from dac_codec.pretrained import DEFAULT_MODEL

    _check_device(device)
    with _shown_warnings():
        report = run_evaluation(
            data,
            output,
            codecs,
            bitrates,
            model or DEFAULT_MODEL,
            split,
            device,
            progress=not quiet,
            say=lambda line: warnings.warn(line, stacklevel=2),
        )
    if not quiet:
        click.echo(report.table)
        click.echo(f"Open {shown(report.page)}", err=True)
    _finish(report.failures)


# ----------------------------------------------------------------------------------------------------------------------
# Doing it
# ----------------------------------------------------------------------------------------------------------------------


class _Models:
    """The models of a run, each loaded once.

    Args:
        given: the model that the user named, loaded at once; None for those that the files name.
        device: where they run.
        progress: whether to show a download.
        fast: whether they may compute in bfloat16.
        seconds: of audio that there is to decode, as far as is known.
    """

    def __init__(
        self, given: str | None, device: str, progress: bool, fast: bool = False, seconds: float = 0.0
    ) -> None:
        from dac_codec import codec

        self._given = None if given is None else codec.load_model(given, device, progress, fast, seconds)
        self._device = device
        self._progress = progress
        self._fast = fast
        self._seconds = seconds
        self._by_name: dict[str, DAC] = {}
        self._lock = threading.Lock()

    def of(self, header: Header | None) -> DAC | None:
        """The model for a file, where legacy ones have no header; None where neither the user nor the file names one.

        Raises:
            ModelMismatchError: the file names weights that are not known here.
        """
        from dac_codec import codec

        if self._given is not None or header is None:
            return self._given
        name = header.model_name
        with self._lock:
            if name not in self._by_name:
                named = codec.model_of(header, None, self._device, self._progress, self._fast, self._seconds)
                self._by_name[name] = named
            return self._by_name[name]


def _sound_seconds(path: Path) -> float:
    """Length of a sound file, of all its channels together, as its header has it."""
    from dac_codec import audio

    with audio.Reader(path) as reader:
        return (reader.n_samples or 0) * reader.channels / reader.sample_rate


def _dac_seconds(path: Path) -> float:
    """Length of a .dac file of ours, of all its channels together, as its header has it; of others, 0."""
    from dac_codec import codec

    with codec.DacStream(path) as stream:
        return 0.0 if stream.header is None else (stream.header.n_samples or 0) * stream.channels / stream.sample_rate


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise DacError("there is no CUDA device that PyTorch can use here: leave out --device, or give --device cpu")


def _not_empty(plan: Plan) -> Plan:
    """The plan of a run, which ends at once if there is nothing to do."""
    if not plan.jobs:
        _finish([_named(name, error) for name, error in plan.failures])
    return plan


@contextmanager
def _side_by_side(plan: Plan, device: str) -> Iterator[tuple[int, Batches | None]]:
    """How many jobs to do at once, and where they meet; within, each has its share of the processor's cores.

    On a CPU, one core for each of two files gets more done than two cores for one file after the other, as long as no
    long file is left over that the other cores could help with. On a GPU, short files go through the network together,
    while the cores read and write others.
    """
    import torch

    from dac_codec import codec

    n_cores = torch.get_num_threads()
    batches = codec.together(device, plan.independent())
    if batches is not None:
        n_at_once = batches.n_at_once
    else:
        n_at_once = max(1, min(n_cores, _MOST_AT_ONCE, plan.independent(), int(plan.evenness())))
    torch.set_num_threads(max(1, n_cores // n_at_once))  # of every thread that begins from now on
    try:
        yield n_at_once, batches
    finally:
        torch.set_num_threads(n_cores)


def _run(
    plan: Plan,
    work: Callable[[Job, Coder], str],
    force: bool,
    quiet: bool,
    n_at_once: int = 1,
    batches: Batches | None = None,
) -> None:
    """Do every job, whatever becomes of the others, and end the run with exit code 1 if any failed.

    Args:
        plan: the jobs.
        work: does one job, with what takes it through the network, and says in a few words how it went.
        force: whether to overwrite files that were there before the run.
        quiet: whether to show nothing but warnings and errors.
        n_at_once: jobs that are done at a time. What is said of them is said in their order.
        batches: where they meet at the network; None: nowhere.
    """
    from tqdm import tqdm

    from dac_codec import codec
    from dac_codec.common.threads import parallel_map

    failures = [_named(name, error) for name, error in plan.failures]
    guard = Guard(plan.jobs, force)
    hide_bar = True if quiet or len(plan.jobs) == 1 else None  # None: unless it is a terminal

    def attempt(index: int) -> tuple[list[str], str | Exception]:
        lines: list[str] = []
        _held_back.set(None if n_at_once == 1 else lines)
        job = plan.jobs[index]
        with nullcontext(codec.ALONE) if batches is None else batches.member(index) as coder:
            try:
                guard.check(job.target)
                try:
                    return lines, work(job, coder)
                finally:
                    guard.remember(job.target)
            except BrokenPipeError:
                raise
            except (DacError, OSError, MemoryError) as error:
                return lines, error

    with _shown_warnings(), closing(parallel_map(attempt, range(len(plan.jobs)), n_at_once)) as outcomes:
        bar = tqdm(outcomes, total=len(plan.jobs), unit="file", leave=False, disable=hide_bar)
        for job, (lines, outcome) in zip(plan.jobs, bar, strict=True):
            for line in lines:
                tqdm.write(line, file=sys.stderr)
            if isinstance(outcome, Exception):
                failures.append(_named(job.source_name, outcome))
            elif not quiet:
                tqdm.write(f"{job.source_name} -> {job.target_name}  {outcome}", file=sys.stderr)
    _finish(failures)


def _speed(duration: float, started: float, coder: Coder) -> str:
    """How fast so many seconds of sound were done; nothing of a file that had to wait for others."""
    from dac_codec import codec

    return f"{duration / (time.perf_counter() - started):.1f}x real time" if coder is codec.ALONE else ""


def _told(what: str, *notes: str) -> str:
    """What was done, with notes in parentheses; empty ones are left out."""
    joined = ", ".join(filter(None, notes))
    return f"{what} ({joined})" if joined else what


@contextmanager
def _shown_warnings() -> Iterator[None]:
    """Show what is warned of within as a line each, without the place in the code: at once, or as `_held_back` says."""
    from tqdm import tqdm

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        line = f"Warning: {_one_line(message)}"
        if (held_back := _held_back.get()) is None:
            tqdm.write(line, file=sys.stderr)
        else:
            held_back.append(line)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _finish(failures: list[str]) -> None:
    """Name what failed, and end the run if anything did."""
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if len(failures) > 1:
        click.echo(f"{len(failures)} failed", err=True)
    if failures:
        raise click.exceptions.Exit(1)


# ----------------------------------------------------------------------------------------------------------------------
# What a .dac file holds, and how to say it
# ----------------------------------------------------------------------------------------------------------------------


def _describe(name: str) -> dict[str, Any]:
    """The fields of a .dac file of either kind; "-" is standard input."""
    from dac_codec import bitstream

    if name == DASH and sys.stdin is None:
        raise DacError(STDIN_CLOSED)
    data = sys.stdin.buffer.read() if name == DASH else Path(name).read_bytes()
    if bitstream.is_legacy(data):
        fields = _legacy_fields(bitstream.read_legacy(data))
    else:
        truncated = False
        try:
            header, codes = bitstream.loads(data)
        except TruncatedBitstreamError:
            truncated = True
            header, codes = bitstream.loads(data, allow_truncated=True)
        fields = _own_fields(header, codes.shape[-1], truncated)
    pcm_size = 2 * fields["channels"] * fields["n_samples"]
    return {"file": name, **fields, "size": len(data), "pcm_size": pcm_size, "ratio": pcm_size / len(data)}


def _own_fields(header: Header, n_frames: int, truncated: bool) -> dict[str, Any]:
    from dac_codec import bitstream

    assert header.n_samples is not None
    return {
        "format": "dac_codec",
        "version": bitstream.VERSION,
        "truncated": truncated,
        "model_id": f"{header.model_name}@{header.model_fingerprint.hex()}",
        "sample_rate": header.sample_rate,
        "channels": header.channels,
        "n_samples": header.n_samples,
        "duration": header.n_samples / header.sample_rate,
        "n_frames": n_frames,
        "bitrate": header.bitrate,
        "n_codebooks": header.n_codebooks,
        "codebook_size": header.codebook_size,
        "bits_per_code": header.bits_per_code,
        "model_sample_rate": header.model_sample_rate,
        "hop_length": header.hop_length,
        "gain_db": header.gain_db,
        "bandwidth": header.bandwidth,
    }


def _legacy_fields(file: LegacyFile) -> dict[str, Any]:
    import numpy as np

    return {
        "format": "descript-audio-codec",
        "version": file.dac_version,
        "truncated": False,
        "sample_rate": file.sample_rate,
        "channels": file.channels,
        "n_samples": file.original_length,
        "duration": file.original_length / file.sample_rate,
        "n_frames": file.codes.shape[-1],
        "n_codebooks": file.codes.shape[1],
        "bits_per_code": 8 * file.codes.itemsize,
        "chunk_frames": file.chunk_length,
        "padding": file.padding,
        "loudness_db": np.ravel(file.input_db).tolist(),
    }


def _as_text(fields: dict[str, Any]) -> str:
    """The fields of a file as lines for people."""
    units: dict[str, Callable[[Any], str]] = {
        "file": shown,
        "truncated": lambda value: "yes, only what comes before the cut counts here" if value else "no",
        "sample_rate": lambda value: f"{value} Hz",
        "duration": lambda value: f"{value:.3f} s",
        "bitrate": lambda value: f"{value / 1000:.2f} kbit/s",
        "model_sample_rate": lambda value: f"{value} Hz",
        "gain_db": lambda value: f"{value:+.2f} dB",
        "bandwidth": lambda value: "not told" if value is None else f"{value} Hz",
        "loudness_db": lambda value: ", ".join(f"{one:.2f} LUFS" for one in value),
        "padding": lambda value: "yes" if value else "no",
        "size": lambda value: f"{_size(value)} ({value} bytes)",
        "pcm_size": lambda value: f"{_size(value)} as 16-bit PCM",
        "ratio": lambda value: f"{value:.1f} times smaller",
    }
    labels = {key: key.removeprefix("n_").removesuffix("_db").replace("_", " ") for key in fields}
    return "\n".join(f"{labels[key]:<17}  {units.get(key, str)(value)}" for key, value in fields.items())


def _size(n_bytes: int) -> str:
    """Bytes in decimal units.

    >>> _size(999), _size(9_800), _size(1_234_567)
    ('999 B', '9.8 kB', '1.2 MB')
    """
    if n_bytes < 1000:
        return f"{n_bytes} B"
    size = n_bytes / 1000
    units = ["kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.1f} {units[0]}"


def _named(name: str, error: Exception) -> str:
    """What is wrong, with the file that it is wrong with in front unless the message names it."""
    text = _one_line(error)
    return text if f"{name}:" in text else f"{name}: {text}"


def _one_line(error: Warning | Exception | str) -> str:
    """What went wrong, in one line."""
    if isinstance(error, MemoryError):
        return f"not enough memory ({error})" if str(error) else "not enough memory"
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return " ".join(str(error).split())
