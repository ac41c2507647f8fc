"""Sounds from the codes of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dac_codec import bitstream
from dac_codec.common.errors import BitstreamError, DacError
from dac_codec.corpus.shards import Row, read_shard
from dac_codec.corpus.tokenization import Corpus


def find_shards(names: Iterable[str]) -> Iterator[tuple[Corpus, Path]]:
    """The shards of folders and single shards, with their corpora.

    Raises:
        DacError: there is no corpus.json in a folder or beside a shard, or a shard is missing.
    """
    for path in map(Path, names):
        corpus = Corpus.open(path if path.is_dir() else path.parent)
        if path.is_dir():
            yield from ((corpus, corpus.shard(number)) for number, _ in corpus.records())
        elif path.is_file():
            yield corpus, path
        else:
            raise DacError(f"{path}: no such shard")


def files_of(corpus: Corpus, shard: Path) -> Iterator[tuple[str, bytes]]:
    """Id and .dac file of each sound of a shard.

    Raises:
        DacError: the shard can't be read.
        BitstreamError: a value is out of range, or a channel is missing.
    """
    channels: list[Row] = []
    for row in read_shard(shard):
        first = (channels or [row])[0]
        if (row["channel"], row["id"]) != (len(channels), first["id"]):
            raise BitstreamError(f"{shard}: the channels of {row['id']} don't follow each other")
        channels.append(row)
        if len(channels) == row["channels"]:
            yield row["id"], as_file(channels, corpus.description)
            channels = []
    if channels:
        raise BitstreamError(f"{shard}: a channel of {channels[0]['id']} is missing")


def as_file(channels: list[Row], description: Mapping[str, Any]) -> bytes:
    """The .dac file of the channels of a sound, given the content of corpus.json."""
    row = channels[0]
    header = bitstream.Header(
        model_fingerprint=bytes.fromhex(row["fingerprint"]),
        model_name=row["model"],
        sample_rate=row["sample_rate"],
        channels=len(channels),
        n_samples=round(row["duration"] * row["sample_rate"]),
        gain_db=row["gain_db"],
        model_sample_rate=description["model_sample_rate"],
        hop_length=description["hop_length"],
        n_codebooks=description["n_quantizers"],
        codebook_size=max(description["codebook_sizes"]),
        codebook_sizes=tuple(description["codebook_sizes"]),
        bandwidth=row["bandwidth"],
        channel_mask=row["channel_mask"],
    )
    codes = np.stack([channel["codes"].T for channel in channels])
    return bitstream.dumps(header, codes.astype(np.int64))
