"""Train a codec: `python scripts/train.py experiment=mini data.manifest=.../manifest.csv trainer.folder=runs/mini`.

Every value of `configs/` can be set on the command line; `--cfg job` prints them all. The same command again goes on
where the run was stopped.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from dac_codec.errors import DacError
from dac_codec.model import DACConfig
from dac_codec.training.loop import DataConfig, LossWeights, Stage, Trainer, TrainerConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(config: DictConfig) -> None:
    """Run the training that a configuration describes."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    trainer = values["trainer"]
    stages = [Stage(**stage) for stage in trainer.pop("stages")]
    try:
        Trainer(
            DACConfig.from_dict(values["model"]),
            DataConfig(**values["data"]),
            LossWeights(**values["loss"]),
            TrainerConfig(stages=stages, **trainer),
        ).run()
    except (DacError, ValueError, TypeError, FloatingPointError) as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    main()
