"""Handling the signals that stop a process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handled_signals(
    handler: Callable[[int], None], *names: str, keep_ignored: bool = True
) -> Iterator[Callable[[], None]]:
    """Call `handler` with the number of each of these signals that arrives within the block.

    Does nothing outside the main thread, which alone can set handlers.

    Args:
        handler: runs in the main thread, between two of its instructions.
        names: such as "SIGINT"; those that the system does not have are left out.
        keep_ignored: whether signals that are ignored, as by nohup or in the background of a script, stay ignored.

    Yields:
        A function that restores the previous handlers before the end of the block.
    """
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    if threading.current_thread() is threading.main_thread():
        for name in names:
            number = getattr(signal, name, None)
            ignored = (None, signal.SIG_IGN) if keep_ignored else (None,)
            if number is not None and signal.getsignal(number) not in ignored:
                previous[number] = signal.signal(number, lambda number, frame: handler(number))
    try:
        yield restore
    finally:
        restore()
