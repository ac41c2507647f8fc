"""The sounds of folders, manifests, tars and Parquet files, and what a damaged source says."""

from __future__ import annotations

import csv
import io
import pickle
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dac_codec.common.errors import AudioError, DacError
from dac_codec.corpus.shards import SUFFIXES, check_columns, read_shard
from dac_codec.corpus.sources import Files, Item, Source, columns_of, cut, open_sources
from tests.corpus.conftest import Tokenize

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def only(path: Path, **options: Any) -> Source:
    found = open_sources([str(path)], **options)
    assert found.failures == []
    (source,) = found.sources
    return source


def write_tar(path: Path, members: dict[str, bytes], **options: Any) -> None:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def items_one_by_one(source: Source) -> list[Item]:
    """The items by slices that went to another process."""
    return [item for index in range(len(source)) for item in pickle.loads(pickle.dumps(source[index : index + 1]))]


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 12))
def test_cut_loses_nothing(lengths: list[int], size: int) -> None:
    sources = [Files(str(n), tuple((f"{n}/{i}", Path()) for i in range(length))) for n, length in enumerate(lengths)]
    parts = list(cut(sources, size))
    ids = [[item.id for source in part for item in source] for part in parts]
    assert list(chain.from_iterable(ids)) == [name for source in sources for name, _ in source.files]
    assert all(len(part) == size for part in ids[:-1])
    assert all(1 <= len(part) <= size for part in ids[-1:])


def test_a_manifest(tmp_path: Path, sounds: Path, tokenize: Tokenize) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f'path,duration,text\n{sounds}/10.wav,1.0,"a, b"\n\n{sounds}/02.wav,2.0,c\n')
    source = only(manifest)
    assert source.columns == {"duration": str, "text": str}
    assert list(source) == items_one_by_one(source)
    tokenize(manifest)
    rows = list(read_shard(tmp_path / "out" / "shard-000000.parquet"))
    assert [(row["id"], row["text"]) for row in rows] == [(f"{sounds}/10.wav", "a, b"), (f"{sounds}/02.wav", "c")]
    assert all(row["duration"] < 1 for row in rows)  # ours, not the manifest's
    for text, message in (
        ("file,text\n", "no column 'path'"),
        ("path,text\na.wav\n", "m.csv, line 2: expected 2 fields with a path"),
        ("path\n\0\n", "line 2"),
    ):
        manifest.write_text(text)
        with pytest.raises(DacError, match=message):
            tokenize(manifest, out="other")


