"""scripts/benchmarks/entropy.py on random codes of a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.pretrained.weights import TINY
from tests.processes import python

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "entropy.py"


def test_random_and_constant_codes(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 1024, (9, 700)).astype(np.int16)
    np.savez(tmp_path / "codes.npz", **{"noise/0": random, "silence/0": np.full_like(random, 7)})
    done = python(SCRIPT, TINY, "--codes", tmp_path / "codes.npz", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    shares = {}
    for line in done.stdout.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "adaptive" and len(cells) == 4:
            shares[cells[1]] = float(cells[2])
    assert shares["noise"] > 0.99
    assert shares["silence"] < 0.1
    assert "ms" in done.stdout
    missing = python(SCRIPT, TINY, "--codes", tmp_path / "missing.npz")
    assert missing.returncode == 1
    assert missing.stderr == "entropy: give --sounds, or --codes with a file that exists\n"
