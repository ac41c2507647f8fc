"""Files of the reference implementation, descript-audio-codec 1.0.0.

Such a file is the result of `numpy.save` for a dict: a .npy header (NEP 1), then a pickle. `pickles` reads the pickle
without running code of the file.
"""

from __future__ import annotations

import io
import pickle
import re
import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream import pickles
from dac_codec.bitstream.fields import checked_float32, checked_integer
from dac_codec.bitstream.pickles import Array
from dac_codec.common.errors import BitstreamError

LEGACY_MAGIC = b"\x93NUMPY"
"""The first six bytes of every .npy file."""

_MAX_HEADER = 4096
_MAX_SAMPLE_RATE = (1 << 24) - 1
_MAX_LENGTH = (1 << 63) - 1

_METADATA = ("input_db", "original_length", "sample_rate", "chunk_length", "channels", "padding", "dac_version")

# The only header that `numpy.save` writes for a dict.
_HEADER = re.compile(rb"\{'descr': '\|O', 'fortran_order': (False|True), 'shape': \(\), \} *\n")
_OLD_MODULE, _NEW_MODULE = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"  # c is the opcode GLOBAL
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")


@dataclass(frozen=True, eq=False)
class LegacyFile:
    """The content of a file of descript-audio-codec. Its fields are validated on construction.

    Attributes:
        codes: uint16 [C, N, F] (other integer types are converted), no axis empty.
        chunk_length: frames per window of the reference's encoder, and to be used for decoding; 1..F.
        original_length: length of the original audio in samples per channel at `sample_rate`, above 0. Unverified: the
            codes may not cover it.
        input_db: loudness in LUFS of the decoded audio, finite; rounded to float32, as stored. Either one value for
            all channels, or a tuple of C values, which the reference's arithmetic allows.
        channels: C.
        sample_rate: sample rate of the original audio in Hz.
        padding: whether the convolutions pad their input. False in files that were encoded in several windows, which
            then overlap.
        dac_version: version of the writer, such as "1.0.0".

    Raises:
        BitstreamError: a field is outside of its range.
    """

    codes: npt.NDArray[np.uint16]
    chunk_length: int
    original_length: int
    input_db: float | tuple[float, ...]
    channels: int
    sample_rate: int
    padding: bool
    dac_version: str = "1.0.0"

    def __post_init__(self) -> None:
        codes = self.codes
        if not isinstance(codes, np.ndarray) or not np.issubdtype(codes.dtype, np.integer):
            raise BitstreamError("codes must be an integer array")
        if codes.ndim != 3 or codes.size == 0:
            raise BitstreamError(f"codes must have shape [C, N, F] and no empty axis, found {list(codes.shape)}")
        if codes.min() < 0 or codes.max() > 0xFFFF:
            raise BitstreamError(f"codes must be in 0..65535, found {codes.min()}..{codes.max()}")
        object.__setattr__(self, "codes", np.ascontiguousarray(codes, dtype=np.uint16))
        if isinstance(self.input_db, tuple):
            if len(self.input_db) != codes.shape[0]:
                raise BitstreamError(f"input_db must be one value, or {codes.shape[0]}, found {len(self.input_db)}")
            levels = tuple(checked_float32(value, "input_db") for value in self.input_db)
            object.__setattr__(self, "input_db", levels)
        else:
            object.__setattr__(self, "input_db", checked_float32(self.input_db, "input_db"))
        self._check_integer("channels", codes.shape[0], codes.shape[0])
        self._check_integer("chunk_length", 1, codes.shape[2])
        self._check_integer("original_length", 1, _MAX_LENGTH)
        self._check_integer("sample_rate", 1, _MAX_SAMPLE_RATE)
        if not isinstance(self.padding, bool):
            raise BitstreamError(f"padding must be True or False, found {reprlib.repr(self.padding)}")
        if not isinstance(self.dac_version, str) or not _VERSION.fullmatch(self.dac_version):
            raise BitstreamError(f"dac_version must look like '1.0.0', found {reprlib.repr(self.dac_version)}")

    def _check_integer(self, field: str, low: int, high: int) -> None:
        object.__setattr__(self, field, checked_integer(getattr(self, field), field, low, high))