@pytest.mark.parametrize("fmt", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar(fmt: int, tmp_path: Path, sounds: Path, tokenize: Tokenize) -> None:
    one, two = ((sounds / name).read_bytes() for name in ("10.wav", "02.wav"))
    long = "d" * 120 + "/x"
    members = {
        "a/0.wav": one,
        "a/0.txt": b"zero",
        "a/0.emb": b"\xff\x00",
        "README": b"no sample",
        f"{long}.json": b"{}",
        f"{long}.left.WAV": two,
        f"{long}.right.wav": one,
        "2.txt": b"no sound",
        "3.wav": two,
    }
    write_tar(tmp_path / "s.tar", members, format=fmt)
    source = only(tmp_path / "s.tar")
    assert source.columns == {"txt": str, "json": str, "emb": bytes}
    assert len(source) == 4
    items = list(source)
    assert items_one_by_one(source)[:3] == items[:3]
    assert [item.id for item in items] == ["a/0.wav", f"{long}.left.WAV", f"{long}.right.wav", "2", "3.wav"]
    assert items[0].columns == {"txt": "zero", "emb": b"\xff\x00"}
    assert isinstance(items[3].sound, AudioError)
    plan = tokenize(tmp_path / "s.tar", shard_size=2)
    assert plan.totals.failed == 1
    rows = [row for n in (0, 1) for row in read_shard(tmp_path / "out" / f"shard-{n:06d}.parquet")]
    assert [row["txt"] for row in rows] == ["zero", None, None, None]
    assert rows[0]["emb"] == b"\xff\x00"
    assert (rows[0]["codes"] == rows[2]["codes"]).all()


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_a_damaged_tar_gives_what_is_before(damage: str, tmp_path: Path, tokenize: Tokenize, sounds: Path) -> None:
    data = (sounds / "02.wav").read_bytes()
    write_tar(tmp_path / "s.tar", {f"{n}.wav": data for n in range(3)})
    whole = (tmp_path / "s.tar").read_bytes()
    step = 512 + -(-len(data) // 512) * 512
    broken = whole[: 2 * step + 900] if damage == "cut" else whole[: 2 * step] + b"\xff" * 512 + whole[2 * step + 512 :]
    (tmp_path / "s.tar").write_bytes(broken)
    plan = tokenize(tmp_path / "s.tar")
    assert (plan.totals.sounds, plan.totals.failed) == (2, 0)
    ((name, reason),) = plan.failures
    assert name == str(tmp_path / "s.tar")
    assert f"can't be read behind byte {2 * step}" in reason
    assert [item.id for item in open_sources([name]).sources[0]] == ["0.wav", "1.wav"]


def test_a_tar_that_is_none(tmp_path: Path, tokenize: Tokenize) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DacError, match=r"a.tar: can't be read \(.*\)"):
        tokenize(tmp_path / "a.tar")
    write_tar(tmp_path / "b.tar", {"README": b""})
    with pytest.raises(DacError, match=r"b\.tar: no samples in this tar"):
        tokenize(tmp_path / "b.tar")


@pytest.mark.parametrize("kind", ["struct", "bytes", "path"])
def test_parquet(kind: str, tmp_path: Path, sounds: Path, tokenize: Tokenize) -> None:
    (tmp_path / "data").symlink_to(sounds)
    names = ["10.wav", "02.wav", "04.wav", "05.wav", "07.wav"]
    data = [(sounds / name).read_bytes() for name in names]
    column: list[Any] = {
        "struct": [{"bytes": one, "path": name} for one, name in zip(data, names, strict=True)],
        "bytes": data,
        "path": [f"data/{name}" for name in names],
    }[kind]
    column[3] = None
    table = pyarrow.table(
        {"audio": column, "tags": [["x"], [], None, ["y", "z"], []], "n": pyarrow.array(range(5), "int8")}
    )
    parquet.write_table(table, tmp_path / "p.parquet", row_group_size=2)
    source = only(tmp_path / "p.parquet")
    assert source.columns == {"tags": pyarrow.list_(pyarrow.string()), "n": pyarrow.int8()}
    ids = {"struct": names, "bytes": [f"p-{n:06d}" for n in range(5)], "path": [f"data/{name}" for name in names]}[kind]
    ids[3] = "p-000003"
    assert [item.id for item in source] == ids
    assert [item.id for item in items_one_by_one(source)] == ids
    assert [item.columns for item in items_one_by_one(source)] == [item.columns for item in source]
    plan = tokenize(tmp_path / "p.parquet", shard_size=3)
    assert plan.totals.failed == 1
    table = parquet.read_table(sorted((tmp_path / "out").glob("shard*")))
    assert table.schema.field("tags").type == pyarrow.list_(pyarrow.string())
    assert table.schema.field("n").type == pyarrow.int8()
    frame = table.schema.field("codes").type.value_type
    assert (frame.list_size, frame.value_type) == (3, pyarrow.uint16())
    assert dict(zip(table["id"].to_pylist(), table["n"].to_pylist(), strict=True)) == {
        name: n for n, name in enumerate(ids) if n != 3
    }
    with pytest.raises(DacError, match="no column 'sound', expected one of audio, tags, n"):
        tokenize(tmp_path / "p.parquet", out="other", audio_column="sound")


def test_a_source_that_breaks_while_it_is_read(tmp_path: Path, sounds: Path, tokenize: Tokenize) -> None:
    data = [(sounds / "10.wav").read_bytes()] * 3
    parquet.write_table(
        pyarrow.table({"audio": data}), tmp_path / "p.parquet", compression="none", use_dictionary=False
    )
    content = bytearray((tmp_path / "p.parquet").read_bytes())
    content[4:40] = b"\xff" * 36  # the header of the first page
    (tmp_path / "p.parquet").write_bytes(content)
    plan = tokenize(tmp_path / "p.parquet")
    assert plan.totals.failed == 3
    assert "p.parquet: can't be read" in (tmp_path / "out" / "failed.csv").read_text()


def test_columns_that_differ_or_do_not_fit(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"audio": [b""], "text": [1]}), tmp_path / "p.parquet")
    (tmp_path / "m.csv").write_text("path,text\na,b\n")
    with pytest.raises(DacError, match=r"p\.parquet: the column 'text' has the type int64, and in another source text"):
        columns_of(open_sources([str(tmp_path / "m.csv"), str(tmp_path / "p.parquet")]).sources)
    for fmt, kind in (("npz", bytes), ("npz", pyarrow.list_(pyarrow.int8())), ("webdataset", pyarrow.date32())):
        with pytest.raises(DacError, match=rf"--format {fmt} can't hold the column 'x' .*; use --format parquet"):
            check_columns(fmt, {"x": kind})
    for fmt, kind in (("npz", str), ("npz", pyarrow.int8()), ("dac", bytes), ("dac", pyarrow.large_binary())):
        check_columns(fmt, {"x": kind})
    with pytest.raises(DacError, match="can't hold the column 'npy'"):
        check_columns("webdataset", {"npy": bytes})


