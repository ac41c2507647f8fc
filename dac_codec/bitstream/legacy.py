"""Files of the reference implementation, descript-audio-codec 1.0.0.

Such a file is what `numpy.save` makes of a dict: a .npy header, then a pickle. Unpickling runs whatever code a file
asks for, so `read_legacy` does not unpickle. It interprets, one by one, the few pickle operations (PEP 307, PEP 3154;
the CPython module pickletools describes each) that NumPy's pickles of such a dict consist of, with stand-ins for the
few NumPy functions that they name, and refuses everything else.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import reprlib
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.fields import checked_float32, checked_integer
from dac_codec.common.errors import BitstreamError

LEGACY_MAGIC = b"\x93NUMPY"
"""The first six bytes of every .npy file."""

_MAX_HEADER = 4096
_MAX_OPERATIONS = 1000  # the reference's files take about 150
_MAX_SAMPLE_RATE = (1 << 24) - 1
_MAX_LENGTH = (1 << 63) - 1

# The one header that `numpy.save` writes for a dict (NumPy Enhancement Proposal 1).
_HEADER = re.compile(rb"\{'descr': '\|O', 'fortran_order': (False|True), 'shape': \(\), \} *\n")
_OLD_MODULE, _NEW_MODULE = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"  # with GLOBAL before them
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}")
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")


@dataclass(frozen=True, eq=False)
class LegacyFile:
    """The content of a file of descript-audio-codec. Checked when it is made.

    Attributes:
        codes: [C, N, F] uint16 (any integer type that fits is converted), no axis empty.
        chunk_length: frames that the reference encoded at a time, and that are to be decoded at a time; 1..F.
        original_length: length of the original audio, in samples per channel at `sample_rate`; above 0. Nothing says
            that the codes cover it: a decoder has to look.
        input_db: loudness in LUFS that what is decoded is brought to, finite; rounded to float32, as the file keeps it.
            One value, which the reference gives to every channel, or a tuple with one for each channel, which its
            arithmetic allows.
        channels: C.
        sample_rate: rate of the original audio, in Hz.
        padding: whether the convolutions pad their input. False in files that were encoded in several windows: each
            window then overlaps its neighbours.
        dac_version: the version that the writer gives, such as "1.0.0".

    Raises:
        BitstreamError: a field is not what the list above says.
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
    """Whether a file that begins with `prefix` (6 bytes suffice) is to be read with `read_legacy`."""
    return prefix.startswith(LEGACY_MAGIC)


def read_legacy(data: bytes) -> LegacyFile:
    """Return the content of `data`, all bytes of a file of descript-audio-codec.

    No code that the file names is run, and no more memory is used than a small multiple of the size of `data`.

    Raises:
        BitstreamError: `data` is no such file, or is damaged.
    """
    content = _Interpreter(_read_npy(data)).run()
    if not isinstance(content, _Array):
        raise BitstreamError("the file holds no array")
    artifacts = _fields(content.item(), "the file", {"codes", "metadata"})
    metadata = _fields(
        artifacts["metadata"],
        "metadata",
        {"input_db", "original_length", "sample_rate", "chunk_length", "channels", "padding", "dac_version"},
    )
    codes = artifacts["codes"]
    if not isinstance(codes, _Array):
        raise BitstreamError("codes must be an array")
    input_db = metadata.pop("input_db")
    if isinstance(input_db, _Array) and input_db.shape is not None and len(input_db.shape) == 1:
        levels = tuple(input_db.values().tolist())
        input_db = levels[0] if len(levels) == 1 else levels
    return LegacyFile(
        codes=codes.values(),
        input_db=input_db if isinstance(input_db, tuple) else _plain(input_db, "input_db"),
        **{name: _plain(value, name) for name, value in metadata.items()},
    )


