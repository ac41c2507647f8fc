"""The .dac file format, as bytes and integer arrays. FORMAT.md is the specification."""

from dac_codec.bitstream.chunks import Chunk, default_chunk_frames
from dac_codec.bitstream.code_model import CodeModel
from dac_codec.bitstream.container import Loaded, Writer, dumps, loads, with_length
from dac_codec.bitstream.header import MAGIC, Coding, GainSource, Header, LevelParameters
from dac_codec.bitstream.legacy import LegacyFile, is_legacy, read_legacy, write_legacy
from dac_codec.bitstream.reader import Reader
from dac_codec.bitstream.recovery import Gap, GapReason
from dac_codec.bitstream.thinning import Order, thin

__all__ = [
    "MAGIC",
    "Chunk",
    "CodeModel",
    "Coding",
    "GainSource",
    "Gap",
    "GapReason",
    "Header",
    "LegacyFile",
    "LevelParameters",
    "Loaded",
    "Order",
    "Reader",
    "Writer",
    "default_chunk_frames",
    "dumps",
    "is_legacy",
    "loads",
    "read_legacy",
    "thin",
    "with_length",
    "write_legacy",
]
