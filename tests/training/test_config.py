"""Every configuration in `configs/` is complete and has the paper's values; wrong values are named."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from dac_codec.model.config import PRESETS
from dac_codec.training.config import TrainConfig

CONFIGS = Path(__file__).parents[2] / "configs"
EXPERIMENTS = sorted(
    path.relative_to(CONFIGS / "experiment").with_suffix("").as_posix()
    for path in (CONFIGS / "experiment").rglob("*.yaml")
)


@cache
def values_of(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", ["data.sounds=somewhere", "trainer.folder=run", *overrides])
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def config_of(*overrides: str) -> TrainConfig:
    return TrainConfig.parse(values_of(*overrides))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_is_complete(experiment: str) -> None:
    values = values_of(f"experiment={experiment}")
    config = TrainConfig.parse(values)
    # A setting that a file leaves to its default would be missing from --cfg job.
    assert config.to_dict() == TrainConfig.parse(config.to_dict()).to_dict()
    for section in ("data", "discriminator", "loss", "trainer", "logger"):
        assert values[section].keys() == config.to_dict()[section].keys()


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_have_their_experiments(name: str) -> None:
    config = config_of(f"experiment={name}")
    assert config.model == PRESETS[name]
    loss = config.loss
    weights = (loss.mel, loss.feature_matching, loss.adversarial, loss.codebook, loss.commitment)
    assert weights == (15.0, 2.0, 1.0, 1.0, 0.25)
    assert config.trainer.batch_size == 72
    assert config.trainer.n_steps == 400_000
    assert (config.trainer.learning_rate, config.trainer.decay) == (1e-4, 0.999996)


def test_ablations_differ_from_their_baseline() -> None:
    baseline = config_of("experiment=ablation/baseline")
    assert baseline.trainer.batch_size == 12
    assert baseline.trainer.n_steps == 250_000
    ablations = [name for name in EXPERIMENTS if name.startswith("ablation/") and not name.endswith("/baseline")]
    same = [name for name in ablations if config_of(f"experiment={name}") == baseline]
    assert same == ["ablation/codebook-dim-8", "ablation/dropout-1"]
    assert config_of("experiment=ablation/relu").model.activation == "relu"
    assert config_of("experiment=ablation/no-multi-band").discriminator.bands == ((0.0, 1.0),)
    assert not config_of("experiment=ablation/no-adversary").adversarial
    assert config_of("experiment=ablation/moving-average").model.codebook_dim == 1024


def test_an_excerpt_is_a_whole_number_of_frames() -> None:
    assert config_of().excerpt_length == 33 * 512
    assert config_of("data.excerpt=0.001").excerpt_length == 512


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.batch_size=-3", "trainer.batch_size.*greater than 0.*-3"),
        ("+trainer.frobnicate=1", "trainer.frobnicate: no such setting"),
        ("model.n_codebooks=0", "n_codebooks"),
        ("+model.width=3", "width"),
        ("trainer.precision=fp8", "trainer.precision.*fp8"),
        ("data.weights=sometimes", "data.weights.*sometimes"),
        ("loss.mel_bands=[5]", "mel_bands has 1 scales"),
        ("trainer.phases=[{until: 5},{until: 5}]", "end later"),
        ("trainer.phases=[{until: 5, quantize: 1.5}]", "trainer.phases.0.quantize.*1.5"),
        ("+data.weights={speech: -1.0}", "data.weights.*speech.*greater than or equal to 0"),
        ("data.silence=1.5", "data.silence.*1.5"),
        ("data.speed=1.5", "data.speed.*1.5"),
        ("data.low_pass=-0.5", "data.low_pass.*-0.5"),
        ("data.distinct=0", "data.distinct.*0"),
        ("data.channel=left", "data.channel.*left"),
        ("data.validation_clips=0", "data.validation_clips.*0"),
        ("trainer.seed=-1", "trainer.seed.*-1"),
        ("data.sounds=null", "data.sounds"),
        ("data.least_bandwidth=-1", "data.least_bandwidth"),
    ],
)
def test_a_wrong_value_is_named(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.codebook_batches=1", "trainer.batch_size=4"], "1 batches have 132 latents, too few.* 1024 codebook"),
        (["model.codebook_dim=1"], "model.codebook_dim: .*2 to 1025.*not 1"),
        (["model.codebook_dim=1026"], "model.codebook_dim: .*2 to 1025.*not 1026"),
    ],
)
def test_codebooks_that_k_means_cannot_initialize_are_refused(overrides: list[str], message: str) -> None:
    config_of(*overrides)
    with pytest.raises(ValueError, match=message):
        config_of(*overrides, "trainer.phases=[{until: 5, quantize: false}, {until: 9}]")


def test_moving_averages_do_not_allow_revive_every() -> None:
    with pytest.raises(ValueError, match="revive_every"):
        config_of("experiment=ablation/moving-average", "trainer.revive_every=100")


@pytest.mark.parametrize(
    "change",
    [
        "trainer.revive_every=9",
        "trainer.phases=[{until: 1, fit_codebooks: true}]",
        "experiment=ablation/moving-average",
    ],
)
def test_decoder_only_keeps_the_codebooks(change: str) -> None:
    assert config_of("trainer.decoder_only=true").trainer.decoder_only
    with pytest.raises(ValueError, match="decoder_only keeps the codebooks"):
        config_of("trainer.decoder_only=true", change)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(HydraException, match="frobnicate"):
        config_of("trainer.frobnicate=1")


def test_experiments_of_other_quantizers() -> None:
    models = {
        name: config_of(f"experiment=ablation/{name}") for name in ("vq-vae", "vq-gan", "rq-vae", "fsq", "grouped")
    }
    assert [models[name].model.n_codebooks for name in models] == [1, 1, 9, 30, 10]
    assert [models[name].adversarial for name in ("vq-vae", "vq-gan", "rq-vae")] == [False, True, True]
    assert models["rq-vae"].model.codebook_learning == "moving_average"
    assert models["fsq"].model.bitrate() == config_of("experiment=ablation/baseline").model.bitrate()
    assert config_of("experiment=ablation/rotation-trick").trainer.rotation_trick
    for change in ("trainer.revive_every=100", "trainer.rotation_trick=true"):
        with pytest.raises(ValueError, match="fsq has no codebooks"):
            config_of("experiment=ablation/fsq", change)
