"""A restricted interpreter for the pickles that NumPy writes of dicts of numbers, strings and arrays.

Unpickling runs whatever code a file names. This interpreter imports and calls nothing: it executes the few pickle
operations (PEP 307, PEP 3154; the module pickletools documents each) that such pickles consist of, with stand-ins for
the few NumPy functions that they name, and refuses everything else.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from dac_codec.common.errors import BitstreamError

MAX_OPERATIONS = 1000
"""Maximum number of operations in a pickle, and of its memo indices; files of descript-audio-codec take about 150."""

_MAX_NAME = 64  # bytes; longer than any allowed name
_ARGUMENTS = {opcode.code.encode("latin-1"): opcode.arg for opcode in pickletools.opcodes}
_NUMBER_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")


# Stand-ins for the functions and classes that a pickle may name. None of them is ever called.
_Function = Enum("_Function", ["RECONSTRUCT", "SCALAR", "NDARRAY", "DTYPE", "ENCODE"])
# Keys in the form of GLOBAL's argument: module, space, name.
_GLOBALS = {
    "numpy.core.multiarray _reconstruct": _Function.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Function.RECONSTRUCT,
    "numpy.core.multiarray scalar": _Function.SCALAR,
    "numpy._core.multiarray scalar": _Function.SCALAR,
    "numpy ndarray": _Function.NDARRAY,
    "numpy dtype": _Function.DTYPE,
    "_codecs encode": _Function.ENCODE,
}


class _Dtype:
    """Stand-in for `numpy.dtype`: a kind and size such as "u2", then, from its state, a byte order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._order: str | None = None

    def set_state(self, state: object) -> None:
        """Set the state given by `numpy.dtype.__reduce__` for a plain type: (3, byte order, ...)."""
        if self._order is not None or not isinstance(state, tuple) or len(state) != 8 or state[0] != 3:
            raise BitstreamError("the state of a dtype is not as NumPy writes it")
        order = state[1]
        if order not in ("<", ">", "|") or (order == "|") != (self.name in ("b1", "i1", "u1", "O8")):
            raise BitstreamError(f"the byte order of dtype {self.name} can't be {order!r}")
        self._order = order

    def resolve(self) -> np.dtype[Any]:
        """Return the numeric NumPy dtype."""
        if self._order is None or not _NUMBER_DTYPE.fullmatch(self.name):
            raise BitstreamError(f"expected an array of numbers, found dtype {self.name}")
        return np.dtype(self._order + self.name)


