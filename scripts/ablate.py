"""Train variants of a recipe, each for a short while, and set side by side how good they are.

    python scripts/ablate.py configs/ablations/mini.yaml data.sounds=data/manifest.csv --output runs/ablations

The file names the variants: `common` is what all of them have, and `rows` maps a name to what it changes, both as lists
of overrides of `configs/train.yaml`. Each row is a run of `scripts/train.py` in a folder of its own, so that the same
command goes on where it was stopped. Several rows run at a time, with a share of the processor's cores each. The table
has what the last validation of each found.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm
from yaml import YAMLError  # type: ignore[import-untyped]

from dac_codec.common.errors import DacError
from dac_codec.common.files import atomic_write
from dac_codec.common.scripts import exit_status

TRAIN = Path(__file__).with_name("train.py")


@dataclass(frozen=True)
class Row:
    """A variant.

    Attributes:
        name: also of the folder of its run.
        changes: what it has that others have not.
    """

    name: str
    changes: tuple[str, ...]


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """What all variants have in common, and the variants.

    Raises:
        DacError: the file can't be read, or holds something else.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise DacError(f"can't read the variants of {path}: {error}") from error
    if not isinstance(content, dict) or set(content) != {"common", "rows"} or not isinstance(content["rows"], dict):
        raise DacError(f"{path} must have a list `common` and a mapping `rows`")
    rows = [Row(str(name), tuple(map(str, changes or ()))) for name, changes in content["rows"].items()]
    return [str(one) for one in content["common"] or ()], rows


def train(row: Row, overrides: Sequence[str], output: Path, threads: int) -> None:
    """Run a variant to its end, or from where it was stopped.

    Raises:
        DacError: it fails; its log says why. Or its folder holds a run with other settings.
    """
    settings, wanted = output / f"{row.name}.overrides", "\n".join([*overrides, *row.changes]) + "\n"
    started = (output / row.name).exists() and settings.exists()
    if started and settings.read_text(encoding="utf-8") != wanted:
        raise DacError(f"{row.name}: {output / row.name} was trained with other settings; remove it and {settings}")
    with atomic_write(settings) as temporary:
        temporary.write_text(wanted, encoding="utf-8")
    log = output / f"{row.name}.log"
    command = [sys.executable, str(TRAIN), *overrides, *row.changes, f"trainer.folder={output / row.name}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    with log.open("a", encoding="utf-8") as out:
        status = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode
    if status:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise DacError(f"{row.name}: train.py ended with {status}: {''.join(last)}")


def result(folder: Path) -> dict[str, float] | None:
    """What the last validation of a run found, with its `step` and the `seconds` of a step (median); None without one.

    Raises:
        DacError: the run's log can't be read.
    """
    log = folder / "log.jsonl"
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    except (OSError, ValueError) as error:
        raise DacError(f"can't read {log}: {error}") from error
    validations: list[dict[str, float]] = [line for line in lines if "val/mel_distance" in line]
    seconds = [line["step_seconds"] for line in lines if "step_seconds" in line]
    return validations[-1] | {"seconds": statistics.median(seconds or [math.nan])} if validations else None


def table(rows: Sequence[Row], results: Mapping[str, Mapping[str, float] | None]) -> str:
    """Markdown: a line for each variant that has a result."""
    lines = [
        "| variant | what it changes | steps | s a step | mel distance | STFT distance | SI-SDR (dB) | least entropy |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if (found := results.get(row.name)) is None:
            continue
        entropy = min((value for name, value in found.items() if name.startswith("val/codebook_entropy")), default=None)
        lines.append(
            f"| {row.name} | {' '.join(f'`{change}`' for change in row.changes)} | {found['step']} "
            f"| {found['seconds']:.2f} | {found['val/mel_distance']:.3f} | {found['val/stft_distance']:.3f} "
            f"| {found['val/si_sdr']:.2f} | {'' if entropy is None else f'{entropy:.2f}'} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Train what is not trained yet, and print the table. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path, help="a YAML file, as those of configs/ablations")
    parser.add_argument("overrides", nargs="*", help="for all of them, such as data.sounds=/my/sounds")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and table.md")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=cores, help="how many rows to train at a time")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {arguments.jobs}")
    common, rows = read_rows(arguments.variants)
    arguments.output.mkdir(parents=True, exist_ok=True)
    threads = max(1, cores // arguments.jobs)
    failures = []
    with (
        ThreadPoolExecutor(arguments.jobs) as pool,
        tqdm(total=len(rows), unit="row", disable=None) as progress,
    ):
        overrides = common + arguments.overrides
        futures = {pool.submit(train, row, overrides, arguments.output, threads): row for row in rows}
        try:
            for future in as_completed(futures):
                progress.update()
                if error := future.exception():
                    failures.append(str(error))
                    rows.remove(futures[future])
        except KeyboardInterrupt:  # Runs get the terminal's Ctrl-C too: they save themselves and end.
            pool.shutdown(cancel_futures=True)
            return 130
    results = {row.name: result(arguments.output / row.name) for row in rows}
    text = table(rows, results)
    with atomic_write(arguments.output / "table.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text)
    for failure in failures:
        print(f"ablate: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
