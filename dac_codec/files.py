"""Files that appear whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty temporary file beside `target`, which takes its place when the block ends well and goes when it doesn't.

    Symbolic links are followed, so that the file that they point to is replaced and they are kept.

    Raises:
        OSError: the file can't be made or put in place.
    """
    target = target.resolve()
    # The name doesn't grow with the target's, which may already be as long as the file system allows.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
