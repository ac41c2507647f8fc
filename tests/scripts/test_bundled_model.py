"""The stages of the bundled model follow each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import load_script
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