def write_legacy(file: LegacyFile) -> bytes:
    """Return `file` as `numpy.save` would write it for the reference, to be loaded with any version of NumPy."""
    artifacts = {
        "codes": file.codes,
        "metadata": {
            "input_db": np.ravel(np.array(file.input_db, dtype=np.float32)),
            "original_length": file.original_length,
            "sample_rate": file.sample_rate,
            "chunk_length": file.chunk_length,
            "channels": file.channels,
            "padding": file.padding,
            "dac_version": file.dac_version,
        },
    }
    array = np.array(artifacts, dtype=object)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    # From NumPy 2 on, a pickle names a module that 1.26.0 and older don't have. In protocol 3 the name stands once,
    # before all content, and its length stands nowhere.
    pickled = pickle.dumps(array, protocol=3).replace(_NEW_MODULE, _OLD_MODULE, 1)
    return stream.getvalue() + pickled


def _read_npy(data: bytes) -> bytes:
    """Check the .npy header and return the pickle behind it."""
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
    """Return `content` if it is a dict with exactly these keys."""
    if not isinstance(content, dict):
        raise BitstreamError(f"{what} must be a dict")
    if content.keys() != names:
        missing, unknown = sorted(names - content.keys()), sorted(content.keys() - names)
        raise BitstreamError(f"{what} must hold other fields: missing {missing}, unknown {reprlib.repr(unknown)}")
    return content


def _plain(value: object, name: str) -> Any:
    """Return the Python number or string that `value` is, or, as a zero-dimensional array or array scalar, holds.

    Other objects go no further: the file can nest them so that merely printing them takes forever.
    """
    if isinstance(value, _Array) and value.shape == ():
        value = value.item()
    if not isinstance(value, (bool, int, float, str)):
        raise BitstreamError(f"{name} in metadata must be a number or a string")
    return value


class _Function(Enum):
    """What stands in for the functions and classes that a file names. None of them is ever called."""

    RECONSTRUCT = "_reconstruct"
    SCALAR = "scalar"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    ENCODE = "encode"


_GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): _Function.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _Function.RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _Function.SCALAR,
    ("numpy._core.multiarray", "scalar"): _Function.SCALAR,
    ("numpy", "ndarray"): _Function.NDARRAY,
    ("numpy", "dtype"): _Function.DTYPE,
    ("_codecs", "encode"): _Function.ENCODE,
}


class _Dtype:
    """Stands in for `numpy.dtype`: a kind and size such as "u2", then, from its state, a byte order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._order: str | None = None

    def set_state(self, state: object) -> None:
        """Take the state that `numpy.dtype.__reduce__` gives to a plain type: (3, byte order, ...)."""
        if self._order is not None or not isinstance(state, tuple) or len(state) != 8 or state[0] != 3:
            raise BitstreamError("the state of a dtype is not as NumPy writes it")
        order = state[1]
        if order not in ("<", ">", "|") or (order == "|") != (self.name in ("b1", "i1", "u1", "O8")):
            raise BitstreamError(f"the byte order of dtype {self.name} can't be {order!r}")
        self._order = order

    def resolve(self) -> np.dtype[Any]:
        """Return the NumPy type of numbers that this stands for."""
        if self._order is None or not _DTYPE.fullmatch(self.name):
            raise BitstreamError(f"an array of dtype {self.name} has no place in the file")
        return np.dtype(self._order + self.name)


class _Array:
    """Stands in for `numpy.ndarray`: empty when it is made, then filled, once, from its state."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self._dtype = _Dtype("O8")
        self._fortran_order = False
        self._data: object = None

    def set_state(self, state: object) -> None:
        """Take the state that `numpy.ndarray.__reduce__` gives: (1, shape, dtype, Fortran order, data)."""
        if self.shape is not None or not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
            raise BitstreamError("the state of an array is not as NumPy writes it")
        _, shape, dtype, fortran_order, data = state
        if not isinstance(shape, tuple) or len(shape) > 3:
            raise BitstreamError("the shape of an array must be a tuple of at most 3 numbers")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise BitstreamError("the shape of an array must consist of integers from 0 on")
        if not isinstance(dtype, _Dtype) or not isinstance(fortran_order, bool):
            raise BitstreamError("the state of an array is not as NumPy writes it")
        self.shape, self._dtype, self._fortran_order, self._data = shape, dtype, fortran_order, data

    def values(self) -> npt.NDArray[Any]:
        """Return the NumPy array of numbers that this stands for; it shares the bytes of the file."""
        dtype = self._dtype.resolve()
        if self.shape is None or not isinstance(self._data, bytes):
            raise BitstreamError("an array in the file has no data")
        size = math.prod(self.shape) * dtype.itemsize
        if len(self._data) != size:
            raise BitstreamError(f"an array {list(self.shape)} takes {size} bytes, found {len(self._data)}")
        flat: npt.NDArray[Any] = np.frombuffer(self._data, dtype)
        return flat.reshape(self.shape, order="F" if self._fortran_order else "C")

    def item(self) -> object:
        """Return the element of an array without axes: a Python number, or the object in an array of objects."""
        if self.shape != ():
            raise BitstreamError("an array in the file must hold a single element and does not")
        if self._dtype.name != "O8":
            return self.values().item()
        if not isinstance(self._data, list) or len(self._data) != 1:
            raise BitstreamError("an array in the file must hold a single object and does not")
        return self._data[0]


