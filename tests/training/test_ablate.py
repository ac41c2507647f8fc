"""The script that trains variants of a recipe and compares them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS, load_script
from tests.processes import python, started
from tests.training.test_config import config_of
from tests.training.test_experiments import NARROW

ABLATE = SCRIPTS / "ablate.py"
SMALL = (*NARROW, "model.codebook_size=32", "trainer.codebook_batches=8")
ABLATIONS = SCRIPTS.parent / "configs" / "ablations"

VARIANTS = """
common: [experiment=mini, "trainer.phases=[{until: 2, adversarial: false}]", trainer.validate_every=2]
rows:
  as-it-is: []
  louder: [loss.mel=4]
  impossible: [loss.mel=-1]
"""


@pytest.mark.slow
def test_a_table_of_variants(tmp_path: Path, manifest: Path) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text(VARIANTS)
    command = [ABLATE, variants, *SMALL, f"data.sounds={manifest}", "--output", tmp_path / "out"]
    done = python(*command)
    assert done.returncode == 1
    _, _, *lines = done.stdout.splitlines()
    assert [line.split(" | ")[:3] for line in lines] == [["| as-it-is", "", "2"], ["| louder", "`loss.mel=4`", "2"]]
    assert "ablate: impossible: train.py exited with status 1: train: loss.mel" in done.stderr
    assert (tmp_path / "out" / "table.md").read_text() == done.stdout

    # A row with a wrong value has not trained anything, so that it can be corrected; the others can't be changed.
    logs = {name: (tmp_path / "out" / name / "log.jsonl").read_text() for name in ("as-it-is", "louder")}
    variants.write_text(VARIANTS.replace("loss.mel=4", "loss.mel=3").replace("loss.mel=-1", "loss.mel=1"))
    changed = python(*command)
    assert changed.returncode == 1
    assert "ablate: louder: " in changed.stderr
    assert "was trained with other settings" in changed.stderr
    assert [line.split(" | ")[0] for line in changed.stdout.splitlines()[2:]] == ["| as-it-is", "| impossible"]

    variants.write_text(VARIANTS.replace("loss.mel=-1", "loss.mel=1"))
    corrected = python(*command)
    assert corrected.returncode == 0, corrected.stderr
    assert len(corrected.stdout.splitlines()) == 5
    assert corrected.stdout.startswith(done.stdout)
    for name, log in logs.items():
        assert (tmp_path / "out" / name / "log.jsonl").read_text() == log  # nothing is trained twice
    none = python(*command, "--jobs", "0")
    assert none.returncode == 2
    assert "--jobs must be at least 1" in none.stderr


def test_ctrl_c_saves_running_variants_and_starts_no_others(tmp_path: Path, manifest: Path) -> None:
    variants, out = tmp_path / "variants.yaml", tmp_path / "out"
    variants.write_text(
        'common: [experiment=mini, "trainer.phases=[{until: 9999, adversarial: false}]"]\n'
        "rows: {a: [], b: [trainer.seed=1]}\n"
    )
    said = tmp_path / "output"
    arguments = (variants, *SMALL, f"data.sounds={manifest}", "--output", out, "--jobs", "1")
    with started(ABLATE, *arguments, streams=[said, said]) as run:
        while not (out / "a" / "log.jsonl").exists() or not (out / "a" / "log.jsonl").read_text():
            assert run.is_alive()
            time.sleep(0.05)
        assert run.pid is not None
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        run.join(60)
    assert run.exitcode == 130, said.read_text()
    assert list((out / "a" / "checkpoints").glob("step-*.pt"))
    assert not (out / "b").exists()


@pytest.mark.parametrize("content", ["rows: {}", "rows: []\ncommon: []", "[", "- 1"])
def test_a_file_with_another_structure(content: str, tmp_path: Path) -> None:
    (tmp_path / "variants.yaml").write_text(content)
    done = python(ABLATE, "variants.yaml", "--output", "out", cwd=tmp_path)
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
