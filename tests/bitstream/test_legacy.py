"""dac_codec.bitstream.legacy: files of the reference, read and written."""

from __future__ import annotations

import io
import pickle
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import LegacyFile, is_legacy, read_legacy, write_legacy
from dac_codec.common.errors import BitstreamError

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("legacy_*.dac"))
NPY_HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(127) + b"\n"


def artifacts(**changes: Any) -> dict[str, Any]:
    """The argument of the reference's `numpy.save`, with `changes` to the metadata or the codes."""
    codes = changes.pop("codes", np.arange(24, dtype=np.uint16).reshape(2, 3, 4))
    metadata = {
        "input_db": np.array([-20.25], dtype=np.float32),
        "original_length": 2000,
        "sample_rate": 44100,
        "chunk_length": 4,
        "channels": 2,
        "padding": True,
        "dac_version": "1.0.0",
    }
    return {"codes": codes, "metadata": {**metadata, **changes}}


def saved(content: Any, protocol: int = 4) -> bytes:
    """The file that `numpy.save` writes of `content`, with any pickle protocol."""
    return NPY_HEADER + pickle.dumps(np.array(content, dtype=object), protocol=protocol)


def assert_same(found: LegacyFile, expected: LegacyFile) -> None:
    for field in fields(LegacyFile):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert type(a) is type(b)
        np.testing.assert_array_equal(a, b)


EXPECTED = LegacyFile(np.arange(24, dtype=np.uint16).reshape(2, 3, 4), 4, 2000, -20.25, 2, 44100, True)


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files_field_by_field(path: Path) -> None:
    data = path.read_bytes()
    assert is_legacy(data[:6])
    file = read_legacy(data)
    expected = np.load(path.with_suffix(".npz"))
    assert file.codes.dtype == np.uint16
    np.testing.assert_array_equal(file.codes, expected["codes"])
    assert file.channels == expected["codes"].shape[0]
    assert file.chunk_length == int(expected["chunk_length"])
    assert file.original_length == int(expected["original_length"])
    assert file.sample_rate == int(expected["sample_rate"])
    assert file.input_db == float(expected["input_db"][0])
    assert file.padding is bool(expected["padding"])
    assert file.dac_version == "1.0.0"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_reference_reads_what_is_written(path: Path) -> None:
    """The reference loads with `np.load(..., allow_pickle=True)[()]`; the golden files are known to be harmless."""
    original = np.load(path, allow_pickle=True)[()]
    written = write_legacy(read_legacy(path.read_bytes()))
    assert is_legacy(written)
    loaded = np.load(io.BytesIO(written), allow_pickle=True)[()]
    assert loaded.keys() == original.keys()
    assert loaded["codes"].dtype == original["codes"].dtype == np.uint16
    np.testing.assert_array_equal(loaded["codes"], original["codes"])
    assert list(loaded["metadata"]) == list(original["metadata"])
    for name, value in original["metadata"].items():
        assert type(loaded["metadata"][name]) is type(value)
        assert loaded["metadata"][name] == value
    assert loaded["metadata"]["input_db"].dtype == np.float32
    assert loaded["metadata"]["input_db"].shape == (1,)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 300)),
    st.integers(1, 2**63 - 1),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(1, 768_000),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_round_trip(
    shape: tuple[int, int, int], length: int, input_db: float, sample_rate: int, padding: bool, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << 16, shape, dtype=np.uint16)
    file = LegacyFile(codes, 1 + seed % shape[2], length, input_db, shape[0], sample_rate, padding)
    assert_same(read_legacy(write_legacy(file)), file)


@pytest.mark.parametrize("value", [0, 255, 65535])
def test_any_version_of_numpy_can_load_it(value: int) -> None:
    """Pickles of NumPy 2 name a module that NumPy 1 does not have; here the codes contain that name too."""
    codes = np.full((1, 1, 40), value, np.uint16)
    codes[0, 0, :12] = np.frombuffer(b"cnumpy._core.multiarray\n", "<u2")
    written = write_legacy(LegacyFile(codes, 40, 20_000, -20.25, 1, 44100, True))
    assert written.count(b"numpy._core.multiarray") == 1
    assert written.count(b"cnumpy.core.multiarray\n_reconstruct\n") == 1
    np.testing.assert_array_equal(read_legacy(written).codes, codes)
    np.testing.assert_array_equal(np.load(io.BytesIO(written), allow_pickle=True)[()]["codes"], codes)
    assert b"numpy._core" not in write_legacy(EXPECTED)


def test_large_file() -> None:
    """From 64 KiB on, pickle puts bytes outside of its frames."""
    codes = np.random.default_rng(0).integers(0, 1024, (1, 9, 10_000), dtype=np.uint16)
    file = LegacyFile(codes, 300, 10_000 * 512, -16.0, 1, 44100, False)
    assert_same(read_legacy(write_legacy(file)), file)


# --- what other versions of NumPy and Python write --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_protocols_and_module_names(protocol: int, module: bytes) -> None:
    data = saved(artifacts(), protocol)
    if protocol < 4:
        data = re.sub(rb"cnumpy\._?core", b"c" + module, data)
    else:
        name = module + b".multiarray"
        data = re.sub(rb"\x8c.numpy\._?core\.multiarray", b"\x8c" + bytes([len(name)]) + name, data)
    assert module + b".multiarray" in data
    assert_same(read_legacy(data), EXPECTED)


def test_protocol_5() -> None:
    data = saved(artifacts()).replace(b"\x80\x04", b"\x80\x05", 1)
    assert_same(read_legacy(data), EXPECTED)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_the_npy_header(version: tuple[int, int]) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array(artifacts(), dtype=object), version=version)
    assert_same(read_legacy(stream.getvalue()), EXPECTED)


