"""The script that makes the bundled model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dac_codec.common.manifest import read_split
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


def test_the_stages_of_the_model_for_speech(tmp_path: Path, manifest: Path) -> None:
    made, folder, sounds = "mini", tmp_path / "runs", []
    mixed = manifest.with_name("mixed.csv")
    mixed.write_text(manifest.read_text().replace(",tones,", ",speech,"))
    for result, (module, *arguments) in stages(mixed, folder, [], False, made):
        if module == "dac_codec.training":
            config = config_of(*arguments)
            assert Path(config.trainer.folder) / "model" == result
            assert config.trainer.init_from == made
            assert (config.model.sample_rate, config.model.n_codebooks) == (24000, 18)
        else:
            assert made in arguments
            assert arguments[arguments.index("-o") + 1] == str(result)
            sounds.append(Path(arguments[arguments.index("--sounds") + 1]))
        made = str(result)
    assert made == str(folder / "refitted" / "context.safetensors")
    assert sounds == [folder / "speech.csv"] * 3
    speech = [one for one in read_split(mixed, "train") if one.domain == "speech"]
    assert 0 < len(speech) < len(read_split(mixed, "train"))
    assert read_split(sounds[0], "train") == speech


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
