"""Variants of a recipe are trained one after another, and set side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS, load_script
from tests.training.test_config import config_of
from tests.training.test_experiments import NARROW

ABLATIONS = SCRIPTS.parent / "configs" / "ablations"

VARIANTS = """
common: [experiment=mini, "trainer.stages=[{until: 2, adversarial: false}]", trainer.validate_every=2]
rows:
  as-it-is: []
  louder: [loss.mel=4]
  impossible: [loss.mel=-1]
"""


def test_a_table_of_variants(tmp_path: Path, manifest: Path) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text(VARIANTS)
    command = [sys.executable, str(SCRIPTS / "ablate.py"), str(variants), *NARROW, f"data.sounds={manifest}"]
    command += ["--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    _, _, *lines = done.stdout.splitlines()
    assert [line.split(" | ")[:3] for line in lines] == [["| as-it-is", "", "2"], ["| louder", "`loss.mel=4`", "2"]]
    assert "ablate: impossible: train.py ended with 1: train: loss.mel" in done.stderr
    assert (tmp_path / "out" / "table.md").read_text() == done.stdout

    log = (tmp_path / "out" / "louder" / "log.jsonl").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout
    assert (tmp_path / "out" / "louder" / "log.jsonl").read_text() == log  # nothing was trained twice


@pytest.mark.parametrize("content", ["rows: {}", "rows: []\ncommon: []", "[", "- 1"])
def test_a_file_of_something_else(content: str, tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text(content)
    command = [sys.executable, str(SCRIPTS / "ablate.py"), "variants.yaml", "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("ablate: ")
    assert "Traceback" not in done.stderr
    assert "variants.yaml" in done.stderr


@pytest.mark.parametrize("path", sorted(ABLATIONS.glob("*.yaml")), ids=lambda path: str(path.name))
def test_every_variant_is_a_valid_configuration(path: Path) -> None:
    ablate = load_script("ablate")
    common, rows = ablate.read_rows(path)
    assert len(rows) > 1
    for row in rows:
        config_of(*common, *row.changes)
