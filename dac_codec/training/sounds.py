"""The sound files of a data set: from folders or manifests, by domain, in splits."""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tqdm import tqdm

from dac_codec import audio
from dac_codec.errors import AudioError

Place: TypeAlias = str | os.PathLike[str]
"""A folder of sound files, or a manifest: a CSV file with the columns path, domain, duration and split, and perhaps
bandwidth."""

Source: TypeAlias = Place | Mapping[str, Place | Iterable[Place]]
"""One place, or the place or places of each domain."""

VALIDATION_SHARE = 0.02
"""How much of a folder's files is its "val" split."""

_COLUMNS = ("path", "domain", "duration", "split")
_READERS = 16  # threads that read headers: they wait for the disk more than they compute


@dataclass(frozen=True)
class Sound:
    """A sound file. `duration` is in seconds, by its header or its manifest."""

    path: Path
    domain: str
    duration: float


class Found(NamedTuple):
    """The files of a split, and those of all splits that can't be read: each its path and the reason, in one line."""

    sounds: list[Sound]
    unreadable: list[str]


def find_sounds(source: Source, split: str, progress: bool = False, least_bandwidth: float = 0.0) -> Found:
    """Find the sound files of one split.

    A folder is searched with all folders below it, and has the splits "train" and "val". A file is in "val" if the
    SHA-256 of its path, relative to the folder, is among the lowest 2% of all that a hash can be: whatever else is in
    the folder or comes into it later, a file stays where it is. Only where this would leave one of the two without
    any file does the file with the lowest hash go to "val", or the one with the highest to "train"; a file that is
    alone is in "train". A manifest has the splits that its column says.

    Args:
        source: a folder, whose files are all of the domain "all"; or a manifest; or of each domain a folder, a
            manifest (all its sounds then count as that domain), or several of these.
        split: "train" or "val", or what else a manifest has.
        progress: show a progress bar on a terminal while headers are read.
        least_bandwidth: Hz; sounds of which a manifest says that they hold less are left out.

    Returns:
        The sounds, in an order that depends on nothing but the source, and what can't be read.

    Raises:
        AudioError: a place doesn't exist or is no manifest, or nothing that can be read is in the split.
    """
    if not isinstance(source, Mapping) and not _is_folder(Path(source).expanduser()):
        return Found(read_manifest(source, split, least_bandwidth), [])
    if not isinstance(source, Mapping):
        source = {"all": source}
    sounds: dict[str, list[Sound]] = {}
    unreadable: list[str] = []
    for domain, places in source.items():
        for place in [places] if isinstance(places, str | os.PathLike) else places:
            path = Path(place).expanduser()
            if _is_folder(path):
                found, reasons = _scan(path, domain, progress)
                unreadable += reasons
            else:
                rows = _rows(path, least_bandwidth)
                found = {name: [replace(one, domain=domain) for one in group] for name, group in rows.items()}
            for name, group in found.items():
                sounds.setdefault(name, []).extend(group)
    if not sounds.get(split):
        places = source if not isinstance(source, Mapping) else ", ".join(f"{key}: {source[key]}" for key in source)
        others = ", ".join(f"{len(group)} in {name!r}" for name, group in sounds.items()) or "none in others"
        reason = f", the first is {unreadable[0]}" if unreadable else ""
        raise AudioError(
            f"data set ({places}): no sound files in the split {split!r}, {others}, {len(unreadable)} can't be read"
            f"{reason}; a folder needs at least two readable files, one to train on and one to validate on"
        )
    return Found(sounds[split], unreadable)


def read_manifest(manifest: Place, split: str, least_bandwidth: float = 0.0) -> list[Sound]:
    """The files of one split of a manifest, as `scripts/prepare_data.py` writes it; their paths are relative to it.

    Those whose column "bandwidth" is below `least_bandwidth`, in Hz, are left out; without that column there are none.

    Raises:
        AudioError: no such manifest, a line of it that makes no sense, or nothing in that split.
    """
    splits = _rows(Path(manifest).expanduser(), least_bandwidth)
    if split not in splits:
        raise AudioError(f"{manifest} has no files in its {split} split, expected one of: {', '.join(splits) or '-'}")
    return splits[split]


