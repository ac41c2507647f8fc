"""Build a data set of speech, music and effects from sounds that Debian distributes.

    python scripts/prepare_data.py --cache ~/.cache/dac_codec/data

downloads the packages of `packages.py` with `apt-get download` (3.7 GB), unpacks them into the cache without installing
them, and writes there

- manifest.csv: path (relative to the manifest), domain, package, version, licence, duration (seconds), sample_rate,
  bandwidth (Hz: half the sample rate at which the sound was distributed), speaker (of speech), source (of music and
  effects: the piece, or the common name of takes), split;
- duplicates.csv: each pair of files with the same recording, and the reason.

The same command continues an interrupted run. docs/training.md says how sounds are split.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import duplicates
import numpy as np
from duplicates import Landmarks
from packages import PACKAGES, Package
from tqdm import tqdm
from unpack import SUFFIXES, fetch, read_licences

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.common.components import connected_components
from dac_codec.common.errors import AudioError
from dac_codec.common.files import atomic_write

HELD_OUT_BEFORE = 2  # percent of files in each of val and test, in packages that the first bundled model was trained on
HELD_OUT = 10  # percent in other packages
FULL_BAND = 16000  # Hz; music and effects of lower bandwidth are in train
SPLITS = ("train", "val", "test")
DUPLICATE = "duplicate"  # split of held-out speech whose recording is also in an earlier split
COMPARED_AT = 8000  # Hz
SAVE_EVERY = 60  # seconds, while sounds are read
SILENT = 1e-3  # sounds with a lower peak are left out

# Words at the end of a name that mark a version of a piece.
VARIANT = re.compile(
    r"[-_ ](enhanced|remaster|remastered|remake|remix|fast|slow|short|long|full|loop|mono|stereo)$", re.I
)

# Numbers of takes: con_wood_07, swordhit_10a.
NUMBER = re.compile(r"[-_ ]?[0-9]+[a-z]?$")


@dataclass(frozen=True)
class Entry:
    """A row of the manifest."""

    path: str
    domain: str
    package: str
    version: str
    licence: str
    duration: float
    sample_rate: int
    bandwidth: int
    speaker: str
    source: str
    split: str


@dataclass(frozen=True)
class Pair:
    """Indices of two entries with the same recording; first < second.

    The reason is "samples" (equal decoded samples), "sound" (found by `duplicates.py`, with its `likeness`) or "name"
    (two versions of a piece by their names).
    """

    first: int
    second: int
    reason: str
    likeness: float | None


@dataclass(frozen=True)
class Sound:
    """Properties of a sound file.

    Attributes:
        path: relative to the folder of its package.
        n_bytes: size of the file.
        fault: why it cannot be used; "" if it can.
        n_samples: samples of each channel.
        sample_rate: Hz.
        digest: of the decoded samples, which does not depend on the format.
        landmarks: see `duplicates.py`.
    """

    path: str
    n_bytes: int
    fault: str
    n_samples: int
    sample_rate: int
    digest: str
    landmarks: Landmarks


def split_of(path: str, held_out: int = HELD_OUT_BEFORE) -> str:
    """The split of a path by its hash, which does not depend on other files."""
    share = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16) % 100
    return "test" if share < held_out else "val" if share < 2 * held_out else "train"


def read_sounds(package: Package, folder: Path, cache: Path) -> list[Sound]:
    """Read all sounds of an unpacked package, except those that an earlier run has read."""
    kept = cache / f"{package.name}.landmarks.npz"
    known = {sound.path: sound for sound in load(kept)}
    sounds = []
    saved, n_unsaved = time.monotonic(), 0
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    try:
        for file in tqdm(files, desc=package.name, disable=None):
            path, n_bytes = file.relative_to(folder).as_posix(), file.stat().st_size
            if path not in known or known[path].n_bytes != n_bytes:
                known[path] = read_sound(file, path, n_bytes)
                n_unsaved += 1
            sounds.append(known[path])
            if n_unsaved and time.monotonic() - saved > SAVE_EVERY:
                save(kept, list(known.values()))
                saved, n_unsaved = time.monotonic(), 0
    finally:
        if n_unsaved:
            save(kept, list(known.values()))
    return sounds


def read(file: Path) -> tuple[Audio, int]:
    """Read a sound file, or the readable part of a truncated one. Raises an AudioError if there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return audio.read(file, file.name)


