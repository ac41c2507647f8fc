"""Files that appear whole or not at all, and the visible files of a folder."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")

_searched: set[Path] = set()
"""Folders in which this process has removed abandoned files."""


@contextmanager
def atomic_write(target: Path, keep_partial: bool = False, follow_link: bool = True) -> Iterator[Path]:
    """An empty temporary file beside `target`, which replaces it if the block succeeds and is deleted otherwise.

    The file that a symbolic link points to is replaced, or with `follow_link=False` the link. A temporary file that a
    killed process left is deleted by the next process that writes to the folder.

    Args:
        target: the file to write.
        keep_partial: whether the content is worth keeping after an error or if the process is killed, as of a
            recording: the temporary file then has the visible name of `target` with ".part", and a number where that
            exists. Ctrl-C deletes it.

    Raises:
        OSError: the file can't be created or moved into place, or `target` is a device or a pipe, which is left alone.
    """
    try:
        target = target.resolve() if follow_link else target.parent.resolve() / target.name
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target)) from error
    if is_device(target):
        raise OSError(errno.EEXIST, "exists and is not a file", str(target))
    if target.parent not in _searched:
        _searched.add(target.parent)
        remove_abandoned(target.parent)
    temporary, owned = _partial(target) if keep_partial else _create_owned(target.parent)
    try:
        yield temporary
        temporary.replace(target)
    except BaseException as error:
        if not (keep_partial and owned is None and isinstance(error, Exception)):
            temporary.unlink(missing_ok=True)
        raise
    finally:
        if owned is not None:
            os.close(owned)


def write_file(target: Path, content: str | bytes) -> None:
    """Write bytes, or text as UTF-8, as `atomic_write` does."""
    with atomic_write(target) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write files below a folder, which are moved into place once all are written, in their order.

    Links are replaced: those of a cache of the Hub point to files that other folders share.
    """
    with ExitStack() as stack:
        for name, content in reversed(files.items()):  # the last one to enter the stack leaves it first
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(atomic_write(target, follow_link=False)).write_bytes(content)


def to_json(content: object) -> bytes:
    """Indented JSON in UTF-8."""
    return (json.dumps(content, indent=2) + "\n").encode()


def remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of `atomic_write` in a folder that no living process owns, as far as possible."""
    if fcntl is None:
        return
    with suppress(OSError):
        for path in [path for path in folder.iterdir() if _TEMPORARY.fullmatch(path.name)]:
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                finally:
                    os.close(descriptor)


def _create_owned(folder: Path) -> tuple[Path, int | None]:
    """A new temporary file, and the descriptor whose lock shows that a living process owns it; None without locks."""
    while True:
        # The name doesn't contain the target's, which may already be as long as the file system allows.
        temporary = folder / f".{secrets.token_hex(8)}.tmp"
        temporary.touch(exist_ok=False)
        if fcntl is None:
            return temporary, None
        with suppress(FileNotFoundError):  # until it is locked, another process may remove it as abandoned
            descriptor = os.open(temporary, os.O_RDONLY)
            if _lock(descriptor) and os.fstat(descriptor).st_nlink:
                return temporary, descriptor
            os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock a file, where the file system has locks. Returns whether no other process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _partial(target: Path) -> tuple[Path, int | None]:
    """A new file whose name is that of `target` with ".part"."""
    for number in itertools.count(1):
        path = target.with_name(f"{target.name}.part{'' if number == 1 else number}")
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                break
            raise
        return path, None
    return _create_owned(target.parent)


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
