"""Downloads and unpacks Debian packages of sounds, for `prepare_data.py`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from fnmatch import translate
from pathlib import Path

from packages import Package
from tqdm import tqdm

from dac_codec.common.errors import AudioError

SUFFIXES = {".ogg", ".opus", ".flac", ".wav", ".aiff"}


def fetch(package: Package, cache: Path) -> tuple[Path, str]:
    """Download and unpack a package unless this was done before.

    Returns:
        The unpacked folder, and the version of the package.

    Raises:
        AudioError: a command failed, or the cache has several versions of the package.
    """
    found = sorted(cache.glob(f"{package.name}_*.deb"))
    if not found:
        print(f"{package.name}: downloading", file=sys.stderr)
        downloading = _emptied(cache / f"{package.name}.downloading")
        run(["apt-get", "download", package.name], downloading)
        for archive in downloading.glob("*.deb"):
            archive.rename(cache / archive.name)
        downloading.rmdir()
        found = sorted(cache.glob(f"{package.name}_*.deb"))
    if len(found) > 1:
        raise AudioError(f"{cache} has {', '.join(path.name for path in found)}: remove all but one")
    archive = found[0]
    version = run(["dpkg-deb", "--field", str(archive), "Version"], cache).strip()
    folder = cache / package.name
    unpacked = folder / ".version"  # version of the unpacked package
    if not unpacked.exists() or unpacked.read_text(encoding="utf-8") != version:
        # The properties of its sounds are removed first: sounds of another version may have the same sizes.
        (cache / f"{package.name}.landmarks.npz").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{package.name}: unpacking", file=sys.stderr)
        unpacking = _emptied(cache / f"{package.name}.unpacking")
        run(["dpkg", "-x", str(archive), str(unpacking)], cache)
        unzip(unpacking)
        decode_g722(unpacking)
        for path in sorted(unpacking.rglob("*")):
            if not path.is_dir() and path.suffix not in SUFFIXES and path.name != "copyright":
                path.unlink()
        (unpacking / unpacked.name).write_text(version, encoding="utf-8")
        unpacking.rename(folder)
    return folder, version


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder and return its output. Raises an AudioError with its last error line if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no error message"]
        raise AudioError(f"{command[0]} failed with status {done.returncode}: {lines[-1]}")
    return done.stdout


def _emptied(folder: Path) -> Path:
    """Create an empty folder, removing the files of an interrupted run."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def unzip(folder: Path) -> None:
    """Unpack the sounds of each zip archive into a folder beside it with the same name."""
    for path in sorted(folder.rglob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if Path(name).suffix in SUFFIXES]
            archive.extractall(path.with_suffix(""), names)


def decode_g722(folder: Path) -> None:
    """Decode each G.722 file (64 kbit/s, without a header: ITU-T G.722) to 16 kHz FLAC beside it."""
    files = sorted(folder.rglob("*.g722"))
    if files and shutil.which("ffmpeg") is None:
        raise AudioError("G.722 files are decoded by ffmpeg, which is not installed; apt-get install ffmpeg")
    for first in tqdm(range(0, len(files), 64), desc="decoding G.722", disable=None):
        command = ["ffmpeg", "-nostdin", "-v", "error"]
        some = files[first : first + 64]
        for file in some:
            command += ["-f", "g722", "-i", str(file)]
        for index, file in enumerate(some):
            command += ["-map", str(index), str(file.with_suffix(".flac"))]
        run(command, folder)


def read_licences(text: str) -> list[tuple[re.Pattern[str], str]]:
    """Path patterns and licences of a copyright file; the last pattern that matches a path counts.

    The format is https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/; files in another format give none.
    """
    if not text.startswith("Format:"):
        return []
    licences = []
    for paragraph in re.split(r"\n(?:[ \t]*\n)+", text):
        values = dict(re.findall(r"^([A-Za-z-]+):((?:.|\n[ \t])*)", paragraph, re.MULTILINE))
        if "Files" in values and "License" in values:
            licence = values["License"].strip().splitlines()[0]
            licences += [(re.compile(translate(glob.replace("[", "[[]"))), licence) for glob in values["Files"].split()]
    return licences
