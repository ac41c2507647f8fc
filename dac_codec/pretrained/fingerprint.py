"""The identity of a model's weights and configuration."""

from __future__ import annotations

import hashlib
import json

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from dac_codec.model import DAC
from dac_codec.model.checksums import checksums
from dac_codec.model.config import OURS_ONLY, DACConfig
from dac_codec.pretrained.checkpoints import canonical_state

_known: dict[StorageWeakRef, tuple[bytes, tuple[tuple[object, ...], ...], bytes]] = {}
"""Configuration, checksums and fingerprint by the storage of the first parameter, which prepared models share."""


def fingerprint(model: DAC) -> bytes:
    """The identity of a model, 32 bytes: equal for equal weights and configuration, however they were stored.

    It is the SHA-256 of the configuration as JSON (keys sorted, no spaces; without `quantizer_dropout`, which only
    matters in training, and without those of `OURS_ONLY` that have the value of all published models), followed for
    each tensor, sorted by its published name, by the line "\\n<name> [<sizes>]\\n" and the values as little-endian
    float32, all in UTF-8.

    It is computed again when checksums of the weights, or the configuration, have changed since the last call.
    """
    config = _config_json(model)
    state = checksums(model)
    storage = StorageWeakRef(next(model.parameters()).untyped_storage())
    known = _known.get(storage)
    if known is not None and known[:2] == (config, state):
        return known[2]
    digest = _digest(config, model)
    for other in [other for other in list(_known) if other.expired()]:
        _known.pop(other, None)
    _known[storage] = config, state, digest
    return digest


def _config_json(model: DAC) -> bytes:
    """The part of a configuration that identifies a model, as JSON."""
    config = model.config.to_dict()
    del config["quantizer_dropout"]
    for name in OURS_ONLY:
        if getattr(model.config, name) == getattr(DACConfig, name):
            del config[name]
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def _digest(config: bytes, model: DAC) -> bytes:
    digest = hashlib.sha256(config)
    for key, tensor in sorted(canonical_state(model).items()):
        digest.update(f"\n{key} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).data)
    return digest.digest()
