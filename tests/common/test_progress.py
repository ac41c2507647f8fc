"""Progress bars are shown on a terminal, if requested, and nowhere else."""

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
