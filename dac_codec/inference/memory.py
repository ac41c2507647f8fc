"""Memory that the network needs again and again, in inference and in training."""

from __future__ import annotations

import ctypes
from functools import lru_cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # The parameters' numbers in malloc.h of the GNU C library.
_KEPT_BYTES = 1 << 28
_LARGEST_KEPT_BYTES = (1 << 26, 1 << 25)
"""To be tried one after the other: 32 MiB are the most that the library takes where it has not been built for more."""


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Have this process keep up to 256 MiB of what it frees, in blocks of up to 64 or 32 MiB, to use it again.

    A signal on its way through the network is some thousand blocks of a few MiB. The GNU C library gives such blocks
    back to the system at once, which fills each page with zeros before it is had again: up to a tenth of the time. With
    any other C library, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # No such function, or no such library, as on Windows.
        return
    # Alone, the second setting would make it worse: blocks from 128 KiB on would then never be kept.
    if any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT_BYTES):
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
