"""Models as folders of Hugging Face transformers, for `DacModel.from_pretrained`."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch

from dac_codec.common.files import expanded
from dac_codec.interop.checks import check_expressible
from dac_codec.model import DAC
from dac_codec.pretrained import transformers_layout
from dac_codec.pretrained.checkpoints import CONFIG_FILE, canonical_state, write_folder

WeightNorm = Literal["merged", "parametrizations", "weight_g"]

EXTRACTOR_FILE = "preprocessor_config.json"


def save_transformers(model: DAC, folder: str | os.PathLike[str], weight_norm: WeightNorm = "merged") -> None:
    """Write a model to a folder in the layout of transformers' `DacModel`, in float32.

    The folder also has the settings of `DacFeatureExtractor`. transformers keeps no name for a model:
    `DAC.from_pretrained` takes the folder's.

    Args:
        model: the model, on any device; it is not modified.
        folder: created if it does not exist; the files are replaced atomically.
        weight_norm: how a weight is stored. "merged": as one tensor, equal to the model's in every bit, which is what
            `DacModel.from_pretrained` reads. "parametrizations" or "weight_g": as the two factors of weight norm, under
            the names of a `DacModel` after `apply_weight_norm` in transformers of today or of 2024; these keep the
            model's fingerprint.

    Raises:
        CheckpointError: transformers can't express the model, or the files can't be written.
        ValueError: an unknown `weight_norm`.
    """
    if weight_norm not in ("merged", "parametrizations", "weight_g"):
        raise ValueError(f"weight_norm must be 'merged', 'parametrizations' or 'weight_g', not {weight_norm!r}")
    config = model.config
    # DacModel refuses other sizes.
    others = () if config.codebook_size.bit_count() == 1 else ("codebook_size",)
    check_expressible(config, "transformers", others)
    state = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in canonical_state(model).items()}
    for name in [name.removesuffix("_g") for name in state if name.endswith(".weight_g")]:
        if weight_norm == "merged":
            state[name] = torch._weight_norm(state.pop(f"{name}_v"), state.pop(f"{name}_g"), 0)
        elif weight_norm == "parametrizations":
            new = f"{name.removesuffix('.weight')}.parametrizations.weight.original"
            state[f"{new}0"], state[f"{new}1"] = state.pop(f"{name}_g"), state.pop(f"{name}_v")
    tensors = {name: tensor.contiguous() for name, tensor in transformers_layout.to_theirs(state, config).items()}
    texts = {EXTRACTOR_FILE: extractor_of(model), CONFIG_FILE: config_of(model)}
    write_folder(expanded(folder).absolute(), tensors, texts)


def config_of(model: DAC) -> dict[str, Any]:
    """The content of `config.json`."""
    values = model.config.to_dict()
    return {
        "architectures": ["DacModel"],
        "model_type": transformers_layout.MODEL_TYPE,
        **{theirs: values[ours] for theirs, ours in transformers_layout.FIELDS.items()},
        "hop_length": model.hop_length,
    }


def extractor_of(model: DAC) -> dict[str, Any]:
    """The content of `EXTRACTOR_FILE`: the settings of `DacFeatureExtractor`."""
    return {
        "feature_extractor_type": "DacFeatureExtractor",
        "feature_size": 1,
        "hop_length": model.hop_length,
        "padding_side": "right",
        "padding_value": 0.0,
        "sampling_rate": model.sample_rate,
    }
