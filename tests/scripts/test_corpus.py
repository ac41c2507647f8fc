"""benchmarks/corpus.py with a small model and few short sounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import GOLDEN, SCRIPTS

pytest.importorskip("pyarrow")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_row_for_each_number_of_workers() -> None:
    command = [sys.executable, SCRIPTS / "benchmarks" / "corpus.py", "--files", "18x0.05", "--workers", "1"]
    done = subprocess.run(
        [*command, "--model", GOLDEN / "dac_44khz_tiny.pth", "--format", "npz"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    header, _, row = done.stdout.splitlines()
    values = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(values) == header.count("|") - 1
    assert values[:2] == ["1", "18"]
    assert all(float(value) > 0 for value in (*values[2:5], values[6]))
    main, worker = (list(map(float, value.split())) for value in values[7:])
    assert len(main) == len(worker) == 4
    assert min(*main, *worker) > 50
