"""The shards of a corpus: Parquet files, tars of WebDataset, or npz files, written and read."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dac_codec import bitstream
from dac_codec.codec.file import open_for_writing
from dac_codec.common.errors import DacError
from dac_codec.corpus.encoding import Tokens
from dac_codec.corpus.sources import import_parquet

SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar", "npz": ".npz", "dac": ".tar"}
"""Suffix of the shards of each format."""

_OPTIONAL = {"bandwidth": "int32", "channel_mask": "int64"}
_TYPES = {
    "n_frames": "int64",
    "duration": "float64",
    "sample_rate": "int32",
    "channel": "int16",
    "channels": "int16",
    "gain_db": "float32",
    **_OPTIONAL,
}
"""Columns of numbers; the optional ones may be empty, which is 0 in an npz file."""

OURS = ("id", "codes", *_TYPES, "model", "fingerprint")
"""The columns of every row."""

_MEMBERS = ("npy", "dac", "json")  # extensions of the members of a tar that are ours
_CODES_AT_ONCE = 2**23  # codes that are in memory before a Parquet shard writes them

Row = dict[str, Any]
"""A channel of a sound: `OURS` and the source's columns. Its codes are an array [F, N], uint16."""

Columns = Mapping[str, Any]
"""The source's columns, with their types as in `sources`."""

Add = Callable[[Tokens], None]


def check_columns(fmt: str, columns: Columns) -> None:
    """Raise a DacError if a format can't hold a column: npz files text and numbers, tars these and bytes."""
    if fmt == "parquet":
        import_parquet(", or use another --format")
        return
    for name, kind in columns.items():
        is_bytes = kind is bytes or str(kind).endswith("binary")
        if not (kind is str or is_bytes or _is_plain(kind)) or (is_bytes and (fmt == "npz" or name in _MEMBERS)):
            raise DacError(f"--format {fmt} can't hold the column {name!r} ({kind}); use --format parquet")


def _is_plain(kind: Any) -> bool:
    types = import_module("pyarrow").types
    tests = (types.is_string, types.is_large_string, types.is_boolean, types.is_integer, types.is_floating)
    return any(test(kind) for test in tests)


@contextmanager
def new_shard(path: Path, fmt: str, n_codebooks: int, columns: Columns) -> Iterator[Add]:
    """A function that adds the rows of a sound to a shard, which appears complete at the end of the block.

    Raises a DacError if the file can't be written.
    """
    with open_for_writing(path) as stream, _WRITERS[fmt](stream, path.stem, n_codebooks, columns) as add:
        yield add


def read_shard(path: Path) -> Iterator[Row]:
    """The rows of a shard. Raises a DacError if it can't be read."""
    try:
        for row in _READERS[path.suffix](path):
            if missing := [name for name in OURS if name not in row]:
                raise ValueError(f"no column {missing[0]!r}")
            yield row
    except (OSError, ValueError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DacError(f"{path}: not a readable shard ({' '.join(str(error).split())})") from error


def rows_of(tokens: Tokens, columns: Columns) -> list[Row]:
    """A row for each channel of a sound. The source's columns are those of `columns`, None if it lacks one."""
    header = tokens.header
    assert header.n_samples is not None
    row = {
        "id": tokens.id,
        "duration": header.n_samples / header.sample_rate,
        "sample_rate": header.sample_rate,
        "channels": header.channels,
        "gain_db": header.gain_db,
        "bandwidth": header.bandwidth,
        "channel_mask": header.channel_mask,
        "model": header.model_name,
        "fingerprint": header.model_fingerprint.hex(),
        **{name: tokens.columns.get(name) for name in columns},
    }
    if isinstance(tokens.codes, bytes):
        return [{**row, "n_frames": header.expected_frames(header.n_samples)}]
    return [
        {**row, "codes": codes, "n_frames": len(codes), "channel": channel}
        for channel, codes in enumerate(tokens.codes)
    ]


# Parquet --------------------------------------------------------------------------------------------------------------


@contextmanager
def _parquet_writer(stream: BinaryIO, stem: str, n_codebooks: int, columns: Columns) -> Iterator[Add]:
    parquet, arrow = import_parquet(), import_module("pyarrow")
    frame = arrow.list_(arrow.uint16(), n_codebooks)
    kinds = {str: arrow.string(), bytes: arrow.binary()}
    types = {name: getattr(arrow, kind)() for name, kind in _TYPES.items()}
    types = {**dict.fromkeys(OURS, arrow.string()), **types, "codes": arrow.list_(frame)}
    schema = arrow.schema([*types.items(), *((name, kinds.get(kind, kind)) for name, kind in columns.items())])
    rows: list[Row] = []
    n_codes = 0

    def flush() -> None:
        nonlocal n_codes
        if rows:
            codes = np.concatenate([row["codes"] for row in rows]).ravel()
            ends = np.cumsum([0, *(row["n_frames"] for row in rows)], dtype=np.int32)
            lists = arrow.ListArray.from_arrays(
                ends, arrow.FixedSizeListArray.from_arrays(arrow.array(codes), type=frame)
            )
            arrays = [
                lists if field.name == "codes" else arrow.array([row[field.name] for row in rows], field.type)
                for field in schema
            ]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            rows.clear()
            n_codes = 0

    def add(tokens: Tokens) -> None:
        nonlocal n_codes
        rows.extend(rows_of(tokens, columns))
        n_codes += len(tokens.codes) * rows[-1]["n_frames"] * n_codebooks
        if n_codes >= _CODES_AT_ONCE:
            flush()

    with parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        yield add
        flush()


def _read_parquet(path: Path) -> Iterator[Row]:
    with import_parquet().ParquetFile(path) as file:
        others = [name for name in file.schema_arrow.names if name != "codes"]
        for batch in file.iter_batches(256):
            codes = batch.column("codes")
            values = codes.flatten().flatten().to_numpy(zero_copy_only=False)
            frames = values.reshape(-1, codes.type.value_type.list_size)
            ends = np.cumsum(codes.value_lengths().to_numpy(zero_copy_only=False))[:-1]
            for row, found in zip(batch.select(others).to_pylist(), np.split(frames, ends), strict=True):
                yield {**row, "codes": found}


# Tar ------------------------------------------------------------------------------------------------------------------


@contextmanager
def _tar_writer(stream: BinaryIO, stem: str, n_codebooks: int, columns: Columns) -> Iterator[Add]:
    n_rows = 0

    def write(name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))

    def add(tokens: Tokens) -> None:
        nonlocal n_rows
        for row in rows_of(tokens, columns):
            key = f"{stem}-{n_rows:06d}"
            n_rows += 1
            if isinstance(tokens.codes, bytes):
                write(f"{key}.dac", tokens.codes)
            else:
                data = io.BytesIO()
                np.save(data, row.pop("codes"), allow_pickle=False)
                write(f"{key}.npy", data.getvalue())
            for name in [name for name, value in row.items() if isinstance(value, bytes)]:
                write(f"{key}.{name}", row.pop(name))
            write(f"{key}.json", json.dumps(row, ensure_ascii=False).encode())

    with tarfile.open(fileobj=stream, mode="w") as tar:
        yield add


