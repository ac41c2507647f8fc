"""The exceptions of dac_codec, and how a script ends with them.

Everything a user can cause is a `DacError` with one clear sentence in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


class DacError(Exception):
    """Base of every error that dac_codec raises on purpose."""


class BitstreamError(DacError):
    """Bytes that are not a readable .dac file."""


class TruncatedBitstreamError(BitstreamError):
    """A .dac file that ends early: everything before the cut is readable."""


class ModelMismatchError(DacError):
    """A .dac file that was written with other weights than those at hand."""


class AudioError(DacError):
    """Sound that can't be read, written or encoded."""


class CheckpointError(DacError):
    """Weights that can't be found, fetched, read or trusted."""


def exit_status(main: Callable[[], int | None], also: tuple[type[Exception], ...] = ()) -> int:
    """Run a script, and let what ends it be one line on standard error.

    Args:
        main: gives an exit status; None is 0.
        also: other exceptions than this module's, the system's and a package that is missing, that say enough.

    Returns:
        What `main` gives; 1 after an error, 130 after Ctrl-C.
    """
    script = Path(sys.argv[0]).stem
    expected: tuple[type[Exception], ...] = (DacError, OSError, MemoryError, *also)
    try:
        return main() or 0
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        print(f"{script}: {error.name} is not installed: pip install 'dac_codec[train]'", file=sys.stderr)
    except expected as error:
        print(f"{script}: {str(error) or 'not enough memory'}", file=sys.stderr)
    return 1
