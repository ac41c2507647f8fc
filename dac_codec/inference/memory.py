"""Freed memory kept for reuse, in inference and in training."""

from __future__ import annotations

import ctypes
from functools import lru_cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # Parameter numbers of mallopt in the GNU C library's malloc.h.
_KEPT_BYTES = 1 << 28
_MAX_BLOCK_BYTES = (1 << 26, 1 << 25)
"""Tried in order: usual builds of the library accept at most 32 MiB."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Make this process keep up to 256 MiB of freed memory, in blocks of up to 64 or 32 MiB, for reuse.

    A signal in the network takes a thousand blocks of a few MiB. By default the GNU C library returns such blocks to
    the system, which clears each page before it is used again: up to a tenth of the time. Other C libraries are left
    as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # No such function, or no C library to load, as on Windows.
        return
    # The trim threshold alone would turn off the default threshold's growth: blocks from 128 KiB would not be kept.
    if any(mallopt(_MMAP_THRESHOLD, size) for size in _MAX_BLOCK_BYTES):
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
