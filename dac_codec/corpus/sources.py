"""The sounds of a corpus: in folders and files, manifests, WebDataset tars, and Parquet files.

A source is a sequence of sounds that can be sliced. Slices are small and picklable: the sound itself is read by the
process that iterates over it.
"""

from __future__ import annotations

import csv
import os
import re
import tarfile
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from dac_codec import audio
from dac_codec.common.errors import AudioError, DacError, first_names

_SAMPLE_MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
"""Key and extension of a WebDataset member: the name up to the first dot of its last part, and the rest."""

_TEXTS = frozenset(("cls", "csv", "json", "lab", "srt", "text", "tsv", "txt", "vtt", "xml"))
"""Extensions of members that are columns of text; others are columns of bytes."""
_ROWS_AT_ONCE = 16  # rows of a Parquet file that are in memory at once


class Item(NamedTuple):
    """A sound of a source.

    Attributes:
        id: its path within the source.
        sound: its path or its bytes; an error if there is none.
        columns: what the source says about it.
    """

    id: str
    sound: Path | bytes | AudioError
    columns: dict[str, Any]


@dataclass(frozen=True)
class Source(ABC):
    """A sequence of sounds.

    Attributes:
        name: path of the folder or file.
        columns: the type of each column: `str`, `bytes` or a type of pyarrow.
    """

    name: str
    columns: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def path(self) -> Path:
        return Path(self.name)

    @abstractmethod
    def __len__(self) -> int: ...
    @abstractmethod
    def __getitem__(self, part: slice) -> Source: ...
    @abstractmethod
    def __iter__(self) -> Iterator[Item]:
        """Raises an AudioError where the source can't be read any further."""

    @abstractmethod
    def identity(self) -> Iterable[str]:
        """What changes if other sounds are in the source, or in another order."""


class Found(NamedTuple):
    """The sources of a corpus, and (source, reason) of what can't be read."""

    sources: list[Source]
    failures: list[tuple[str, str]]


def open_sources(names: Iterable[str], audio_column: str = "audio") -> Found:
    """Find the sounds in folders, manifests (.csv), tars (.tar), Parquet files (.parquet) and sound files."""
    found = Found([], [])
    for name in names:
        path = Path(name)
        try:
            if path.is_dir():
                files = audio.find_audio(path)
                if not files:
                    raise AudioError(f"{name}: no sound files in this folder or below it")
                found.sources.append(
                    Files(name, tuple((_id(file.relative_to(path).as_posix()), file) for file in files))
                )
                found.failures.extend((_id(str(file)), reason) for file, reason in audio.find_unreadable(path))
            elif path.suffix == ".csv":
                found.sources.append(_open_manifest(path))
            elif path.suffix == ".tar":
                tar, failure = _open_tar(path)
                found.sources.append(tar)
                found.failures.extend([(_id(name), failure)] if failure else [])
            elif path.suffix == ".parquet":
                found.sources.append(_open_parquet(path, audio_column))
            else:
                found.sources.append(Files(name, ((_id(path.name), path),)))
        except AudioError as error:
            found.failures.append((_id(name), str(error)))
    return found


def _id(name: str) -> str:
    """A name as text, whatever bytes it has."""
    return os.fsencode(name).decode(errors="backslashreplace")


def columns_of(sources: Iterable[Source]) -> dict[str, Any]:
    """The columns of all sources, with their types.

    Raises a DacError if a column has another type in another source.
    """
    columns: dict[str, Any] = {}
    for source in sources:
        for name, kind in source.columns.items():
            if columns.setdefault(name, kind) != kind:
                raise DacError(
                    f"{source.name}: the column {name!r} has the type {_type_name(kind)}, and in another source "
                    f"{_type_name(columns[name])}; tokenize them into two corpora"
                )
    return columns


def _type_name(kind: Any) -> str:
    return {str: "text", bytes: "bytes"}.get(kind, str(kind))


