"""The sound files of a folder."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import soundfile

from dac_codec.audio.writing import WRITABLE
from dac_codec.common.errors import AudioError
from dac_codec.common.files import walk_visible

_OTHER_NAMES = (
    *("8svx", "16svx", "aifc", "amb", "bwf", "fap", "iff", "ircam", "mp1", "mp2", "mpga", "nist", "sf", "snd", "sph"),
    *("wave", "wvx"),
)
"""Extensions of readable formats other than libsndfile's names for them."""

_UNREADABLE = (
    *("3ga", "aa", "aa3", "aac", "aax", "ac3", "adts", "alac", "amr", "ape", "at3", "awb", "dff", "dsf", "dts"),
    *("dtshd", "ec3", "eac3", "gsm", "m4a", "m4b", "m4p", "m4r", "mka", "mlp", "mogg", "mp+", "mpc", "ofr", "oma"),
    *("pcm", "qcp", "ra", "ram", "raw", "shn", "spx", "tak", "thd", "tta", "vox", "vqf", "weba", "wma", "wv", "xwma"),
)
"""Extensions of sound that libsndfile does not read. Those of videos are not among them."""

_CONVERT = "sound in a format that can't be read; convert it to wav or flac, for example with ffmpeg"


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """List the sound files in a folder and the folders below it, sorted by path.

    Sound files are those with the extension of a format that libsndfile reads. Hidden files and folders are left out,
    links to folders are followed (see `walk_visible`).

    Raises:
        AudioError: the folder is missing, is not a folder, or part of it can't be listed.
    """
    return [path for path in _walk(folder) if has_sound_suffix(path.name) and path.is_file()]


def has_sound_suffix(name: str) -> bool:
    """Whether a name has the extension of a format that libsndfile reads."""
    return Path(name).suffix.lower() in _readable()


def find_unreadable(folder: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """List the files that `find_audio` leaves out although their names are those of sound files, and why.

    Raises the errors of `find_audio`.
    """
    found = []
    for path in _walk(folder):
        suffix = path.suffix.lower()
        if suffix.removeprefix(".") in _UNREADABLE and not path.is_dir():
            found.append((path, _CONVERT))
        elif suffix in _readable() and not path.is_file() and not path.is_dir():
            found.append((path, "a broken symbolic link" if path.is_symlink() else "not a file"))
    return found


@cache
def _readable() -> set[str]:
    containers = {container.lower() for container in soundfile.available_formats()} - {"raw"}  # raw: no header
    return {f".{extension}" for extension in (*containers, *WRITABLE, *_OTHER_NAMES)}


def _walk(folder: str | os.PathLike[str]) -> list[Path]:
    try:
        return sorted(walk_visible(folder, follow_links=True))
    except OSError as error:
        raise AudioError(
            f"{error.filename or folder}: can't be listed ({error.strerror or error}), expected a folder; "
            "check the path and its access rights"
        ) from error