def is_legacy(prefix: bytes) -> bool:
    """Whether `prefix`, at least the first 6 bytes of a file, belongs to a file for `read_legacy`."""
    return bytes(prefix[: len(LEGACY_MAGIC)]) == LEGACY_MAGIC


def read_legacy(data: bytes) -> LegacyFile:
    """Return the content of `data`, all bytes of a file of descript-audio-codec.

    Runs no code of the file; memory is bounded by a small multiple of the size of `data`.

    Raises:
        BitstreamError: `data` is no such file, or is damaged.
    """
    content = pickles.load(_read_npy(data))
    if not isinstance(content, Array):
        raise BitstreamError("the file holds no array")
    artifacts = _fields(content.item(), "the file", {"codes", "metadata"})
    metadata = _fields(artifacts["metadata"], "metadata", set(_METADATA))
    codes = artifacts["codes"]
    if not isinstance(codes, Array):
        raise BitstreamError("codes must be an array")
    input_db = metadata.pop("input_db")
    if isinstance(input_db, Array) and input_db.shape is not None and len(input_db.shape) == 1:
        levels = tuple(input_db.values().tolist())
        input_db = levels[0] if len(levels) == 1 else levels
    return LegacyFile(
        codes=codes.values(),
        input_db=input_db if isinstance(input_db, tuple) else _plain(input_db, "input_db"),
        **{name: _plain(value, name) for name, value in metadata.items()},
    )


def write_legacy(file: LegacyFile) -> bytes:
    """Return `file` in the format of the reference, loadable with any version of NumPy."""
    metadata = {name: getattr(file, name) for name in _METADATA}
    metadata["input_db"] = np.ravel(np.array(file.input_db, dtype=np.float32))
    array = np.array({"codes": file.codes, "metadata": metadata}, dtype=object)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    # Pickles of NumPy 2 name a module that NumPy 1.26.0 and older do not have. Protocol 3 stores the name once, before
    # all content, and without its length.
    pickled = pickle.dumps(array, protocol=3).replace(_NEW_MODULE, _OLD_MODULE, 1)
    return stream.getvalue() + pickled


def _read_npy(data: bytes) -> bytes:
    """Check the .npy header and return the pickle after it."""
    if not is_legacy(data):
        raise BitstreamError(f"not a file of descript-audio-codec: it must begin with {LEGACY_MAGIC!r}")
    version = data[6:8]
    if version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise BitstreamError(f"the .npy header must have version 1.0, 2.0 or 3.0, found {version.hex(' ')}")
    start = 10 if version == b"\x01\x00" else 12
    size = int.from_bytes(data[8:start], "little")
    header = data[start : start + size]
    if size > _MAX_HEADER or len(header) < size:
        raise BitstreamError(f"the .npy header claims {size} bytes, the file has {len(data)}")
    if not _HEADER.fullmatch(header):
        raise BitstreamError(f"the .npy header must describe a single Python object, found {header[:80]!r}")
    return data[start + size :]


def _fields(content: object, what: str, names: set[str]) -> dict[str, Any]:
    """Return `content` if it is a dict with exactly the keys `names`."""
    if not isinstance(content, dict):
        raise BitstreamError(f"{what} must be a dict")
    if content.keys() != names:
        missing, unknown = sorted(names - content.keys()), sorted(content.keys() - names)
        raise BitstreamError(f"{what} must hold other fields: missing {missing}, unknown {reprlib.repr(unknown)}")
    return content


def _plain(value: object, name: str) -> Any:
    """Return `value` if it is a Python number or string, or the number in it if it is a zero-dimensional array.

    Other objects are refused without being printed: they may be nested so deeply that printing them never ends.
    """
    if isinstance(value, Array) and value.shape == ():
        value = value.item()
    if not isinstance(value, (bool, int, float, str)):
        raise BitstreamError(f"{name} in metadata must be a number or a string")
    return value
