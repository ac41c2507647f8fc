"""Work in threads: order, limits, errors and stopping."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path

import pytest

from dac_codec.common import threads
from dac_codec.common.threads import check_stop, parallel_map, prefetch, stoppable, write_behind

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("n_ahead", [1, 2])
def test_a_number_of_items_is_prefetched(n_ahead: int) -> None:
    made: list[int] = []
    last = threading.Event()

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            if number == n_ahead:
                last.set()
            yield number

    with prefetch(items(), n_ahead=n_ahead) as numbers:
        assert next(numbers) == 0
        assert last.wait(WAIT_S)
        time.sleep(0.05)
        assert made == list(range(n_ahead + 1))
        assert list(numbers) == [1, 2, 3]


def test_an_error_is_raised_in_the_place_of_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("three")

    with prefetch(items()) as numbers:
        assert (next(numbers), next(numbers)) == (1, 2)
        with pytest.raises(KeyError, match="three"):
            next(numbers)


def test_leaving_early_waits_for_the_current_item_and_closes_the_generator() -> None:
    events: list[str] = []
    begun = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield 1
            begun.set()
            time.sleep(0.1)
            events.append("second made")
            yield 2
        finally:
            events.append("closed")

    with pytest.raises(RuntimeError, match="enough"), prefetch(items()) as numbers:  # noqa: PT012
        next(numbers)
        assert begun.wait(WAIT_S)
        raise RuntimeError("enough")
    assert events == ["second made", "closed"]


def test_calls_are_made_in_order() -> None:
    done: list[int] = []
    go_on = threading.Event()

    def call(number: int) -> None:
        assert go_on.wait(WAIT_S)
        done.append(number)

    with write_behind(call) as begin:
        begin(1)
        assert done == []
        go_on.set()
        for number in range(2, 6):
            begin(number)
    assert done == [1, 2, 3, 4, 5]


def test_the_error_of_a_call_is_raised_by_the_next_or_at_the_end() -> None:
    def call(number: int) -> None:
        if number == 2:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), write_behind(call) as begin:  # noqa: PT012
        begin(1)
        begin(2)
    with pytest.raises(OSError, match="disk full"), write_behind(call) as begin:  # noqa: PT012
        begin(2)
        begin(3)
        pytest.fail("the error came too late")


def test_the_context_is_that_of_the_caller() -> None:
    name = ContextVar("name", default="nobody")
    found: list[str] = []
    name.set("job 3")
    with prefetch(name.get() for _ in range(2)) as names, write_behind(lambda _: found.append(name.get())) as begin:
        for each in names:
            begin(each)
            found.append(each)
    assert found == ["job 3"] * 4


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_results_are_in_order_and_the_limit_is_kept(n_at_once: int) -> None:
    lock = threading.Lock()
    running, most = 0, 0

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02 * (number % 3))
        with lock:
            running -= 1
        return number

    assert list(parallel_map(work, range(12), n_at_once)) == list(range(12))
    assert most == n_at_once


def test_an_error_stops_the_other_items_and_starts_no_more() -> None:
    begun: list[int] = []
    cleaned_up: list[int] = []
    beside = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number == 0:
            assert beside.wait(WAIT_S)
            raise ValueError("zero")
        beside.set()
        try:
            while True:
                check_stop()
                time.sleep(0.001)
        finally:
            cleaned_up.append(number)

    with pytest.raises(ValueError, match="zero"):
        list(parallel_map(work, range(6), 2))
    assert sorted(begun)[:2] == [0, 1]
    assert sorted(begun)[1:] == sorted(cleaned_up)
    assert len(begun) < 6


def test_leaving_early_stops_threads_that_jobs_started() -> None:
    going = threading.Event()

    def endless() -> Iterator[int]:
        while True:
            check_stop()
            going.set()
            yield 1

    def work(item: int) -> None:
        if item:
            with prefetch(endless()) as items:
                for _ in items:
                    pass

    with closing(parallel_map(work, range(2), 2)) as results:
        next(results)
        assert going.wait(WAIT_S)


def test_a_flag_stops_only_the_work_of_its_block() -> None:
    with stoppable() as outer:
        with stoppable() as inner:
            check_stop()
            inner.is_set = True
            with pytest.raises(KeyboardInterrupt):
                check_stop()
        check_stop()
        outer.is_set = True
        with stoppable(), prefetch(iter(check_stop, 0)) as items, pytest.raises(KeyboardInterrupt):
            next(items)
    check_stop()


@pytest.mark.parametrize("n_threads_before", [0, 1])
def test_an_interrupt_while_a_thread_starts_closes_the_generator(
    n_threads_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool doesn't know a thread whose start was interrupted, and doesn't wait for it."""
    start, n_started = threading.Thread.start, 0
    closed: list[int] = []

    def interrupted(thread: threading.Thread) -> None:
        nonlocal n_started
        n_started += 1
        start(thread)
        if n_started == n_threads_before + 1:
            raise KeyboardInterrupt

    def items() -> Iterator[int]:
        try:
            while True:
                time.sleep(0.2)
                yield 1
        finally:
            closed.append(1)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), prefetch(items()) as numbers:  # noqa: PT012
        next(numbers)
        raise KeyboardInterrupt
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(WAIT_S)


def test_an_interrupt_while_threads_start_stops_those_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    start, n_started = threading.Thread.start, 0

    def interrupted(thread: threading.Thread) -> None:
        nonlocal n_started
        n_started += 1
        if n_started == 2:
            raise KeyboardInterrupt
        start(thread)

    def endless(_: int) -> None:
        while True:
            check_stop()
            time.sleep(0.001)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(parallel_map(endless, range(3), 3))


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 0.5),
        ("0::/on/the/host\n", {"cpu.max": "300000 100000"}, 3.0),
        (
            "4:cpu,cpuacct:/x\n3:memory:/\n",
            {"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            2.0,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ("0::/\n", {"cpu.max": "rubbish"}, float("inf")),
        ("0::/\n", {}, float("inf")),
    ],
)
def test_the_quota_of_control_groups(groups: str, files: dict[str, str], expected: float, tmp_path: Path) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, content in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(content)
    assert threads._cpu_quota(tmp_path / "root", tmp_path / "groups") == expected


def test_cores_are_those_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for quota, expected in ((float("inf"), 8), (1.5, 2), (0.2, 1), (16.0, 8)):
        monkeypatch.setattr(threads, "_cpu_quota", lambda quota=quota: quota)
        assert threads.available_cores() == expected
