"""The commands for .dac files and models: info, models, convert, convert-model, export, web, refit."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from dac_codec.cli import options, running
from dac_codec.cli.jobs import Job, display_path, find_dac, make_jobs
from dac_codec.common.errors import DacError


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=options.PATH)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array with an object for each file.")
def info(files: tuple[str, ...], as_json: bool) -> None:
    """Show the metadata of .dac files. A folder is searched for them; - is standard input."""
    from dac_codec.bitstream.describe import as_text

    failures: list[str] = []
    described = list(running.described(files, failures))
    if as_json:
        click.echo(json.dumps(described, indent=2))
    else:
        texts = [as_text({**fields, "file": display_path(fields["file"])}) for fields in described]
        click.echo("\n\n".join(texts), nl=bool(described))
    running.finish(failures)


@click.command()
@click.option("--hub", is_flag=True, help="Also list models on the Hugging Face Hub whose library is dac_codec.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array with an object for each model.")
def models(hub: bool, as_json: bool) -> None:
    """List the models that have a name, and those of the Hugging Face Hub that are in its cache."""
    running.check_memory()
    from dac_codec import pretrained

    found = pretrained.available(True, online=hub)
    rows = [{**asdict(model), "default": model.name == pretrained.DEFAULT_MODEL} for model in found]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(
            f"{row['name']:<16}  {row['sample_rate']:>6} Hz  up to {row['bitrate'] / 1000:>5.2f} kbit/s  "
            f"{row['n_codebooks']:>2} codebooks  {row['where']}"
            f"{'' if row['verified'] else ', not verified'}{', default' if row['default'] else ''}"
        )


@click.command()
@options.inputs
@options.output("The converted file, or a folder for several inputs; - is standard output.", required=True)
@options.model
@options.download
@click.option("--quantizers", metavar="N", type=click.IntRange(min=1), help="Keep the first N codebooks.")
@click.option(
    "--bitrate",
    metavar="KBPS",
    type=click.FloatRange(min=0, min_open=True),
    help="Keep the codebooks that fit into this mean bitrate of each channel in kbit/s.",
)
@click.option(
    "--order",
    type=click.Choice(["time", "layers"]),
    help="Order of the codes: by time, or layer by layer, so that the beginning of the file is the whole piece.",
)
@click.option("--no-levels", is_flag=True, help="Leave out the band levels.")
@options.force
@options.skip_existing
@options.quiet
def convert(
    inputs: tuple[str, ...],
    output: str,
    model: str | None,
    download: bool,
    quantizers: int | None,
    bitrate: float | None,
    order: Literal["time", "layers"] | None,
    no_levels: bool,
    force: bool,
    skip_existing: bool,
    quiet: bool,
) -> None:
    """Thin or reorder .dac files, or convert them to or from the format of descript-audio-codec.

    IN... are .dac files, and folders of them. With --quantizers, --bitrate, --no-levels or --order, files keep their
    format, and no model is needed. Otherwise each file is converted to the other format, with the same codes. Files of
    descript-audio-codec don't name their model, so --model is required for them.
    """
    if quantizers is not None and bitrate is not None:
        raise click.UsageError("--quantizers and --bitrate can't be combined")
    jobs = make_jobs(inputs, output, ".dac files", find_dac, lambda name: [name])
    running.skip_existing(jobs, skip_existing, force, quiet)
    running.finish_if_empty(jobs)
    running.check_memory()
    from dac_codec import bitstream, codec
    from dac_codec.bitstream.describe import format_size

    model_for = running.model_loader(model, "cpu", progress=not quiet, download=download)

    def thin(job: Job) -> str:
        rate = None if bitrate is None else 1000 * bitrate
        size = codec.thin(job.input(), job.output(), quantizers, rate, order, levels=not no_levels)
        job.flush()
        return f"{format_size(job.input_size())} -> {format_size(size)}"

    def work(job: Job) -> str:
        file = codec.load(job.input(), model=model)
        loaded = model_for(None if isinstance(file, bitstream.LegacyFile) else file.header)
        if loaded is None:
            raise DacError("files of descript-audio-codec don't name their model; use --model")
        if isinstance(file, bitstream.LegacyFile):
            data, kind = codec.from_legacy(file, loaded).to_bytes(), "dac_codec"
        else:
            data, kind = bitstream.write_legacy(codec.to_legacy(file, loaded)), "descript-audio-codec"
        codec.write_bytes(job.output(), data)
        job.flush()
        return f"{format_size(job.input_size())} -> {format_size(len(data))} (format {kind})"

    is_thinned = quantizers is not None or bitrate is not None or order is not None or no_levels
    running.run(jobs, thin if is_thinned else work, force, quiet)


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "layout",
    type=click.Choice(["transformers", "reference", "ours"]),
    required=True,
    help="A folder for DacModel of transformers, a .pth file for descript-audio-codec, or a folder for dac_codec.",
)
@click.option(
    "--weight-norm",
    type=click.Choice(["merged", "parametrizations", "weight_g"]),
    default="merged",
    help="With --to transformers: weights as DacModel.from_pretrained reads them, or in two factors under the names of "
    "today or of 2024.",
)
@options.force
@options.quiet
def convert_model(
    source: str,
    target: Path,
    layout: Literal["transformers", "reference", "ours"],
    weight_norm: Literal["merged", "parametrizations", "weight_g"],
    force: bool,
    quiet: bool,
) -> None:
    """Convert a model to the layout of another package, and back.

    IN is a model as --model of the other commands takes it. The weights stay equal in every bit.
    A model that the other package can't express is refused.
    """
    if weight_norm != "merged" and layout != "transformers":
        raise click.UsageError("--weight-norm only applies to --to transformers")
    _check_target(target, force, is_folder=layout != "reference")
    running.check_memory()
    from dac_codec import interop

    left_out = interop.convert_model(source, target, layout, weight_norm, progress=not quiet)
    if left_out:
        names = ", ".join(file.name for file in left_out)
        warnings.warn(f"only the network was converted, without {names}", stacklevel=1)
    if not quiet:
        click.echo(f"{target} has the layout {layout}", err=True)


@click.command()
@click.argument("source", metavar="MODEL")
@options.folder("exported", "Folder for the graphs and config.json.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["onnx", "torch-export"]),
    default="onnx",
    help="ONNX graphs, or programs of torch.export (.pt2).",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    help="Precision of the convolutions in ONNX: fp16 halves the files, int8 stores weights in 8 bits.",
)
@click.option("--opset", metavar="N", type=click.IntRange(13, 21), default=17, help="Version of ONNX's operators.")
@click.option(
    "--force", is_flag=True, help="Overwrite existing files, and write graphs that increase the mel distance too much."
)
@options.quiet
def export(
    source: str,
    output: Path,
    layout: Literal["onnx", "torch-export"],
    precision: Literal["fp32", "fp16", "int8"],
    opset: int,
    force: bool,
    quiet: bool,
) -> None:
    """Export the network of a model for other runtimes.

    MODEL is a model as --model of the other commands takes it. ONNX graphs have the names of the public conversions of
    DAC: encoder_model.onnx, decoder_model.onnx; encoder_step.onnx and decoder_step.onnx are for streams. They are
    compared with the model on a bundled clip: if the mel distance to it grows by more than 0.1, they are refused.
    """
    if layout != "onnx" and precision != "fp32":
        raise click.UsageError("--precision only applies to --format onnx")
    running.check_memory()
    from dac_codec import interop, pretrained
    from dac_codec.evaluation.demo import clip_at

    names = interop.graph_files(precision) if layout == "onnx" else list(interop.PROGRAM_FILES)
    for name in names:
        if (output / name).exists() and not force:
            raise DacError(f"{display_path(output / name)} exists; use --force to overwrite it")
    model = pretrained.load(source, progress=not quiet)
    if layout == "torch-export":
        interop.export_torch(model, output, progress=not quiet)
    else:
        agreement = interop.export_onnx(
            model, output, precision, opset, clip_at(model.sample_rate)[0], force, progress=not quiet
        )
        if not quiet:
            click.echo(f"On the bundled clip, {agreement}", err=True)
    if not quiet:
        click.echo(f"{display_path(output)} has {', '.join(names)}", err=True)


@click.command()
@options.folder("site", "Folder for the page.")
@options.model
@click.option(
    "--graphs",
    metavar="FOLDER",
    type=options.FOLDER,
    help="A folder with the model as ONNX graphs, as `dac-codec export` writes it. [default: they are made]",
)
@click.option(
    "--runtime",
    metavar="FOLDER",
    type=options.FOLDER,
    help="A folder with the npm package onnxruntime-web. [default: from npm]",
)
@click.option("--serve", is_flag=True, help="Serve the page on this machine, until Ctrl-C.")
@click.option(
    "--port", metavar="N", type=click.IntRange(0, 65535), default=8000, help="Port of --serve; 0 for any free one."
)
@options.force
@options.quiet
def web(
    output: Path,
    model: str | None,
    graphs: Path | None,
    runtime: Path | None,
    serve: bool,
    port: int,
    force: bool,
    quiet: bool,
) -> None:
    """Make a web page that compresses and decompresses in the browser.

    The folder holds everything that the page loads; any static web server serves it. The page sends nothing anywhere.
    """
    if output.exists() and any(output.iterdir()) and not force:
        raise DacError(f"{display_path(output)} is not empty; use --force to replace files in it")
    running.check_memory()
    from dac_codec import pretrained
    from dac_codec.interop.web import server, write_site

    loaded = pretrained.load(model or pretrained.DEFAULT_MODEL, progress=not quiet)
    write_site(loaded, output, graphs, runtime)
    if not quiet:
        n_bytes = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        click.echo(f"{display_path(output)} holds the page, {n_bytes / 1e6:.0f} MB", err=True)
    if serve:
        with server(output, port) as running_server:
            click.echo(f"http://127.0.0.1:{running_server.server_address[1]}/", err=True)
            running_server.serve_forever()


@click.command()
@click.argument("source", metavar="MODEL")
@click.option(
    "--quantizer",
    type=click.Choice(["residual", "grouped", "additive", "fsq"]),
    help="What to fit: residual codebooks, residual codebooks for each of several parts of the latents, codebooks for "
    "an encoder that searches for the best sum, or finite scalars. [default: the model's]",
)
@click.option("--codebooks", metavar="N", type=click.IntRange(min=1), help="[default: as many as the model has]")
@click.option("--codebook-size", metavar="K", type=click.IntRange(2, 65536), help="[default: that of the model]")
@click.option("--groups", metavar="G", type=click.IntRange(min=2), help="Parts of the latents, with grouped.")
@click.option(
    "--sample-rate",
    metavar="HZ",
    type=click.IntRange(min=1),
    help="Sample rate of the new model; the weights of its network stay as they are. [default: the model's]",
)
@click.option(
    "--sounds",
    metavar="DATA",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="A folder of sounds, or a manifest of scripts/prepare_data.py.",
)
@options.output("Folder for the new model.", required=True)
@click.option(
    "--minutes",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    help="Sound to fit to; a tenth of that, of other files, is measured on.",
)
@click.option("--rounds", type=click.IntRange(min=1), default=4, help="Rounds of search and codebooks.")
@click.option("--paths", type=click.IntRange(min=1), default=4, help="Paths that the search keeps.")
@click.option(
    "--finetune",
    "steps",
    metavar="STEPS",
    type=click.IntRange(min=0),
    default=0,
    help="Then train the decoder on for STEPS steps; encoder and codebooks stay as they are.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the choice of sounds.")
@options.force
@options.quiet
def refit(
    source: str,
    quantizer: Literal["residual", "grouped", "additive", "fsq"] | None,
    codebooks: int | None,
    codebook_size: int | None,
    groups: int | None,
    sample_rate: int | None,
    sounds: Path,
    output: str,
    minutes: float,
    rounds: int,
    paths: int,
    steps: int,
    seed: int,
    force: bool,
    quiet: bool,
) -> None:
    """Fit the quantizer of a trained model to sounds, in minutes.

    MODEL is a model as --model of the other commands takes it. By default all of its codebooks are fitted jointly,
    for the search that compress uses. A quantizer of another kind, number or size replaces them. The encoder stays as
    it is, and without --finetune the decoder; after a change of the sample rate, train both on. The new model is used
    as any other, --model FOLDER; files of the old one need the old one. Needs pip install 'dac_codec[train]'.
    """
    target = Path(output)
    _check_target(target, force)
    running.check_memory()
    from dac_codec import pretrained

    refitting = running.training_module("refit")
    shape = refitting.Shape(quantizer, groups, codebooks, codebook_size)
    fitted = refitting.refit_model(
        source, sounds, shape, minutes, rounds, paths, steps, seed, progress=not quiet, sample_rate=sample_rate
    )
    pretrained.save(fitted.model, target)
    for line in fitted.unreadable:
        warnings.warn(f"left out: {line}", stacklevel=1)
    if not quiet:
        click.echo(f"fitted to {fitted.minutes:.1f} minutes; signal to noise of held-out latents:", err=True)
        for n_paths, before in fitted.before.items():
            name = "greedy" if n_paths == 1 else f"{n_paths} paths"
            click.echo(f"  {name}: {before:.2f} dB before, {fitted.after[n_paths]:.2f} dB after", err=True)
        if fitted.mel_distances is not None:
            before, after = fitted.mel_distances
            click.echo(f"mel distance of held-out clips: {before:.3f} before --finetune, {after:.3f} after", err=True)
        click.echo(f"{target} is the new model", err=True)


def _check_target(target: Path, force: bool, is_folder: bool = True) -> None:
    """Raise a DacError if a model would overwrite something. An empty folder may become that of a model."""
    is_free = not target.exists() or (is_folder and target.is_dir() and not any(target.iterdir()))
    if not (force or is_free):
        raise DacError(f"{target} exists; use --force to overwrite it")
