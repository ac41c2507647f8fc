"""Audio to .dac and back: the one place where sound files, the network and the bitstream meet.

Whole in memory (`compress`, `decompress`, `DacFile`), or block by block, in memory that doesn't grow with the length
(`compress_stream`, `decompress_stream`, `DacStream`). Both are the same few generators, and give the same.
"""

from dac_codec.codec.batches import ALONE, Batches, Coder, together
from dac_codec.codec.decoding import DacStream, Decompressed, decompress, decompress_stream
from dac_codec.codec.encoding import (
    BEGINNING_SECONDS,
    LIVE_CHUNK_FRAMES,
    TARGET_LUFS,
    Compressed,
    compress,
    compress_stream,
)
from dac_codec.codec.file import DacFile, load, write_bytes
from dac_codec.codec.legacy import from_legacy, to_legacy
from dac_codec.codec.models import choose_quantizers, load_model, model_of

__all__ = [
    "ALONE",
    "BEGINNING_SECONDS",
    "LIVE_CHUNK_FRAMES",
    "TARGET_LUFS",
    "Batches",
    "Coder",
    "Compressed",
    "DacFile",
    "DacStream",
    "Decompressed",
    "choose_quantizers",
    "compress",
    "compress_stream",
    "decompress",
    "decompress_stream",
    "from_legacy",
    "load",
    "load_model",
    "model_of",
    "to_legacy",
    "together",
    "write_bytes",
]
