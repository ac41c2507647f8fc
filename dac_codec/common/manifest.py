"""The manifest of a data set, a CSV file beside its sound files, as `scripts/prepare_data.py` writes it."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from dac_codec.common.errors import AudioError, first_names
from dac_codec.common.files import expanded

Place: TypeAlias = str | os.PathLike[str]
"""A folder of sound files, or a manifest: a CSV file with the columns path, domain, duration, split and, optionally,
bandwidth, speaker and source."""

_MOST = 1e9
"""Upper limit of durations and bandwidths: 32 years, and more than any sample rate."""
_COLUMNS = ("path", "domain", "duration", "split")


@dataclass(frozen=True)
class Sound:
    """A sound file. `duration` is in seconds, as its header or manifest declares.

    `speaker` (of speech) and `source` (of other sounds: the piece or collection) are "" if unknown.
    """

    path: Path
    domain: str
    duration: float
    speaker: str = ""
    source: str = ""


def read(manifest: Path, least_bandwidth: float = 0.0) -> dict[str, list[Sound]]:
    """Read the sounds of a manifest by split, in the manifest's order. Its paths are relative to it.

    Args:
        manifest: its path.
        least_bandwidth: Hz; sounds with a lower value in the column "bandwidth" are left out.

    Raises:
        AudioError: the manifest is missing, or a line is invalid.
    """
    splits: dict[str, list[Sound]] = {}
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
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
            f"{manifest} is not a readable manifest ({error}); scripts/prepare_data.py writes one"
        ) from error
    return splits


def read_split(manifest: Place, split: str, least_bandwidth: float = 0.0) -> list[Sound]:
    """Read the sounds of one split of a manifest.

    Raises:
        AudioError: as for `read`, or the split is empty.
    """
    splits = read(expanded(manifest), least_bandwidth)
    if split not in splits:
        raise AudioError(f"{manifest} has no files in its {split} split, expected one of: {first_names(splits) or '-'}")
    return splits[split]


def _sound(row: Mapping[str, str | None], line: str, folder: Path) -> Sound:
    """The sound in a row; errors call the row `line`."""
    texts = {name: text or "" for name, text in row.items()}
    for name in _COLUMNS:
        if not texts[name]:
            raise AudioError(f"{line}: the column {name!r} is empty; complete the line, or delete it")
        if "\0" in texts[name]:
            raise AudioError(f"{line}: the column {name!r} has a zero byte; correct the line, or delete it")
    duration = _number(row, "duration", line, "seconds")
    return Sound(folder / texts["path"], texts["domain"], duration, texts.get("speaker", ""), texts.get("source", ""))


def _number(row: Mapping[str, str | None], name: str, line: str, unit: str) -> float:
    """The positive number in a column of a row; errors call the row `line`."""
    try:
        value = float(row[name] or "")
    except ValueError:
        value = 0.0
    if not 0.0 < value <= _MOST:
        raise AudioError(f"{line}: the {name} is {row[name]!r}, expected a positive number of {unit}")
    return value
