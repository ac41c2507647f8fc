"""The command line of training, in a checkout and from a wheel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from dac_codec.training import trainer
from dac_codec.training.__main__ import main
from dac_codec.training.config import TrainConfig

ROOT = Path(__file__).parents[2]


def test_arguments_are_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.argv
    main(["--cfg", "job", "trainer.seed=7"])
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["seed"] == 7
    assert sys.argv is before


def test_a_multirun_trains_once_for_each_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a run, the command line is that of the process, with which Fabric starts the other processes."""
    seeds: list[int] = []

    class NoTrainer:
        def __init__(self, config: TrainConfig) -> None:
            self.seed = config.trainer.seed

        def run(self) -> None:
            assert sys.argv == ["dac-codec", "train"]
            seeds.append(self.seed)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dac-codec", "train"])
    monkeypatch.setattr(trainer, "Trainer", NoTrainer)
    main(["--multirun", "data.sounds=here", "trainer.seed=3,5"])
    assert seeds == [3, 5]


def test_an_unknown_experiment_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["experiment=44kHz"])
    assert exit.value.code == 1
    message = capsys.readouterr().err
    assert "Could not find 'experiment/44kHz'" in message
    assert "44khz-causal" in message
    assert "Traceback" not in message


def test_a_mistyped_experiment_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["experiment=44kHz-causal"])
    assert "there is no experiment=44kHz-causal; did you mean experiment=44khz-causal?" in capsys.readouterr().err