def read_sound(file: Path, path: str, n_bytes: int) -> Sound:
    """Read a sound file and compute its properties."""
    nothing = Landmarks(np.zeros(0, np.uint32), np.zeros(0, np.int32))
    try:
        waveform, rate = read(file)
    except AudioError as error:
        return Sound(path, n_bytes, str(error), 0, 0, "", nothing)
    if np.abs(waveform).max() < SILENT:
        return Sound(path, n_bytes, "silent", 0, 0, "", nothing)
    samples = np.round(waveform * 32768).astype("<i4")
    digest = hashlib.sha256(f"{rate} {samples.shape}".encode() + samples.tobytes()).hexdigest()
    return Sound(path, n_bytes, "", waveform.shape[1], rate, digest, duplicates.landmarks(waveform, rate))


def save(kept: Path, sounds: Sequence[Sound]) -> None:
    """Write the properties of sounds to a file, atomically."""
    table = [
        [sound.path, sound.n_bytes, sound.fault, sound.n_samples, sound.sample_rate, sound.digest] for sound in sounds
    ]
    with atomic_write(kept) as partial, partial.open("wb") as file:
        np.savez(
            file,
            version=np.array(duplicates.VERSION),
            table=np.array(json.dumps(table)),
            lengths=np.array([len(sound.landmarks.kinds) for sound in sounds]),
            kinds=np.concatenate([sound.landmarks.kinds for sound in sounds]),
            frames=np.concatenate([sound.landmarks.frames for sound in sounds]),
        )


def load(kept: Path) -> list[Sound]:
    """Read sounds written by `save`; none if there is no such file, or its landmarks are of another version."""
    if not kept.exists():
        return []
    with np.load(kept, allow_pickle=False) as arrays:
        if int(arrays["version"]) != duplicates.VERSION:
            return []
        ends = np.cumsum(arrays["lengths"])[:-1]
        kinds, frames = np.split(arrays["kinds"], ends), np.split(arrays["frames"], ends)
        table = json.loads(str(arrays["table"]))
    return [
        Sound(path, n_bytes, fault, n_samples, rate, digest, Landmarks(*parts))
        for (path, n_bytes, fault, n_samples, rate, digest), *parts in zip(table, kinds, frames, strict=True)
    ]


def entries_of(
    package: Package, version: str, licences: Sequence[tuple[re.Pattern[str], str]], sounds: Sequence[Sound]
) -> list[Entry]:
    """The manifest's rows for the sounds of a package, each in the split of its own speaker or hash."""
    entries = []
    for sound in sounds:
        path = f"{package.name}/{sound.path}"
        domain = next((domain for pattern, domain in package.domains if pattern.search(path)), package.domain)
        upstream = re.sub(*package.upstream, sound.path, count=1)
        licence = next((licence for pattern, licence in reversed(licences) if pattern.match(upstream)), package.licence)
        rate, bandwidth = sound.sample_rate, sound.sample_rate // 2
        speaker = source = ""
        if domain == "speech":
            speaker, split = package.speaker_of(path)
        else:
            source = (Path(path).parent / series(path)).as_posix()
            if package.only_trained_on or bandwidth < FULL_BAND:
                split = "train"
            else:
                split = split_of(path) if package.trained_on else split_of(source, HELD_OUT)
        duration = round(sound.n_samples / rate, 3)
        entries.append(
            Entry(path, domain, package.name, version, licence, duration, rate, bandwidth, speaker, source, split)
        )
    return entries


def original(path: str) -> str:
    """Name of the piece that a file is a version of: "track3" for track3_enhanced.opus."""
    return VARIANT.sub("", Path(path).stem)


def series(path: str) -> str:
    """Common name of the takes of a sound: "con_wood" for con_wood_07.ogg."""
    return NUMBER.sub("", original(path)) or original(path)


