"""Progress on standard error, if requested: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")
Line = Callable[[], str]

_LINE_SECONDS = 60.0
"""Time to the first line, and between two lines."""


class _Lines(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """A disabled bar that writes a line a minute."""

    def __init__(self, line: Line | None, **options: Any) -> None:
        super().__init__(disable=True, **options)
        self._line = line or self._meter
        self._options = {name: value for name, value in options.items() if name in ("unit", "unit_scale", "initial")}
        self._prefix, self._begun = options["desc"] or "", time.monotonic()
        self._said = self._begun
        self._count: float = options.get("initial", 0)

    def update(self, n: float | None = 1) -> None:
        """Advance, and write a line if the last one is a minute old."""
        self._count += n or 0
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS:
            self._said = now
            print(self._line(), file=sys.stderr, flush=True)

    def _meter(self) -> str:
        total: Any = self.total  # may be None, unlike in the stubs
        return self.format_meter(self._count, total, self._said - self._begun, 0, self._prefix, **self._options)


def progress_bar(
    description: str | None, total: int | None, show: bool = True, lines: bool | Line = True, **options: Any
) -> tqdm[Any]:
    """A progress bar, to be used as a context manager and advanced by `update`.

    Args:
        description: label of the bar.
        total: number of units at the end; None if it is not known.
        show: False shows nothing at all.
        lines: whether there is a line a minute where standard error is no terminal, or what makes its text; the bar's
            `disable` is true there.
        options: of `tqdm`, such as `initial`, `unit`, `unit_scale` and `leave`.
    """
    if show and lines and not (sys.stderr is not None and sys.stderr.isatty()):
        return _Lines(lines if callable(lines) else None, desc=description, total=total, **options)
    disable = None if show else True  # None: disabled unless standard error is a terminal
    return tqdm(desc=description, total=total, disable=disable, **options)


def track(items: Iterable[T], size: Callable[[T], int], description: str, total: int | None, show: bool) -> Iterator[T]:
    """Yield the items, and advance a temporary progress bar by the `size` of each when the next is requested."""
    with progress_bar(description, total, show, unit_scale=True, leave=False) as bar:
        for item in items:
            yield item
            bar.update(size(item))
