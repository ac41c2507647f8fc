"""Which files a run reads and writes: what the command line's inputs and output come to."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from dac_codec.common.errors import DacError
from dac_codec.common.files import walk_visible

DASH = "-"
"""Standard input, or standard output."""

STDIN_CLOSED = "standard input is closed: redirect a file to it, or name files"

_STDIN = "<stdin>"
_STDOUT = "<stdout>"

_AUDIO_SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".rf64", ".w64", ".wav")
"""What may stand before the `.dac` of a file that was called after its whole original."""


class _Ended(BaseException):
    """Wakes a read up, in a handler of signals."""


class _CountedPipe:
    """A binary stream that can't be sought in, of which is known how much has come, and which can be ended.

    Args:
        stream: the stream.

    Attributes:
        n_bytes: bytes so far.
    """

    name = _STDIN

    def __init__(self, stream: BinaryIO) -> None:
        self._stream: Any = stream
        self._waiting = self._ended = False
        self.n_bytes = 0

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._counted(self._stream.read, size)

    def read1(self, size: int = -1) -> bytes:
        return self._counted(self._stream.read1, size)

    def end(self) -> None:
        """Give nothing more; for a handler of signals, in the thread that reads: it may be waiting right now."""
        self._ended = True
        if self._waiting:
            raise _Ended

    def _counted(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            self._waiting = True
            data = b"" if self._ended else read(size)
            self._waiting = False  # here already: what is raised in a `finally` isn't caught
        except _Ended:
            data = b""
        finally:
            self._waiting = False
        self.n_bytes += len(data)
        return data


@dataclass
class Job:
    """One file to make from another.

    Attributes:
        source: file to read; None for standard input.
        target: file to write; None for standard output.
    """

    source: Path | None
    target: Path | None
    _pipe: _CountedPipe | None = field(default=None, repr=False)

    @property
    def source_name(self) -> str:
        return _STDIN if self.source is None else shown(self.source)

    @property
    def target_name(self) -> str:
        return _STDOUT if self.target is None else shown(self.target)

    def input(self) -> Path | BinaryIO:
        """What to read from."""
        if self.source is not None:
            return self.source
        if sys.stdin.seekable():
            return sys.stdin.buffer
        self._pipe = _CountedPipe(sys.stdin.buffer)
        return cast(BinaryIO, self._pipe)

    @property
    def can_end(self) -> bool:
        """Whether what is being read is standard input, and a pipe."""
        return self._pipe is not None

    def end_input(self) -> None:
        """Let the pipe that is being read be at its end; for a handler of signals, in the thread that reads."""
        if self._pipe is not None:
            self._pipe.end()

    def input_size(self) -> int:
        """Bytes of the input; of a pipe, those that have come."""
        if self.source is not None:
            return self.source.stat().st_size
        if self._pipe is not None:
            return self._pipe.n_bytes
        return sys.stdin.buffer.seek(0, os.SEEK_END)

    def output(self) -> Path | BinaryIO:
        """What to write to; the target's folder is there from now on."""
        if self.target is None:
            return sys.stdout.buffer
        self.target.parent.mkdir(parents=True, exist_ok=True)
        return self.target

    def write(self, data: bytes) -> None:
        """Write the output, whole or not at all."""
        from dac_codec import codec

        output = self.output()
        if isinstance(output, Path):
            codec.write_bytes(output, data)
        else:
            output.write(data)
            self.flush()

    def flush(self) -> None:
        """Make sure that standard output has arrived, where it is the target: closing it at exit hides errors."""
        if self.target is None:
            sys.stdout.buffer.flush()


@dataclass
class Plan:
    """What a run is to do, and the inputs that it can't do anything with."""

    jobs: list[Job]
    failures: list[tuple[str, Exception]]

    def independent(self) -> int:
        """Jobs that can be done at once: all, unless two outputs may be one file where cases are not told apart."""
        names = [str(_canonical(job.target)).casefold() for job in self.jobs if job.target is not None]
        return len(self.jobs) if len(set(names)) == len(self.jobs) else 1

    def evenness(self) -> float:
        """The size of all inputs, in sizes of the largest one: the number of jobs if they are equally large."""
        sizes = [_file_size(job.source) for job in self.jobs]
        return sum(sizes) / max(1, *sizes)

    def total(self, measure: Callable[[Path], float]) -> float:
        """The sum of a measure over the input files; what can't be measured, such as a pipe, counts as nothing."""
        measured = 0.0
        for job in self.jobs:
            if job.source is not None and job.source.is_file():
                with suppress(DacError, OSError, MemoryError):
                    measured += measure(job.source)
        return measured