def cut(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    """Cut sources, one after the other, into parts of `size` sounds; the last may have fewer."""
    part: list[Source] = []
    room = size
    for source in sources:
        first = 0
        while first < len(source):
            part.append(source[first : first + room])
            first += len(part[-1])
            room -= len(part[-1])
            if room == 0:
                yield part
                part, room = [], size
    if part:
        yield part


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Raise an AudioError for what can't be read."""
    try:
        yield
    except (OSError, ValueError, tarfile.TarError, csv.Error) as error:  # pyarrow's errors are of the first two
        raise AudioError(f"{name}: can't be read ({' '.join(str(error).split())})") from error


@dataclass(frozen=True)
class Files(Source):
    """Sound files, by id."""

    files: tuple[tuple[str, Path], ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, part: slice) -> Files:
        return replace(self, files=self.files[part])

    def __iter__(self) -> Iterator[Item]:
        return (Item(name, path, {}) for name, path in self.files)

    def identity(self) -> Iterable[str]:
        return (name for name, _ in self.files)


@dataclass(frozen=True)
class Manifest(Source):
    """A CSV file with the column "path", relative to its folder; the others are kept as text."""

    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Manifest:
        return replace(self, rows=self.rows[part])

    def __iter__(self) -> Iterator[Item]:
        for row in self.rows:
            columns = dict(zip(self.names, row, strict=True))
            path = columns.pop("path")
            yield Item(columns.pop("id", "") or path, self.path.parent / path, columns)

    def identity(self) -> Iterable[str]:
        return map("\0".join, self.rows)


def _open_manifest(path: Path) -> Manifest:
    with _reading(str(path)), path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        names = tuple(next(reader, ()))
        if "path" not in names:
            raise AudioError(f"{path}: no column 'path' in its first line, expected a manifest")
        rows = []
        for row in reader:
            if row and (len(row) != len(names) or not row[names.index("path")] or "\0" in "".join(row)):
                raise AudioError(f"{path}, line {reader.line_num}: expected {len(names)} fields with a path")
            rows.extend([tuple(row)] if row else [])
    columns = dict.fromkeys((name for name in names if name not in ("path", "id")), str)
    return Manifest(str(path), names, tuple(rows), columns=columns)


@dataclass(frozen=True)
class Tar(Source):
    """A tar of WebDataset: members that follow each other with the same key are a sample.

    Each sound of a sample is an item, with the other members as its columns, named by their extensions. `offsets` are
    where the first member of each sample begins, and where the last one ends.
    """

    offsets: Sequence[int]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, part: slice) -> Tar:
        first, last, _ = part.indices(len(self))
        return replace(self, offsets=self.offsets[first : last + 1])

    def __iter__(self) -> Iterator[Item]:
        with _reading(self.name), self.path.open("rb") as file:
            file.seek(self.offsets[0])
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for sample in _samples(tar, self.offsets[-1]):
                    yield from self._items(tar, sample)

    def _items(self, tar: tarfile.TarFile, sample: _Sample) -> Iterator[Item]:
        columns: dict[str, Any] = {}
        sounds: list[tuple[str, bytes]] = []
        for extension, member in sample.members:
            stream = tar.extractfile(member)
            data = b"" if stream is None else stream.read()
            if audio.has_sound_suffix(member.name):
                sounds.append((member.name, data))
            else:
                columns[extension] = data.decode(errors="replace") if extension in _TEXTS else data
        yield from (Item(name, data, columns) for name, data in sounds)
        if not sounds:
            yield Item(sample.key, AudioError(f"{self.path}: no sound file in the sample {sample.key}"), columns)

    def identity(self) -> Iterable[str]:
        return [f"{self.path.name} {len(self)} {self.offsets[-1]}"]


class _Sample(NamedTuple):
    """Key of a sample, extension and header of its members, and where the next one begins."""

    key: str
    members: list[tuple[str, tarfile.TarInfo]]
    end: int


