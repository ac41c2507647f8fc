"""How a script ends: one line on standard error for an error, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from dac_codec.common.errors import DacError


def exit_status(main: Callable[[], int | None], also: tuple[type[Exception], ...] = ()) -> int:
    """Run a script's `main`, and report an expected error in one line on standard error, without a traceback.

    `DacError`, `OSError`, `MemoryError`, a missing package and the exceptions in `also` are expected.

    Returns:
        What `main` returns (None is 0); 1 after an error, 130 after Ctrl-C.
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
