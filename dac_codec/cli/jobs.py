"""The jobs of a run: which input becomes which output."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from dac_codec.common.errors import DacError
from dac_codec.common.files import walk_visible
from dac_codec.common.streams import CountingReader

DASH = "-"
"""Standard input, or standard output."""

STDIN_CLOSED = "standard input is closed; redirect a file to it, or pass files"

_STDIN = "<stdin>"
_STDOUT = "<stdout>"

_AUDIO_SUFFIXES = (
    *(".aif", ".aifc", ".aiff", ".au", ".bwf", ".caf", ".flac", ".mp2", ".mp3", ".nist", ".oga", ".ogg", ".opus"),
    *(".rf64", ".snd", ".sph", ".w64", ".wav", ".wave"),
)
"""Suffixes that may precede `.dac` in a file's name (song.wav.dac)."""


@dataclass
class Job:
    """An input and its output.

    Attributes:
        source: file to read; None for standard input.
        target: file to write; None for standard output.
        messages: lines about the job that are yet to be shown.
        figures: what --json prints of it.
    """

    source: Path | None
    target: Path | None
    messages: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    _pipe: CountingReader | None = field(default=None, repr=False)

    @property
    def source_name(self) -> str:
        return _STDIN if self.source is None else display_path(self.source)

    @property
    def target_name(self) -> str:
        return _STDOUT if self.target is None else display_path(self.target)

    def input(self) -> Path | BinaryIO:
        """The file or stream to read."""
        if self.source is not None and not self.source.is_fifo():
            return self.source
        stream = sys.stdin.buffer if self.source is None else self.source.open("rb")
        if stream.seekable():
            return stream
        self._pipe = CountingReader(stream, self.source_name)
        return cast(BinaryIO, self._pipe)

    @property
    def is_pipe(self) -> bool:
        """Whether the input is a pipe."""
        return self._pipe is not None

    def end_input(self) -> None:
        """End the pipe that is being read; called by a signal handler in the reading thread."""
        if self._pipe is not None:
            self._pipe.end()

    def close(self) -> None:
        """Close a named pipe, so that its writer ends too."""
        if self.source is not None and self._pipe is not None:
            self._pipe.close()

    def input_size(self) -> int:
        """Size of the input in bytes; of a pipe, what was read so far."""
        if self._pipe is not None:
            return self._pipe.n_bytes
        if self.source is not None:
            return self.source.stat().st_size
        return sys.stdin.buffer.seek(0, os.SEEK_END)

    def output(self) -> Path | BinaryIO:
        """The file or stream to write; creates the folder of a file."""
        if self.target is None:
            return sys.stdout.buffer
        self.target.parent.mkdir(parents=True, exist_ok=True)
        return self.target

    def flush(self) -> None:
        """Flush standard output if it is the target; closing it at exit would hide errors."""
        if self.target is None:
            sys.stdout.buffer.flush()


@dataclass
class JobList:
    """The jobs of a run, and the errors of inputs that have none."""

    jobs: list[Job]
    failures: list[tuple[str, Exception]]

    def n_independent(self) -> int:
        """Jobs that can run at once.

        1 if two outputs are the same file on a case-insensitive file system, or for a named pipe, which only the main
        thread can record: it gets the signals. Else all.
        """
        sources = (_status(job.source) for job in self.jobs)
        if any(status is not None and stat.S_ISFIFO(status.st_mode) for status in sources):
            return 1
        names = [str(_canonical(job.target)).casefold() for job in self.jobs if job.target is not None]
        return len(self.jobs) if len(set(names)) == len(self.jobs) else 1

    def skip_existing(self) -> int:
        """Leave out the jobs whose output is a file that is no input. Returns their number."""
        inputs = {_identity(job.source) for job in self.jobs if job.source is not None}
        left = [
            job
            for job in self.jobs
            if job.target is None or not job.target.is_file() or _identity(job.target) in inputs
        ]
        n_skipped, self.jobs = len(self.jobs) - len(left), left
        return n_skipped

    def evenness(self) -> float:
        """Total size of the inputs divided by that of the largest: the number of jobs if they are equally large."""
        sizes = [0 if (status := _status(job.source)) is None else status.st_size for job in self.jobs]
        return sum(sizes) / max(1, *sizes)


