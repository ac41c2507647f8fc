"""Build the data set that the bundled model is trained on, from sounds that Debian distributes.

    python scripts/prepare_data.py --cache ~/.cache/dac_codec/data

downloads five Debian packages with `apt-get download`, unpacks them with `dpkg -x` into the cache (nothing is
installed) and writes `manifest.csv` there. Run again, it downloads nothing that is there already and writes the same
manifest. Columns: path (relative to the manifest), domain, package, version, licence, duration (seconds), sample_rate,
split (train 96%, val 2%, test 2%, by a hash of the path).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import subprocess
import sys
from collections import Counter
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import soundfile
from tqdm import tqdm

SUFFIXES = {".ogg", ".opus", ".flac", ".wav"}


@dataclass(frozen=True)
class Package:
    """A Debian package and what its copyright file says of the sounds in it."""

    name: str
    licence: str
    domain: str


PACKAGES = (
    Package("tuxpaint-stamps-default", "GPL-2", "speech"),
    Package("klettres-data", "GPL-2+", "speech"),
    Package("wesnoth-1.16-music", "GPL-2+", "music"),
    Package("warzone2100-music", "GPL-2+", "music"),
    Package("sonic-pi-samples", "CC0-1.0", "effects"),
)

# tuxpaint names a spoken word after its language: cow_desc_fr.ogg, 7_zh_tw.ogg; letters and digits are always spoken.
# What has neither is the cow itself.
SPOKEN = re.compile(r"_desc(_|\.|$)|_[a-z]{2,3}(_[a-zA-Z]{2,6})?(@[a-z]+)?\.(ogg|wav)$|/symbols/(alphabets|math)/")


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
    split: str


def split_of(path: str) -> str:
    """The split that a path falls into: the same on every machine, whatever else is in the set."""
    share = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16) % 100
    return "test" if share < 2 else "val" if share < 4 else "train"


def fetch(package: Package, cache: Path) -> tuple[Path, str]:
    """Download and unpack a package unless that is done. Returns the unpacked folder and the package's version."""
    found = sorted(cache.glob(f"{package.name}_*.deb"))
    if not found:
        subprocess.run(["apt-get", "download", package.name], cwd=cache, check=True, stdout=subprocess.DEVNULL)
        found = sorted(cache.glob(f"{package.name}_*.deb"))
    archive = found[-1]
    version = subprocess.run(
        ["dpkg-deb", "--field", archive, "Version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    folder = cache / package.name
    if not folder.exists():
        unpacking = folder.with_suffix(".unpacking")
        subprocess.run(["dpkg", "-x", archive, unpacking], check=True)
        unpacking.rename(folder)
    return folder, version


def scan(package: Package, version: str, folder: Path, cache: Path) -> tuple[list[Entry], list[str]]:
    """The entries of an unpacked package, and what could not be read."""
    entries, unreadable = [], []
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    for file in tqdm(files, desc=package.name, disable=None):
        path = file.relative_to(cache).as_posix()
        try:
            info = soundfile.info(str(file))
        except soundfile.LibsndfileError as error:
            unreadable.append(f"{path}: {error}")
            continue
        domain = package.domain
        if package.name.startswith("tuxpaint") and not SPOKEN.search(path):
            domain = "effects"
        entries.append(
            Entry(
                path,
                domain,
                package.name,
                version,
                package.licence,
                round(info.frames / info.samplerate, 3),
                info.samplerate,
                split_of(path),
            )
        )
    return entries, unreadable


def main() -> int:
    """Build the data set. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for packages, sounds and manifest.csv")
    cache = parser.parse_args().cache.expanduser().resolve()
    cache.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    for package in PACKAGES:
        try:
            folder, version = fetch(package, cache)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"prepare_data: can't fetch {package.name}: {error}", file=sys.stderr)
            return 1
        found, unreadable = scan(package, version, folder, cache)
        entries += found
        for line in unreadable:
            print(f"prepare_data: skipped {line}", file=sys.stderr)
    manifest = cache / "manifest.csv"
    partial = manifest.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Entry))
        writer.writerows(astuple(entry) for entry in entries)
    partial.replace(manifest)
    minutes: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        minutes[entry.domain, entry.split] += entry.duration / 60  # type: ignore[assignment]
    for (domain, split), total in sorted(minutes.items()):
        print(f"{domain:8} {split:6} {total:7.1f} min")
    print(manifest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
