"""Signals that stop a process, and their repetitions."""

from __future__ import annotations

import importlib
import signal
import time
from pathlib import Path

import pytest

from dac_codec.common import signals
from dac_codec.common.signals import handled_signals

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are POSIX")


def test_a_repeated_signal_is_handled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout -s INT` sends two; the second must not interrupt what the first one began."""
    arrived: list[str] = []
    with handled_signals(lambda _: arrived.append("outer"), "SIGHUP"):
        with handled_signals(lambda _: (arrived.append("inner"), restore()), "SIGHUP") as restore:  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
            assert arrived == ["inner"]
            monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)
            signal.raise_signal(signal.SIGHUP)
        assert arrived == ["inner", "outer"]


def test_another_block_handles_the_same_signal_at_once() -> None:
    arrived: list[int] = []
    for _ in range(2):
        with handled_signals(arrived.append, "SIGHUP", "SIGTERM"):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
    assert arrived == 2 * [signal.SIGHUP, signal.SIGTERM]


def test_a_handled_signal_is_passed_on() -> None:
    """A recording ends its input at a signal, and raises it again once the file is complete."""
    arrived: list[str] = []
    with handled_signals(lambda _: arrived.append("outer"), "SIGHUP"):
        with handled_signals(lambda _: arrived.append("inner"), "SIGHUP"):
            signal.raise_signal(signal.SIGHUP)
        signals.pass_on(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert arrived == ["inner", "outer"]


@pytest.mark.parametrize("wait", [True, False], ids=["later", "at the end of the block"])
def test_a_signal_within_an_import_is_handled_after_it(
    wait: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the middle of it aborts a process that initializes a C++ library."""
    slow = "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.1)\nCOMPLETE = True\n"
    (tmp_path / f"interrupted_{wait}.py").write_text(slow if wait else slow.replace("0.1", "0"))
    monkeypatch.syspath_prepend(tmp_path)
    handled: list[bool] = []
    with handled_signals(lambda number: handled.append(True), "SIGINT", keep_ignored=False):
        assert importlib.import_module(f"interrupted_{wait}").COMPLETE
        assert handled == []
        deadline = time.monotonic() + 10
        while wait and not handled and time.monotonic() < deadline:
            time.sleep(0.01)
        assert handled == [True] * wait
    assert handled == [True]
