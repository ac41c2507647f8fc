"""The commands of `dac-codec` for collections of sounds: tokenize and detokenize."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from dac_codec.cli import options, running
from dac_codec.cli.jobs import OverwriteGuard, display_path
from dac_codec.common.errors import DacError

if TYPE_CHECKING:
    from dac_codec.corpus import Totals


def _part(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, int]:
    """Parse i/n."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value, re.ASCII)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not i/n with i from 1 to n, such as 1/8", ctx, param)
    return int(match[1]), int(match[2])


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=options.PATH)
@options.output("Folder for the shards and their index.", required=True)
@click.option(
    "--format",
    "fmt",
    type=click.Choice(["parquet", "webdataset", "npz", "dac"]),
    default="parquet",
    help="Format of the shards; dac: tars of .dac files.",
)
@options.model
@click.option("--quantizers", metavar="N", type=click.IntRange(min=1), help="Codebooks to use. [default: all]")
@click.option("--shard-size", metavar="N", type=click.IntRange(min=1), default=1000, help="Sounds per shard.")
@click.option(
    "--shard",
    "part",
    metavar="I/N",
    callback=_part,
    default="1/1",
    help="Make only every N-th shard, from the I-th on, as one of N jobs with the same output.",
)
@click.option("--audio-column", metavar="NAME", default="audio", help="Column of Parquet files that has the sound.")
@click.option("--retry-failed", is_flag=True, help="Make shards with failures again.")
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processes on this machine. [default: one for each core; two for each GPU]",
)
@click.option("--ray", metavar="ADDRESS", help="Use the Ray cluster at this address; auto: the one of this machine.")
@options.device
@options.quiet
def tokenize(
    sources: tuple[str, ...],
    output: str,
    fmt: str,
    model: str | None,
    quantizers: int | None,
    shard_size: int,
    part: tuple[int, int],
    audio_column: str,
    retry_failed: bool,
    workers: int | None,
    ray: str | None,
    device: str,
    quiet: bool,
) -> None:
    """Encode a collection of sounds to shards of codes, for language models.

    SOURCE... are folders, sound files, manifests (.csv with a column "path"), tars of WebDataset (.tar), and Parquet
    files with a column of audio. OUT gets shards, index.csv, and failed.csv with the sounds that can't be encoded.

    A row is a channel of a sound. Its codes are those of `compress --constant`: N for every frame.

    The same command continues a run that was stopped. Exit code 1 if any sound failed.
    """
    if ray is not None and workers is not None:
        raise click.UsageError("--workers is for this machine, not for --ray")
    running.check_memory()
    from dac_codec import corpus, pretrained

    if ray is None:
        running.check_device(device)
    folder = Path(output)
    settings = corpus.Settings(model or pretrained.DEFAULT_MODEL, quantizers, device, fmt == "dac")
    plan = corpus.Plan(sources, folder, settings, fmt, shard_size, part, retry_failed, audio_column)
    start = corpus.on_this_machine(settings, workers) if ray is None else corpus.on_ray(settings, ray)
    with start as engine, _Progress(plan.all, plan.done, quiet) as progress:
        totals = plan.run(engine, progress.report)
    if not quiet:
        hours = totals.seconds / 3600
        n_sounds = totals.sounds - totals.failed
        what = "1 sound" if n_sounds == 1 else f"{n_sounds} sounds"
        click.echo(f"{what}, {hours:.2f} h in {display_path(output)}", err=True)
    n_failed = totals.failed + len(plan.failures)
    if n_failed:
        what = "1 sound or source" if n_failed == 1 else f"{n_failed} sounds or sources"
        running.finish([f"{what} can't be encoded; {display_path(folder / 'failed.csv')} says why"])


@click.command()
@click.argument("shards", metavar="CORPUS...", nargs=-1, required=True, type=options.PATH)
@options.output("Folder for the sound files.", required=True)
@options.model
@options.download
@options.device
@options.force
@options.quiet
def detokenize(
    shards: tuple[str, ...], output: str, model: str | None, download: bool, device: str, force: bool, quiet: bool
) -> None:
    """Decode the codes of a corpus to sound files.

    CORPUS... are folders of `tokenize`, or single shards in them. Each sound becomes OUT/ID.wav, or OUT/ID-2.wav if
    its id repeats, and equals what `decompress` gives for the same codes.
    """
    running.check_memory()
    from dac_codec import codec, corpus
    from dac_codec.common.progress import progress_bar

    running.check_device(device)
    model_for = running.model_loader(model, device, not quiet, download=download)
    guard = OverwriteGuard([], force)
    failures: list[str] = []
    counts: dict[Path, int] = {}

    def write(name: str, data: bytes) -> None:
        target = first = _sound_path(Path(output), name)
        while target in counts:  # ids may repeat
            counts[first] += 1
            target = first.with_stem(f"{first.stem}-{counts[first]}")
        counts[target] = 1
        with guard.writing(target), codec.DacStream(io.BytesIO(data)) as stream:
            target.parent.mkdir(parents=True, exist_ok=True)
            codec.decompress_stream(stream, target, model_for(stream.header), device)

    with progress_bar(None, None, not quiet, unit="file") as bar:
        for found, shard in list(corpus.find_shards(shards)):
            try:
                for name, data in corpus.files_of(found, shard):
                    try:
                        write(name, data)
                    except (DacError, OSError) as error:
                        failures.append(running.error_line(name, error))
                    bar.update()
            except DacError as error:
                failures.append(running.error_line(str(shard), error))
    running.finish(failures)


def _sound_path(folder: Path, name: str) -> Path:
    """Where the sound with an id is written: always below the folder."""
    path = Path(*(part for part in PurePosixPath(name).parts if part not in ("/", "//", "..")))
    if not path.name or "\0" in name:
        raise DacError(f"the id {name!r} is no name of a file")
    return folder / (path if path.suffix.lower() == ".wav" else path.with_name(f"{path.name}.wav"))


class _Progress:
    """A progress bar on a terminal, else a line a minute: files, files per second, hours per hour, time left."""

    def __init__(self, total: Totals, done: Totals, quiet: bool) -> None:
        self._total, self._before, self._done, self._quiet = total, done, done, quiet
        self._started = time.monotonic()

    def __enter__(self) -> _Progress:
        from dac_codec.common.progress import progress_bar

        show, before = not self._quiet, self._done.sounds
        self._bar = progress_bar(None, self._total.sounds, show, lines=self.line, initial=before, unit="file")
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        if error[0] is not None and not self._quiet:
            click.echo(f"{self.line()}; the same command continues", err=True)

    def report(self, totals: Totals) -> None:
        self._done += totals
        self._bar.set_postfix_str(f"{self._hours():.1f} h/h, {self._done.failed} failed", refresh=False)
        self._bar.update(totals.sounds)

    def _hours(self) -> float:
        """Hours of sound per hour."""
        return (self._done.seconds - self._before.seconds) / max(1e-9, time.monotonic() - self._started)

    def line(self) -> str:
        """What is done, how fast, and how long the rest takes."""
        elapsed = max(1e-9, time.monotonic() - self._started)
        rate = (self._done.sounds - self._before.sounds) / elapsed
        left = f"{(self._total.sounds - self._done.sounds) / rate / 60:.0f} min left" if rate else "no estimate yet"
        return (
            f"{self._done.sounds} of {self._total.sounds} files, {self._done.failed} failed, {rate:.1f} files/s, "
            f"{self._hours():.1f} hours per hour, {left}"
        )