def make_plan(
    inputs: tuple[str, ...],
    output: str | None,
    what: str,
    find: Callable[[Path], list[Path]],
    names: Callable[[str], list[str]],
) -> Plan:
    """Decide which files to read and how to call what comes of them.

    Args:
        inputs: files and folders, or a single "-".
        output: a file, a folder, "-", or None for beside each input.
        what: what to look for in folders.
        find: does so, and lists it.
        names: for a file's name, the names that its output may have; of files that would share an output, each gets the
            next of its names.

    Raises:
        click.UsageError: the inputs and the output don't go together.
    """
    if "" in inputs or output == "":
        raise click.UsageError("an input or output is empty: is a variable of the shell not set?")
    if DASH in inputs or output == DASH:
        return Plan([_stream_job(inputs, output)], [])
    several = len(inputs) > 1 or _is_folder(inputs[0])
    into_folder = output is not None and (several or _is_folder(output) or output.endswith(_separators()))
    if output is not None and into_folder and _identity(Path(output)) is not None and not _is_folder(output):
        raise click.UsageError(f"{shown(output)} must be a folder, as there are several inputs or a folder")

    failures: list[tuple[str, Exception]] = []
    candidates: dict[tuple[Path, Path], tuple[Path, list[Path]]] = {}
    for argument in map(Path, inputs):
        root, files = argument.parent, [argument]
        if _is_folder(argument):
            root = argument
            try:
                files = find(argument)
            except (DacError, OSError) as error:
                failures.append((shown(argument), error))
                continue
            if not files:
                failures.append((shown(argument), DacError(f"no {what} in this folder or below it")))
        for file in files:
            if output is None or into_folder:
                folder = file.parent if output is None else Path(output, file.parent.relative_to(root))
                paths = [folder / name for name in names(file.name)]
            else:
                paths = [Path(output)]
            # The same input for the same output is one job, however often it was named.
            candidates.setdefault((_canonical(file), paths[0]), (file, paths))

    targets = _distinct([paths for _, paths in candidates.values()])
    jobs = [Job(source, target) for (source, _), target in zip(candidates.values(), targets, strict=True)]
    by_target: dict[Path, Job] = {}
    for job, target in zip(jobs, targets, strict=True):
        other = by_target.setdefault(_canonical(target), job)
        if other is not job:
            raise click.UsageError(
                f"{other.source_name} and {job.source_name} would both become {job.target_name}; put them in separate "
                "runs with an output each, or give the folder that holds both"
            )
    return Plan(jobs, failures)


def _stream_job(inputs: tuple[str, ...], output: str | None) -> Job:
    """The one job of a run that reads standard input or writes standard output."""
    if len(inputs) > 1 or _is_folder(inputs[0]):
        raise click.UsageError("standard input and output (-) are for a single file: give one input, and no folder")
    source = None if inputs[0] == DASH else Path(inputs[0])
    target = None if output in (None, DASH) else Path(str(output))
    if target is not None and (_is_folder(target) or str(output).endswith(_separators())):
        raise click.UsageError(f"{shown(target)} is a folder: name a file in it for what comes from standard input")
    if source is None and sys.stdin is None:
        raise click.UsageError(STDIN_CLOSED)
    if target is None and sys.stdout is None:
        raise click.UsageError("standard output is closed: redirect it, or name a file with -o")
    if source is None and sys.stdin.isatty():
        raise click.UsageError("standard input is a terminal: redirect a file to it, or name files")
    if target is None and sys.stdout.isatty():
        raise click.UsageError("standard output is a terminal, the data is binary: redirect it, or name a file with -o")
    return Job(source, target)


def _is_folder(path: str | Path) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # What is in the way is said when the path is opened.
        return False


def _canonical(path: Path) -> Path:
    """One name for a file that can be called in several ways."""
    return Path(os.path.realpath(path.parent)) / path.name


def _separators() -> tuple[str, ...]:
    return (os.sep,) if os.altsep is None else (os.sep, os.altsep)


def _distinct(candidates: list[list[Path]]) -> list[Path]:
    """Choose a path for each file, such that as few as possible are equal or differ only in upper and lower case.

    All start with their first candidate, and those that collide go on to their next until none can. What is chosen
    depends on the inputs alone: not on their order, and not on what is there already.
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


def decompressed_names(name: str) -> list[str]:
    path = Path(name)
    stem = path.stem if path.suffix.lower() == ".dac" else name
    original = Path(stem).stem if Path(stem).suffix.lower() in _AUDIO_SUFFIXES else stem
    return [f"{original}.wav", f"{stem}.wav", f"{name}.wav"]


def find_audio(folder: Path) -> list[Path]:
    from dac_codec import audio

    return audio.find_audio(folder)


def find_dac(folder: Path) -> list[Path]:
    """The .dac files in a folder and below it, sorted; hidden ones are left out, as with sound files."""
    return sorted(path for path in walk_visible(folder) if path.suffix.lower() == ".dac" and path.is_file())


class Guard:
    """Says which files a run must not write to: its inputs, what it has written already, and others without --force.

    Files are told apart by what they are on disk, not by their names: links and file systems that don't tell upper from
    lower case make two names of one file.
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
        name = shown(target)
        if identity in self._inputs:
            raise DacError(f"{name} is an input of this run and is not overwritten: choose another output")
        if identity in self._outputs:
            raise DacError(
                f"{name} was already written in this run, from another input: here, upper and lower case are the same"
            )
        if not stat.S_ISREG(target.stat().st_mode):
            raise DacError(f"{name} exists and is not a file: choose another output (- is standard output)")
        if not self._force:
            raise DacError(f"{name} exists: --force overwrites it")

    def remember(self, target: Path | None) -> None:
        """Note an output of the run."""
        self._outputs.add(_identity(target))


def _file_size(path: Path | None) -> int:
    """In bytes; 0 where there is no file."""
    try:
        return 0 if path is None else path.stat().st_size
    except OSError:
        return 0


def _identity(path: Path | None) -> tuple[int, int] | None:
    """What tells a file from every other; None where there is none."""
    try:
        status = None if path is None else path.stat()
    except OSError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)


def shown(path: str | Path) -> str:
    """A path as a terminal can show it."""
    return click.format_filename(path)
