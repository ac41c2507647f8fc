"""Work that overlaps: the next item while one is in use, writing while the next is made, and jobs side by side.

All threads have ended when what is here is left, however that happens. Reading sound, resampling, networks and writing
give way to other threads while they work, so that threads are enough.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_END: Any = object()

_starting = threading.Lock()
"""Held while a thread starts another one, which for a moment goes by the identity of the first: what interrupts the
first then would end the new one before it begins, and the first would wait for it for ever."""


@contextmanager
def prefetch(items: Iterable[T]) -> Iterator[Iterator[T]]:
    """The same items, where a thread works on the next one while one is in use.

    What `items` raises comes out where the item would have. Leaving the block waits for the item that is under way, and
    then closes `items`, if it is a generator.
    """
    iterator = iter(items)
    try:
        with ThreadPoolExecutor(1) as pool:
            yield _taken(pool, iterator)
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def _taken(pool: ThreadPoolExecutor, iterator: Iterator[T]) -> Iterator[T]:
    def following() -> T:
        return next(iterator, _END)

    def begin() -> Future[T]:
        with _starting:
            return pool.submit(copy_context().run, following)

    coming = begin()
    while (item := coming.result()) is not _END:
        coming = begin()
        yield item


@contextmanager
def write_behind(call: Callable[[T], object]) -> Iterator[Callable[[T], None]]:
    """The same call, which a thread does while its caller goes on; one at a time, in their order.

    What it raises comes out of the next call, or where the block ends. Leaving the block waits for the call that is
    under way.
    """
    under_way: Future[object] | None = None

    def begin(value: T) -> None:
        nonlocal under_way
        if under_way is not None:
            under_way.result()
        with _starting:
            under_way = pool.submit(copy_context().run, call, value)

    with ThreadPoolExecutor(1) as pool:
        yield begin
        if under_way is not None:
            under_way.result()


def parallel_map(work: Callable[[T], R], items: Sequence[T], n_at_once: int) -> Generator[R, None, None]:
    """What `work` makes of each item, in the order of the items.

    Args:
        work: done for one item by a thread, unless `n_at_once` is 1.
        items: what to work on.
        n_at_once: items that are worked on at a time.

    Raises:
        What `work` raises, in its turn. Then, or when the iterator is closed or Ctrl-C comes, what has not begun never
        does, and what is under way gets a KeyboardInterrupt, and the time to clean up.
    """
    if n_at_once == 1:
        yield from map(work, items)
        return
    lock = threading.Lock()
    busy: set[int] = set()

    def one(item: T) -> R:
        ident = threading.get_ident()
        with lock:
            busy.add(ident)
        try:
            return work(item)
        finally:
            with lock:
                busy.discard(ident)

    with ThreadPoolExecutor(n_at_once) as pool:
        results = [pool.submit(one, item) for item in items]
        try:
            for result in results:
                yield result.result()
        finally:
            for result in results:
                result.cancel()
            with lock:
                for ident in busy:
                    _interrupt(ident)


def _interrupt(ident: int) -> None:
    """Raise a KeyboardInterrupt in a thread when it next comes to a step of Python code."""
    with _starting:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(KeyboardInterrupt))