def test_a_manifest_of_excel(tmp_path: Path, sounds: Path) -> None:
    """With a byte-order mark; a row without an id has its path."""
    (tmp_path / "m.csv").write_text(f"path,id\n{sounds}/10.wav,ä\n{sounds}/02.wav,\n", encoding="utf-8-sig")
    assert [item.id for item in only(tmp_path / "m.csv")] == ["ä", f"{sounds}/02.wav"]


@pytest.mark.parametrize("fmt", SUFFIXES)
def test_names_that_are_not_utf8(fmt: str, tmp_path: Path, sounds: Path, tokenize: Tokenize) -> None:
    data = (sounds / "10.wav").read_bytes()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "\udcff.wav").write_bytes(data)
    (tmp_path / "odd" / "\udcff.m4a").touch()
    members = {"\udcfe.wav": data, "./\udcfe.txt": b"t", "./1.wav": data, "\udcfd.txt": b"no sound"}
    write_tar(tmp_path / "\udcfc.tar", members if fmt == "npz" else {**members, "2.wav": data, "2.\udcfa": b"\xfa"})
    (tmp_path / "\udcfb.tar").touch()
    (tmp_path / "\udcfb.parquet").touch()
    sources = [tmp_path / name for name in ("odd", "\udcfc.tar", "\udcfb.tar", "\udcfb.parquet")]
    plan = tokenize(*sources, fmt=fmt, shard_size=9)
    rows = list(read_shard(plan.corpus.shard(0)))
    ids = ["\\xff.wav", "\\xfe.wav", "./1.wav", "2.wav"]
    assert [row["id"] for row in rows] == (ids[:3] if fmt == "npz" else ids)
    assert fmt == "npz" or rows[3]["\\xfa"] == b"\xfa"
    with (tmp_path / "out" / "failed.csv").open(encoding="utf-8") as file:
        failed = [row["id"].removeprefix(f"{tmp_path}/") for row in csv.DictReader(file)]
    assert failed == ["odd/\\xff.m4a", "\\xfb.tar", "\\xfb.parquet", "./\\xfe", "\\xfd"]
    assert tokenize(*sources, fmt=fmt, shard_size=9).numbers == []
