"""The commands of `dac-codec`; those for .dac files and models are in `files`, those for collections in `corpus`.

What they do to a file is in `codec`, which files they read and write in `jobs`.
"""

from __future__ import annotations

import json
import time
import warnings
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dac_codec.cli import options, running
from dac_codec.cli.jobs import (
    DASH,
    Job,
    compressed_names,
    decompressed_names,
    display_path,
    find_audio,
    find_dac,
    find_unreadable_audio,
    make_jobs,
    refuse_dac,
)
from dac_codec.common.errors import AudioError, BitstreamError, DacError, TruncatedBitstreamError
from dac_codec.common.signals import pass_on

if TYPE_CHECKING:
    from dac_codec import audio, codec
    from dac_codec.codec.batches import ShortFile


@click.command()
@options.inputs
@options.output("The .dac file, or a folder for several inputs; - is standard output. [default: beside each input]")
@options.model
@options.effort
@options.quality
@click.option(
    "--bitrate",
    metavar="KBPS",
    type=click.FloatRange(min=0, min_open=True),
    help="Mean bitrate of each channel in kbit/s, instead of --quality; the highest with --constant.",
)
@click.option("--quantizers", metavar="N", type=click.IntRange(min=1), help="Most codebooks to use. [default: all]")
@click.option("--constant", is_flag=True, help="Use the same codebooks in every frame, without entropy coding.")
@click.option(
    "--levels/--no-levels",
    default=None,
    help="Send band levels: less noise for 0.7 kbit/s. [default: yes; no for a pipe, with --constant, if --effort 0 or "
    "1 is given, or at a --bitrate below 2.15]",
)
@click.option(
    "--chunk-frames",
    metavar="N",
    type=click.IntRange(min=1),
    help="Frames per chunk; damage costs whole chunks. [default: 3.5 s; from a pipe, 16]",
)
@click.option("--redundancy", is_flag=True, help="Repeat the coarse codes of each chunk, to bridge single lost chunks.")
@click.option(
    "--raw",
    metavar="RATE,CHANNELS,ENCODING",
    callback=options.raw_audio,
    help="Standard input is samples without a header; ENCODING is s16le, s24le, s32le or f32le.",
)
@click.option("--allow-truncated", is_flag=True, help="Exit with 0 even if a sound file is cut short or damaged.")
@options.device
@options.fast
@options.force
@options.skip_existing
@options.as_json
@options.quiet
def compress(
    inputs: tuple[str, ...],
    output: str | None,
    model: str | None,
    effort: int | None,
    quality: float | None,
    bitrate: float | None,
    quantizers: int | None,
    constant: bool,
    levels: bool | None,
    chunk_frames: int | None,
    redundancy: bool,
    raw: tuple[int, int, str] | None,
    allow_truncated: bool,
    device: str,
    fast: bool,
    force: bool,
    skip_existing: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compress sound files to .dac files.

    IN... are files and folders. A folder is searched for sound files, and OUT gets the same subfolders. A single - is
    standard input. Files whose outputs would have the same name keep their extension: a.wav and a.flac become
    a.wav.dac and a.flac.dac.

    A frame gets as many codes as it needs for --quality, or for the mean --bitrate. From a pipe, every frame has the
    same number unless one of these is given.

    A pipe of wav or raw samples is encoded as it arrives. Its gain is chosen from the first second; after that, output
    is written every 16 frames (186 ms at 44.1 kHz), or --chunk-frames. Ctrl-C ends the recording and keeps it.

    A sound file that is cut short or damaged is compressed as far as it can be read, with exit code 1 unless
    --allow-truncated is given; so is the first of several sound files that were joined into one and can't be read as
    one.
    """
    if raw is not None and inputs != (DASH,):
        raise click.UsageError("--raw only applies to standard input; use - as the input")
    if quality is not None and (bitrate is not None or constant):
        raise click.UsageError(f"--quality and {'--constant' if constant else '--bitrate'} can't be combined")
    if constant and quantizers is not None and bitrate is not None:
        raise click.UsageError("--quantizers and --bitrate can't be combined with --constant")
    jobs = make_jobs(inputs, output, "sound files", find_audio, compressed_names, find_unreadable_audio)
    running.skip_existing(jobs, skip_existing, force, quiet)
    running.finish_if_empty(jobs, as_json)
    running.check_memory()
    from dac_codec import audio, codec, pretrained
    from dac_codec.bitstream.describe import format_size
    from dac_codec.codec import batches

    running.check_device(device)
    with running.shared_cores(jobs, device) as (n_at_once, batched):
        loaded = codec.load_model(model or pretrained.DEFAULT_MODEL, device, not quiet, fast)
        bits = None if bitrate is None else 1000 * bitrate
        try:
            rate = codec.choose_rate(loaded, quantizers, bits, quality, constant, effort, levels)
        except DacError as error:
            raise click.UsageError(str(error).replace("n_quantizers", "--quantizers")) from error
        show_progress = not quiet and len(jobs.jobs) == 1

        def open_input(job: Job) -> audio.Reader:
            source = job.input()
            if isinstance(source, Path):
                refuse_dac(source)
            if raw is None or isinstance(source, Path):
                return audio.Reader(source, job.source_name, warn=False)
            return audio.Reader.raw(source, *raw, name=job.source_name, warn=False)

        def summary(job: Job, result: codec.Compressed, *notes: str) -> str:
            if result.missing:
                kept = f"{result.missing}; {job.target_name} contains the {result.duration:.2f} s that were read"
                if not allow_truncated:
                    raise AudioError(f"{kept} (--allow-truncated accepts this)")
                warnings.warn(f"{job.source_name}: {kept}", stacklevel=1)
            job.figures |= {"input_bytes": job.input_size(), "output_bytes": result.n_bytes}
            job.figures |= {"duration": result.duration, "bitrate": result.bitrate}
            sizes = f"{format_size(job.input_size())} -> {format_size(result.n_bytes)}"
            return f"{sizes} ({', '.join((f'{result.bitrate / 1000:.1f} kbit/s', *notes))})"

        def work(job: Job) -> str:
            started = time.perf_counter()
            with (
                closing(job),
                open_input(job) as reader,
                running.recording(job, job.is_pipe and not reader.rewindable) as signals,
            ):
                try:
                    result = codec.compress_stream(
                        reader,
                        job.output(),
                        loaded,
                        quantizers,
                        bits,
                        device,
                        show_progress,
                        chunk_frames,
                        redundancy,
                        effort,
                        quality,
                        constant,
                        levels,
                    )
                except AudioError:
                    if signals:  # before the first sample
                        pass_on(signals[0])
                    raise
            job.flush()
            if signals:
                click.echo(f"{job.target_name} contains the {result.duration:.2f} s recorded", err=True)
                pass_on(signals[0])
            return summary(job, result, running.speed(job, result.duration, started))

        def read(job: Job) -> ShortFile | None:
            with open_input(job) as reader:
                return batches.read_sound(reader, loaded, rate, chunk_frames)

        batched = batched and not redundancy
        running.run(jobs, work, force, quiet, n_at_once, read if batched else None, summary, as_json)


@click.command()
@options.inputs
@options.output("The sound file, or a folder for several inputs; - is standard output. [default: beside each input]")
@options.model
@options.download
@options.device
@options.fast
@options.force
@options.skip_existing
@click.option("--start", metavar="TIME", callback=options.seconds, help="Skip this time: seconds, or h:m:s.")
@click.option("--duration", metavar="TIME", callback=options.seconds, help="Decode at most this long.")
@click.option(
    "--conceal/--no-conceal",
    default=None,
    help="Decode past damage, and fade out where codes are missing. [default: only from a pipe]",
)
@click.option("--allow-gaps", is_flag=True, help="Exit with 0 even if gaps were concealed or layers are missing.")
@click.option("--allow-truncated", is_flag=True, help="Exit with 0 even if a file is truncated.")
@click.option("--progressive", is_flag=True, help="Write a file ordered by layers again with each layer.")
@click.option(
    "--raw",
    metavar="ENCODING",
    callback=options.raw_encoding,
    help="Write samples without a header to standard output, as s16le, s24le, s32le or f32le.",
)
@options.as_json
@options.quiet
def decompress(
    inputs: tuple[str, ...],
    output: str | None,
    model: str | None,
    download: bool,
    device: str,
    fast: bool,
    force: bool,
    skip_existing: bool,
    start: float | None,
    duration: float | None,
    conceal: bool | None,
    allow_gaps: bool,
    allow_truncated: bool,
    progressive: bool,
    raw: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Decompress .dac files to sound files.

    IN... are files and folders. A folder is searched for .dac files, and OUT gets the same subfolders. A single - is
    standard input. Outputs are wav files; a single output may have another format, given by its extension (x.flac). A
    truncated file is decoded up to its last complete chunk, with exit code 1 unless --allow-truncated is given. Files
    of descript-audio-codec can be decompressed too; they don't name their model, so --model is required.

    With --progressive, the output of a file ordered by layers is coarse first, and is replaced as each layer is read.

    A pipe is decoded as it arrives. Where codes were lost or damaged, the sound fades out and in again, and the exit
    code is 1 unless --allow-gaps is given. A damaged file gives no output unless --conceal is given, or only the finer
    layers of some chunks are damaged: these are decoded from the coarser ones.
    """
    jobs = make_jobs(inputs, output, ".dac files", find_dac, decompressed_names)
    running.skip_existing(jobs, skip_existing, force, quiet)
    running.finish_if_empty(jobs, as_json)
    running.check_memory()
    if raw is not None and any(job.target is not None for job in jobs.jobs):
        raise click.UsageError("--raw only applies to standard output; use -o -")
    excluded = (start is not None, duration is not None, conceal, allow_gaps, allow_truncated)
    if progressive and (any(excluded) or any(job.target is None for job in jobs.jobs)):
        raise click.UsageError("--progressive writes whole files without damage, and not to standard output")
    from dac_codec import audio, codec
    from dac_codec.bitstream.describe import format_size
    from dac_codec.codec import batches
    from dac_codec.codec.decoding import write_blocks

    running.check_device(device)
    subtype = None if raw is None else audio.RAW_ENCODINGS[raw]
    with running.shared_cores(jobs, device) as (n_at_once, batched):
        model_for = running.model_loader(model, device, not quiet, fast, download)
        show_progress = not quiet and len(jobs.jobs) == 1

        def summary(job: Job, result: codec.Decompressed, *notes: str) -> str:
            job.flush()
            if result.cut is not None:
                kept = f"{result.cut}; {job.target_name} contains the {result.duration:.2f} s before that"
                if not allow_truncated:
                    raise TruncatedBitstreamError(f"{kept} (--allow-truncated accepts this)")
                warnings.warn(kept, stacklevel=1)
            if result.gaps and not allow_gaps:
                gaps = "1 gap is" if len(result.gaps) == 1 else f"{len(result.gaps)} gaps are"
                raise BitstreamError(f"{gaps} concealed in {job.target_name} (--allow-gaps accepts this)")
            if result.missing_layers and result.cut is None and not allow_gaps:
                raise BitstreamError(f"layers are missing in {job.target_name} (--allow-gaps accepts this)")
            job.figures |= {"input_bytes": job.input_size(), "duration": result.duration}
            sizes = f"{format_size(job.input_size())} -> {result.duration:.2f} s"
            return f"{sizes} ({', '.join(notes)})" if notes else sizes

        def work(job: Job) -> str:
            started = time.perf_counter()
            with closing(job), codec.DacStream(job.input()) as stream:
                result = codec.decompress_stream(
                    stream,
                    job.output(),
                    model_for(stream.header),
                    device,
                    show_progress,
                    start,
                    duration,
                    conceal,
                    allow_truncated=True,
                    fmt=None if raw is None else "raw",
                    subtype=subtype,
                )
            return summary(job, result, running.speed(job, result.duration, started))

        def work_progressively(job: Job) -> str:
            started = time.perf_counter()
            with closing(job), codec.DacStream(job.input()) as stream:
                loaded = stream.model(model_for(stream.header), device, show_progress)
                result = None
                try:
                    for waveform in stream.passes(loaded):
                        result = write_blocks(stream, [waveform], job.output(), waveform.shape[1])
                except BitstreamError as error:
                    kept = "" if result is None else f"; {job.target_name} contains a coarser version"
                    raise type(error)(f"{error}{kept}") from error
            assert result is not None
            return summary(job, result, running.speed(job, result.duration, started))

        def read(job: Job) -> ShortFile | None:
            with codec.DacStream(job.input()) as stream:
                return batches.read_codes(stream, model_for(stream.header), conceal)

        batched = batched and start is None and duration is None and not progressive
        chosen = work_progressively if progressive else work
        running.run(jobs, chosen, force, quiet, n_at_once, read if batched else None, summary, as_json)


@click.command()
@options.folder("dac-demo", "Folder for the three files; files of an earlier demo are overwritten.")
@options.model
@options.device
@options.as_json
def demo(output: Path, model: str | None, device: str, as_json: bool) -> None:
    """Compress and decompress a bundled clip.

    Shows size, speed and quality, and writes original.wav, compressed.dac and decoded.wav to FOLDER.
    """
    running.check_memory()
    from dac_codec.bitstream.describe import format_size
    from dac_codec.evaluation.demo import run_demo

    running.check_device(device)
    result = run_demo(output, model, device)
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2, default=str))
        return
    files = (result.original, result.compressed, result.decoded)
    width = max(len(display_path(file)) for file in files)
    kbps = result.bitrate / 1000
    rates = f"{kbps / result.channels:.2f} kbit/s per channel, {kbps:.2f} kbit/s in all"
    notes = (
        f"{result.seconds:.1f} s, {result.channels} channels, {format_size(result.pcm_bytes)} as 16-bit PCM",
        f"{format_size(result.compressed_bytes)}, {rates}, {result.ratio:.0f} times smaller",
        f"SI-SDR {result.si_sdr:.2f} dB",
    )
    for file, note in zip(files, notes, strict=True):
        click.echo(f"{display_path(file):<{width}}  {note}")
    speeds = f"encodes {result.encode_speed:.1f}x and decodes {result.decode_speed:.1f}x as fast as real time"
    click.echo(f"After a first run, the model {speeds}.")


