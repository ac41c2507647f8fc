"""What C libraries print on the standard descriptors, which would end up between our data and messages.

libsndfile prints "Error A : E1" to standard output for a damaged sample dump, and mpg123 lines to standard error. A
program that owns its process (the command line) wraps its run in `apart`; then `captured` collects what C code prints:

    descriptor 1, 2   C code: standard error, and in a block of `captured` a temporary file
    copies of them    sys.stdout, sys.stderr
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

_MOST_BYTES = 2**16

_lock = threading.Lock()
_sink: io.FileIO | None = None
"""Where C code prints in a block of `captured`; None outside of `apart`."""


@contextmanager
def apart() -> Iterator[None]:
    """Give sys.stdout and sys.stderr descriptors of their own in the block, so that `captured` works.

    What C code prints to standard output goes to standard error. Does nothing where there are no free descriptors.
    """
    global _sink
    if sys.stderr is None:  # it is closed; tqdm requires one
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    with ExitStack() as stack:
        try:
            _sink = stack.enter_context(tempfile.TemporaryFile(buffering=0))
            if stack.enter_context(_copied("stdout", 1)):
                stack.enter_context(_redirected(1, 2))
            stack.enter_context(_copied("stderr", 2))
        except OSError:
            _sink = None
        try:
            yield
        finally:
            with captured():  # flushes the buffers of the C library
                pass
            _sink = None


@contextmanager
def captured() -> Iterator[list[str]]:
    """Collect the lines that C code prints in the block, in the list that is yielded; they are in it after the block.

    Outside of `apart` the list stays empty, and C code prints as usual. One thread at a time can be in a block.
    """
    lines: list[str] = []
    if _sink is None:
        yield lines
        return
    with _lock, ExitStack() as stack:
        for descriptor in (1, 2):
            with suppress(OSError):  # it is closed
                stack.enter_context(_redirected(descriptor, _sink.fileno()))
        try:
            yield lines
        finally:
            with suppress(OSError, AttributeError):
                ctypes.CDLL(None).fflush(None)
            _sink.seek(0)
            text = _sink.read(_MOST_BYTES).decode(errors="replace")
            _sink.truncate(0)
            _sink.seek(0)
            lines += filter(None, map(str.strip, text.splitlines()))


@contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    copy = os.dup(descriptor)
    try:
        os.dup2(target, descriptor)
        yield
    finally:
        os.dup2(copy, descriptor)
        os.close(copy)


@contextmanager
def _copied(name: str, descriptor: int) -> Iterator[bool]:
    """Replace sys.stdout or sys.stderr in the block by a stream with a copy of its descriptor, if it has that one.

    Yields whether it has.
    """
    original: TextIO | None = getattr(sys, name)
    try:
        if original is None or original.fileno() != descriptor:
            raise OSError
        original.flush()
        copy = os.fdopen(
            os.dup(descriptor),
            "w",
            encoding=original.encoding,
            errors=original.errors,
            buffering=1 if name == "stderr" or original.isatty() else -1,
        )
        cast(Any, copy.buffer).raw.name = f"<{name}>"  # instead of the descriptor
    except (AttributeError, OSError, ValueError):  # not a file, as in tests
        yield False
        return
    setattr(sys, name, copy)
    try:
        yield True
    except BaseException:
        with suppress(OSError):  # the writer has reported it
            copy.close()
        raise
    else:
        copy.close()
    finally:
        setattr(sys, name, original)
