"""Runs as processes: killed, terminated, several at once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from dac_codec.training import checkpoint
from dac_codec.training.checkpoint import Checkpoints
from dac_codec.training.trainer import Trainer
from tests.conftest import SCRIPTS
from tests.processes import python, started
from tests.training.conftest import assert_equal, log_of, small_run
from tests.training.test_config import config_of

ROOT = SCRIPTS.parent
TRAIN, PLOT = SCRIPTS / "train.py", SCRIPTS / "plot_run.py"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TINY = (
    "model.encoder_dim=4",
    "model.encoder_rates=[4,8]",
    "model.decoder_dim=16",
    "model.decoder_rates=[8,4]",
    "model.latent_dim=8",
    "model.n_codebooks=3",
    "model.codebook_size=32",
    "model.quantizer_dropout=0.0",
    "discriminator.periods=[]",
    "discriminator.fft_sizes=[128]",
    "discriminator.bands=[[0.0,1.0]]",
    "data.excerpt=0.05",
    "data.validation_clips=2",
    "data.validation_seconds=0.5",
    "trainer.accelerator=cpu",
    "trainer.fan_in_init=true",
    "trainer.workers=0",
    "trainer.log_every=1",
)


def survive(folder: Path, manifest: Path, kills: int) -> list[int]:
    """Kill a run `kills` times, then let it end. Returns the last saved step at each kill."""
    settings = {"phases": [{"until": 60}], "save_every": 1, "keep_last": 2, "validate_every": 50, "batch_size": 1}
    one_block: dict[str, Any] = {"data": {"excerpt": 0.02}, "model": {"encoder_rates": [32], "decoder_rates": [32]}}
    config = folder.with_suffix(".json")
    config.write_text(json.dumps(small_run(folder, manifest, **one_block, trainer=settings).to_dict()))
    done = python("tests.training.survivor", config, kills, 0, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    survived: list[int] = json.loads(done.stdout)
    return survived


@pytest.mark.slow
def test_killed_twenty_times(tmp_path: Path, manifest: Path) -> None:
    survived = survive(tmp_path / "killed", manifest, kills=20)
    assert len(survived) == 20
    assert survived == sorted(survived), "a kill lost a saved step"
    assert len(set(survived)) >= 15

    assert survive(tmp_path / "whole", manifest, kills=0) == []
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    whole, killed = (Checkpoints(tmp_path / name / "checkpoints", 2).steps()[-1][1] for name in ("whole", "killed"))
    assert_equal(checkpoint.load(whole)["model"], checkpoint.load(killed)["model"])
    left = {path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()}
    assert left == {"step-00000059.pt", "step-00000060.pt", "best.pt"}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path, manifest: Path, optimizer: str) -> None:
    common = (
        f"data.sounds={manifest}", "trainer.phases=[{until: 3}]", "trainer.learning_rate=2e-3",
        f"trainer.optimizer={optimizer}",
    )  # fmt: skip
    Trainer(config_of(*TINY, *common, "trainer.batch_size=4", f"trainer.folder={tmp_path / 'one'}")).run()
    overrides = (
        "trainer.batch_size=2",
        "trainer.devices=2",
        "trainer.strategy=ddp",
        f"trainer.folder={tmp_path / 'two'}",
    )
    done = python(TRAIN, *TINY, *common, *overrides)
    assert done.returncode == 0, done.stderr
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    assert len(one) == len(two) == 4
    for expected, found in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
    for expected, found in zip(one[:3], two[:3], strict=True):
        for key in expected.keys() - {"skipped_files"}:
            tolerance = 2e-2 if key.startswith("gradient") else 1e-3
            assert found[key] == pytest.approx(expected[key], rel=tolerance, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 0), (signal.SIGHUP, 0)])
def test_a_signal_saves_the_state_and_stops(
    tmp_path: Path, manifest: Path, number: signal.Signals, workers: int
) -> None:
    overrides = (f"data.sounds={manifest}", "trainer.folder=run", "trainer.batch_size=1", f"trainer.workers={workers}")
    log, output = tmp_path / "run" / "log.jsonl", tmp_path / "output"
    with started(TRAIN, *TINY, *overrides, streams=[output, output], cwd=tmp_path) as process:
        assert process.pid is not None
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_text()) and time.monotonic() < deadline and process.is_alive():
            time.sleep(0.2)
        os.kill(process.pid, number)
        os.kill(process.pid, number)  # as `timeout` does
        process.join(60)
    assert process.exitcode == 128 + number, output.read_text()
    assert "the same command with resume=auto continues" in output.read_text()
    _, latest = Checkpoints(tmp_path / "run" / "checkpoints", 2).steps()[-1]
    assert checkpoint.load(latest)["step"] == log_of(tmp_path / "run")[-1]["step"]


def test_a_folder_of_sounds_is_enough(tmp_path: Path, manifest: Path) -> None:
    overrides = (f"data.sounds={manifest.parent}", "trainer.phases=[{until: 2}]", "trainer.batch_size=2")
    done = python(TRAIN, *TINY, *overrides, "trainer.folder=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "broken.flac" in done.stdout + done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.frobnicate=1", "frobnicate"),
        ("model.n_codebooks=0", "n_codebooks"),
        ("trainer.seed=1", "nowhere"),
        ("data.sounds=???", "data.sounds"),
        ("experiment=nonsense", "nonsense"),
        pytest.param(
            "trainer.accelerator=cuda",
            "on trainer.accelerator=cuda can't be started",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, override: str, message: str) -> None:
    done = python(TRAIN, *TINY, "data.sounds=nowhere", override, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_overfitting_one_batch(tmp_path: Path, manifest: Path) -> None:
    overrides = (
        "experiment=overfit",
        f"data.sounds={manifest}",
        "trainer.folder=run",
        "trainer.phases=[{until: 20, adversarial: false}]",
        "trainer.codebook_batches=40",
        "trainer.log_every=1",
        "data.excerpt=0.2",
        "model.encoder_dim=8",
        "model.decoder_dim=64",
        "model.latent_dim=32",
    )
    done = python(TRAIN, *overrides, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    mel = [line["mel"] for line in log_of(tmp_path / "run") if "mel" in line]
    assert mel[-1] < 0.4 * mel[0]


def test_the_log_of_a_run_is_plotted(tmp_path: Path, manifest: Path) -> None:
    Trainer(small_run(tmp_path / "run", manifest, trainer={"validate_every": 2})).run()
    done = python(PLOT, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for name in ("curves.png", "codebooks.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")
    done = python(PLOT, tmp_path)
    assert done.returncode == 1
    assert "log.jsonl" in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_and_biases_offline(tmp_path: Path, manifest: Path) -> None:
    """The files of an offline run hold curves, audio and spectrograms."""
    overrides = (f"data.sounds={manifest}", "trainer.phases=[{until: 2}]", "trainer.batch_size=2", "logger=wandb")
    overrides += ("trainer.folder=run", "trainer.validation_examples=1")
    done = python(TRAIN, *TINY, *overrides, cwd=tmp_path, env=ENVIRONMENT | {"WANDB_MODE": "offline"})
    assert done.returncode == 0, done.stderr
    lines = log_of(tmp_path / "run")
    assert len(lines) == 3
    (record,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    content = record.read_bytes()
    for name in (set(lines[0]) | set(lines[-1])) - {"step"}:
        assert name.encode() in content, name
    media = record.parent / "files" / "media"
    (audio,), (spectrogram,) = media.rglob("*.flac"), media.rglob("*.png")
    assert soundfile.info(audio).samplerate == 44100
    assert spectrogram.read_bytes().startswith(b"\x89PNG")
    for key, kind, file in (("audio/00-", "audio-file", audio), ("spectrogram/00-", "image-file", spectrogram)):
        for text in (key, kind, file.name):
            assert text.encode() in content, text
