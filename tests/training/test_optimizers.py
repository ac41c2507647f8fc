"""Muon: the size of a step, and the parameters that it updates."""

from __future__ import annotations

import pytest
import torch

from dac_codec.model import DAC, DACConfig
from dac_codec.training.config import TrainerConfig
from dac_codec.training.optimizers import Muon, build_optimizers, directions, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (32, 224), (64, 7), (3, 8, 24)])
def test_singular_values_become_nearly_one(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(shape, generator=generator)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonal((u * s.clamp(min=0.01 * float(s.max()))[..., None, :]) @ v)
    values = torch.linalg.svdvals(found)
    assert 0.7 < float(values.min()) <= float(values.max()) < 1.2
    # The singular vectors are unchanged.
    torch.testing.assert_close(u.mT @ found @ v.mT, torch.diag_embed(values), atol=0.2, rtol=0.0)
    assert not orthogonal(torch.zeros(shape)).any()


def test_a_step_has_one_angle_for_every_size() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 16, 7), (128, 64, 8), (16, 16, 7), (8, 128, 1)]
    weights = [torch.nn.Parameter(scale * torch.randn(one, generator=generator)) for scale, one in enumerate(shapes, 1)]
    still = torch.nn.Parameter(torch.ones(4, 4, 1))
    before = [weight.detach().clone() for weight in weights]
    optimizer = Muon([*weights, still], lr=1e-3)
    for weight in weights:
        weight.grad = 100.0 * torch.randn(weight.shape, generator=generator)
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        assert weight.grad is not None
        assert float((weight.detach() - old).norm() / old.norm()) == pytest.approx(Muon.TURN * 1e-3, rel=1e-2)
        assert float(weight.detach().norm()) == pytest.approx(float(old.norm()))
        assert float(((weight.detach() - old) * weight.grad).sum()) < 0.0
    assert torch.equal(still, torch.ones(4, 4, 1))
    with pytest.raises(ValueError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_a_badly_scaled_matrix_is_learned() -> None:
    """Gradients that are a thousand times smaller in one direction do not slow Muon down as they do plain descent."""
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(8, 8, generator=generator)
    scales = torch.logspace(0.0, -1.5, 8)
    weight = torch.nn.Parameter(torch.randn(8, 8, 1, generator=generator))
    wanted *= weight.detach().norm() / wanted.norm()  # a step keeps the norm
    optimizer = Muon([weight], lr=0.0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.01 * (1.0 - step / 200)
        loss = ((weight[..., 0] - wanted) * scales).square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float((weight.detach()[..., 0] - wanted).norm() / wanted.norm()) < 0.05


def test_it_updates_directions_of_convolutions() -> None:
    config = DACConfig(encoder_dim=4, encoder_rates=(4,), decoder_dim=8, decoder_rates=(4,), n_codebooks=2)
    model = DAC(config)
    found = {id(one) for one in directions(model)}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in found]
    assert all(name.endswith("weight.original1") for name in names)
    left = [name for name, _ in model.named_parameters() if name.endswith("weight.original1") and name not in names]
    assert left == ["decoder.model.3.parametrizations.weight.original1"], "a convolution with one output keeps AdamW"


def test_a_slow_quantizer() -> None:
    model = DAC(DACConfig(encoder_dim=4, encoder_rates=(4,), decoder_dim=8, decoder_rates=(4,), n_codebooks=2))
    settings = TrainerConfig.model_validate(
        {"folder": "run", "phases": [{"until": 1}], "optimizer": "muon", "quantizer_rate": 0.1}
    )
    groups = [group for one in build_optimizers(model, None, settings).values() for group in one.param_groups]
    found = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, found)) == sorted(map(id, model.parameters()))
    (slow,) = (group["params"] for group in groups if group.get("share") == 0.1)
    assert list(map(id, slow)) == list(map(id, model.quantizer.parameters()))
