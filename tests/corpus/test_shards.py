"""The shards of a corpus: every format gives the rows back, to us and to pyarrow, datasets and webdataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dac_codec import bitstream
from dac_codec.common.errors import DacError
from dac_codec.corpus import SUFFIXES, shards
from dac_codec.corpus.encoding import Tokens
from dac_codec.corpus.shards import new_shard, read_shard
from tests.corpus.conftest import Tokenize

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

N_CODEBOOKS = 2
COLUMNS = {"text": str, "n": pyarrow.int64()}


def tokens(n_frames: int, channels: int, columns: dict[str, Any], as_file: bool, seed: int = 0) -> Tokens:
    header = bitstream.Header(
        b"\0" * 8, "tiny", 44100, channels, n_frames * 512, -3.25, 44100, 512, N_CODEBOOKS, 1024, channel_mask=None
    )
    codes = np.random.default_rng(seed).integers(0, 1024, (channels, n_frames, N_CODEBOOKS)).astype(np.uint16)
    data = bitstream.dumps(header, codes.transpose(0, 2, 1).astype(np.int64))
    return Tokens(f"é/{seed}.wav", header, data if as_file else codes, columns)


@pytest.mark.parametrize("fmt", SUFFIXES)
def test_rows_come_back(fmt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_CODES_AT_ONCE", 20)  # several row groups
    values = [{"text": "ä\n", "n": 3}, {"text": None, "n": None}, {}, {"text": "", "n": -1}]
    sounds = [tokens(n + 1, 1 + n % 2, columns, fmt == "dac", n) for n, columns in enumerate(values)]
    path = tmp_path / f"shard-000000{SUFFIXES[fmt]}"
    with new_shard(path, fmt, N_CODEBOOKS, COLUMNS) as add:
        for sound in sounds:
            add(sound)
    rows = list(read_shard(path))
    assert [(row["id"], row["channel"], row["channels"]) for row in rows] == [
        (sound.id, channel, sound.header.channels) for sound in sounds for channel in range(sound.header.channels)
    ]
    originals = [tokens(n + 1, 1 + n % 2, {}, False, n) for n in range(4)]
    codes = [one for sound in originals for one in sound.codes]
    for row, expected in zip(rows, codes, strict=True):
        np.testing.assert_array_equal(row["codes"], expected)
        assert row["n_frames"] == len(expected)
        assert (row["gain_db"], row["bandwidth"], row["model"]) == (-3.25, None, "tiny")
    found = [(row["text"], row["n"]) for row in rows]
    missing = ("", pytest.approx(np.nan, nan_ok=True)) if fmt == "npz" else (None, None)
    assert found == [("ä\n", 3), missing, missing, missing, ("", -1), ("", -1)]


@pytest.mark.parametrize("fmt", SUFFIXES)
def test_a_shard_without_rows(fmt: str, tmp_path: Path) -> None:
    path = tmp_path / f"shard-000000{SUFFIXES[fmt]}"
    with new_shard(path, fmt, N_CODEBOOKS, {}):
        pass
    assert list(read_shard(path)) == []


def test_columns_of_bytes_are_members_of_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with new_shard(path, "webdataset", N_CODEBOOKS, {"emb": bytes}) as add:
        add(tokens(2, 2, {"emb": b"\xff"}, False))
        add(tokens(2, 1, {"emb": None}, False))
    assert [row["emb"] for row in read_shard(path)] == [b"\xff", b"\xff", None]


@pytest.mark.parametrize("suffix", [".parquet", ".tar", ".npz"])
def test_other_files_are_no_shards(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"no shard" * 200)
    with pytest.raises(DacError, match=f"x{suffix}: not a readable shard"):
        list(read_shard(path))
    with pytest.raises(DacError, match="not a readable shard"):
        list(read_shard(tmp_path / f"missing{suffix}"))


def test_a_table_of_others_is_no_shard(tmp_path: Path) -> None:
    codes = pyarrow.array([[[1, 2]]], pyarrow.list_(pyarrow.list_(pyarrow.uint16(), 2)))
    parquet.write_table(pyarrow.table({"codes": codes}), tmp_path / "x.parquet")
    with pytest.raises(DacError, match=r"not a readable shard \(no column 'id'"):
        list(read_shard(tmp_path / "x.parquet"))


def test_a_code_takes_its_bits(tmp_path: Path) -> None:
    """Parquet packs the codes of 1024 entries to 10 bits by a dictionary."""
    sizes = {}
    for fmt, suffix in SUFFIXES.items():
        with new_shard(tmp_path / f"{fmt}{suffix}", fmt, N_CODEBOOKS, {}) as add:
            add(tokens(50_000, 1, {}, fmt == "dac"))
        sizes[fmt] = 8 * (tmp_path / f"{fmt}{suffix}").stat().st_size / (50_000 * N_CODEBOOKS)
    assert sizes["dac"] < 10.7
    assert sizes["parquet"] < 11
    assert sizes["npz"] < 16.5
    assert sizes["webdataset"] < 16.5


def test_datasets_reads_it(sounds: Path, tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    tokenize(sounds)
    files = str(tmp_path / "out" / "*.parquet")
    found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    rows = [row for path in sorted((tmp_path / "out").glob("shard-*")) for row in read_shard(path)]
    assert found["id"][:] == [row["id"] for row in rows]
    for one, row in zip(found.with_format("numpy"), rows, strict=True):
        np.testing.assert_array_equal(np.stack(one["codes"]), row["codes"])


@pytest.mark.parametrize("fmt", ["webdataset", "dac"])
def test_webdataset_reads_it(fmt: str, sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    tokenize(sounds, fmt=fmt)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    rows = [row for url in urls for row in read_shard(Path(url))]
    if fmt == "dac":
        assert [sample["json"]["id"] for sample in samples] == list(dict.fromkeys(row["id"] for row in rows))
        return
    assert len({sample["__key__"] for sample in samples}) == len(rows)
    for sample, row in zip(samples, rows, strict=True):
        np.testing.assert_array_equal(sample["npy"], row["codes"])
        assert sample["json"] == json.loads(json.dumps({name: row[name] for name in row if name != "codes"}))