def make_jobs(
    inputs: tuple[str, ...],
    output: str | None,
    what: str,
    find: Callable[[Path], list[Path]],
    names: Callable[[str], list[str]],
    find_unreadable: Callable[[Path], list[tuple[Path, str]]] = lambda folder: [],
) -> JobList:
    """Find the input files, and choose the name of each output.

    Args:
        inputs: files and folders, or a single "-".
        output: a file, a folder, "-", or None for the folder of each input.
        what: what `find` finds, for messages.
        find: lists the files in a folder and below it.
        names: maps a file's name to candidates for its output's name; files whose outputs would collide use their next
            candidates.
        find_unreadable: lists the files that `find` leaves out although a user may expect them, and why.

    Raises:
        click.UsageError: the inputs and the output don't match.
    """
    if DASH in inputs or output == DASH:
        return JobList([_stream_job(inputs, output)], [])
    several = len(inputs) > 1 or _is_folder(inputs[0])
    into_folder = output is not None and (several or _names_folder(output))
    if output is not None and into_folder and _identity(Path(output)) is not None and not _is_folder(output):
        raise click.UsageError(f"{display_path(output)} must be a folder, since there are several inputs or a folder")

    failures: list[tuple[str, Exception]] = []
    candidates: dict[tuple[Path, Path], tuple[Path, list[Path]]] = {}
    for argument in map(Path, inputs):
        is_folder = _is_folder(argument)
        root = argument if is_folder else argument.parent
        try:
            files = find(argument) if is_folder else [argument]
            unreadable = find_unreadable(argument) if is_folder else []
        except (DacError, OSError) as error:
            failures.append((display_path(argument), error))
            continue
        failures += [(display_path(path), DacError(f"left out: {why}")) for path, why in unreadable]
        if not files and not unreadable:
            failures.append((display_path(argument), DacError(f"no {what} in this folder or below it")))
        for file in files:
            if output is None or into_folder:
                folder = file.parent if output is None else Path(output, file.parent.relative_to(root))
                paths = [folder / name for name in names(file.name)]
            else:
                paths = [Path(output)]
            # An input that is given twice is one job.
            candidates.setdefault((_canonical(file), paths[0]), (file, paths))

    by_target: dict[Path, Job] = {}
    targets = _distinct([paths for _, paths in candidates.values()])
    for (source, _), target in zip(candidates.values(), targets, strict=True):
        job = Job(source, target)
        other = by_target.setdefault(_canonical(target), job)
        if other is not job:
            raise click.UsageError(
                f"{other.source_name} and {job.source_name} would both become {job.target_name}; put them in separate "
                "runs with an output each, or give the folder that holds both"
            )
    return JobList(list(by_target.values()), failures)


def _stream_job(inputs: tuple[str, ...], output: str | None) -> Job:
    """The one job of a run that reads standard input or writes standard output."""
    if len(inputs) > 1 or _is_folder(inputs[0]):
        raise click.UsageError("standard input and output (-) take a single file; pass one input that is no folder")
    source = None if inputs[0] == DASH else Path(inputs[0])
    target = None if output is None or output == DASH else Path(output)
    if output is not None and target is not None and _names_folder(output):
        raise click.UsageError(f"{display_path(target)} is a folder; pass a file as the output of standard input")
    if source is None and sys.stdin is None:
        raise click.UsageError(STDIN_CLOSED)
    if target is None and sys.stdout is None:
        raise click.UsageError("standard output is closed; redirect it, or pass a file with -o")
    if source is None and sys.stdin.isatty():
        raise click.UsageError("standard input is a terminal; redirect a file to it, or pass files")
    if target is None and sys.stdout.isatty():
        raise click.UsageError(
            "standard output is a terminal, but the data is binary; redirect it, or pass a file with -o"
        )
    return Job(source, target)


def _is_folder(path: str | Path) -> bool:
    status = _status(Path(path))
    return status is not None and stat.S_ISDIR(status.st_mode)


def _names_folder(path: str) -> bool:
    """Whether a path is an existing folder or ends like one."""
    return _is_folder(path) or path.endswith((os.sep, os.altsep or os.sep))


def _canonical(path: Path) -> Path:
    """The path with the links of its folder resolved."""
    return Path(os.path.realpath(path.parent)) / path.name


