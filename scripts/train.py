"""Train a codec: `python scripts/train.py experiment=44khz data.sounds=/my/folder`.

Every value of `configs/` can be set on the command line; `--cfg job` prints them all, and
`dac_codec/training/config.py` says what they mean. The same command again goes on where the run was stopped.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dac_codec.common.errors import DacError
from dac_codec.training.config import TrainConfig
from dac_codec.training.trainer import Trainer


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(config: DictConfig) -> None:
    """Run the training that a configuration describes."""
    try:
        if missing := OmegaConf.missing_keys(config):
            raise ValueError(f"{', '.join(sorted(missing))} must be given")
        values = OmegaConf.to_container(config, resolve=True)
        assert isinstance(values, dict)
        Trainer(TrainConfig.parse({str(key): value for key, value in values.items()})).run()
    except (DacError, ValueError, OmegaConfBaseException) as error:
        sys.exit(f"train: {error}")
    except KeyboardInterrupt:  # before the first step; afterwards the run saves itself and returns
        sys.exit(130)


if __name__ == "__main__":
    main()
