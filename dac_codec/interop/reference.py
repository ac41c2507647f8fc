"""Models as files of descript-audio-codec, for `dac.DAC.load`."""

from __future__ import annotations

import os

import torch

from dac_codec.common.errors import CheckpointError
from dac_codec.common.files import atomic_write, expanded
from dac_codec.interop.checks import check_expressible
from dac_codec.model import DAC
from dac_codec.model.config import OURS_ONLY
from dac_codec.pretrained.checkpoints import canonical_state


def save_reference(model: DAC, path: str | os.PathLike[str]) -> None:
    """Write a model as a `.pth` file in the layout of the published weights, with the same bits.

    Args:
        model: the model, on any device; it is not modified.
        path: the file, replaced atomically.

    Raises:
        CheckpointError: descript-audio-codec can't express the model, or the file can't be written.
    """
    check_expressible(model.config, "descript-audio-codec")
    kwargs = {name: value for name, value in model.config.to_dict().items() if name not in OURS_ONLY}
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in canonical_state(model).items()}
    try:
        with atomic_write(expanded(path)) as temporary:
            torch.save({"state_dict": state, "metadata": {"kwargs": kwargs}}, temporary)
    except OSError as error:
        raise CheckpointError(f"{path} can't be written: {error}") from error
