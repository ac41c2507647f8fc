"""A model from one layout to another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from dac_codec.interop.reference import save_reference
from dac_codec.interop.transformers import WeightNorm, save_transformers
from dac_codec.pretrained import load, save
from dac_codec.pretrained.checkpoints import WEIGHTS_FILE

Layout = Literal["transformers", "reference", "ours"]


def convert_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: Layout,
    weight_norm: WeightNorm = "merged",
    progress: bool = False,
) -> list[Path]:
    """Write the network of a model in another layout, with equal weights in every bit.

    Args:
        source: an argument of `DAC.from_pretrained`.
        target: a folder, or with "reference" a `.pth` file. Files that are there are replaced.
        to: layout of the target.
        weight_norm: with "transformers", as `save_transformers` takes it.
        progress: show a progress bar of a download.

    Returns:
        Files beside the source's weights that belong to the model and were not converted: its context models and
        discriminators.

    Raises:
        CheckpointError: the source is not valid, the layout can't express the model, or the target can't be written.
    """
    model = load(source, progress=progress)
    if to == "transformers":
        save_transformers(model, target, weight_norm)
    elif to == "reference":
        save_reference(model, target)
    elif to == "ours":
        save(model, target)
    else:
        raise ValueError(f"to must be 'transformers', 'reference' or 'ours', not {to!r}")
    weights = model.weights_file
    if weights is None or weights.name != WEIGHTS_FILE:
        return []
    return sorted(set(weights.parent.glob("*.safetensors")) - {weights})
