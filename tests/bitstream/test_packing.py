"""dac_codec.bitstream.packing: bit layout compared with a slow implementation, and errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dac_codec.bitstream.packing import pack, packed_size, unpack
from dac_codec.common.errors import BitstreamError


@st.composite
def codes_and_bits(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    bits = draw(st.integers(1, 16))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=19))
    dtype = draw(st.sampled_from(["<u2", ">u2", "<i4", "<i8", "<u8"]))
    return draw(hnp.arrays(dtype, shape, elements=st.integers(0, (1 << bits) - 1))), bits


def pack_slowly(plane: np.ndarray, bits: int) -> bytes:
    text = "".join(f"{int(code):0{bits}b}" for code in plane)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))


@given(codes_and_bits())
@settings(max_examples=200, deadline=None)
def test_layout_and_round_trip(case: tuple[np.ndarray, int]) -> None:
    codes, bits = case
    packed = pack(codes, bits)
    planes = [codes[index] for index in np.ndindex(codes.shape[:-1])]
    assert packed == b"".join(pack_slowly(plane, bits) for plane in planes)
    assert len(packed) == len(planes) * packed_size(codes.shape[-1], bits)
    unpacked = unpack(packed, bits, codes.shape)
    assert unpacked.dtype == np.int32
    np.testing.assert_array_equal(unpacked, codes)


def test_extremes_of_every_width() -> None:
    for bits in range(1, 17):
        codes = np.array([0, (1 << bits) - 1, 0, (1 << bits) - 1])
        np.testing.assert_array_equal(unpack(pack(codes, bits), bits, (4,)), codes)


def test_strided_codes() -> None:
    codes = np.arange(48, dtype=np.uint16).reshape(2, 3, 8)
    assert pack(codes.transpose(1, 0, 2), 10) == pack(codes.transpose(1, 0, 2).copy(), 10)
    assert pack(codes[..., ::2], 10) == pack(codes[..., ::2].copy(), 10)


@pytest.mark.parametrize("bits", [0, -1, 17])
def test_width_out_of_range(bits: int) -> None:
    with pytest.raises(BitstreamError, match=r"1\.\.16"):
        pack(np.zeros(3, dtype=np.uint16), bits)
    with pytest.raises(BitstreamError, match=r"1\.\.16"):
        unpack(b"", bits, (0,))


@pytest.mark.parametrize("codes", [[4], [-1], [0, 3, 70000], [-(2**63)]])
def test_codes_that_do_not_fit(codes: list[int]) -> None:
    with pytest.raises(BitstreamError, match="do not fit in 2 bits"):
        pack(np.array(codes, dtype=np.int64), 2)


@pytest.mark.parametrize("codes", [np.zeros(3), np.array(1), np.array(["1"])])
def test_invalid_arrays(codes: np.ndarray) -> None:
    with pytest.raises(BitstreamError, match="integer array"):
        pack(codes, 8)


def test_wrong_length() -> None:
    for size in (0, 3, 5):
        with pytest.raises(BitstreamError, match=f"take 4 bytes, found {size}"):
            unpack(bytes(size), 10, (3,))
    with pytest.raises(BitstreamError):
        unpack(b"", 10, (1 << 40, 1 << 40))  # refused before memory is allocated


def test_shape_without_axes_or_negative() -> None:
    for shape in ((), (-1,), (2, -1)):
        with pytest.raises(BitstreamError, match="shape"):
            unpack(b"", 10, shape)


def test_padding_must_be_zero() -> None:
    packed = bytearray(pack(np.array([1, 2, 3]), 10))
    for bit in (0, 1):
        damaged = packed.copy()
        damaged[-1] ^= 1 << bit
        with pytest.raises(BitstreamError, match="padding"):
            unpack(bytes(damaged), 10, (3,))
