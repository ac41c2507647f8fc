"""A run from an autoencoder to the adversary, stopped and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dac_codec.errors import CheckpointError
from dac_codec.model import DAC, DACConfig
from dac_codec.training import checkpoint
from dac_codec.training.loop import DataConfig, LossWeights, Stage, Trainer, TrainerConfig

MODEL = DACConfig(
    encoder_dim=4, encoder_rates=(4, 8), decoder_dim=16, decoder_rates=(8, 4), n_codebooks=3, codebook_size=32
)
LOSS = LossWeights(mel=1.0, waveform=20.0)
SCRIPTS = Path(__file__).parents[2] / "scripts"


def trainer(folder: Path, manifest: Path, *stages: Stage, **options: object) -> Trainer:
    values: dict[str, object] = {
        "batch_size": 2,
        "learning_rate": 2e-3,
        "save_every": 4,
        "validate_every": 1000,
        "codebook_batches": 8,
        "workers": 0,
        "fan_in_init": True,
    }
    data = DataConfig(str(manifest), 8192, {"tones": 1.0, "more": 1.0}, validation_excerpts=2)
    return Trainer(MODEL, data, LOSS, TrainerConfig(str(folder), stages, **(values | options)))  # type: ignore[arg-type]


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_stages_lead_to_a_model_that_loads(tmp_path: Path, manifest: Path) -> None:
    run = trainer(
        tmp_path,
        manifest,
        Stage(60, quantize=False, adversarial=False),
        Stage(100, adversarial=False),
        Stage(101, adversarial=True),
    )
    run.run()
    steps = [line for line in log_of(tmp_path) if "mel" in line]
    assert steps[-1]["mel"] < 0.8 * steps[0]["mel"]
    assert steps[0]["codebook"] == 0.0
    assert steps[-1]["codebook"] > 0.0
    assert log_of(tmp_path)[-1]["val/codebook_use_0"] > 0.1
    model = DAC.from_pretrained(tmp_path / "model")
    assert torch.equal(model.encoder.block[0].bias, run.model.encoder.block[0].bias)


def test_stopped_and_continued_is_the_same_run(tmp_path: Path, manifest: Path) -> None:
    stages = (Stage(4, quantize=False, adversarial=False), Stage(8, adversarial=False))
    whole = trainer(tmp_path / "whole", manifest, *stages)
    whole.run()
    trainer(tmp_path / "parts", manifest, stages[0], replace(stages[1], until=6)).run()
    parts = trainer(tmp_path / "parts", manifest, *stages)
    assert parts.step == 6
    parts.run()
    for one, other in zip(whole.model.state_dict().values(), parts.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_losses_that_are_not_finite_stop_the_run(tmp_path: Path, manifest: Path) -> None:
    run = trainer(tmp_path, manifest, Stage(3, quantize=False, adversarial=False))
    run.model.encoder.block[0].bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="step 1"):
        run.run()
    assert not (tmp_path / "last.pt").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save({"step": 3}, path)
    assert checkpoint.load(path) == {"step": 3}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        checkpoint.load(path)


def test_the_script_saves_when_it_is_terminated(tmp_path: Path, manifest: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPTS / "train.py"),
        "experiment=mini",
        f"data.manifest={manifest}",
        "data.weights=null",
        f"trainer.folder={tmp_path}",
        "trainer.compile=false",
        "trainer.batch_size=1",
        "trainer.save_every=100000",
        "model.encoder_dim=4",
        "model.decoder_dim=32",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    log = tmp_path / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output.decode()
    assert checkpoint.load(tmp_path / "last.pt")["step"] >= 20
    assert b"goes on from there" in output


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.frobnicate=1", "frobnicate"),
        ("model.n_codebooks=0", "n_codebooks"),
        ("data.manifest=none.csv", "none.csv"),
    ],
)
def test_the_script_names_what_is_wrong(tmp_path: Path, override: str, message: str) -> None:
    command = [sys.executable, str(SCRIPTS / "train.py"), "experiment=mini", "data.manifest=none.csv"]
    done = subprocess.run([*command, override], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
