"""The sound files of a folder."""

from __future__ import annotations

import os
from pathlib import Path

import soundfile

from dac_codec.audio.writing import WRITABLE
from dac_codec.common.errors import AudioError


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """List the sound files in a folder and the folders below it, sorted by path.

    Files count by their extension. Hidden files and folders (a leading dot) don't. Links to folders are followed, but
    every folder is visited once, so that links can neither loop nor list a file twice.

    Raises:
        AudioError: the folder is missing, is not a folder, or part of it can't be listed.
    """
    extensions = {f".{extension}" for extension in _readable_extensions()}
    found: list[Path] = []
    visited: set[tuple[int, int]] = set()
    try:
        for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
            status = Path(parent).stat()
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = (Path(parent, name) for name in files if not name.startswith("."))
            found.extend(path for path in paths if path.suffix.lower() in extensions and path.is_file())
    except OSError as error:
        raise AudioError(
            f"{error.filename or folder}: can't be listed ({error.strerror or error}), expected a folder; "
            "check the path and its access rights"
        ) from error
    return sorted(found)


def _raise(error: OSError) -> None:
    """Make os.walk report what it can't list."""
    raise error


def _readable_extensions() -> set[str]:
    """Lower-case file extensions, without dot, of what this libsndfile reads with a header."""
    containers = {container.lower() for container in soundfile.available_formats()} - {"raw"}
    return containers | set(WRITABLE) | {"aifc"}
