"""Progress is shown if requested: a bar on a terminal, elsewhere a line a minute."""

from __future__ import annotations

import io
import sys

import pytest

from dac_codec.common.progress import progress_bar, track


class Stderr(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(("terminal", "show"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_bar_is_shown_on_a_terminal_if_requested(terminal: bool, show: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert list(track([b"ab", b"c", b""], len, "encoding", 3, show)) == [b"ab", b"c", b""]
    with progress_bar("loading", 10, show, initial=4, unit="B") as bar:
        bar.update(6)
    assert ("encoding" in stderr.getvalue(), "10/10" in stderr.getvalue()) == (terminal and show,) * 2
    assert (terminal and show) or not stderr.getvalue()


def test_the_bar_advances_when_the_next_item_is_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(terminal=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr("tqdm.tqdm.update", lambda _, n: updates.append(n))
    updates: list[int] = []
    items = track(["one", "three"], len, "counting", None, show=True)
    next(items)
    assert updates == []
    next(items)
    assert updates == [3]
    assert list(items) == []
    assert updates == [3, 5]


@pytest.mark.parametrize("show", [True, False])
def test_without_a_terminal_there_is_a_line_a_minute(show: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Stderr(terminal=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr("dac_codec.common.progress.time.monotonic", lambda: float(next(clock)))
    with progress_bar("encoding", 10, show, unit="file") as bar:
        for _ in range(7):
            bar.update()
    lines = stderr.getvalue().splitlines()
    assert len(lines) == (2 if show else 0)  # after 75 and 150 of 175 s
    assert all("encoding" in line and f"{n}/10" in line for n, line in zip((3, 6), lines, strict=False))
