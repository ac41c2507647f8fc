"""The sound files of a data set, by split, from folders and manifests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from dac_codec import audio
from dac_codec.common import manifest
from dac_codec.common.errors import AudioError, first_names
from dac_codec.common.files import expanded
from dac_codec.common.manifest import Place, Sound
from dac_codec.common.progress import progress_bar
from dac_codec.common.threads import parallel_map

Source: TypeAlias = Place | Mapping[str, Place | Iterable[Place]]
"""A place, or a mapping from domains to one or more places."""

_VALIDATION_SHARE = 0.02  # of the files of a folder
_READERS = 16  # threads that read headers; they mostly wait for the disk


def find_sounds(
    source: Source, *splits: str, progress: bool = False, least_bandwidth: float = 0.0
) -> tuple[dict[str, list[Sound]], list[str]]:
    """Find the sound files of some splits.

    A folder is searched recursively and has the splits "train" and "val". A file is in "val" if the SHA-256 of its path
    relative to the folder is in the lowest 2% of the range, so that files that are added later do not move it. If all
    files would be in one split, the file with the lowest hash is in "val", or that with the highest in "train"; a
    single file is in "train". The splits of a manifest are in its column `split`.

    Args:
        source: a folder, whose files have the domain "all"; a manifest; or a mapping from domains to folders and
            manifests, whose own domains are then ignored.
        splits: "train", "val", or any other that a manifest has.
        progress: whether to show a progress bar on a terminal while headers are read.
        least_bandwidth: Hz; sounds with a lower bandwidth in their manifest are left out.

    Returns:
        The sounds of each split, in an order that depends only on the source; and the files that cannot be read: path
        and reason of each, in one line.

    Raises:
        AudioError: a place does not exist or is no manifest, a split has no readable file, or two places put a file
            into different splits.
    """
    if not isinstance(source, Mapping):
        if not _is_folder(expanded(source)):
            return {split: manifest.read_split(source, split, least_bandwidth) for split in splits}, []
        source = {"all": source}
    sounds: dict[str, list[Sound]] = {}
    unreadable: list[str] = []
    for domain, places in source.items():
        for place in [places] if isinstance(places, str | os.PathLike) else places:
            path = expanded(place)
            if _is_folder(path):
                found, reasons = _scan(path, domain, progress)
                unreadable += reasons
            else:
                rows = manifest.read(path, least_bandwidth)
                found = {name: [replace(one, domain=domain) for one in group] for name, group in rows.items()}
            for name, group in found.items():
                sounds.setdefault(name, []).extend(group)
    _check_apart(sounds)
    if missing := next((split for split in splits if not sounds.get(split)), None):
        places = ", ".join(f"{domain}: {places}" for domain, places in source.items())
        others = first_names(f"{len(group)} in {name!r}" for name, group in sounds.items()) or "none in others"
        reason = f", the first is {unreadable[0]}" if unreadable else ""
        raise AudioError(
            f"data set ({places}): no sound files in the split {missing!r}, {others}, {len(unreadable)} can't be read"
            f"{reason}; a folder needs at least two readable files, one to train on and one to validate on"
        )
    return {split: sounds[split] for split in splits}, unreadable


def _check_apart(sounds: Mapping[str, Iterable[Sound]]) -> None:
    """Raise an AudioError if a file is in two splits, as places may overlap."""
    split_of: dict[str, str] = {}
    for split, group in sounds.items():
        for one in group:
            other = split_of.setdefault(os.path.realpath(one.path), split)
            if other != split:
                raise AudioError(
                    f"{one.path} is in the split {split!r} by one place and in {other!r} by another: "
                    "data.sounds must name each file once"
                )


def _is_folder(path: Path) -> bool:
    """Whether `path` is a folder and not a file. Raises an AudioError if it is neither."""
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a parent can't be entered
        return True
    if os.path.isfile(path):  # noqa: PTH113
        return False
    found = "a broken symbolic link" if os.path.islink(path) else "no such file or folder"  # noqa: PTH114
    raise AudioError(f"{path}: {found}, expected a folder of sound files or a manifest; check the path")


def _scan(folder: Path, domain: str, progress: bool) -> tuple[dict[str, list[Sound]], list[str]]:
    """The readable sounds of a folder by split, sorted by path, and the reasons for the unreadable ones."""
    paths = audio.find_audio(folder)
    results: list[float | str] = []
    with progress_bar(f"reading headers in {folder.name}", len(paths), progress, unit="file") as bar:
        for result in parallel_map(_duration, paths, _READERS):
            results.append(result)
            bar.update()
    durations = zip(paths, results, strict=True)
    sounds = [Sound(path, domain, duration) for path, duration in durations if isinstance(duration, float)]
    hashes = {sound: _hash(sound.path.relative_to(folder)) for sound in sounds}
    n_val = max(1, sum(value < _VALIDATION_SHARE for value in hashes.values()))
    val = set(sorted(sounds, key=lambda sound: hashes[sound])[: min(n_val, len(sounds) - 1)])
    splits: dict[str, list[Sound]] = {"train": [], "val": []}
    for sound in sounds:
        splits["val" if sound in val else "train"].append(sound)
    reasons = [reason for reason in results if isinstance(reason, str)]
    reasons += [f"{path}: {why}" for path, why in audio.find_unreadable(folder)]
    return {name: group for name, group in splits.items() if group}, reasons


def _duration(path: Path) -> float | str:
    """Duration of a file in seconds, or the reason why it cannot be read or is not complete."""
    try:
        with audio.Reader(path) as reader:
            return reader.complete_length() / reader.sample_rate
    except AudioError as error:
        return " ".join(str(error).split())


def _hash(path: Path) -> float:
    """SHA-256 of a relative path as a number in [0, 1), the same on every operating system."""
    digest = hashlib.sha256(path.as_posix().encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
