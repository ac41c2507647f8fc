"""The discriminators give the reference's numbers, from parameters that a formula fills in."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from dac_codec.model.discriminator import Discriminator
from dac_codec.training.losses import discriminator_loss, generator_losses
from tests.conftest import GOLDEN

# The golden values have a waveform discriminator at half rate (number 5), which the default form has not.
GOLDEN_NUMBER = (0, 1, 2, 3, 4, 6, 7, 8)


def by_formula(key: str, shape: list[int]) -> torch.Tensor:
    number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 1000
    n_values = int(np.prod(shape))
    u = torch.frac(torch.sin(torch.arange(n_values, dtype=torch.float64) * 12.9898 + number) * 43758.5453)
    if key.endswith("weight_g"):
        u = 0.5 + 0.5 * u.abs()
    elif key.endswith("bias"):
        u = 0.1 * u
    return u.reshape(shape).float()


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    model = Discriminator()
    state = {}
    for key, shape in json.loads((GOLDEN / "discriminator_keys.json").read_text()):
        number = int(key.split(".")[1])
        if number in GOLDEN_NUMBER:
            ours = key.replace(f"discriminators.{number}.", f"discriminators.{GOLDEN_NUMBER.index(number)}.", 1)
            state[ours] = by_formula(key, shape)
    model.load_state_dict(state)
    return model.eval()


def test_default_size() -> None:
    with torch.device("meta"):
        n_parameters = sum(parameter.numel() for parameter in Discriminator().parameters())
    assert n_parameters == 42_519_760


@torch.no_grad()
def test_golden_values(discriminator: Discriminator) -> None:
    golden = np.load(GOLDEN / "discriminator_and_losses.npz")
    real, fake = (discriminator(torch.from_numpy(golden[name])) for name in ("real", "fake"))
    for number, maps in zip(GOLDEN_NUMBER, real, strict=True):
        logits = golden[f"logits_{number}"]
        assert maps[-1].shape == logits.shape
        assert np.abs(maps[-1].numpy() - logits).max() <= 1e-4 * np.abs(logits).max()
        for found, shape, stats in zip(maps, golden[f"shapes_{number}"], golden[f"stats_{number}"], strict=True):
            assert list(found.shape) == [size for size in shape if size]
            expected = [found.double().mean(), found.double().std(), found.double().abs().max()]
            assert np.allclose(expected, stats, rtol=1e-3, atol=1e-4 * stats[2])
    # Without the waveform discriminator the golden sums can only be approached from below.
    assert 0 < float(discriminator_loss(fake, real)) < float(golden["disc_loss"])
    adversarial, matching = generator_losses(fake, real)
    assert 0 < float(adversarial) < float(golden["gen_loss"])
    assert 0 < float(matching) < float(golden["feat_loss"])
