"""Build a data set of speech, music and effects, from sounds that Debian distributes.

    python scripts/prepare_data.py --cache ~/.cache/dac_codec/data

downloads the packages of `packages.py` with `apt-get download` (2.9 GB), unpacks them into the cache (nothing is
installed), and writes there

- manifest.csv: path (relative to the manifest), domain, package, version, licence, duration (seconds), sample_rate,
  bandwidth (Hz: half the sample rate at which the sound was distributed), split;
- duplicates.csv: each pair of files that hold the same recording, and why they count as that.

Every step that is done stays done: interrupt it whenever you like, and run it again to go on. A run with nothing left
to do writes the same two files again.

How sounds are split is told in docs/training.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from fnmatch import translate
from functools import lru_cache
from pathlib import Path

import duplicates
import numpy as np
from duplicates import Landmarks
from packages import PACKAGES, Package
from tqdm import tqdm

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.common.errors import AudioError
from dac_codec.common.files import atomic_write

SUFFIXES = {".ogg", ".opus", ".flac", ".wav", ".aiff"}

HELD_OUT_BEFORE = 2  # percent of the files of packages that the first bundled model heard, for each of val and test
HELD_OUT = 10  # percent of those that came later
FULL_BAND = 16000  # Hz: sounds without anything above a lower frequency are only trained on
SPLITS = ("train", "val", "test")
COMPARED_AT = 8000  # Hz
SAVE_EVERY = 60  # seconds, while sounds are read
SILENT = 1e-3  # a sound that never exceeds this is left out

# Words at the end of a name that tell a version of a piece from the piece.
VARIANT = re.compile(
    r"[-_ ](enhanced|remaster|remastered|remake|remix|fast|slow|short|long|full|loop|mono|stereo)$", re.I
)

# What tells one take from the others: con_wood_07, swordhit_10a.
NUMBER = re.compile(r"[-_ ]?[0-9]+[a-z]?$")


@dataclass(frozen=True)
class Entry:
    """A line of the manifest."""

    path: str
    domain: str
    package: str
    version: str
    licence: str
    duration: float
    sample_rate: int
    bandwidth: int
    split: str


@dataclass(frozen=True)
class Pair:
    """Two entries, by their places, that are the same recording: first < second.

    The reason is "samples" (the same decoded samples), "sound" (`duplicates.py` finds the same in both;
    `likeness` is its) or "name" (two versions of a piece by their names).
    """

    first: int
    second: int
    reason: str
    likeness: float | None


@dataclass(frozen=True)
class Sound:
    """What there is to know of a sound file from its samples.

    Attributes:
        path: relative to its package's folder.
        n_bytes: of the file.
        fault: why it can't be used; "" if it can.
        n_samples: of each channel.
        sample_rate: Hz.
        digest: of the decoded samples, the same for the same samples in any format.
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
    """The split that a path falls into by itself: the same on every machine, whatever else is in the set."""
    share = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16) % 100
    return "test" if share < held_out else "val" if share < 2 * held_out else "train"


def fetch(package: Package, cache: Path) -> tuple[Path, str]:
    """Download and unpack a package unless that is done. Returns the unpacked folder and the package's version.

    Raises:
        AudioError: a command failed, or there are packages of several versions.
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
        raise AudioError(f"{cache} has {', '.join(path.name for path in found)}: leave one of them there")
    archive = found[0]
    version = run(["dpkg-deb", "--field", str(archive), "Version"], cache).strip()
    folder = cache / package.name
    unpacked = folder / ".version"  # of what the folder holds
    if not unpacked.exists() or unpacked.read_text(encoding="utf-8") != version:
        # What is known of its sounds goes first: those of another version may have the same sizes.
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
    """What a command that is run in a folder prints. Raises an AudioError with what it complains of if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or ["it says nothing"]
        raise AudioError(f"{command[0]} failed with status {done.returncode}: {complaint[-1]}")
    return done.stdout


