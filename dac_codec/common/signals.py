"""Handling the signals that stop a process, and the end of its parent."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

REPEAT_SECONDS = 1.0
"""A signal that arrives again within this time is taken for the same one, as `timeout` sends two."""

IMPORT_SECONDS = 0.02
"""Time after which a signal that arrives within an import is sent again."""

_blocks: list[object] = []
"""The blocks of `handled_signals` that are entered."""
_handled: dict[int, float] = {}
"""When a signal was handled last in these blocks."""


def pass_on(number: int) -> None:
    """Raise a signal that was handled already, for the handlers that are in place now."""
    _handled.pop(number, None)
    signal.raise_signal(number)


@contextmanager
def handled_signals(
    handler: Callable[[int], None], *names: str, keep_ignored: bool = True
) -> Iterator[Callable[[], None]]:
    """Call `handler` with the number of each of these signals that arrives within the block.

    A signal that is repeated within `REPEAT_SECONDS` is dropped, also after `handler` restored the previous handlers
    if those are of this function. One that arrives within an import is sent again until the import is complete, at the
    latest at the end of the block: the process would abort if `handler` raised an exception while a C++ library is
    initialized.

    Does nothing outside the main thread, which alone can set handlers.

    Args:
        handler: runs in the main thread, between two of its instructions.
        names: such as "SIGINT"; those that the system does not have are left out.
        keep_ignored: whether signals that are ignored, as by nohup or in the background of a script, stay ignored.

    Yields:
        A function that restores the previous handlers before the end of the block.
    """
    previous: dict[int, Any] = {}
    delayed: dict[int, threading.Timer] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    def handle(number: int, frame: FrameType | None) -> None:
        if _within_import(frame):
            delayed[number] = threading.Timer(IMPORT_SECONDS, os.kill, (os.getpid(), number))
            delayed[number].start()
            return
        delayed.pop(number, None)
        now = time.monotonic()
        if now - _handled.get(number, -math.inf) >= REPEAT_SECONDS:
            _handled[number] = now
            handler(number)

    if not _blocks:
        _handled.clear()
    _blocks.append(handle)
    if threading.current_thread() is threading.main_thread():
        for name in names:
            number = getattr(signal, name, None)
            ignored = (None, signal.SIG_IGN) if keep_ignored else (None,)
            if number is not None and signal.getsignal(number) not in ignored:
                previous[number] = signal.signal(number, handle)
    try:
        yield restore
    finally:
        restore()
        _blocks.remove(handle)
        for number, timer in delayed.items():
            timer.cancel()
            handler(number)


def follow_parent() -> None:
    """Leave Ctrl-C to the parent of this process, which `multiprocessing` started, and end when it has ended."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()


def _within_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False
