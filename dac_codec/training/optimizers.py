"""The optimizers of a run: AdamW, and Muon for convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dac_codec.model import DAC
from dac_codec.model.discriminator import Discriminator
from dac_codec.model.layers import convolutions
from dac_codec.training.config import TrainerConfig

# Newton-Schulz steps x <- a x + b x^3 + c x^5 on the singular values, which bring values from 0.001 to 1 near 1. The
# coefficients are those of the NanoGPT speed runs (2025).
_COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def build_optimizers(model: DAC, discriminator: Discriminator | None, settings: TrainerConfig) -> dict[str, Optimizer]:
    """The optimizers of a run, by their names in a checkpoint."""
    slow = list(model.quantizer.parameters()) if settings.quantizer_rate < 1 else []
    turned = _without(directions(model), slow) if settings.optimizer == "muon" else []
    generator = _adamw(_without(model.parameters(), [*turned, *slow]), settings.learning_rate)
    if slow:
        generator.add_param_group({"params": slow, "share": settings.quantizer_rate})
    optimizers: dict[str, Optimizer] = {"generator_optimizer": generator}
    if turned:
        optimizers["muon"] = Muon(turned, settings.learning_rate)
    if discriminator is not None:
        optimizers["discriminator_optimizer"] = _adamw(discriminator.parameters(), settings.learning_rate)
    return optimizers


def _adamw(weights: Iterable[Tensor], learning_rate: float) -> torch.optim.AdamW:
    """AdamW for the trainable ones of some weights."""
    trained = [one for one in weights if one.requires_grad]
    return torch.optim.AdamW(trained, learning_rate, betas=(0.8, 0.99), fused=True)


def _without(weights: Iterable[Tensor], excluded: Iterable[Tensor]) -> list[Tensor]:
    left_out = {id(one) for one in excluded}
    return [one for one in weights if id(one) not in left_out]


class Muon(Optimizer):
    """Momentum with orthogonalized steps, for the directions of weight-normalized convolutions.

    A step moves a weight [O, I, K], as a matrix [O, I * K], by the orthogonal matrix nearest to the momentum, scaled to
    `TURN * lr` times the norm of the weight. Under weight normalization only the direction of a weight counts, so that
    this is the angle of the step, whatever the size of the layer; the norm stays what it was. `torch.optim.Muon` came
    with PyTorch 2.9, takes only matrices, one at a time and in bfloat16, and scales a step by the shape of a weight,
    not by its norm.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).

    The learning rate is on the scale of AdamW's, for weights with at least two dimensions.
    """

    TURN = 10.0

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all weights that have a gradient. Closures are not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            moved = sorted((one for one in group["params"] if one.grad is not None), key=_matrix_shape)
            for _, alike in groupby(moved, _matrix_shape):  # of one shape in one batch, as most of them are small
                self._move(list(alike), group)

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        wanted = []
        for weight in weights:
            assert weight.grad is not None
            average = self.state[weight].setdefault("average", torch.zeros_like(weight))
            average.lerp_(weight.grad, 1 - group["momentum"])
            wanted.append(weight.grad.lerp(average, group["momentum"]).flatten(1))
        for weight, turn in zip(weights, orthogonal(torch.stack(wanted)), strict=True):
            size = weight.norm()
            weight.sub_(self.TURN * group["lr"] * size / turn.norm().clamp(min=1e-12) * turn.view_as(weight))
            weight.mul_(size / weight.norm())  # which grows exponentially otherwise, beyond float16


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximate orthogonalization of matrices [..., m, n] by Newton-Schulz iteration.

    Singular values above a thousandth of the Frobenius norm become 0.7 to 1.2; zeros stay zeros. The iteration runs on
    the smaller of the two Gram matrices, which is faster for the wide weights of convolutions.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.transpose(-2, -1)).transpose(-2, -1)
    x = matrices.float()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    gram = x @ x.transpose(-2, -1)
    identity = torch.eye(gram.shape[-1], device=x.device)
    factor: Tensor = identity
    for a, b, c in _COEFFICIENTS:
        step = a * identity + b * gram + c * (gram @ gram)
        factor = step @ factor
        gram = step @ gram @ step
    result: Tensor = factor @ x
    return result


def directions(module: nn.Module) -> list[Tensor]:
    """The parameters that Muon updates: directions of convolutions with more than one output."""
    weights = [conv.get_parameter("parametrizations.weight.original1") for conv in convolutions(module)]
    return [weight for weight in weights if weight.requires_grad and min(_matrix_shape(weight)) > 1]


def _matrix_shape(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight[0].numel()