OTHER_TYPES: list[dict[str, Any]] = [
    {"input_db": -20.25},
    {"input_db": np.float32(-20.25)},
    {"input_db": np.float64(-20.25)},
    {"input_db": np.array(-20.25)},
    {"input_db": np.array([-20.25], dtype=">f8")},
    {"original_length": np.int64(2000)},
    {"chunk_length": np.array(4)},
    {"channels": np.uint8(2)},
    {"padding": np.bool_(True)},
    {"codes": np.arange(24).reshape(2, 3, 4)},
    {"codes": np.arange(24, dtype=">i2").reshape(2, 3, 4)},
    {"codes": np.asfortranarray(np.arange(24, dtype=np.uint16).reshape(2, 3, 4))},
]


@pytest.mark.parametrize("changes", OTHER_TYPES, ids=repr)
def test_other_types_for_the_same_values(changes: dict[str, Any]) -> None:
    for protocol in (2, 3, 4):
        assert_same(read_legacy(saved(artifacts(**changes), protocol)), EXPECTED)


def test_other_version_strings() -> None:
    assert read_legacy(saved(artifacts(dac_version="0.0.1"))).dac_version == "0.0.1"


# --- invalid contents -------------------------------------------------------------------------------------------------


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"codes": np.zeros((2, 3), dtype=np.uint16)}, "codes"),
    ({"codes": np.zeros((2, 3, 0), dtype=np.uint16)}, "codes"),
    ({"codes": np.zeros((2, 3, 4, 1), dtype=np.uint16)}, "shape"),
    ({"codes": np.zeros((2, 3, 4), dtype=np.float32)}, "codes"),
    ({"codes": np.zeros((2, 3, 4), dtype=bool)}, "codes"),
    ({"codes": np.full((2, 3, 4), -1)}, "codes"),
    ({"codes": np.full((2, 3, 4), 65536)}, "codes"),
    ({"codes": np.zeros((2, 3, 4), dtype="c8")}, "a call that NumPy does not write"),
    ({"codes": np.full((2, 3, 4), None)}, "O8"),
    ({"codes": [[[1]]]}, "codes"),
    ({"channels": 1}, "channels"),
    ({"channels": 2.0}, "channels"),
    ({"chunk_length": 0}, "chunk_length"),
    ({"chunk_length": 5}, "chunk_length"),
    ({"original_length": 0}, "original_length"),
    ({"original_length": -1}, "original_length"),
    ({"original_length": 2**63}, "original_length"),
    ({"original_length": float("inf")}, "original_length"),
    ({"original_length": True}, "original_length"),
    ({"original_length": None}, "original_length"),
    ({"sample_rate": 0}, "sample_rate"),
    ({"sample_rate": 1 << 24}, "sample_rate"),
    ({"sample_rate": "44100"}, "sample_rate"),
    ({"input_db": float("nan")}, "input_db"),
    ({"input_db": np.array([float("-inf")], dtype=np.float32)}, "input_db"),
    ({"input_db": np.array([1.0, 2.0, 3.0])}, "input_db"),
    ({"input_db": 1e39}, "input_db"),
    ({"input_db": "-16"}, "input_db"),
    ({"padding": 1}, "padding"),
    ({"padding": None}, "padding"),
    ({"dac_version": 1.0}, "dac_version"),
    ({"dac_version": None}, "dac_version"),
    ({"dac_version": "1.0.0\n"}, "dac_version"),
    ({"dac_version": "latest"}, "dac_version"),
    ({"extra": 1}, "extra"),
]


@pytest.mark.parametrize(("changes", "message"), INVALID)
def test_refuses_contents(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        read_legacy(saved(artifacts(**changes)))


@pytest.mark.parametrize("name", list(artifacts()["metadata"]))
def test_refuses_missing_metadata(name: str) -> None:
    content = artifacts()
    del content["metadata"][name]
    with pytest.raises(BitstreamError, match=f"missing .*{name}"):
        read_legacy(saved(content))


@pytest.mark.parametrize("content", [None, [], {}, {"codes": 1}, {"codes": 1, "metadata": 2}, {1: 2}, "text"])
def test_refuses_other_objects(content: Any) -> None:
    with pytest.raises(BitstreamError):
        read_legacy(saved(content))


def test_refuses_other_numpy_files() -> None:
    for array in (np.zeros(3), np.array([None, None]), np.zeros((), dtype="f4,i4")):
        stream = io.BytesIO()
        np.save(stream, array)
        with pytest.raises(BitstreamError):
            read_legacy(stream.getvalue())


def test_constructor_takes_integers_of_numpy_and_rounds_like_the_file() -> None:
    file = replace(EXPECTED, chunk_length=np.int64(4), input_db=0.1)  # type: ignore[arg-type]
    assert type(file.chunk_length) is int
    assert_same(read_legacy(write_legacy(file)), file)
    with pytest.raises(BitstreamError, match="chunk_length"):
        replace(EXPECTED, chunk_length=5)


def test_is_legacy() -> None:
    assert is_legacy(b"\x93NUMPY")
    assert not is_legacy(b"\x93NUMP")
    assert not is_legacy(b"\x8aDAC\x01\x22")


def test_loudness_per_channel() -> None:
    codes = np.zeros((2, 3, 4), np.uint16)
    file = LegacyFile(codes, 4, 1000, (-20.5, -31.25), 2, 44100, True)
    assert read_legacy(write_legacy(file)).input_db == (-20.5, -31.25)
    with pytest.raises(BitstreamError, match="one value, or 2"):
        replace(file, input_db=(1.0, 2.0, 3.0))