def _read_tar(path: Path) -> Iterator[Row]:
    with tarfile.open(path, "r:") as tar:
        for _, members in groupby(tar, lambda member: member.name.partition(".")[0]):
            parts: dict[str, bytes] = {}
            for member in members:
                stream = tar.extractfile(member)
                parts[member.name.partition(".")[2]] = b"" if stream is None else stream.read()
            tar.members = []  # type: ignore[attr-defined]  # else it keeps all headers
            row = json.loads(parts.pop("json"))
            if (data := parts.pop("dac", None)) is not None:
                header, codes, _ = bitstream.loads(data)
                row |= parts
                others = {name: value for name, value in row.items() if name not in OURS}
                tokens = Tokens(row["id"], header, codes.transpose(0, 2, 1).astype(np.uint16), others)
                yield from rows_of(tokens, others)
            else:
                codes = np.load(io.BytesIO(parts.pop("npy")), allow_pickle=False)
                yield {**row, **parts, "codes": codes}


# npz ------------------------------------------------------------------------------------------------------------------


@contextmanager
def _npz_writer(stream: BinaryIO, stem: str, n_codebooks: int, columns: Columns) -> Iterator[Add]:
    rows: list[Row] = []
    yield lambda tokens: rows.extend(rows_of(tokens, columns))
    codes = [row["codes"] for row in rows]
    arrays = {"codes": np.concatenate(codes) if codes else np.zeros((0, n_codebooks), np.uint16)}
    for name in (*OURS, *columns):
        if name != "codes":
            arrays[name] = _array(name, [row[name] for row in rows])
    np.savez(stream, **arrays)  # type: ignore[arg-type]


def _array(name: str, values: list[Any]) -> Any:
    if name in _TYPES:
        return np.array([0 if value is None else value for value in values], _TYPES[name])
    is_text = all(value is None or isinstance(value, str) for value in values)
    missing = "" if is_text else np.nan
    return np.array([missing if value is None else value for value in values], np.str_ if is_text else None)


def _read_npz(path: Path) -> Iterator[Row]:
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name].tolist() for name in file.files if name != "codes"}
        codes = np.split(file["codes"], np.cumsum(columns["n_frames"])[:-1])
    for values in zip(codes, *columns.values(), strict=False):  # without rows, there is still an empty array of codes
        row = dict(zip(("codes", *columns), values, strict=True))
        yield {**row, **{name: row[name] or None for name in _OPTIONAL}}


_Writer = Callable[[BinaryIO, str, int, Columns], AbstractContextManager[Add]]
_WRITERS: dict[str, _Writer] = {
    "parquet": _parquet_writer,
    "webdataset": _tar_writer,
    "npz": _npz_writer,
    "dac": _tar_writer,
}
_READERS = {".parquet": _read_parquet, ".tar": _read_tar, ".npz": _read_npz}
