"""The list of a data set's sounds that `scripts/prepare_data.py` writes: a CSV file, beside which the sounds are."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from dac_codec.common.errors import AudioError
from dac_codec.common.files import expanded

Place: TypeAlias = str | os.PathLike[str]
"""A folder of sound files, or a manifest: a CSV file with the columns path, domain, duration and split, and perhaps
bandwidth."""

_COLUMNS = ("path", "domain", "duration", "split")


@dataclass(frozen=True)
class Sound:
    """A sound file. `duration` is in seconds, by its header or its manifest."""

    path: Path
    domain: str
    duration: float


def read(manifest: Path, least_bandwidth: float = 0.0) -> dict[str, list[Sound]]:
    """The sounds of a manifest by split, each in the manifest's order; paths are relative to the manifest.

    Those whose column "bandwidth" is below `least_bandwidth`, in Hz, are left out; without that column there are none.

    Raises:
        AudioError: no such manifest, or a line of it that makes no sense.
    """
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


def read_split(manifest: Place, split: str, least_bandwidth: float = 0.0) -> list[Sound]:
    """The sounds of one split of a manifest.

    Raises:
        AudioError: as `read`, or there is nothing in that split.
    """
    splits = read(expanded(manifest), least_bandwidth)
    if split not in splits:
        raise AudioError(f"{manifest} has no files in its {split} split, expected one of: {', '.join(splits) or '-'}")
    return splits[split]


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
