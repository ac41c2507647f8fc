"""The rows of a corpus for PyTorch: by index, or as a stream that is shared by ranks and worker processes."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from dac_codec.common.errors import DacError
from dac_codec.corpus.shards import Row, read_shard
from dac_codec.corpus.tokenization import Corpus

_SHARDS_IN_MEMORY = 2


class TokenDataset(Dataset[Row]):
    """The rows of a corpus by index. Each is a dict of its columns, with `codes` [F, N] as int64.

    A shard is read whole, and the last two are kept: use `stream` to shuffle more than fits into memory.

    Args:
        folder: a folder of `dac-codec tokenize`; the shards that are complete are used.

    Raises:
        DacError: the folder contains no corpus; later, a shard can't be read, or its number of rows has changed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.corpus: Corpus = Corpus.open(Path(folder).absolute())
        records = list(self.corpus.records())
        self.shards: list[Path] = [self.corpus.shard(number) for number, _ in records]
        self.ends: list[int] = list(accumulate(record["rows"] for _, record in records))
        """Rows up to the end of each shard."""

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        shard = bisect_right(self.ends, index)
        path, start = self.shards[shard], self.ends[shard - 1] if shard else 0
        identity = None
        with suppress(OSError):  # which the reader reports
            status = path.stat()
            identity = status.st_mtime_ns, status.st_size, status.st_ino  # differs if the file is replaced
        row = _rows(path, self.ends[shard] - start, identity)[index - start]
        return {**row, "codes": torch.from_numpy(row["codes"].astype(np.int64))}

    def stream(
        self, shuffle: bool = False, seed: int = 0, rank: int | None = None, world_size: int | None = None
    ) -> TokenStream:
        """The rows as an iterable dataset, see `TokenStream`."""
        return TokenStream(self, shuffle, seed, rank, world_size)


class TokenStream(IterableDataset[Row]):
    """The rows of a corpus, each once per epoch over all ranks and worker processes; shard by shard in memory.

    The shards, and the rows of each, are in the order of a permutation of the epoch if they are shuffled. This sequence
    is cut into a part for each rank and worker, whose lengths differ by one row at most:

        shard 2        shard 0            shard 1
        |--------------|------------------|-------------|
        |  rank 0, worker 0  |  rank 0, worker 1  |  rank 1, worker 0  | ...

    Args:
        dataset: the corpus.
        shuffle: whether to shuffle.
        seed: of the permutations.
        rank: of this process; None: that of torch.distributed, or 0.
        world_size: number of processes; None: that of torch.distributed, or 1.
    """

    def __init__(
        self, dataset: TokenDataset, shuffle: bool, seed: int, rank: int | None, world_size: int | None
    ) -> None:
        is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.rank: int = rank if rank is not None else torch.distributed.get_rank() if is_distributed else 0
        self.world_size: int = world_size or (torch.distributed.get_world_size() if is_distributed else 1)
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} of {self.world_size}")
        self._dataset, self._shuffle, self._seed = dataset, shuffle, seed
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()  # workers may outlive an epoch

    @property
    def epoch(self) -> int:
        """Set it before each epoch for another order."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch.fill_(number)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._epoch.share_memory_()  # which a copy's is not

    def __iter__(self) -> Iterator[Row]:
        epoch = self.epoch
        worker = get_worker_info()
        n_workers, index = (1, 0) if worker is None else (worker.num_workers, worker.id)
        n_parts, part = self.world_size * n_workers, self.rank * n_workers + index
        first, last = (len(self._dataset) * place // n_parts for place in (part, part + 1))
        start = 0
        ends = self._dataset.ends
        for shard in self._order(len(ends), epoch, 0):
            begin = ends[shard - 1] if shard else 0
            size = ends[shard] - begin
            if start < last and start + size > first:
                rows = self._order(size, epoch, 1 + shard)[max(first - start, 0) : last - start]
                yield from (self._dataset[begin + row] for row in rows)
            start += size

    def _order(self, size: int, epoch: int, stream: int) -> Sequence[int]:
        """Numbers up to `size` in their order in an epoch."""
        if not self._shuffle:
            return range(size)
        order: list[int] = np.random.default_rng([self._seed, epoch, stream]).permutation(size).tolist()
        return order


@lru_cache(_SHARDS_IN_MEMORY)
def _rows(path: Path, n_rows: int, identity: object) -> list[Row]:
    rows = list(read_shard(path))
    if len(rows) != n_rows:
        raise DacError(f"{path}: has {len(rows)} rows, expected the {n_rows} of its index; open the corpus again")
    return rows


def collate(rows: Sequence[Row], padding: int = 0) -> dict[str, Any]:
    """Make a batch of rows: `codes` [B, F, N], `mask` [B, F], and the other columns as lists.

    Codes are padded to the longest row; the mask is True for frames and False for padding.
    """
    codes: list[Tensor] = [row["codes"] for row in rows]
    lengths = torch.tensor([len(one) for one in codes])
    others = {name: [row[name] for row in rows] for name in rows[0] if name != "codes"}
    return {
        **others,
        "codes": torch.nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=padding),
        "mask": torch.arange(int(lengths.max())) < lengths[:, None],
    }
