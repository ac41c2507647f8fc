"""A model's identity: equal for equal weights, another one as soon as a bit differs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from importlib import import_module

import pytest
import torch

from dac_codec.inference import prepare
from dac_codec.model import DAC
from dac_codec.model.config import OURS_ONLY
from dac_codec.pretrained import fingerprint, load
from tests.pretrained.weights import TINY

module = import_module("dac_codec.pretrained.fingerprint")  # the package's attribute of this name is the function


def test_is_what_the_docstring_says(tiny: DAC) -> None:
    config = tiny.config.to_dict()
    for name in ("quantizer_dropout", *OURS_ONLY):
        del config[name]
    content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
    for name, tensor in sorted(torch.load(TINY, weights_only=True)["state_dict"].items()):
        content += f"\n{name} [{', '.join(map(str, tensor.shape))}]\n".encode() + tensor.numpy().tobytes()
    assert fingerprint(tiny) == hashlib.sha256(content).digest()


def test_changes_with_the_last_bit_of_a_weight_and_with_the_configuration(tiny: DAC) -> None:
    weights, config = load(TINY), load(TINY)
    bias = weights.get_parameter("decoder.model.6.bias")
    with torch.no_grad():
        bias.copy_(torch.nextafter(bias, torch.tensor(1.0)))
    config.config = dataclasses.replace(config.config, sample_rate=48000)
    causal = load(TINY)
    causal.config = dataclasses.replace(causal.config, causal=True)
    assert len({fingerprint(model) for model in (tiny, weights, config, causal)}) == 4
    config.config = dataclasses.replace(tiny.config, quantizer_dropout=0.75)
    assert fingerprint(config) == fingerprint(tiny)


def test_is_computed_again_after_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[DAC] = []
    digest = module._digest

    def counting(shape: bytes, model: DAC) -> bytes:
        hashed.append(model)
        return digest(shape, model)

    monkeypatch.setattr(module, "_digest", counting)
    model, expected = load(TINY), fingerprint(load(TINY))
    hashed.clear()
    assert [fingerprint(model), fingerprint(prepare(model)), fingerprint(model)] == [expected] * 3
    assert len(hashed) == 1
    bias = model.get_parameter("decoder.model.6.bias")

    def change_in_place() -> None:
        with torch.no_grad():
            bias.add_(1)

    def load_others() -> None:
        model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})

    def assign() -> None:
        model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()}, assign=True)

    def replace_data() -> None:
        bias.data = bias.data + 1

    def round_all() -> None:
        model.bfloat16().float()

    def train(fused: bool) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        torch.optim.AdamW(model.parameters(), fused=fused).step()

    def change_shared_memory() -> None:
        model.get_parameter("decoder.model.6.bias").data.numpy()[:] += 1

    def configure() -> None:
        model.config = dataclasses.replace(model.config, sample_rate=48000)

    found = [expected]
    changes = (
        change_in_place,
        load_others,
        round_all,
        replace_data,
        assign,
        partial(train, fused=False),
        partial(train, fused=True),
        change_shared_memory,
        configure,
    )
    for change in changes:
        change()
        found.append(fingerprint(model))
        assert fingerprint(model) == found[-1]
        assert found[-1] == digest(module._config_json(model), model)
    assert len(set(found)) == len(found)


def test_of_inference_tensors() -> None:
    with torch.inference_mode():
        model = load(TINY)
        before = fingerprint(model)
        model.get_parameter("decoder.model.6.bias").add_(1)
        assert fingerprint(model) != before


def test_entries_of_deleted_models_are_dropped() -> None:
    fingerprint(load(TINY))
    fingerprint(load(TINY))
    kept = load(TINY)
    fingerprint(kept)
    alive = [memory for memory in module._known if not memory.expired()]
    assert len(module._known) == len(alive)
