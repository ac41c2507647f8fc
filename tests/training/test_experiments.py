"""Every experiment of `configs/` trains for a few steps, with a narrow network and discriminators."""

from __future__ import annotations

from pathlib import Path

import pytest

from dac_codec.model import DAC
from dac_codec.training.config import TrainConfig
from dac_codec.training.trainer import Trainer
from tests.training.conftest import log_of
from tests.training.test_config import EXPERIMENTS, config_of, values_of

NARROW = (
    "trainer.accelerator=cpu",
    "trainer.workers=0",
    "trainer.batch_size=2",
    "trainer.compile=false",
    "trainer.init_from=null",
    "trainer.codebook_batches=16",
    "trainer.log_every=1",
    "trainer.validation_examples=0",
    "data.excerpt=0.1",
    "data.weights=null",
    "data.distinct=null",
    "data.validation_clips=1",
    "data.validation_seconds=0.2",
    "model.encoder_dim=2",
    "model.latent_dim=16",
    "model.decoder_dim=64",
    "model.codebook_size=128",
)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_few_steps(experiment: str, tmp_path: Path, manifest: Path) -> None:
    values = values_of(f"experiment={experiment}", f"data.sounds={manifest}", f"trainer.folder={tmp_path}", *NARROW)
    phases = [phase | {"until": index + 1} for index, phase in enumerate(values["trainer"]["phases"])]
    n_steps = phases[-1]["until"] = max(2, len(phases))
    values = values | {
        "trainer": values["trainer"] | {"phases": phases},
        "discriminator": values["discriminator"] | {"periods": [], "fft_sizes": [512]},
    }
    Trainer(TrainConfig.parse(values)).run()
    steps = [line for line in log_of(tmp_path) if "val/mel_distance" not in line]
    assert [line["step"] for line in steps] == list(range(1, n_steps + 1))
    assert "mel" in steps[-1]


@pytest.mark.parametrize(
    ("name", "experiments"),
    [("dac-mini-44khz", ["mini", "mini-gpu", "mini-decoder"]), ("speech", ["speech"])],
)
def test_bundled_weights_have_the_network_of_their_experiments(name: str, experiments: list[str]) -> None:
    for experiment in experiments:
        assert config_of(f"experiment={experiment}").model == DAC.from_pretrained(name).config
