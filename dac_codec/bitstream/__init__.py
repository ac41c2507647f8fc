"""The .dac file format: bytes and integer arrays, and nothing of sound or networks. FORMAT.md is the specification."""

from dac_codec.bitstream.container import (
    FILE_EXTENSION,
    MAGIC,
    MIME_TYPE,
    VERSION,
    Header,
    Reader,
    Writer,
    default_chunk_frames,
    dumps,
    loads,
)
from dac_codec.bitstream.legacy import LegacyFile, is_legacy, read_legacy, write_legacy
from dac_codec.bitstream.packing import pack, packed_size, unpack

__all__ = [
    "FILE_EXTENSION",
    "MAGIC",
    "MIME_TYPE",
    "VERSION",
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
