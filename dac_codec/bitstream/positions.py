"""Positioned checksums (FORMAT.md, "Checksums of chunks") and the position that follows from such a checksum.

The checksum of a chunk covers the number of frames before it, which is not stored. A CRC is linear over GF(2), so the
32 bits of a checksum determine 32 bits of the position:

    checksum = CRC(position as u64 | key | payload)     ->     position = position_of(key | payload, checksum)
"""

from __future__ import annotations

from functools import lru_cache

from dac_codec.bitstream.fields import crc32c

_ONES = 0xFFFFFFFF
_POLYNOMIAL = 0x82F63B78  # of CRC-32C; bit 31 is the coefficient of 1, bit 0 that of x^31
_ONE = 1 << 31


def checksum_prefix(position: int) -> bytes:
    """Return the bytes that the checksum of a chunk covers before its key: the number of frames before it as u64."""
    return position.to_bytes(8, "little")


def position_of(data: bytes, checksum: int) -> int:
    """Return the only position below 2^32 for which a chunk with `data`, its key and payload, has `checksum`.

    For damaged bytes it is practically random: it falls into a window of w positions with a probability of w / 2^32.

    >>> position_of(b"chunk", crc32c(checksum_prefix(304) + b"chunk"))
    304
    """
    # FORMAT.md, "Reading damaged files": position = ones + (register + d) x^-(8 n + 64), where d is the register after
    # feeding `data` (n bytes) to an empty register.
    d = crc32c(data, _ONES) ^ _ONES
    return _multiply(checksum ^ _ONES ^ d, _inverse_shift(len(data) + 8)) ^ _ONES


def _multiply(a: int, b: int) -> int:
    """Return the product of two polynomials modulo that of the CRC."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _inverse_shift(n_bytes: int) -> int:
    """Return x^(-8 n_bytes), for n_bytes < 2^32."""
    power = _ONE
    for bit, factor in enumerate(_inverse_shifts()):
        if n_bytes >> bit & 1:
            power = _multiply(power, factor)
    return power


@lru_cache(maxsize=1)
def _inverse_shifts() -> tuple[int, ...]:
    """Return x^(-8 * 2^k) for k from 0 to 31. Cached: hostile bytes may claim another length at every byte."""
    factor = (_ONE ^ _POLYNOMIAL) << 1 | 1  # 1 / x
    factors = []
    for _ in range(3 + 32):
        factors.append(factor)
        factor = _multiply(factor, factor)
    return tuple(factors[3:])
