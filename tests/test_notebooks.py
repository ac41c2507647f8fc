"""The cells of the notebooks run, one after the other, in a folder of their own and without Jupyter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


class Audio:
    """Stands in for IPython's player; `played` has the duration in seconds of each sound."""

    played: list[float] = []  # noqa: RUF012

    def __init__(self, data: Any, rate: int) -> None:
        samples = np.asarray(data)
        assert np.isfinite(samples).all()
        assert 0.01 < abs(samples).max() < 2
        self.played.append(samples.shape[-1] / rate)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, display = ModuleType("IPython"), ModuleType("IPython.display")
    vars(package).update(version_info=(9, 0))  # for Matplotlib
    vars(display).update(Audio=Audio, display=lambda *objects: None)
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Audio, "played", [])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile("".join(cell["source"]), f"{path.name}, {cell['id']}", "exec"), names)
    assert Audio.played
    assert all(0.4 < seconds < 5 for seconds in Audio.played)


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["fine_tune", "tokens_for_a_language_model", "try_it"]
