"""The layout of DAC models of Hugging Face transformers (`DacModel`): its configuration and the names of its weights.

Only names and values are handled here, and transformers is not imported. Weights are stored as `weight`, or under
weight norm as `weight_g` and `weight_v` (2024) or `parametrizations.weight.original0` and `original1` (since then).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dac_codec.common.errors import CheckpointError
from dac_codec.model import DACConfig

MODEL_TYPE = "dac"

FIELDS = {
    "encoder_hidden_size": "encoder_dim",
    "downsampling_ratios": "encoder_rates",
    "hidden_size": "latent_dim",
    "decoder_hidden_size": "decoder_dim",
    "upsampling_ratios": "decoder_rates",
    "n_codebooks": "n_codebooks",
    "codebook_size": "codebook_size",
    "codebook_dim": "codebook_dim",
    "quantizer_dropout": "quantizer_dropout",
    "sampling_rate": "sample_rate",
}
"""Fields of `DacConfig` of transformers -> fields of `DACConfig`."""

# Of DacConfig, where they differ from ours. Transformers 4 only writes what differs from its defaults.
_DEFAULTS = {"quantizer_dropout": 0.0, "sampling_rate": 16000}
_LOSS_WEIGHTS = {"commitment_loss_weight": 0.25, "codebook_loss_weight": 1.0}


def parse(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The arguments of `DACConfig` from a `config.json` of transformers, not yet checked.

    Raises:
        CheckpointError: the model is not a DAC.
    """
    if content["model_type"] != MODEL_TYPE:
        raise CheckpointError(f"{file} has the model_type {content['model_type']!r:.80}, expected {MODEL_TYPE!r}")
    for name, usual in _LOSS_WEIGHTS.items():
        if content.get(name, usual) != usual:
            warnings.warn(f"{file}: {name} is not kept; it is a setting of training here", stacklevel=2)
    values = {**_DEFAULTS, **content}
    parsed = {ours: values[theirs] for theirs, ours in FIELDS.items() if theirs in values}
    if "decoder_rates" not in parsed and isinstance(parsed.get("encoder_rates"), list):
        parsed["decoder_rates"] = parsed["encoder_rates"][::-1]
    return parsed


def module_names(config: DACConfig) -> dict[str, str]:
    """The name of each layer of encoder and decoder -> its name in transformers; the quantizer's are the same."""
    names = {}
    for ours, rates in (("encoder.block", config.encoder_rates), ("decoder.model", config.decoder_rates)):
        theirs = ours.partition(".")[0]
        first_unit, own = (0, {3: "snake1", 4: "conv1"}) if theirs == "encoder" else (2, {0: "snake1", 1: "conv_t1"})
        names[f"{ours}.0"] = f"{theirs}.conv1"
        names[f"{ours}.{len(rates) + 1}"] = f"{theirs}.snake1"
        names[f"{ours}.{len(rates) + 2}"] = f"{theirs}.conv2"
        for index in range(len(rates)):
            block, their_block = f"{ours}.{index + 1}.block", f"{theirs}.block.{index}"
            names.update({f"{block}.{position}": f"{their_block}.{name}" for position, name in own.items()})
            for unit in range(3):
                for position, name in enumerate(("snake1", "conv1", "snake2", "conv2")):
                    layer = f"{block}.{first_unit + unit}.block.{position}"
                    names[layer] = f"{their_block}.res_unit{unit + 1}.{name}"
    return names


def to_ours(tensors: Mapping[str, Tensor], config: DACConfig, file: Path) -> dict[str, Tensor]:
    """A state dict of transformers with our names; other names, also ours, stay as they are.

    Raises a CheckpointError if two names mean the same tensor.
    """
    if len(config.encoder_rates) + len(config.decoder_rates) > len(tensors):
        return dict(tensors)  # not this configuration's, which may have any number of layers
    renamed = _renamed(tensors, {theirs: ours for ours, theirs in module_names(config).items()})
    if len(renamed) < len(tensors):
        raise CheckpointError(f"{file} has the same tensor twice, under the names of two layouts")
    return renamed


def to_theirs(tensors: Mapping[str, Tensor], config: DACConfig) -> dict[str, Tensor]:
    """A state dict of the published names with those of transformers."""
    return _renamed(tensors, module_names(config))


def _renamed(tensors: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors with the layers' part of their names replaced."""
    renamed = {}
    for name, tensor in tensors.items():
        layer, dot, leaf = name.partition(".parametrizations.")
        if not dot:
            layer, dot, leaf = name.rpartition(".")
        renamed[layers.get(layer, layer) + dot + leaf] = tensor
    return renamed
