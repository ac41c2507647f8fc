"""compare_quantizers.py: fits what is missing, and prints tables."""

from __future__ import annotations

import doctest
from pathlib import Path

from tests.conftest import SCRIPTS, load_script
from tests.processes import python


def test_results_are_continued_and_printed(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        done = python(SCRIPTS / "compare_quantizers.py", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    fit = ("fit", "r.csv", "--sources", "gauss-4", "--bits", "8", "--train", "160", "--test", "80")
    first = run(*fit)
    assert "gauss-4\t8\tk-means\t8.00" in first
    results = (tmp_path / "r.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in results if ",tree," not in line]
    (tmp_path / "r.csv").write_text("\n".join(kept) + "\n", encoding="utf-8")
    assert [line.split("\t")[2] for line in run(*fit).splitlines()] == ["tree"]
    table = run("tables", "r.csv", "--details", "8").splitlines()
    assert "| *bound, vectors apart* | 17.45 | 29.49 | 53.57 | 140.87 |" in table
    assert sum(line.startswith("| k-means |") for line in table) == 2


def test_worked_examples() -> None:
    assert doctest.testmod(load_script("compare_quantizers")).failed == 0
