"""Train variants of a recipe for a few steps each, and compare their validations in a table.

    python scripts/ablate.py configs/ablations/mini.yaml data.sounds=data/manifest.csv --output runs/ablations

The file lists overrides of `configs/train.yaml`: `common` those of all variants, and `rows` those of each variant by
name. Each row is a run of `scripts/train.py` in its own folder, so that the same command continues an interrupted one.
Several rows run at a time and share the processor's cores. The table has the results of the last validation of each.
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
from dac_codec.common.files import write_file
from dac_codec.common.scripts import exit_status
from dac_codec.common.threads import available_cores

TRAIN = Path(__file__).with_name("train.py")


@dataclass(frozen=True)
class Row:
    """A variant.

    Attributes:
        name: of the variant and of the folder of its run.
        changes: its overrides.
    """

    name: str
    changes: tuple[str, ...]


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """The common overrides of a file of variants, and the variants.

    Raises:
        DacError: the file cannot be read, or has another structure.
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
    """Train a variant, or resume it; one that has ended is left as it is.

    Raises:
        DacError: training failed, or the folder holds a run with other settings.
    """
    settings, wanted = output / f"{row.name}.overrides", "\n".join([*overrides, *row.changes]) + "\n"
    started = (output / row.name).exists() and settings.exists()
    if started and settings.read_text(encoding="utf-8") != wanted:
        raise DacError(f"{row.name}: {output / row.name} was trained with other settings; remove it and {settings}")
    if started and (output / row.name / "model").exists():
        return
    write_file(settings, wanted)
    log = output / f"{row.name}.log"
    command = [sys.executable, str(TRAIN), *overrides, *row.changes, f"trainer.folder={output / row.name}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    with log.open("a", encoding="utf-8") as out:
        status = subprocess.run(command, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode
    if status:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise DacError(f"{row.name}: train.py exited with status {status}: {''.join(last)}")


def result(folder: Path) -> dict[str, float] | None:
    """The last validation of a run, with its `step` and the median `seconds` of a step; None if there is none.

    Raises:
        DacError: the log of the run cannot be read.
    """
    log = folder / "log.jsonl"
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    except (OSError, ValueError, RecursionError) as error:
        raise DacError(f"can't read {log}: {error}") from error
    validations: list[dict[str, float]] = [line for line in lines if "val/mel_distance" in line]
    seconds = [line["step_seconds"] for line in lines if "step_seconds" in line]
    return validations[-1] | {"seconds": statistics.median(seconds or [math.nan])} if validations else None


def table(rows: Sequence[Row], results: Mapping[str, Mapping[str, float] | None]) -> str:
    """The results as a Markdown table, with a row for each variant that has one."""
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
    """Train the variants and print the table. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", type=Path, help="YAML file of variants, such as configs/ablations/mini.yaml")
    parser.add_argument("overrides", nargs="*", help="overrides for all variants, such as data.sounds=/my/sounds")
    parser.add_argument("--output", type=Path, required=True, help="folder for the runs and table.md")
    cores = available_cores()
    parser.add_argument("--jobs", type=int, default=cores, help="variants to train at a time [number of cores]")
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
        except KeyboardInterrupt:  # the runs get it too, save their states and exit
            pool.shutdown(cancel_futures=True)
            return 130
    results = {row.name: result(arguments.output / row.name) for row in rows}
    text = table(rows, results)
    write_file(arguments.output / "table.md", text + "\n")
    print(text)
    for failure in failures:
        print(f"ablate: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