def find_pairs(entries: Sequence[Entry], sounds: Sequence[Sound], cache: Path) -> list[Pair]:
    """All pairs of sounds with the same recording; of several equal ones, the pairs with the first."""
    pairs = []
    first_with: dict[str, int] = {}
    for index, sound in enumerate(sounds):
        first = first_with.setdefault(sound.digest, index)
        if first != index:
            pairs.append(Pair(first, index, "samples", 1.0))
    versions: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        versions[entry.package, original(entry.path)].append(index)
    for (_, name), group in versions.items():
        changed = next((index for index in group if Path(entries[index].path).stem != name), None)
        if changed is not None:
            pairs += [
                Pair(min(changed, other), max(changed, other), "name", None) for other in group if other != changed
            ]

    @lru_cache(64)
    def mono(index: int) -> Audio:
        waveform, rate = read(cache / entries[index].path)
        return audio.resample(waveform.mean(0, keepdims=True), rate, COMPARED_AT)

    distinct = list(first_with.values())
    matches = duplicates.find_matches([sounds[index].landmarks for index in distinct])
    for match in tqdm(matches, desc="comparing", disable=None):
        first, second = distinct[match.first], distinct[match.second]
        likeness = duplicates.likeness(mono(first), mono(second))
        if likeness >= duplicates.ALIKE or match.certain:
            pairs.append(Pair(first, second, "sound", round(likeness, 3)))
    return sorted(pairs, key=lambda pair: (pair.first, pair.second, pair.reason))


def keep_together(entries: Sequence[Entry], pairs: Sequence[Pair]) -> list[Entry]:
    """Give all entries of a source or recording, directly or indirectly paired, one split.

    It is the first of train, val and test that any of them has, so that a recording that was trained on is never held
    out, whatever packages are added. Speakers keep their split: speech whose recording is also in an earlier split gets
    the split `DUPLICATE`, which is not used.
    """
    first_of: dict[str, int] = {}
    edges = [(first_of.setdefault(entry.source, index), index) for index, entry in enumerate(entries) if entry.source]
    edges += [(pair.first, pair.second) for pair in pairs]
    splits: defaultdict[int, set[str]] = defaultdict(set)
    groups = connected_components(len(entries), edges)
    for group, entry in zip(groups, entries, strict=True):
        splits[group].add(entry.split)
    chosen = {group: next(split for split in SPLITS if split in found) for group, found in splits.items()}
    return [
        replace(entry, split=DUPLICATE if entry.speaker and entry.split != chosen[group] else chosen[group])
        for group, entry in zip(groups, entries, strict=True)
    ]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV, atomically."""
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def summary(entries: Sequence[Entry]) -> str:
    """Files and hours of the data set by package and domain, and in all, as a Markdown table."""
    groups: defaultdict[tuple[str, str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.package, entry.version, entry.domain].append(entry)
    for entry in entries:
        groups["all", "", entry.domain].append(entry)
    lines = [
        "| package | version | licence | domain | files | train (h) | val (min) | test (min) |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for (package, version, domain), group in groups.items():
        licences = "" if package == "all" else " and ".join(sorted({entry.licence for entry in group}))
        hours = {split: sum(entry.duration for entry in group if entry.split == split) / 3600 for split in SPLITS}
        lines.append(
            f"| {package} | {version} | {licences} | {domain} | {len(group)} | {hours['train']:.2f} "
            f"| {hours['val'] * 60:.1f} | {hours['test'] * 60:.1f} |"
        )
    return "\n".join(lines)


def build(cache: Path) -> None:
    """Build the data set in a folder. Raises an AudioError or an OSError if that fails."""
    entries: list[Entry] = []
    sounds: list[Sound] = []
    for package in PACKAGES:
        folder, version = fetch(package, cache)
        found = read_sounds(package, folder, cache)
        for sound in found:
            if sound.fault:
                print(f"prepare_data: left out {package.name}/{sound.path}: {sound.fault}", file=sys.stderr)
        found = [sound for sound in found if not sound.fault]
        copyright_file = folder / "usr" / "share" / "doc" / package.name / "copyright"
        licences = read_licences(copyright_file.read_text(encoding="utf-8")) if copyright_file.exists() else []
        entries += entries_of(package, version, licences, found)
        sounds += found
    pairs = find_pairs(entries, sounds, cache)
    entries = keep_together(entries, pairs)
    write_table(
        cache / "duplicates.csv",
        ("first", "second", "reason", "likeness", "split"),
        [
            (entries[pair.first].path, entries[pair.second].path, pair.reason, pair.likeness, entries[pair.first].split)
            for pair in pairs
        ],
    )
    write_table(cache / "manifest.csv", [field.name for field in fields(Entry)], [astuple(entry) for entry in entries])
    print(summary(entries))
    print(cache / "manifest.csv")


def main() -> int:
    """Build the data set. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for packages, sounds and the two tables")
    cache = parser.parse_args().cache.expanduser().resolve()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        build(cache)
    except (AudioError, OSError) as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_data: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
