"""dac_codec.bitstream.legacy: files that try to run code, to exhaust memory, or to take long."""

from __future__ import annotations

import os
import pickle
import random
import re
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import LegacyFile, read_legacy, write_legacy
from dac_codec.common.errors import BitstreamError

GOLDEN = Path(__file__).parents[1] / "golden" / "legacy_24khz_mono_48k_nq4.dac"
NPY_HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(127) + b"\n"
SMALL = write_legacy(LegacyFile(np.arange(6, dtype=np.uint16).reshape(1, 2, 3), 3, 900, -16.0, 1, 16000, True))

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
BLANK_ARRAY = RECONSTRUCT + b"(cnumpy\nndarray\nK\x00\x85C\x01btR"
UNORDERED_U2 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u2\x89\x88tR"
DTYPE_U2 = (
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00u2\x89\x88tR(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
DTYPE_O8 = (
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8\x89\x88tR(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def array(shape: bytes, data: bytes) -> bytes:
    return BLANK_ARRAY + b"(K\x01" + shape + DTYPE_U2 + b"\x89" + data + b"tb"


CODES = array(b"K\x01K\x02K\x03\x87", b"C\x0c" + bytes(12))


def pickled(codes: bytes = CODES, version: bytes = text("1.0.0"), before: bytes = b"", protocol: int = 3) -> bytes:
    """A hand-made pickle of what the reference saves; the operations `before` run first."""
    metadata = (
        text("input_db") + b"G" + struct.pack(">d", -16.0) + text("original_length") + b"M\x84\x03"
        + text("sample_rate") + b"M\x80>" + text("chunk_length") + b"K\x03" + text("channels") + b"K\x01"
        + text("padding") + b"\x88" + text("dac_version") + version
    )  # fmt: skip
    content = b"}(" + text("codes") + codes + text("metadata") + b"}(" + metadata + b"uu"
    outer = BLANK_ARRAY + b"(K\x01)" + DTYPE_O8 + b"\x89](" + content + b"etb"
    return b"\x80" + bytes([protocol]) + before + outer + b"."


def refuse(data: bytes, reason: str | None = None, most_seconds: float = 1.0, most_memory: int = 1_000_000) -> None:
    """Assert that `read_legacy` refuses `data`, for the `reason` if given, within the limits of time and memory."""
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(BitstreamError, match=reason) as caught:
            read_legacy(data)
        assert time.process_time() - started < most_seconds
        assert tracemalloc.get_traced_memory()[1] < most_memory + 4 * len(data)
        assert len(str(caught.value)) < 1000
    finally:
        tracemalloc.stop()


def test_the_parts_above_make_a_file() -> None:
    """NumPy reads the same from it, so the files below are refused for their one difference."""
    content = pickle.loads(pickled())[()]
    assert content["codes"].shape == (1, 2, 3)
    assert content["codes"].dtype == np.uint16
    assert read_legacy(NPY_HEADER + pickled()).original_length == content["metadata"]["original_length"] == 900


# --- code -------------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.mkdir, eval, exec, os.system])
def test_no_code_runs(tmp_path: Path, protocol: int, function: Any) -> None:
    trace = tmp_path / "trace"
    argument = {
        os.mkdir: str(trace),
        os.system: f"mkdir {trace}",
    }.get(function, f"__import__('os').mkdir({str(trace)!r})")
    alone = pickle.dumps(Call(function, argument), protocol=protocol)
    refuse(NPY_HEADER + alone)
    refuse(NPY_HEADER + pickle.dumps(np.array({"codes": Call(function, argument)}, dtype=object), protocol=protocol))
    assert not trace.exists()
    pickle.loads(alone)
    assert trace.exists()  # so the attack is effective


NAMES = [
    "os\nsystem",
    "posix\nsystem",
    "builtins\neval",
    "builtins\ngetattr",
    "builtins\nbytearray",
    "numpy\nload",
    "numpy\nfromfile",
    "numpy\nndarray.tofile",
    "numpy\ncore.multiarray._reconstruct",
    "numpy.core.multiarray\nfromfile",
    "numpy.core.multiarray\n_reconstruct.__globals__",
    "_codecs\ndecode",
    "_codecs\nregister",
    "copyreg\n_reconstructor",
    "dac_codec.bitstream.pickles\nArray",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_outside_of_the_allow_list(name: str) -> None:
    module, attribute = name.split("\n")
    for named in (f"c{name}\n".encode(), text(module) + text(attribute) + b"\x93"):
        for attack in (named, named + b")R", named + b"Nb"):
            refuse(NPY_HEADER + pickled(codes=attack), f"names '{re.escape(module)}.* NumPy does not write")
            refuse(NPY_HEADER + pickled(version=attack), f"names '{re.escape(module)}.* NumPy does not write")


CALLS = [
    b"cnumpy\nndarray\n" + integer(1 << 40) + b"\x85\x85R",
    b"cnumpy\nndarray\n)R",
    b"cnumpy\ndtype\n" + text("u2") + b"\x85R",
    b"cnumpy\ndtype\n(" + text("S1000000000") + b"\x89\x88tR",
    b"cnumpy\ndtype\n(" + text("V9") + b"\x89\x88tR",
    RECONSTRUCT + b"(cnumpy\nndarray\n" + integer(1 << 40) + b"\x85C\x01btR",
    RECONSTRUCT + b"(cnumpy\ndtype\nK\x00\x85C\x01btR",
    RECONSTRUCT + b"(cnumpy\nndarray\nK\x00\x85C\x02O8tR",
    RECONSTRUCT + b")R",
    b"cnumpy.core.multiarray\nscalar\n(" + DTYPE_O8 + b"]K\x01atR",
    b"c_codecs\nencode\n(" + text("a") + text("hex") + b"tR",
    b"c_codecs\nencode\n(C\x01a" + text("latin1") + b"tR",
    text("no function") + b")R",
    b"K\x01)R",
    DTYPE_U2 + b")R",
]


@pytest.mark.parametrize("call", CALLS)
def test_calls_outside_of_the_allow_list(call: bytes) -> None:
    for attack in (pickled(codes=call), pickled(version=call)):
        refuse(NPY_HEADER + attack, "makes a call that NumPy does not write")


def test_calls_with_the_wrong_bytes() -> None:
    scalar, encode = b"cnumpy.core.multiarray\nscalar\n(", b"c_codecs\nencode\n("
    latin1 = text("latin1") + b"tR"
    refuse(NPY_HEADER + pickled(version=scalar + DTYPE_U2 + b"C\x03\x00\x00\x00tR"), "takes 2 bytes, found 3")
    refuse(NPY_HEADER + pickled(version=scalar + DTYPE_O8 + b"C\x08" + bytes(8) + b"tR"), "single object")
    refuse(NPY_HEADER + pickled(version=encode + text("\u0100") + latin1), "not Latin-1")


STATES = [
    (b"}}b", "an object that has none"),  # would set attributes of a dict
    (b"]Nb", "an object that has none"),
    (b"cnumpy\nndarray\n}b", "an object that has none"),  # would set attributes of a class
    (text("1.0.0") + b"}b", "an object that has none"),
    (DTYPE_U2 + b"(K\x03" + text(">") + b"NNNK\x00K\x00K\x00tb", "state of a dtype"),  # a second state
    (CODES + b"(K\x01K\x01K\x02K\x03\x87" + DTYPE_U2 + b"\x89C\x0c" + bytes(12) + b"tb", "state of an array"),
    (BLANK_ARRAY + b"Nb", "state of an array"),
    (BLANK_ARRAY + b"(K\x01)N\x89Ntb", "state of an array"),
    (BLANK_ARRAY + b"(K\x01)" + DTYPE_U2 + b"NNtb", "state of an array"),
    (BLANK_ARRAY, "dtype O8"),
    (BLANK_ARRAY + b"(K\x01)" + DTYPE_U2 + b"\x89Ntb", "no data"),
    (BLANK_ARRAY + b"(K\x01)" + UNORDERED_U2 + b"\x89C\x02\x00\x00tb", "dtype u2"),
    (UNORDERED_U2 + b"(K\x03" + text("|") + b"NNNK\x00K\x00K\x00tb", "byte order"),
    (UNORDERED_U2 + b"(K\x03" + b"]" + b"NNNK\x00K\x00K\x00tb", "byte order"),
]


@pytest.mark.parametrize(("build", "reason"), STATES)
def test_states_outside_of_the_allow_list(build: bytes, reason: str) -> None:
    refuse(NPY_HEADER + pickled(codes=build), reason)


# --- memory and time --------------------------------------------------------------------------------------------------


SHAPES = [
    integer(1 << 40) + b"K\x01K\x01\x87",
    (integer(1 << 62)) * 3 + b"\x87",
    b"K\x00" + integer(1 << 62) * 2 + b"\x87",
    b"K\x01K\x02K\x04\x87",
    b"K\x01K\x02K\x02\x87",
    b"J\xff\xff\xff\xffK\x02J\xfd\xff\xff\xff\x87",
    b"(" + b"K\x01" * 200 + b"t",
    b"\x88K\x02K\x03\x87",
    b"G" + struct.pack(">d", 1.0) + b"K\x02K\x03\x87",
    b"K\x06",
]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_without_the_bytes(shape: bytes) -> None:
    refuse(NPY_HEADER + pickled(codes=array(shape, b"C\x0c" + bytes(12))))


NOT_ALLOWED = "operation .*NumPy does not write"
CUT = "ends early"
BOMBS = {
    "memo index 2^31-1": (b"K\x00r\xff\xff\xff\x7f", "memo entry 2147483647"),
    "memo index 2^32-1": (b"Nr\xff\xff\xff\xff", "memo entry 4294967295"),
    "memo index that is not there": (b"h\x63", "memo entry 99, which does not exist"),
    "long memo index that is not there": (b"j\xff\xff\xff\x7f", "which does not exist"),
    "BYTEARRAY8": (b"\x96" + struct.pack("<Q", 1 << 40), NOT_ALLOWED),
    "BYTEARRAY8 of its size": (b"\x96" + struct.pack("<Q", 4) + b"abcd", NOT_ALLOWED),
    "BINBYTES8": (b"\x8e" + struct.pack("<Q", (1 << 63) - 1), NOT_ALLOWED),
    "BINUNICODE8": (b"\x8d" + struct.pack("<Q", 1 << 40), NOT_ALLOWED),
    "BINBYTES": (b"B\xff\xff\xff\xff", CUT),
    "BINUNICODE": (b"X\xff\xff\xff\xff", CUT),
    "LONG4": (b"\x8b\xff\xff\xff\x7f", NOT_ALLOWED),
    "LONG with many digits": (b"L" + b"9" * 500_000 + b"L\n", NOT_ALLOWED),
    "INT with many digits": (b"I" + b"9" * 500_000 + b"\n", NOT_ALLOWED),
    "GLOBAL without an end": (b"c" + b"a" * 500_000, "name in the pickle has no end"),
    "GLOBAL that is not UTF-8": (b"c\xff\n\xff\n", "UTF-8"),
    "GLOBAL with an escape": (b"cnump\\x79\ndtype\n", "NumPy does not write"),
    "PERSID": (b"Pabc\n", NOT_ALLOWED),
    "BINPERSID": (b"K\x00Q", NOT_ALLOWED),
    "EXT1": (b"\x82\x01", NOT_ALLOWED),
    "EXT2": (b"\x83\x01\x00", NOT_ALLOWED),
    "EXT4": (b"\x84\xff\xff\xff\x7f", NOT_ALLOWED),
    "NEXT_BUFFER": (b"\x97", NOT_ALLOWED),
    "READONLY_BUFFER": (b"\x98", NOT_ALLOWED),
    "INST": (b"(ios\nsystem\n", NOT_ALLOWED),
    "OBJ": (b"(cnumpy\nndarray\no", NOT_ALLOWED),
    "NEWOBJ": (b"cnumpy\nndarray\n)\x81", NOT_ALLOWED),
    "NEWOBJ_EX": (b"cnumpy\nndarray\n)}\x92", NOT_ALLOWED),
    "STRING": (b"S'abc'\n", NOT_ALLOWED),
    "FROZENSET": (b"(\x91", NOT_ALLOWED),
    "EMPTY_SET": (b"\x8f", NOT_ALLOWED),
    "POP": (b"N0", NOT_ALLOWED),
    "DUP and tuples": (b"]" + b"2\x86" * 400, NOT_ALLOWED),
    "mark without an end": (b"(" * 999, "more than 1000 operations"),
    "end without a mark": (b"t", "missing mark"),
    "tuple of marks": (b"((\x86", "empty stack"),
    "too many operations": (b"K\x01" * 200_000, "more than 1000 operations"),
    "unknown operation": (b"\xff", NOT_ALLOWED),
    "protocol 6": (b"\x80\x06", "protocol"),
    "protocol 1": (b"\x80\x01", "protocol"),
    "append to None": (b"NK\x01a", "no list"),
    "items of None": (b"N(K\x01e", "no list"),
    "key that is no string": (b"}K\x01K\x01s", "keys are strings"),
    "key that is nested": (b"})" + b"\x85" * 900 + b"K\x01s", "keys are strings"),
    "odd number of items": (b"}(" + text("a") + b"u", "pairs"),
    "string that is not UTF-8": (b"\x8c\x02\xff\xff", "UTF-8"),
    "stack left over": (b"N", "leaves unused values"),
    "stop at once": (b".", "empty stack"),
}


@pytest.mark.parametrize(("bomb", "reason"), BOMBS.values(), ids=BOMBS)
def test_bombs(bomb: bytes, reason: str) -> None:
    refuse(NPY_HEADER + pickled(before=bomb), reason)


def test_nested_values_are_not_walked_through() -> None:
    """Lists doubled 100 times, tuples nested 700 times, a list within itself: all are legal to build."""
    levels = (b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(1, 101))
    doubling = b"(]q\x01" + b"".join(levels) + b"t"
    nested = b")" + b"\x85" * 700
    cyclic = b"]q\x01h\x01a"
    for value in (doubling, nested, cyclic):
        refuse(NPY_HEADER + pickled(version=value), "dac_version in metadata must be a number or a string")
        refuse(NPY_HEADER + pickled(codes=value), "codes must be an array")
        refuse(NPY_HEADER + b"\x80\x04" + value + b".")
        refuse(NPY_HEADER + pickled(codes=array(value, b"C\x0c" + bytes(12))))
        refuse(NPY_HEADER + pickled(codes=array(b"K\x01K\x02K\x03\x87", value)))


def test_long_strings_do_not_fill_the_message() -> None:
    refuse(NPY_HEADER + pickled(version=text("1" * 300_000)))
    refuse(NPY_HEADER + pickled(version=b"\x8a\xff" + b"\x7f" * 255))


def test_long_names_of_fields_do_not_fill_the_message() -> None:
    refuse(NPY_HEADER + b"\x80\x03" + BLANK_ARRAY + b"(K\x01)" + DTYPE_O8 + b"\x89]}" + text("k" * 300_000) + b"Nsatb.")


def test_encoding_again_and_again() -> None:
    """`_codecs.encode` has a budget: the size of the file, not one long string 80 times."""
    encode = b"c_codecs\nencode\nq\x00" + text("x" * 200_000) + b"q\x01" + text("latin1") + b"q\x02"
    again = b"".join(b"h\x00h\x01h\x02\x86R" for _ in range(80))
    refuse(NPY_HEADER + b"\x80\x02" + b"](" + encode + again + b"e.")


def test_header_of_the_wrapping_file() -> None:
    content = pickled()
    for header in (
        NPY_HEADER.replace(b"()", b"(1,)").replace(b"  ", b"", 1),
        NPY_HEADER.replace(b"'|O'", b"'<f4'"),
        NPY_HEADER.replace(b"False", b"[][0]"),
        NPY_HEADER.replace(b"False", b"(" * 5),
        NPY_HEADER.replace(b"\x01\x00v", b"\x04\x00v"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"(" * 100_000,
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 100_000) + NPY_HEADER[10:-1].ljust(99_999) + b"\n",
        b"\x93NUMPY\x01\x00\xff\xff",
        b"\x93NUMPY",
        b"",
    ):
        refuse(header + content)


# --- damage -----------------------------------------------------------------------------------------------------------


def test_cut_at_every_byte() -> None:
    data = GOLDEN.read_bytes()
    for size in range(len(data)):
        with pytest.raises(BitstreamError):
            read_legacy(data[:size])
    with pytest.raises(BitstreamError):
        read_legacy(data + b"\x00")


def read_or_refuse(data: bytes) -> None:
    try:
        file = read_legacy(data)
    except BitstreamError:
        return
    assert file.codes.dtype == np.uint16
    assert file.codes.shape[0] == file.channels
    assert 1 <= file.chunk_length <= file.codes.shape[2]
    assert file.original_length > 0
    assert read_legacy(write_legacy(file)).original_length == file.original_length


def test_random_changes() -> None:
    rng = random.Random(0)
    golden = GOLDEN.read_bytes()
    codes_at = golden.index(b"B\x98\x02\x00\x00") + 5
    places = [*range(codes_at), *range(codes_at + 664, len(golden))]
    for data, positions in ((golden, places), (SMALL, range(len(SMALL))), (NPY_HEADER + pickled(), None)):
        for _ in range(2500):
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 5))):
                position = rng.choice(positions or range(len(data)))
                damaged[position] = rng.choice((rng.randrange(256), damaged[rng.randrange(len(damaged))]))
            read_or_refuse(bytes(damaged))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_moved_stretches(draw: st.DataObject) -> None:
    at = st.integers(128, len(SMALL))
    start, stop, target = draw.draw(at), draw.draw(at), draw.draw(at)
    read_or_refuse(SMALL[:target] + SMALL[min(start, stop) : max(start, stop)] + SMALL[target:])
    read_or_refuse(SMALL[: min(start, stop)] + SMALL[max(start, stop) :])


@given(st.lists(st.sampled_from([bytes([byte]) for byte in b"K(t)]}aesu\x85\x86\x87\x88\x94Rb.\x93N"]), max_size=40))
@settings(max_examples=300, deadline=None)
def test_random_programs(operations: list[bytes]) -> None:
    names = text("numpy") + text("dtype") + text("u2")
    read_or_refuse(NPY_HEADER + b"\x80\x04" + names + b"".join(operations) + b".")
