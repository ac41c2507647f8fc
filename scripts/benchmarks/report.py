"""Markdown tables, figures and files of the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dac_codec.common.files import atomic_write, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def line(cells: Iterable[object]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(head: Sequence[str], rows: Iterable[Iterable[object]] = (), n_left: int = 1) -> str:
    """Return a Markdown table whose first `n_left` columns are aligned left and the others right."""
    rule = "|" + "---|" * n_left + "---:|" * (len(head) - n_left)
    return "\n".join([line(head), rule, *map(line, rows)])


def speed(seconds_of_audio: float, seconds: float) -> str:
    """Return a speed as a multiple of real time."""
    return f"{seconds_of_audio / seconds:.3g}x"


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG. Equal figures make equal files."""
    import matplotlib

    figure.tight_layout()
    with (
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dac_codec"}),
        atomic_write(path) as temporary,
    ):
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def write(path: Path, content: str | dict[str, Any]) -> None:
    """Write text, or a dict as JSON."""
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    write_file(path, text + "\n")
