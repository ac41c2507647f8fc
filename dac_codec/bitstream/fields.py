"""Elements of the container: varints, checksums, and readers that trust no length."""

from __future__ import annotations

import math
import operator
import reprlib
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

import google_crc32c

from dac_codec.common import streams
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError

CRC_BYTES = 4
MAX_VARINT_BYTES = 9
MAX_VARINT = (1 << 7 * MAX_VARINT_BYTES) - 1

FINGERPRINT_BYTES = 8
"""Bytes of a model's fingerprint that a file contains."""

FLOAT32 = struct.Struct("<f")

_READ_PIECE = 1 << 16
_MAX_NAME_BYTES = 64


def checked_integer(value: Any, field: str, low: int, high: int) -> int:
    """Return `value` as a Python integer. Raises BitstreamError, naming `field`, if it is no integer in low..high."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise BitstreamError(f"{field} must be an integer in {low}..{high}, found {reprlib.repr(value)}")
    return number


def checked_float32(value: Any, field: str) -> float:
    """Return `value` rounded to float32. Raises BitstreamError, naming `field`, if it is no finite number."""
    try:
        (number,) = FLOAT32.unpack(FLOAT32.pack(value))
    except (struct.error, OverflowError):  # no number, or too large
        number = math.nan
    if not math.isfinite(number):
        raise BitstreamError(f"{field} must be a finite float32, found {reprlib.repr(value)}")
    return float(number)


def crc32c(data: bytes, crc: int = 0) -> int:
    """Return the CRC-32C (Castagnoli; RFC 3720, section 12.1) of `data`, continued from `crc`.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    return int(google_crc32c.extend(crc, data))


def with_crc(data: bytes) -> bytes:
    """Return `data` followed by its CRC-32C, little-endian."""
    return data + crc32c(data).to_bytes(CRC_BYTES, "little")


def check_fingerprint(field: str, value: bytes) -> None:
    """Raise a BitstreamError, naming `field`, unless `value` is a fingerprint."""
    if not isinstance(value, bytes) or len(value) != FINGERPRINT_BYTES:
        raise BitstreamError(f"{field} must be {FINGERPRINT_BYTES} bytes, found {value!r}")


def check_model_name(name: str) -> None:
    """Raise a BitstreamError unless a header can hold the name of a model."""
    if not isinstance(name, str):
        raise BitstreamError(f"model_name must be a string, found {name!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BitstreamError(f"model_name must be valid Unicode, found {name!r}") from None
    if size > _MAX_NAME_BYTES:
        raise BitstreamError(f"model_name must take at most {_MAX_NAME_BYTES} bytes of UTF-8, found {size}")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in name):
        raise BitstreamError(f"model_name must not hold control characters, found {name!r}")


def encode_varint(value: int) -> bytes:
    """Return `value`, 0..2^63-1, as unsigned LEB128 (DWARF 5, section 7.6) of minimal length.

    >>> encode_varint(300).hex()
    'ac02'
    """
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_varint(next_byte: Callable[[], int], what: str) -> int:
    """Return the varint whose bytes `next_byte` returns. `what` names its place in error messages.

    Raises BitstreamError if it has more than 9 bytes, or more than its value needs.
    """
    value = 0
    for position in range(MAX_VARINT_BYTES):
        byte = next_byte()
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if byte == 0 and position > 0:
                raise BitstreamError(f"{what} holds a varint that is longer than its value needs")
            return value
    raise BitstreamError(f"{what} holds a varint of more than {MAX_VARINT_BYTES} bytes")


class FieldReader:
    """Reads fields from `data`, which is complete. `what` names it in error messages."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._position = 0

    @property
    def left(self) -> int:
        """Number of unread bytes."""
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises BitstreamError if there are fewer."""
        if size > self.left:
            raise BitstreamError(f"{self._what} is too short for its fields")
        start = self._position
        self._position += size
        return self._data[start : self._position]

    def varint(self) -> int:
        """Return the next varint."""
        return decode_varint(lambda: self.take(1)[0], self._what)

    def expect_end(self) -> None:
        """Raise BitstreamError if there are unread bytes."""
        if self.left:
            raise BitstreamError(f"{self._what} holds {self.left} bytes too many")


class StreamReader:
    """Reads a binary stream in bounded pieces, with a running checksum.

    Memory grows with the bytes that arrive, never with a length that the stream claims. Unless stated otherwise,
    methods raise TruncatedBitstreamError if the stream ends early; `what` names in messages what was being read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._crc = 0

    def begin_checksum(self, before: bytes = b"") -> None:
        """Start a new checksum with `before`; the bytes read from here on continue it."""
        self._crc = crc32c(before)

    def check_checksum(self, what: str) -> None:
        """Read a CRC-32C and compare it with that of the bytes since `begin_checksum`. Raises BitstreamError."""
        expected = self._crc
        found = int.from_bytes(self.read(CRC_BYTES, what), "little")
        if found != expected:
            raise BitstreamError(f"{what} is damaged: its checksum is {found:#010x}, its bytes give {expected:#010x}")

    def read(self, size: int, what: str) -> bytes:
        """Return the next `size` bytes."""
        data = self.read_up_to(size)
        if len(data) < size:
            raise TruncatedBitstreamError(f"the file ends early, within {what}")
        return data

    def read_up_to(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer at the end of the stream."""
        data = streams.read_exactly(self._stream, size)
        self._crc = crc32c(data, self._crc)
        return data

    def read_some(self) -> bytes:
        """Return the bytes that have arrived, from 1 to 64 KiB; no bytes at the end. The checksum ignores them."""
        return streams.read_some(self._stream, _READ_PIECE)

    def read_varint(self, what: str) -> int:
        """Return the next varint."""
        return decode_varint(lambda: self.read(1, what)[0], what)

    def skip(self, size: int, what: str) -> None:
        """Skip `size` bytes; the checksum includes them."""
        while size:
            size -= len(self.read(min(size, _READ_PIECE), what))
