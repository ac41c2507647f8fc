"""Progress bars on standard error: only where it is a terminal, and only if requested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(description: str | None, total: int | None, show: bool = True, **options: Any) -> tqdm[Any]:
    """A progress bar, to be used as a context manager and advanced by `update`.

    Args:
        description: label of the bar.
        total: number of units at the end; None if it is not known.
        show: False shows nothing on a terminal either.
        options: of `tqdm`, such as `initial`, `unit`, `unit_scale` and `leave`.
    """
    disable = None if show else True  # None: disabled unless standard error is a terminal
    return tqdm(desc=description, total=total, disable=disable, **options)


def track(items: Iterable[T], size: Callable[[T], int], description: str, total: int | None, show: bool) -> Iterator[T]:
    """Yield the items, and advance a temporary progress bar by the `size` of each when the next is requested."""
    with progress_bar(description, total, show, unit_scale=True, leave=False) as bar:
        for item in items:
            yield item
            bar.update(size(item))
