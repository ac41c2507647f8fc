"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """An empty temporary file beside `target`, which takes its place when the block ends well and goes when it doesn't.

    Symbolic links are followed, so that the file that they point to is replaced and they are kept.

    Raises:
        OSError: the file can't be made or put in place, or what is there is a device or a pipe, which is left alone.
    """
    try:
        target = target.resolve()
    except RuntimeError as error:  # so says Python before 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target)) from error
    if is_device(target):
        raise OSError(errno.EEXIST, "exists and is not a file", str(target))
    # The name doesn't grow with the target's, which may already be as long as the file system allows.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_device(path: Path) -> bool:
    """Whether something is there that can only be written in place: a device or a named pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder in place of a leading `~` or `~user`, where there is one."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no such user
