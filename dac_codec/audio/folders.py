"""The sound files of a folder."""

from __future__ import annotations

import os
from pathlib import Path

import soundfile

from dac_codec.audio.writing import WRITABLE
from dac_codec.common.errors import AudioError
from dac_codec.common.files import walk_visible


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """List the sound files in a folder and the folders below it, sorted by path.

    Sound files are those with the extension of a format that libsndfile reads. Hidden files and folders are left out,
    links to folders are followed (see `walk_visible`).

    Raises:
        AudioError: the folder is missing, is not a folder, or part of it can't be listed.
    """
    containers = {container.lower() for container in soundfile.available_formats()} - {"raw"}  # raw: no header
    extensions = {f".{extension}" for extension in (*containers, *WRITABLE, "aifc")}
    try:
        found = walk_visible(folder, follow_links=True)
        return sorted(path for path in found if path.suffix.lower() in extensions and path.is_file())
    except OSError as error:
        raise AudioError(
            f"{error.filename or folder}: can't be listed ({error.strerror or error}), expected a folder; "
            "check the path and its access rights"
        ) from error
