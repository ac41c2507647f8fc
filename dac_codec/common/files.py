"""Files that appear whole or not at all, and the visible files of a folder."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """An empty temporary file beside `target`, which replaces it if the block succeeds and is deleted otherwise.

    Symbolic links are followed: the file that they point to is replaced.

    Raises:
        OSError: the file can't be created or moved into place, or `target` is a device or a pipe, which is left alone.
    """
    try:
        target = target.resolve()
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target)) from error
    if is_device(target):
        raise OSError(errno.EEXIST, "exists and is not a file", str(target))
    # The name doesn't contain the target's, which may already be as long as the file system allows.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_device(path: Path) -> bool:
    """Whether `path` is something that can only be written in place: a device or a named pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def expanded(path: str | os.PathLike[str]) -> Path:
    """`path` with a leading `~` or `~user` replaced by the home folder, if that exists."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises where there is no such user


def walk_visible(folder: str | os.PathLike[str], follow_links: bool = False) -> Iterator[Path]:
    """Yield the files in a folder and below it, without hidden files and folders (a leading dot).

    Each folder is visited once, so that links can neither loop nor yield a file twice. Broken links are yielded too.
    With `follow_links`, folders that are symbolic links are entered.

    Raises:
        OSError: `folder` or one below it can't be listed.
    """

    def stop(error: OSError) -> None:
        raise error  # os.walk would ignore it

    visited: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, onerror=stop, followlinks=follow_links):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in files if not name.startswith("."))
