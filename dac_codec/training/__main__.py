"""Train a codec: `python -m dac_codec.training experiment=44khz data.sounds=/my/folder`."""

from __future__ import annotations

import difflib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dac_codec.common.errors import DacError

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger: logging.Logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> None:
    """Train as Hydra's arguments say: overrides of `configs/train.yaml`, `--cfg job`, `--multirun`, `--help`.

    The same command continues a run that was stopped. The arguments are by default those of the process.

    Raises:
        SystemExit: something is wrong; the message says what. Or a signal stopped the run: 128 + its number.
    """
    try:
        import hydra
    except ModuleNotFoundError as error:
        sys.exit(f"train: {error.name} is not installed: pip install 'dac_codec[train]'")
    package = Path(__file__).parents[1]
    installed = package / "configs"  # in a checkout, they are beside the package
    configs = installed if installed.is_dir() else package.parent / "configs"
    command_line = sys.argv

    def task(config: DictConfig) -> None:
        sys.argv = command_line  # with which Fabric starts the other processes of a run
        _train(config)

    if arguments is not None:
        sys.argv = [command_line[0], *arguments]
    _suggest_experiment(sys.argv[1:], configs / "experiment")
    try:
        hydra.main(version_base="1.3", config_path=str(configs), config_name="train")(task)()
    except KeyboardInterrupt:  # before the first step; afterwards the run saves its state
        sys.exit(130)
    finally:
        sys.argv = command_line


def _suggest_experiment(arguments: list[str], folder: Path) -> None:
    """Print the closest name to an experiment that does not exist; Hydra's error lists all of them."""
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]
    for argument in arguments:
        key, _, name = argument.lstrip("+").partition("=")
        if key == "experiment" and name not in names and (close := difflib.get_close_matches(name, names, 1)):
            print(f"train: there is no experiment={name}; did you mean experiment={close[0]}?", file=sys.stderr)


def _train(config: DictConfig) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        from dac_codec.training.config import TrainConfig
        from dac_codec.training.trainer import Trainer

        if missing := OmegaConf.missing_keys(config):
            raise ValueError(f"{', '.join(sorted(missing))} must be given")
        values = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
        trainer = Trainer(TrainConfig.parse(values))
        number = trainer.run()
        if number is not None:
            logger.warning("stopped at step %d; the same command with resume=auto continues", trainer.step)
            sys.exit(128 + number)
    except ModuleNotFoundError as error:
        sys.exit(f"train: {error.name} is not installed: pip install 'dac_codec[train]'")
    except (DacError, ValueError, OmegaConfBaseException) as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    main()