_MARK = object()


class _Interpreter:
    """Interprets the pickle operations that NumPy's pickles of a dict of numbers and arrays consist of.

    Nothing is imported or called. The number of operations is bounded, no operation makes anything larger than its
    own bytes in the file (`_codecs.encode`, which does, is on a budget), dict keys are strings, and no operation walks
    through what others have nested.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._encode_budget = len(data)

    def run(self) -> object:
        """Return the object that the pickle describes; raises `BitstreamError` for any that is not as expected."""
        for _ in range(_MAX_OPERATIONS):
            opcode = self._take(1)
            if opcode == b".":  # STOP
                break
            self._execute(opcode)
        else:
            raise BitstreamError(f"the pickle takes more than {_MAX_OPERATIONS} operations")
        result = self._pop()
        if self._stack or self._position != len(self._data):
            raise BitstreamError("the pickle leaves something over")
        return result

    def _execute(self, opcode: bytes) -> None:
        push = self._stack.append
        match opcode:
            case b"\x80":  # PROTO
                if not 2 <= self._unsigned(1) <= 5:
                    raise BitstreamError("the pickle must have protocol 2, 3, 4 or 5")
            case b"\x95":  # FRAME: only tells how much to read ahead
                self._unsigned(8)
            case b"(":  # MARK
                push(_MARK)
            case b"N":  # NONE
                push(None)
            case b"\x88":  # NEWTRUE
                push(True)
            case b"\x89":  # NEWFALSE
                push(False)
            case b"K":  # BININT1
                push(self._unsigned(1))
            case b"M":  # BININT2
                push(self._unsigned(2))
            case b"J":  # BININT
                push(int.from_bytes(self._take(4), "little", signed=True))
            case b"\x8a":  # LONG1
                push(int.from_bytes(self._take(self._unsigned(1)), "little", signed=True))
            case b"G":  # BINFLOAT
                push(struct.unpack(">d", self._take(8))[0])
            case b"C":  # SHORT_BINBYTES
                push(self._take(self._unsigned(1)))
            case b"B":  # BINBYTES
                push(self._take(self._unsigned(4)))
            case b"\x8c":  # SHORT_BINUNICODE
                push(self._text(self._unsigned(1)))
            case b"X":  # BINUNICODE
                push(self._text(self._unsigned(4)))
            case b")":  # EMPTY_TUPLE
                push(())
            case b"\x85":  # TUPLE1
                push((self._pop(),))
            case b"\x86":  # TUPLE2
                second, first = self._pop(), self._pop()
                push((first, second))
            case b"\x87":  # TUPLE3
                third, second, first = self._pop(), self._pop(), self._pop()
                push((first, second, third))
            case b"t":  # TUPLE
                push(tuple(self._pop_to_mark()))
            case b"]":  # EMPTY_LIST
                push([])
            case b"a":  # APPEND
                self._append([self._pop()])
            case b"e":  # APPENDS
                self._append(self._pop_to_mark())
            case b"}":  # EMPTY_DICT
                push({})
            case b"s":  # SETITEM
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case b"u":  # SETITEMS
                self._set_items(self._pop_to_mark())
            case b"\x94":  # MEMOIZE
                self._remember(len(self._memo))
            case b"q":  # BINPUT
                self._remember(self._unsigned(1))
            case b"r":  # LONG_BINPUT
                self._remember(self._unsigned(4))
            case b"h":  # BINGET
                push(self._recall(self._unsigned(1)))
            case b"j":  # LONG_BINGET
                push(self._recall(self._unsigned(4)))
            case b"c":  # GLOBAL
                module = self._line()
                push(self._global(module, self._line()))
            case b"\x93":  # STACK_GLOBAL
                name, module = self._pop(), self._pop()
                push(self._global(module, name))
            case b"R":  # REDUCE
                arguments, function = self._pop(), self._pop()
                push(self._reduce(function, arguments))
            case b"b":  # BUILD
                state, target = self._pop(), self._pop()
                if not isinstance(target, (_Array, _Dtype)):
                    raise BitstreamError("the pickle gives a state to something that has none")
                target.set_state(state)
                push(target)
            case _:
                raise BitstreamError(f"the pickle holds operation {opcode!r}, which has no place in such a file")

    def _take(self, size: int) -> bytes:
        taken = self._data[self._position : self._position + size]
        if len(taken) < size:
            raise BitstreamError("the file ends early, within its pickle")
        self._position += size
        return taken

    def _unsigned(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise BitstreamError("a string in the pickle is not valid UTF-8") from None

    def _line(self) -> str:
        """Take a name that ends with a newline; none that is allowed has more than 64 bytes."""
        end = self._data.find(b"\n", self._position, self._position + 64)
        if end < 0:
            raise BitstreamError("a name in the pickle has no end")
        line = self._text(end - self._position)
        self._position += 1
        return line

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise BitstreamError("the pickle takes from an empty stack")
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        for position in range(len(self._stack) - 1, -1, -1):
            if self._stack[position] is _MARK:
                items = self._stack[position + 1 :]
                del self._stack[position:]
                return items
        raise BitstreamError("the pickle takes up to a mark that is not there")

    def _append(self, items: list[Any]) -> None:
        target = self._pop()
        if not isinstance(target, list):
            raise BitstreamError("the pickle appends to something that is no list")
        target.extend(items)
        self._stack.append(target)

    def _set_items(self, items: list[Any]) -> None:
        target = self._pop()
        keys, values = items[::2], items[1::2]
        if not isinstance(target, dict) or len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise BitstreamError("the pickle must fill dicts with pairs whose keys are strings")
        target.update(zip(keys, values, strict=True))
        self._stack.append(target)

    def _remember(self, index: int) -> None:
        if index >= _MAX_OPERATIONS:
            raise BitstreamError(f"the pickle asks for memo entry {index}, at most {_MAX_OPERATIONS} are needed")
        self._memo[index] = self._pop()
        self._stack.append(self._memo[index])

    def _recall(self, index: int) -> Any:
        if index not in self._memo:
            raise BitstreamError(f"the pickle asks for memo entry {index}, which is not there")
        return self._memo[index]

    def _global(self, module: object, name: object) -> _Function:
        if isinstance(module, str) and isinstance(name, str) and (module, name) in _GLOBALS:
            return _GLOBALS[module, name]
        shown = f"{module}.{name}"[:100] if isinstance(module, str) and isinstance(name, str) else "a non-string"
        raise BitstreamError(f"the pickle names {shown!r}, which has no place in such a file")

    def _reduce(self, function: object, arguments: object) -> object:
        """Return what stands in for the result of `function(*arguments)`."""
        match function, arguments:
            case _Function.RECONSTRUCT, (_Function.NDARRAY, (0,), b"b"):
                return _Array()
            case _Function.DTYPE, (str(name), False | 0, True | 1) if name == "O8" or _DTYPE.fullmatch(name):
                return _Dtype(name)
            case _Function.SCALAR, (_Dtype() as dtype, bytes(data)):
                scalar = _Array()
                scalar.set_state((1, (), dtype, False, data))
                return scalar
            case _Function.ENCODE, (str(text), "latin1"):
                return self._encode(text)
        raise BitstreamError("the pickle calls something in a way that NumPy's pickles do not")

    def _encode(self, text: str) -> bytes:
        """Return `text` in Latin-1: so protocol 2 spells bytes."""
        self._encode_budget -= len(text)
        if self._encode_budget < 0:
            raise BitstreamError("the pickle encodes more text than it holds")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            raise BitstreamError("the pickle encodes text that is not Latin-1") from None
