"""benchmarks/corpus.py with a small model and few short sounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import GOLDEN, SCRIPTS
from tests.processes import python

pytest.importorskip("pyarrow")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_row_for_each_number_of_workers() -> None:
    options = ["--files", "18x0.05", "--workers", "1", "--model", GOLDEN / "dac_44khz_tiny.pth", "--format", "npz"]
    done = python(SCRIPTS / "benchmarks" / "corpus.py", *options)
    assert done.returncode == 0, done.stderr
    header, _, row = done.stdout.splitlines()
    values = [cell.strip() for cell in row.strip("|").split("|")]
    assert len(values) == header.count("|") - 1
    assert values[:2] == ["1", "18"]
    assert all(float(value) > 0 for value in (*values[2:5], values[6]))
    main, worker = (list(map(float, value.split())) for value in values[7:])
    assert len(main) == len(worker) == 4
    assert min(*main, *worker) > 50
