"""The .dac file format, as bytes and integer arrays. FORMAT.md is the specification."""

from dac_codec.bitstream.chunks import default_chunk_frames
from dac_codec.bitstream.container import Reader, Writer, dumps, loads
from dac_codec.bitstream.header import MAGIC, VERSION, GainSource, Header
from dac_codec.bitstream.legacy import LegacyFile, is_legacy, read_legacy, write_legacy
from dac_codec.bitstream.packing import pack, packed_size, unpack
from dac_codec.bitstream.recovery import Chunk, Gap, GapReason

__all__ = [
    "MAGIC",
    "VERSION",
    "Chunk",
    "GainSource",
    "Gap",
    "GapReason",
    "Header",
    "LegacyFile",
    "Reader",
    "Writer",
    "default_chunk_frames",
    "dumps",
    "is_legacy",
    "loads",
    "pack",
    "packed_size",
    "read_legacy",
    "unpack",
    "write_legacy",
]
