"""The command line of training, in a checkout and from a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from dac_codec.training import trainer
from dac_codec.training.__main__ import main
from dac_codec.training.config import TrainConfig
from tests.training.test_config import EXPERIMENTS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the package's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, folder: Path, *arguments: str) -> str:
    """What `python -m dac_codec.training` prints."""
    return python(site, folder, "-m", "dac_codec.training", *arguments).stdout


def python(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_a_wheel_has_the_configurations(site: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(run(site, tmp_path, "--cfg", "job", "experiment=mini", "data.sounds=here"))
    assert config["data"]["sounds"] == "here"
    assert config["trainer"]["optimizer"] == "muon"
    printed = run(site, tmp_path, "--info", "searchpath")
    assert f"{site}/dac_codec/configs" in printed
    assert str(ROOT / "configs") not in printed
    printed = run(site, tmp_path, "--help")
    assert "dac-codec train" in printed
    for experiment in EXPERIMENTS:
        assert experiment.removeprefix("ablation/") in printed


def test_discriminators_that_a_wheel_leaves_out_are_new_and_in_a_clone(site: Path, tmp_path: Path) -> None:
    code = f"""
import logging, os, torch
from dac_codec import DAC
from dac_codec.model.discriminator import Discriminator
from dac_codec.training.checkpoint import load_pretrained
logging.basicConfig(level=logging.INFO)
os.chdir({str(ROOT)!r})
model, new = DAC.from_pretrained("dac-mini-44khz"), Discriminator(periods=(), fft_sizes=(512,))
bias = new.state_dict()["discriminators.0.conv_post.bias"]
for name in ("dac-mini-44khz", "checkpoints/dac-mini-44khz"):
    before = bias.clone()
    load_pretrained(model, new, name, verbose=True)
    print(torch.equal(before, bias))
"""
    done = python(site, tmp_path, "-c", code)
    assert done.stdout == "True\nFalse\n"
    assert len(done.stderr.splitlines()) == 2
    assert "with random weights, as dac-mini-44khz has none: window 512" in done.stderr
    assert "trainer.init_from=checkpoints/dac-mini-44khz loads them" in done.stderr


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