@click.command()
@click.argument("data", metavar="DATA", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--codecs",
    metavar="NAMES",
    default="ours,opus,mp3,vorbis",
    callback=options.codec_names,
    help="Codecs to measure; the first is the one that the others are compared with. ours has constant codes, "
    "ours-default what `compress` writes. Also dac, encodec24, encodec48, snac, original, anchor, noise, silence.",
)
@click.option(
    "--bitrates",
    metavar="KBPS",
    default="2,4,6,8",
    callback=options.bitrates,
    help="In kbit/s; each codec uses its nearest setting.",
)
@options.folder("report", "Folder for the report; results of an earlier run in it are reused.")
@options.model
@click.option("--split", metavar="NAME", default="test", help="Split of a manifest to evaluate.")
@options.device
@options.quiet
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
    """Measure codecs on sounds, and write a page to compare them.

    DATA is a folder of sounds whose subfolders are domains, a sound file, or a manifest of scripts/prepare_data.py.
    Writes index.html, report.md, report.json and clips.csv to FOLDER. Codecs and metrics that are not installed are
    left out, with a line that says how to install them.
    """
    running.check_memory()
    from dac_codec.evaluation.report import evaluate as run_evaluation
    from dac_codec.pretrained import DEFAULT_MODEL

    running.check_device(device)
    report = run_evaluation(
        data, output, codecs, bitrates, model or DEFAULT_MODEL, split, device, progress=not quiet, say=warnings.warn
    )
    if not quiet:
        click.echo(report.table)
        click.echo(f"Open {display_path(report.page)}", err=True)
    running.finish(report.failures)


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", metavar="[OVERRIDES]...", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    """Train a model.

    OVERRIDES are those of Hydra, such as experiment=44khz data.sounds=/my/folder; --help lists the configurations.
    Needs pip install 'dac_codec[train]'.
    """
    running.training_module("__main__").main(list(arguments))
