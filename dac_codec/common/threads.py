"""Overlapping work: prefetching, pipelines, writing behind, and mapping in parallel.

Every thread has ended when a function of this module returns or its block is left. Reading sound, resampling, networks
and writing release the interpreter lock while they work, so threads are enough.

A thread is stopped cooperatively: `stoppable` sets a flag, and loops over blocks call `check_stop`.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_END: Any = object()


@dataclass
class StopFlag:
    """Set to True, also by a signal handler, to stop the work that looks at it.

    An Event would not do: a second signal while the first one holds its lock would wait forever.
    """

    is_set: bool = False


_stops: ContextVar[tuple[StopFlag, ...]] = ContextVar("stops", default=())
"""Flags that stop the work of this context, and of the threads that it starts here."""


@contextmanager
def stoppable() -> Iterator[StopFlag]:
    """A flag that stops the work within the block, in this thread and those that functions of this module start."""
    stop = StopFlag()
    token = _stops.set((*_stops.get(), stop))
    try:
        yield stop
    finally:
        _stops.reset(token)


def check_stop() -> None:
    """Raise a KeyboardInterrupt if a flag of `stoppable` is set: to be called between two blocks of a file."""
    if any(stop.is_set for stop in _stops.get()):
        raise KeyboardInterrupt


def available_cores() -> int:
    """Cores that this process may use: those of its affinity, or fewer if a control group limits its time on them."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(n_cores, _cpu_quota())))


def _cpu_quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """CPUs that the control groups of this process (Linux, version 1 or 2) allow; infinity without a limit."""
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return math.inf
    quota = math.inf
    for _, controllers, path in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        # In a container, the path may be that of the host, and the group itself is at the top.
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(top):
                quota = min(quota, _quota_of(place, bool(controllers)))
    return quota


def _quota_of(folder: Path, first_version: bool) -> float:
    """CPUs that a control group allows."""
    try:
        if first_version:
            limit, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        else:
            limit, period = (folder / "cpu.max").read_text().split()
        return float(limit) / float(period) if limit.isdecimal() and float(period) > 0 else math.inf
    except (OSError, ValueError):
        return math.inf


@contextmanager
def _one_thread(start: Callable[[], object] = int) -> Iterator[ThreadPoolExecutor]:
    """A pool of one thread, which has called `start`: the pool would not wait for one whose start is interrupted."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(start).result()
        yield pool


@contextmanager
def prefetch(items: Iterable[T], start: Callable[[], object] = int, n_ahead: int = 1) -> Iterator[Iterator[T]]:
    """The same items, while a thread, which calls `start` first, makes the next `n_ahead`.

    What `items` raises is raised in the place of the item. Leaving the block waits for the item that is being made,
    which `check_stop` ends, and then closes `items` if it is a generator.
    """
    iterator = iter(items)
    stop = StopFlag()
    with _one_thread(start) as pool:
        try:
            yield _prefetched(pool, iterator, stop, n_ahead)
        finally:
            stop.is_set = True
            if hasattr(iterator, "close"):  # in the thread, so after the item that is being made
                pool.submit(copy_context().run, iterator.close).result()


def _prefetched(pool: ThreadPoolExecutor, iterator: Iterator[T], stop: StopFlag, n_ahead: int) -> Iterator[T]:
    def make() -> T:
        _stops.set((*_stops.get(), stop))
        return _END if stop.is_set else next(iterator, _END)

    def submit() -> Future[T]:
        return pool.submit(copy_context().run, make)

    coming = deque(submit() for _ in range(n_ahead))
    while (item := coming.popleft().result()) is not _END:
        coming.append(submit())
        yield item


@contextmanager
def pipeline(
    items: Iterable[Any], functions: Sequence[Callable[[Any], Any]], start: Callable[[], object] = int
) -> Iterator[Iterator[Any]]:
    """The items after all functions, each of which has a thread of its own, as in `prefetch`.

        thread 1    f(a)  f(b)   f(c)   f(d)
        thread 2          g(fa)  g(fb)  g(fc)

    The thread of the first function also makes the items. Each is two items ahead, so that it need not wait for the
    next thread to ask for one.
    """
    with ExitStack() as stack:
        for function in functions:
            items = stack.enter_context(prefetch(map(function, items), start, n_ahead=2))
        yield iter(items)


@contextmanager
def write_behind(call: Callable[[T], object]) -> Iterator[Callable[[T], None]]:
    """The same call, made by a thread; one call at a time, in order.

    What a call raises is raised by the next one, or at the end of the block. Leaving the block waits for the call that
    is being made.
    """
    running: Future[object] | None = None

    def submit(value: T) -> None:
        nonlocal running
        if running is not None:
            running.result()
        running = pool.submit(copy_context().run, call, value)

    with _one_thread() as pool:
        yield submit
        if running is not None:
            running.result()


def parallel_map(work: Callable[[T], R], items: Sequence[T], n_at_once: int) -> Generator[R, None, None]:
    """The result of `work` for each item, in the order of the items.

    `n_at_once` threads call `work` with a copy of the caller's context; if it is 1, the caller's own thread does.

    What `work` raises is raised in the place of its result. After that, or when the generator is closed or interrupted,
    no further item is started, and `check_stop` ends the work on those that are.
    """
    if n_at_once == 1:
        yield from map(work, items)
        return
    stop = StopFlag()

    def one(item: T) -> R:
        _stops.set((*_stops.get(), stop))
        return work(item)

    with ThreadPoolExecutor(n_at_once) as pool:
        results: list[Future[R]] = []
        try:
            for item in items:
                results.append(pool.submit(copy_context().run, one, item))
            for result in results:
                yield result.result()
        finally:
            stop.is_set = True
            for result in results:
                result.cancel()
