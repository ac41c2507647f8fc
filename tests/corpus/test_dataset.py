"""TokenDataset and TokenStream: every row once, whatever the ranks, workers and shards."""

from __future__ import annotations

import json
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


def test_shards_that_are_not_complete_are_left_out(sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    tokenize(sounds, part=(2, 3))
    rows = json.loads((tmp_path / "out" / "index" / "000001.json").read_text())["rows"]
    assert len(TokenDataset(tmp_path / "out")) == rows
    with pytest.raises(DacError, match=r"contains no corpus\.json of `dac-codec tokenize`"):
        TokenDataset(tmp_path)
