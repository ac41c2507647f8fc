"""Audio to .dac and back: the only place where audio, network and bitstream meet.

In memory (`compress`, `decompress`, `DacFile`) or block by block, in memory that does not grow with the length
(`compress_stream`, `decompress_stream`, `DacStream`). The former are the latter with a buffer as the file.
"""

from dac_codec.codec.decoding import Decompressed, decompress, decompress_stream
from dac_codec.codec.encoding import Compressed, compress, compress_stream
from dac_codec.codec.file import DacFile, load, thin, write_bytes
from dac_codec.codec.legacy import from_legacy, to_legacy
from dac_codec.codec.models import load_model, model_of
from dac_codec.codec.rate import choose_rate
from dac_codec.codec.stream import DacStream

__all__ = [
    "Compressed",
    "DacFile",
    "DacStream",
    "Decompressed",
    "choose_rate",
    "compress",
    "compress_stream",
    "decompress",
    "decompress_stream",
    "from_legacy",
    "load",
    "load_model",
    "model_of",
    "thin",
    "to_legacy",
    "write_bytes",
]
