"""Collections of sounds as codes, for language models: `dac-codec tokenize`, and reading what it writes.

A corpus is a folder of shards (Parquet, WebDataset tars or npz files) with an index. A row is a channel of a sound,
with its codes [F, N]: F frames, N codebooks.
"""

from dac_codec.corpus import patterns
from dac_codec.corpus.dataset import TokenDataset, TokenStream, collate
from dac_codec.corpus.detokenization import files_of, find_shards
from dac_codec.corpus.encoding import Settings
from dac_codec.corpus.engines import on_ray, on_this_machine
from dac_codec.corpus.shards import SUFFIXES
from dac_codec.corpus.tokenization import SHARD_SIZE, Corpus, Plan, Totals

__all__ = [
    "SHARD_SIZE",
    "SUFFIXES",
    "Corpus",
    "Plan",
    "Settings",
    "TokenDataset",
    "TokenStream",
    "Totals",
    "collate",
    "files_of",
    "find_shards",
    "on_ray",
    "on_this_machine",
    "patterns",
]