def _is_folder(path: Path) -> bool:
    """Whether `path` is a folder, and not a file. Raises an AudioError if it is neither."""
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a parent can't be entered
        return True
    if os.path.isfile(path):  # noqa: PTH113
        return False
    found = "a broken symbolic link" if os.path.islink(path) else "nothing that can be read"  # noqa: PTH114
    raise AudioError(f"{path}: {found}, expected a folder of sound files or a manifest; check the path")


def _rows(manifest: Path, least_bandwidth: float) -> dict[str, list[Sound]]:
    """The sounds of a manifest that have that bandwidth by split, each in the manifest's order."""
    splits: dict[str, list[Sound]] = {}
    try:
        with manifest.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise AudioError(
                    f"{manifest}, line 1: no column {missing[0]!r}, expected {', '.join(_COLUMNS)}; "
                    "scripts/prepare_data.py writes a manifest"
                )
            for row in reader:
                line = f"{manifest}, line {reader.line_num}"
                sound = _sound(row, line, manifest.parent)
                if "bandwidth" not in row or _number(row, "bandwidth", line, "Hz") >= least_bandwidth:
                    splits.setdefault(row["split"], []).append(sound)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AudioError(
            f"{manifest} is not a manifest that can be read ({error}); scripts/prepare_data.py writes one"
        ) from error
    return splits


def _sound(row: Mapping[str, str | None], line: str, folder: Path) -> Sound:
    """The sound of a manifest's row; `line` is what an error calls it."""
    for name in _COLUMNS:
        if not row[name]:
            raise AudioError(f"{line}: nothing in the column {name!r}; complete the line, or delete it")
    return Sound(folder / (row["path"] or ""), row["domain"] or "", _number(row, "duration", line, "seconds"))


def _number(row: Mapping[str, str | None], name: str, line: str, unit: str) -> float:
    """The positive number in a column of a manifest's row; `line` is what an error calls the row."""
    try:
        value = float(row[name] or "")
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise AudioError(f"{line}: the {name} is {row[name]!r}, expected a positive number of {unit}")
    return value


def _scan(folder: Path, domain: str, progress: bool) -> tuple[dict[str, list[Sound]], list[str]]:
    """The readable sounds of a folder by split, each sorted by path, and the reasons for the unreadable ones."""
    paths = audio.find_audio(folder)
    with ThreadPoolExecutor(_READERS) as pool:
        results = list(
            tqdm(
                pool.map(_duration, paths),
                total=len(paths),
                desc=f"reading headers in {folder.name}",
                unit="file",
                disable=None if progress else True,
            )
        )
    sounds = [
        Sound(path, domain, result) for path, result in zip(paths, results, strict=True) if isinstance(result, float)
    ]
    share = {one.path: _hash(one.path.relative_to(folder)) for one in sounds}
    ranked = sorted(sounds, key=lambda one: share[one.path])
    n_val = sum(value < VALIDATION_SHARE for value in share.values())
    n_val = min(max(1, n_val), len(ranked) - 1) if ranked else 0
    splits = {"train": ranked[n_val:], "val": ranked[:n_val]}
    return (
        {name: sorted(group, key=lambda one: one.path) for name, group in splits.items() if group},
        [result for result in results if isinstance(result, str)],
    )


def _duration(path: Path) -> float | str:
    """Seconds that a file lasts by its header, or why that can't be read."""
    try:
        with audio.opened(path) as file:
            if file.frames <= 0:
                return f"{path}: no samples"
            return float(file.frames / file.samplerate)
    except AudioError as error:
        return str(error)


def _hash(path: Path) -> float:
    """SHA-256 of a relative path as a number in [0, 1), the same on every operating system."""
    digest = hashlib.sha256(path.as_posix().encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