def _distinct(candidates: list[list[Path]]) -> list[Path]:
    """Choose a path for each file from its candidates, so that few are equal, ignoring case.

    All start with their first candidate, and those that collide move to their next until none can. The choice depends
    neither on the order of the files nor on existing files.
    """
    chosen = [0] * len(candidates)
    while True:
        paths = [paths[index] for paths, index in zip(candidates, chosen, strict=True)]
        keys = [str(_canonical(path)).casefold() for path in paths]
        count = Counter(keys)
        movable = [i for i, key in enumerate(keys) if count[key] > 1 and chosen[i] + 1 < len(candidates[i])]
        if not movable:
            return paths
        for i in movable:
            chosen[i] += 1


def compressed_names(name: str) -> list[str]:
    """Candidates for the name of a compressed file."""
    return [f"{Path(name).stem}.dac", f"{name}.dac"]


def decompressed_names(name: str) -> list[str]:
    """Candidates for the name of a decompressed file."""
    path = Path(name)
    stem = path.stem if path.suffix.lower() == ".dac" else name
    original = Path(stem).stem if Path(stem).suffix.lower() in _AUDIO_SUFFIXES else stem
    return [f"{original}.wav", f"{stem}.wav", f"{name}.wav"]


def find_audio(folder: Path) -> list[Path]:
    """The sound files in a folder and below it, sorted, without hidden ones."""
    from dac_codec import audio

    return audio.find_audio(folder)


def find_unreadable_audio(folder: Path) -> list[tuple[Path, str]]:
    """What `find_audio` leaves out although it is sound, and why."""
    from dac_codec import audio

    return audio.find_unreadable(folder)


def find_dac(folder: Path) -> list[Path]:
    """The .dac files in a folder and below it, sorted, without hidden ones; broken links too, to be reported."""
    found = walk_visible(folder, follow_links=True)
    return sorted(path for path in found if path.suffix.lower() == ".dac" and (path.is_file() or not path.exists()))


def refuse_dac(source: Path) -> None:
    """Raise a DacError if a sound file is a .dac file. Errors of reading it are left to its reader."""
    from dac_codec.bitstream import MAGIC

    with suppress(OSError):
        if source.is_file():
            with source.open("rb") as stream:
                if stream.read(len(MAGIC)) == MAGIC:
                    raise DacError("the file is a .dac file already; dac-codec decompress makes sound of it")


class OverwriteGuard:
    """Protects the inputs of a run, what it has already written, and without --force all existing files.

    Files are compared by device and inode, since links and case-insensitive file systems give a file several names.
    """

    def __init__(self, jobs: Iterable[Job], force: bool) -> None:
        self._force = force
        self._inputs = {_identity(job.source) for job in jobs if job.source is not None}
        self._outputs: set[tuple[int, int] | None] = set()

    def check(self, target: Path | None) -> None:
        """Raise a DacError if `target` must not be written to."""
        identity = _identity(target)
        if target is None or identity is None:
            return
        name = display_path(target)
        if identity in self._inputs:
            raise DacError(f"{name} is an input of this run and is not overwritten; choose another output")
        if identity in self._outputs:
            raise DacError(f"{name} was already written in this run from another input; the file system ignores case")
        mode = target.stat().st_mode
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            return  # a device or a named pipe: written in place
        if not stat.S_ISREG(mode):
            raise DacError(f"{name} exists and is not a file; choose another output (- is standard output)")
        if not self._force:
            raise DacError(f"{name} exists; use --force to overwrite it")

    @contextmanager
    def writing(self, target: Path | None) -> Iterator[None]:
        """Check `target`, and note it as an output of the run at the end of the block."""
        self.check(target)
        try:
            yield
        finally:
            self._outputs.add(_identity(target))


def _status(path: Path | None) -> os.stat_result | None:
    """Status of a file; None if there is none, or if it can't be read: that is reported when the file is opened."""
    try:
        return None if path is None else path.stat()
    except OSError:
        return None


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Device and inode of a file; None if there is none."""
    status = _status(path)
    return None if status is None else (status.st_dev, status.st_ino)


def display_path(path: str | Path) -> str:
    """A path with characters that a terminal can't show replaced."""
    return click.format_filename(path)
