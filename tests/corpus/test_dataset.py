"""TokenDataset and TokenStream: every row once, whatever the ranks, workers and shards."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from dac_codec.common.errors import DacError
from dac_codec.corpus import TokenDataset, collate, dataset
from dac_codec.corpus.shards import read_shard
from tests.cli.shell import run
from tests.corpus.conftest import Tokenize

pytest.importorskip("pyarrow")


class Counted(TokenDataset):
    """Rows that are their numbers, in shards of given sizes."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.shards = []
        self.ends = np.cumsum(sizes, dtype=int).tolist()

    def __getitem__(self, index: int) -> Any:
        return index


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 3))
def test_no_row_is_lost_or_repeated(
    sizes: list[int], world_size: int, n_workers: int, shuffle: bool, epoch: int
) -> None:
    class Worker:
        num_workers = n_workers
        id = 0

    parts: list[list[Any]] = []
    orders = []
    for rank in range(world_size):
        stream = Counted(sizes).stream(shuffle, 5, rank, world_size)
        stream.epoch = epoch
        for Worker.id in range(n_workers):
            with patch.object(dataset, "get_worker_info", lambda: Worker):
                parts.append(list(stream))
        orders.append(list(stream))  # without workers
    rows = [row for part in parts for row in part]
    assert sorted(rows) == list(range(sum(sizes)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert rows == [row for part in orders for row in part]
    assert shuffle or rows == sorted(rows)


def test_epochs_differ_and_repeat() -> None:
    stream = Counted([50, 50]).stream(shuffle=True, seed=1, rank=0, world_size=1)
    first = list(stream)
    assert list(stream) == first
    stream.epoch = 1
    assert list(stream) != first
    assert list(Counted([50, 50]).stream(shuffle=True, seed=2)) != first
    # Shards stay together: each row is beside rows of its own shard.
    assert {row // 50 for row in first[:50]} in ({0}, {1})


def test_ranks_that_are_none() -> None:
    with pytest.raises(ValueError, match="rank 2 of 2"):
        Counted([1]).stream(rank=2, world_size=2)


@pytest.mark.parametrize("fmt", ["parquet", "webdataset", "npz", "dac"])
def test_rows_by_index(fmt: str, sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    plan = tokenize(sounds, fmt=fmt)
    found = TokenDataset(tmp_path / "out")
    rows = [row for number in range(3) for row in read_shard(plan.corpus.shard(number))]
    assert len(found) == len(rows) == 16
    for index, row in enumerate(rows):
        assert found[index].pop("codes").dtype == torch.int64
        assert torch.equal(found[index]["codes"], torch.from_numpy(row.pop("codes").astype(np.int64)))
        assert {**found[index - 16], "codes": 0} == {**row, "codes": 0}
    for wrong in (16, -17):
        with pytest.raises(IndexError, match="of 16"):
            found[wrong]


def test_a_loader_with_processes(sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    tokenize(sounds)
    found = TokenDataset(tmp_path / "out")
    for source in (found, found.stream(shuffle=True, seed=3)):
        loader = DataLoader(source, batch_size=5, num_workers=2, collate_fn=collate)
        rows = []
        for batch in loader:
            assert batch["codes"].shape == (*batch["mask"].shape, 3)
            assert batch["mask"].sum(1).tolist() == batch["n_frames"]
            for index, (name, channel) in enumerate(zip(batch["id"], batch["channel"], strict=True)):
                rows.append((name, channel))
                codes = batch["codes"][index][batch["mask"][index]]
                expected = next(row for row in found if (row["id"], row["channel"]) == (name, channel))
                assert torch.equal(codes, expected["codes"])
        assert sorted(rows) == sorted((row["id"], row["channel"]) for row in found)


def test_a_corpus_that_is_made_again(sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    """In the same folder and process. A dataset that was open before does not mix rows of both."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.wav").write_bytes((sounds / "02.wav").read_bytes())
    (folder / "b.wav").touch()
    tokenize(folder)
    before = TokenDataset(tmp_path / "out")
    assert [row["id"] for row in before] == ["a.wav"]
    (folder / "b.wav").write_bytes((sounds / "10.wav").read_bytes())
    tokenize(folder, retry_failed=True)
    assert [row["id"] for row in TokenDataset(tmp_path / "out")] == ["a.wav", "b.wav"]
    with pytest.raises(DacError, match=r"shard-000000\.parquet: has 2 rows, expected the 1 of its index; open the"):
        before[0]
    (tmp_path / "out").rename(tmp_path / "old")
    (folder / "a.wav").rename(folder / "z.wav")
    tokenize(folder)
    assert [row["id"] for row in TokenDataset(tmp_path / "out")] == ["b.wav", "z.wav"]
    (tmp_path / "out" / "shard-000000.parquet").unlink()
    with pytest.raises(DacError, match=r"shard-000000\.parquet: not a readable shard"):
        TokenDataset(tmp_path / "out")[0]


def test_shards_that_are_not_complete_are_left_out(sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    tokenize(sounds, part=(2, 3))
    rows = json.loads((tmp_path / "out" / "index" / "000001.json").read_text())["rows"]
    assert len(TokenDataset(tmp_path / "out")) == rows
    with pytest.raises(DacError, match=r"contains no corpus\.json of `dac-codec tokenize`"):
        TokenDataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("corpus.json", "{"),
        ("corpus.json", "[" * 100_000),
        ("corpus.json", {"hop_length": None}),
        ("index/000000.json", "\0\0"),
        ("index/000000.json", {"seconds": "1"}),
    ],
)
def test_a_damaged_index_is_named(
    name: str, change: Any, sounds: Path, model: str, tokenize: Tokenize, tmp_path: Path
) -> None:
    tokenize(sounds / "02.wav")
    path = tmp_path / "out" / name
    path.write_text(change if isinstance(change, str) else json.dumps({**json.loads(path.read_text()), **change}))
    message = f"{path} is damaged; delete it, and run the same `tokenize` command again"
    for use in (lambda: TokenDataset(tmp_path / "out"), lambda: tokenize(sounds / "02.wav")):
        with pytest.raises(DacError, match=f"^{re.escape(message)}$"):
            use()
    result = run("detokenize", tmp_path / "out", "-o", tmp_path / "back", "--model", model)
    assert (result.exit_code, result.output) == (1, f"Error: {message}\n")
    path.unlink()
    tokenize(sounds / "02.wav")
    (tmp_path / "out" / "index" / "000000 (1).json").touch()
    assert len(TokenDataset(tmp_path / "out")) == 1


def test_epochs_of_workers_that_persist(sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    tokenize(sounds)
    stream = copy.deepcopy(TokenDataset(tmp_path / "out").stream(shuffle=True))
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    orders = []
    for epoch in (0, 1, 0):
        stream.epoch = epoch
        orders.append([row["id"] for row in loader])
    assert orders[0] == orders[2] != orders[1]


def test_another_working_directory(
    sounds: Path, tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(sounds / "02.wav")
    monkeypatch.chdir(tmp_path)
    dataset = TokenDataset("out")
    monkeypatch.chdir("/")
    assert len(dataset[0]["codes"]) > 0