def _emptied(folder: Path) -> Path:
    """A folder with nothing in it, whatever an interrupted run has left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def unzip(folder: Path) -> None:
    """Unpack the sounds of each zip archive into a folder beside it that is named after it."""
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
    """The patterns for paths and the licences of a copyright file, of which the last that fits counts.

    The format is https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/; any other has none.
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


def listen_to_all(package: Package, folder: Path, cache: Path) -> list[Sound]:
    """Read all sounds of an unpacked package, but for those that an earlier run has read."""
    kept = cache / f"{package.name}.landmarks.npz"
    known = {sound.path: sound for sound in load(kept)}
    sounds = []
    saved, n_unsaved = time.monotonic(), 0
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    try:
        for file in tqdm(files, desc=package.name, disable=None):
            path, n_bytes = file.relative_to(folder).as_posix(), file.stat().st_size
            if path not in known or known[path].n_bytes != n_bytes:
                known[path] = listen(file, path, n_bytes)
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
    """Read a sound file; of one that is cut short what there is. Raises an AudioError if that is nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return audio.read(file, file.name)


def listen(file: Path, path: str, n_bytes: int) -> Sound:
    """Read one sound file."""
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
    """Keep what is known of sounds in a file, whole or not at all."""
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
    """The sounds that `save` kept in a file; none if there is no such file, or other landmarks are computed by now."""
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
    """The lines of the manifest for a package's sounds, each in the split that it falls into by itself."""
    entries = []
    for sound in sounds:
        path = f"{package.name}/{sound.path}"
        domain = next((domain for pattern, domain in package.domains if pattern.search(path)), package.domain)
        source = re.sub(*package.source, sound.path, count=1)
        licence = next((licence for pattern, licence in reversed(licences) if pattern.match(source)), package.licence)
        bandwidth = sound.sample_rate // 2
        if package.only_trained_on or bandwidth < FULL_BAND:
            split = "train"
        elif package.heard:
            split = split_of(path)
        else:
            split = split_of((Path(path).parent / series(path)).as_posix(), HELD_OUT)
        duration = round(sound.n_samples / sound.sample_rate, 3)
        entries.append(
            Entry(path, domain, package.name, version, licence, duration, sound.sample_rate, bandwidth, split)
        )
    return entries


def original(path: str) -> str:
    """The name, without extension, of the piece that a file is a version of: "track3" for track3_enhanced.opus."""
    return VARIANT.sub("", Path(path).stem)


def series(path: str) -> str:
    """The name, without extension, that the takes of one sound have in common: "con_wood" for con_wood_07.ogg."""
    return NUMBER.sub("", original(path)) or original(path)


def find_pairs(entries: Sequence[Entry], sounds: Sequence[Sound], cache: Path) -> list[Pair]:
    """All two sounds that are the same recording, and that are a copy of the first of several equal ones."""
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
    """The entries with one split for all that are the same recording, directly or by way of others.

    It is the first of train, val and test that one of them falls into by itself: what was ever trained on is never
    held out, whatever packages come later.
    """
    splits: defaultdict[int, set[str]] = defaultdict(set)
    groups = duplicates.groups(len(entries), [(pair.first, pair.second) for pair in pairs])
    for group, entry in zip(groups, entries, strict=True):
        splits[group].add(entry.split)
    chosen = {group: next(split for split in SPLITS if split in found) for group, found in splits.items()}
    return [replace(entry, split=chosen[group]) for group, entry in zip(groups, entries, strict=True)]


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV, whole or not at all."""
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def summary(entries: Sequence[Entry]) -> str:
    """What the data set holds, by package and domain and in all, as a Markdown table."""
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
    """Build the data set in a folder. Raises an AudioError or an OSError where that can't be done."""
    entries: list[Entry] = []
    sounds: list[Sound] = []
    for package in PACKAGES:
        folder, version = fetch(package, cache)
        found = listen_to_all(package, folder, cache)
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
        print("prepare_data: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
