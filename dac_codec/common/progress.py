"""Progress bars on standard error: only where it is a terminal, and only if requested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(
    description: str | None,
    total: int | None,
    show: bool = True,
    initial: int = 0,
    unit: str = "it",
    scale: bool = False,
    leave: bool = True,
) -> tqdm[Any]:
    """A progress bar, to be used as a context manager and advanced by `update`.

    Args:
        description: label of the bar.
        total: number of units at the end; None if it is not known.
        show: False shows nothing on a terminal either.
        initial: number of units that are done.
        unit: name of a unit.
        scale: whether numbers are abbreviated, such as 1.2M.
        leave: whether the bar stays on the terminal at the end.
    """
    disable = None if show else True  # None: disabled unless standard error is a terminal
    return tqdm(None, description, total, leave, initial=initial, unit=unit, unit_scale=scale, disable=disable)


def track(items: Iterable[T], size: Callable[[T], int], description: str, total: int | None, show: bool) -> Iterator[T]:
    """Yield the items, and advance a temporary progress bar by the `size` of each when the next is requested."""
    with progress_bar(description, total, show, scale=True, leave=False) as bar:
        for item in items:
            yield item
            bar.update(size(item))