class Array:
    """Stand-in for `numpy.ndarray`: created empty, then filled once from its state."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] | None = None
        self._dtype = _Dtype("O8")
        self._fortran_order = False
        self._data: object = None

    def set_state(self, state: object) -> None:
        """Set the state given by `numpy.ndarray.__reduce__`: (1, shape, dtype, Fortran order, data)."""
        if self.shape is not None or not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
            raise BitstreamError("the state of an array is not as NumPy writes it")
        _, shape, dtype, fortran_order, data = state
        if not isinstance(shape, tuple) or len(shape) > 3:
            raise BitstreamError("the shape of an array must be a tuple of at most 3 numbers")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise BitstreamError("the shape of an array must consist of non-negative integers")
        if not isinstance(dtype, _Dtype) or not isinstance(fortran_order, bool):
            raise BitstreamError("the state of an array is not as NumPy writes it")
        self.shape, self._dtype, self._fortran_order, self._data = shape, dtype, fortran_order, data

    def values(self) -> npt.NDArray[Any]:
        """Return the NumPy array of numbers; it shares memory with the file."""
        dtype = self._dtype.resolve()
        if self.shape is None or not isinstance(self._data, bytes):
            raise BitstreamError("an array in the file has no data")
        size = math.prod(self.shape) * dtype.itemsize
        if len(self._data) != size:
            raise BitstreamError(f"an array {list(self.shape)} takes {size} bytes, found {len(self._data)}")
        flat: npt.NDArray[Any] = np.frombuffer(self._data, dtype)
        return flat.reshape(self.shape, order="F" if self._fortran_order else "C")

    def item(self) -> object:
        """Return the element of a zero-dimensional array: a Python number, or the object in an object array."""
        if self.shape != ():
            raise BitstreamError("expected an array of a single element")
        if self._dtype.name != "O8":
            return self.values().item()
        if not isinstance(self._data, list) or len(self._data) != 1:
            raise BitstreamError("expected an array of a single object")
        return self._data[0]


def load(data: bytes) -> object:
    """Return the object in the pickle `data`, with arrays and NumPy scalars as `Array`.

    The number of operations is bounded, no operation creates an object larger than its bytes in the file
    (`_codecs.encode`, which does, has a budget), dict keys are strings, and no operation walks through nested objects.

    Raises:
        BitstreamError: the pickle is damaged, or has operations or names that NumPy does not write.
    """
    return _Interpreter(data).run()


_MARK = object()


class _Interpreter:
    """The stack machine of `load`."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._encode_budget = len(data)

    def run(self) -> object:
        for _ in range(MAX_OPERATIONS):
            opcode = self._stream.read(1)
            if opcode == pickle.STOP:
                break
            if not opcode:
                raise BitstreamError("the file ends early, within its pickle")
            # Checked before the argument is read: the readers of other opcodes may take long.
            if opcode not in _OPERATIONS:
                raise BitstreamError(f"the pickle holds operation {opcode!r}, which NumPy does not write here")
            _OPERATIONS[opcode](self, self._argument(opcode))
        else:
            raise BitstreamError(f"the pickle takes more than {MAX_OPERATIONS} operations")
        result = self.pop()
        if self._stack or self._stream.read(1):
            raise BitstreamError("the pickle leaves unused values or bytes")
        return result

    def _argument(self, opcode: bytes) -> Any:
        """Read the argument of `opcode`: None, a number, bytes or a string. Its size is bounded by the file's."""
        try:
            if opcode == pickle.GLOBAL:  # which pickletools reads with backslash escapes, unlike pickle
                return f"{self._line()} {self._line()}"
            argument = _ARGUMENTS[opcode]
            return argument and argument.reader(self._stream)
        except UnicodeDecodeError:
            raise BitstreamError("a string in the pickle is not valid UTF-8") from None
        except ValueError:
            raise BitstreamError("the file ends early, within its pickle") from None

    def _line(self) -> str:
        line = self._stream.readline(_MAX_NAME)
        if not line.endswith(b"\n"):
            raise BitstreamError("a name in the pickle has no end")
        return line[:-1].decode()

    def push(self, value: object) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise BitstreamError("the pickle takes a value from an empty stack")
        return self._stack.pop()

    def pop_many(self, n_items: int) -> list[Any]:
        """Pop `n_items` values; return them in the order in which they were pushed."""
        return [self.pop() for _ in range(n_items)][::-1]

    def pop_to_mark(self) -> list[Any]:
        for position in range(len(self._stack) - 1, -1, -1):
            if self._stack[position] is _MARK:
                items = self._stack[position + 1 :]
                del self._stack[position:]
                return items
        raise BitstreamError("the pickle takes values up to a missing mark")

    def check_protocol(self, protocol: int) -> None:
        if not 2 <= protocol <= 5:
            raise BitstreamError("the pickle must have protocol 2, 3, 4 or 5")

    def append(self, items: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            raise BitstreamError("the pickle appends to an object that is no list")
        target.extend(items)
        self.push(target)

    def set_items(self, items: list[Any]) -> None:
        target = self.pop()
        keys, values = items[::2], items[1::2]
        if not isinstance(target, dict) or len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise BitstreamError("the pickle must fill dicts with pairs whose keys are strings")
        target.update(zip(keys, values, strict=True))
        self.push(target)

    def memoize(self, index: int | None) -> None:
        """Store the top of the stack under `index`, or under the next free one."""
        index = len(self._memo) if index is None else index
        if index >= MAX_OPERATIONS:
            raise BitstreamError(f"the pickle writes memo entry {index}, the limit is {MAX_OPERATIONS}")
        self._memo[index] = self.pop()
        self.push(self._memo[index])

    def recall(self, index: int) -> None:
        if index not in self._memo:
            raise BitstreamError(f"the pickle reads memo entry {index}, which does not exist")
        self.push(self._memo[index])

    def push_global(self, name: str) -> None:
        """Push the stand-in for `name`: module, space, name."""
        if name not in _GLOBALS:
            raise BitstreamError(f"the pickle names {name[:100]!r}, which NumPy does not write here")
        self.push(_GLOBALS[name])

    def push_stack_global(self) -> None:
        module, name = self.pop_many(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise BitstreamError("the pickle uses a name that is no string")
        self.push_global(f"{module} {name}")

    def build(self) -> None:
        target, state = self.pop_many(2)
        if not isinstance(target, (Array, _Dtype)):
            raise BitstreamError("the pickle sets the state of an object that has none")
        target.set_state(state)
        self.push(target)

    def reduce(self) -> None:
        """Push the stand-in for the result of a call."""
        match self.pop_many(2):
            case _Function.RECONSTRUCT, (_Function.NDARRAY, (0,), b"b"):
                self.push(Array())
            case _Function.DTYPE, (str(name), False | 0, True | 1) if name == "O8" or _NUMBER_DTYPE.fullmatch(name):
                self.push(_Dtype(name))
            case _Function.SCALAR, (_Dtype() as dtype, bytes(data)):
                scalar = Array()
                scalar.set_state((1, (), dtype, False, data))
                self.push(scalar)
            case _Function.ENCODE, (str(text), "latin1"):
                self.push(self._encode(text))
            case _:
                raise BitstreamError("the pickle makes a call that NumPy does not write")

    def _encode(self, text: str) -> bytes:
        """Return `text` in Latin-1, which is how protocol 2 stores bytes."""
        self._encode_budget -= len(text)
        if self._encode_budget < 0:
            raise BitstreamError("the pickle encodes more text than it holds")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError:
            raise BitstreamError("the pickle encodes text that is not Latin-1") from None


# What each allowed opcode does, given the interpreter and the argument of the opcode.
_OPERATIONS: dict[bytes, Callable[[_Interpreter, Any], None]] = {
    pickle.PROTO: _Interpreter.check_protocol,
    pickle.FRAME: lambda machine, _: None,  # a hint for readers of streams
    pickle.MARK: lambda machine, _: machine.push(_MARK),
    pickle.NONE: lambda machine, _: machine.push(None),
    pickle.NEWTRUE: lambda machine, _: machine.push(True),
    pickle.NEWFALSE: lambda machine, _: machine.push(False),
    **dict.fromkeys((pickle.BININT1, pickle.BININT2, pickle.BININT, pickle.LONG1, pickle.BINFLOAT), _Interpreter.push),
    **dict.fromkeys((pickle.SHORT_BINBYTES, pickle.BINBYTES), _Interpreter.push),
    **dict.fromkeys((pickle.SHORT_BINUNICODE, pickle.BINUNICODE), _Interpreter.push),
    pickle.EMPTY_TUPLE: lambda machine, _: machine.push(()),
    pickle.TUPLE1: lambda machine, _: machine.push(tuple(machine.pop_many(1))),
    pickle.TUPLE2: lambda machine, _: machine.push(tuple(machine.pop_many(2))),
    pickle.TUPLE3: lambda machine, _: machine.push(tuple(machine.pop_many(3))),
    pickle.TUPLE: lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    pickle.EMPTY_LIST: lambda machine, _: machine.push([]),
    pickle.APPEND: lambda machine, _: machine.append(machine.pop_many(1)),
    pickle.APPENDS: lambda machine, _: machine.append(machine.pop_to_mark()),
    pickle.EMPTY_DICT: lambda machine, _: machine.push({}),
    pickle.SETITEM: lambda machine, _: machine.set_items(machine.pop_many(2)),
    pickle.SETITEMS: lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys((pickle.MEMOIZE, pickle.BINPUT, pickle.LONG_BINPUT), _Interpreter.memoize),
    **dict.fromkeys((pickle.BINGET, pickle.LONG_BINGET), _Interpreter.recall),
    pickle.GLOBAL: _Interpreter.push_global,
    pickle.STACK_GLOBAL: lambda machine, _: machine.push_stack_global(),
    pickle.REDUCE: lambda machine, _: machine.reduce(),
    pickle.BUILD: lambda machine, _: machine.build(),
}
