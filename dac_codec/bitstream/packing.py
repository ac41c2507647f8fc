"""Unsigned integers of 1 to 16 bits, packed without gaps.

Bits are written most significant first: the first code of a plane takes the highest bits of the plane's first byte.
A *plane* is a run of codes (one codebook of one channel). It is padded with zero bits to whole bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dac_codec.common.errors import BitstreamError

MAX_BITS = 16
"""Maximum width of a code in bits."""


def packed_size(n_codes: int, bits: int) -> int:
    """Return the size in bytes of one plane of `n_codes` codes at `bits` bits each.

    >>> packed_size(500, 10)
    625
    >>> packed_size(3, 10)
    4
    """
    return (n_codes * bits + 7) // 8


def pack(codes: npt.NDArray[np.integer[Any]], bits: int) -> bytes:
    """Pack `codes` [..., F] into planes of F codes at `bits` bits each.

    The planes are in C order of the leading axes; each takes `packed_size(F, bits)` bytes.

    Raises:
        BitstreamError: `bits` is not in 1..16, `codes` has no axis or no integers, or a code is too large.

    >>> pack(np.array([1, 2, 3]), bits=2).hex()
    '6c'
    """
    _check_bits(bits)
    if codes.ndim == 0 or not np.issubdtype(codes.dtype, np.integer):
        raise BitstreamError(
            f"codes to pack must be an integer array of at least one axis, found {codes.dtype} of shape {codes.shape}"
        )
    if codes.size and not (codes.min() >= 0 and codes.max() < 1 << bits):
        raise BitstreamError(f"codes of {codes.min()}..{codes.max()} do not fit in {bits} bits")
    n_codes = codes.shape[-1]
    n_planes = math.prod(codes.shape[:-1])
    # Unpack every code to the 16 bits of a big-endian integer, keep the low `bits` of them, and pack again.
    as_bytes = np.ascontiguousarray(codes, dtype=">u2").view(np.uint8).reshape(n_planes, n_codes, 2)
    as_bits = np.unpackbits(as_bytes, axis=-1)[..., MAX_BITS - bits :]
    return np.packbits(as_bits.reshape(n_planes, n_codes * bits), axis=-1).tobytes()


def unpack(data: bytes, bits: int, shape: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return the int32 codes of `shape` [..., F] in `data`, the inverse of `pack`.

    The length of `data` must match `shape`, so memory is bounded by the size of `data`.

    Raises:
        BitstreamError: `bits` is not in 1..16, `shape` has no axis or a negative one, the length of `data` does not
            match `shape`, or a padding bit is set.

    >>> unpack(bytes.fromhex("6c"), bits=2, shape=(3,))
    array([1, 2, 3], dtype=int32)
    """
    _check_bits(bits)
    if not shape or min(shape) < 0:
        raise BitstreamError(f"codes to unpack need a shape of at least one axis, found {shape}")
    n_codes = shape[-1]
    n_planes = math.prod(shape[:-1])
    plane_size = packed_size(n_codes, bits)
    if len(data) != n_planes * plane_size:
        raise BitstreamError(
            f"packed codes of shape {shape} at {bits} bits take {n_planes * plane_size} bytes, found {len(data)}"
        )
    planes = np.frombuffer(data, dtype=np.uint8).reshape(n_planes, plane_size)
    as_bits = np.unpackbits(planes, axis=-1)
    if as_bits[:, n_codes * bits :].any():
        raise BitstreamError("packed codes have padding bits that are not zero")
    wide = np.zeros((n_planes, n_codes, MAX_BITS), dtype=np.uint8)
    wide[..., MAX_BITS - bits :] = as_bits[:, : n_codes * bits].reshape(n_planes, n_codes, bits)
    return np.packbits(wide, axis=-1).view(">u2").astype(np.int32).reshape(shape)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise BitstreamError(f"codes take 1..{MAX_BITS} bits each, found {bits}")
