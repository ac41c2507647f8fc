"""The discriminators equal the reference, with parameters from a formula."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
import torch

from dac_codec.model.discriminator import Discriminator
from dac_codec.training.losses import discriminator_loss, generator_losses
from tests.conftest import GOLDEN


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
    model = Discriminator(rates=[2])
    shapes = json.loads((GOLDEN / "discriminator_keys.json").read_text())
    model.load_state_dict({key: by_formula(key, shape) for key, shape in shapes})
    return model.eval()


def test_default_size() -> None:
    with torch.device("meta"):
        n_parameters = sum(parameter.numel() for parameter in Discriminator().parameters())
    assert n_parameters == 42_519_760


@torch.no_grad()
def test_golden_values(discriminator: Discriminator) -> None:
    golden = np.load(GOLDEN / "discriminator_and_losses.npz")
    real, fake = (discriminator(torch.from_numpy(golden[name])) for name in ("real", "fake"))
    assert len(real) == 9
    for number, maps in enumerate(real):
        logits = golden[f"logits_{number}"]
        assert maps[-1].shape == logits.shape
        assert np.abs(maps[-1].numpy() - logits).max() <= 1e-4 * np.abs(logits).max()
        for found, shape, stats in zip(maps, golden[f"shapes_{number}"], golden[f"stats_{number}"], strict=True):
            assert list(found.shape) == [size for size in shape if size]
            expected = [found.double().mean(), found.double().std(), found.double().abs().max()]
            assert np.allclose(expected, stats, rtol=1e-3, atol=1e-4 * stats[2])
    adversarial, matching = generator_losses(fake, real)
    assert float(discriminator_loss(fake, real)) == pytest.approx(float(golden["disc_loss"]), rel=1e-4)
    assert float(adversarial) == pytest.approx(float(golden["gen_loss"]), rel=1e-4)
    assert float(matching) == pytest.approx(float(golden["feat_loss"]), rel=1e-4)


@pytest.mark.parametrize("peak", [0.0, 1e-6])
def test_silence_has_gradients_of_the_size_of_other_sounds(discriminator: Discriminator, peak: float) -> None:
    """Scaled to full scale without a limit, silence with an offset would have gradients about 1e6 times as large."""
    noise = torch.randn(1, 1, 8192, generator=torch.Generator().manual_seed(0))

    def gradient(sound: torch.Tensor) -> float:
        sound.requires_grad_()
        adversarial, _ = generator_losses(discriminator(sound), discriminator(noise))
        adversarial.backward()
        assert sound.grad is not None
        return float(sound.grad.norm())

    assert gradient(0.1 + peak * noise) < 1e4 * gradient(0.1 * noise)


@pytest.mark.parametrize(
    "wrong",
    [
        {"periods": (0,)},
        {"fft_sizes": (102,)},
        {"bands": ((0.5, 0.2),)},
        {"rates": (), "periods": (), "fft_sizes": ()},
    ],
)
def test_wrong_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Discriminator(**wrong)
