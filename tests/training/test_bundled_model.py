"""The script that makes the bundled model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SCRIPTS, load_script
from tests.processes import started
from tests.training.test_ablate import SMALL
from tests.training.test_config import config_of

stages = load_script("bundled_model").stages


@pytest.mark.parametrize("trial", [False, True])
def test_the_stages_of_the_bundled_model(tmp_path: Path, trial: bool) -> None:
    made, folder = None, tmp_path / "runs"
    for result, (module, *arguments) in stages(tmp_path / "sounds.csv", folder, ["trainer.workers=1"], trial):
        if module == "dac_codec.training":
            config = config_of(*arguments)
            assert Path(config.trainer.folder) / "model" == result
            assert config.trainer.init_from == (made and str(made))
            assert (config.trainer.n_steps == 2, config.trainer.workers) == (trial, 1)
        else:
            assert str(made) in arguments
            assert arguments[arguments.index("-o") + 1] == str(result)
        made = result
    assert made == folder / "decoder" / "model" / "context.safetensors"


@pytest.mark.parametrize(("send", "number"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)])
def test_a_signal_stops_it_with_its_state(
    tmp_path: Path, manifest: Path, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    """Ctrl-C on a terminal reaches all processes, a scheduler's signal only the first."""
    said, log = tmp_path / "said", tmp_path / "runs" / "mini" / "log.jsonl"
    arguments = (manifest, "-o", tmp_path / "runs", *SMALL)
    with started(SCRIPTS / "bundled_model.py", *arguments, streams=[said, said]) as run:
        while not log.exists() or not log.read_text():
            assert run.is_alive(), said.read_text()
            time.sleep(0.05)
        assert run.pid is not None
        send(run.pid, number)
        run.join(60)
    assert run.exitcode == 128 + number, said.read_text()
    assert list((tmp_path / "runs" / "mini" / "checkpoints").glob("step-*.pt"))
    assert "Traceback" not in said.read_text()