def _samples(tar: tarfile.TarFile, end: int | None = None) -> Iterator[_Sample]:
    """The samples of a tar, until one begins at `end` of the file."""
    key, members = "", list[tuple[str, tarfile.TarInfo]]()
    while (member := tar.next()) is not None and member.offset != end:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps all headers
        member.name = _id(member.name)
        match = _SAMPLE_MEMBER.fullmatch(member.name)
        if match is None or not member.isfile():
            continue
        if match[1] != key and members:
            yield _Sample(key, members, member.offset)
            members = []
        key = match[1]
        members.append((match[2].lower(), member))
    if members:
        yield _Sample(key, members, tar.offset if member is None else member.offset)


def _open_tar(path: Path) -> tuple[Tar, str]:
    """The samples of a tar before any damage, and an error for the rest, or ""."""
    offsets = array("Q", [0])
    extensions: set[str] = set()
    failure = ""
    with _reading(str(path)), path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        try:
            for _, members, end in _samples(tar):
                offsets[-1] = members[0][1].offset
                offsets.append(end)
                extensions.update(kind for kind, member in members if not audio.has_sound_suffix(member.name))
            file.seek(tar.offset)
            if any(file.read(tarfile.BLOCKSIZE)):  # a damaged header ends the members like the block of zeros
                raise tarfile.ReadError("no header of a member")
        except tarfile.TarError as error:
            failure = f"{path}: can't be read behind byte {offsets[-1]} ({error}); make it again, or accept the loss"
    if len(offsets) == 1:
        raise AudioError(failure or f"{path}: no samples in this tar, expected members such as 000.flac and 000.txt")
    columns = {name: str if name in _TEXTS else bytes for name in sorted(extensions)}
    return Tar(str(path), offsets, columns=columns), failure


@dataclass(frozen=True)
class ParquetRows(Source):
    """Rows of a Parquet file. The audio column has bytes, paths relative to the file, or {"bytes", "path"} structs."""

    audio_column: str
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, part: slice) -> ParquetRows:
        first, last, _ = part.indices(len(self))
        return replace(self, first=self.first + first, last=self.first + last)

    def __iter__(self) -> Iterator[Item]:
        with _reading(self.name), import_parquet().ParquetFile(self.path, pre_buffer=False, buffer_size=2**20) as file:
            row = 0
            for index in range(file.num_row_groups):
                end = row + file.metadata.row_group(index).num_rows
                if row < self.last and end > self.first:
                    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[index], use_threads=False):
                        first, last = max(self.first - row, 0), min(self.last - row, len(batch))
                        if first < last:
                            rows = batch.slice(first, last - first).to_pylist()
                            yield from (self._item(values, row + first + n) for n, values in enumerate(rows))
                        row += len(batch)
                row = end

    def _item(self, columns: dict[str, Any], row: int) -> Item:
        value = columns.pop(self.audio_column)
        sound, path = value, None
        if isinstance(value, dict):
            sound, path = value.get("bytes"), value.get("path")
        elif isinstance(value, str):
            sound, path = None, value
        name = str(columns.pop("id", None) or path or f"{self.path.stem}-{row:06d}")
        if sound is None and path is None:
            return Item(name, AudioError(f"{self.path}: no sound in row {row}"), columns)
        return Item(name, self.path.parent / str(path) if sound is None else sound, columns)

    def identity(self) -> Iterable[str]:
        return [f"{self.path.name} {len(self)} {self.path.stat().st_size}"]


def import_parquet(otherwise: str = "") -> Any:
    """The module pyarrow.parquet. Raises a DacError if pyarrow is not installed; the message ends with `otherwise`."""
    try:
        return import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise DacError(f"pyarrow is not installed: pip install 'dac_codec[corpus]'{otherwise}") from error


def _open_parquet(path: Path, audio_column: str) -> ParquetRows:
    with _reading(str(path)), import_parquet().ParquetFile(path) as file:
        schema = file.schema_arrow
        if audio_column not in schema.names:
            raise AudioError(
                f"{path}: no column {audio_column!r}, expected one of {first_names(schema.names)} (--audio-column)"
            )
        columns = {field.name: field.type for field in schema if field.name not in (audio_column, "id")}
        return ParquetRows(str(path), audio_column, 0, file.metadata.num_rows, columns=columns)
