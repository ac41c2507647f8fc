"""Muon for convolutions: steps that turn every direction of a weight equally far."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dac_codec.model.layers import convolutions

# Five steps of x <- a x + b x^3 + c x^5 on the singular values, chosen to take everything from 0.001 to 1 near 1 (the
# coefficients of the NanoGPT speed runs, 2025).
_COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


class Muon(Optimizer):
    """Momentum whose steps are made orthogonal, for the directions of weight-normalized convolutions.

    A step moves a weight [O, I, K], seen as a matrix [O, I * K], by the orthogonal matrix nearest to the momentum,
    scaled to `TURN * lr` of the weight's own length. Only the direction counts under weight normalization, so that
    this is the angle of the step, whatever the layer's size. `torch.optim.Muon` takes matrices only, and scales by
    their shape.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).

    Args:
        params: weights with at least two dimensions.
        lr: learning rate, meant to be AdamW's.
        momentum: decay of the moving average of the gradient.
    """

    TURN = 10.0

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient. A closure is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            moved = sorted((one for one in group["params"] if one.grad is not None), key=_matrix_shape)
            for _, alike in groupby(moved, _matrix_shape):
                self._move(list(alike), group)

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Move weights of one shape, all in one go: most of them are small."""
        wanted = []
        for weight in weights:
            assert weight.grad is not None
            average = self.state[weight].setdefault("average", torch.zeros_like(weight))
            average.lerp_(weight.grad, 1 - group["momentum"])
            wanted.append(weight.grad.lerp(average, group["momentum"]).flatten(1))
        for weight, turn in zip(weights, orthogonal(torch.stack(wanted)), strict=True):
            length = self.TURN * group["lr"] * weight.norm() / turn.norm().clamp(min=1e-12)
            weight.sub_(length * turn.view_as(weight))


def orthogonal(matrices: Tensor) -> Tensor:
    """The orthogonal matrices nearest to matrices [..., m, n], roughly: singular values of 0.7 to 1.2 in place of
    those above a thousandth of the Frobenius norm. Zeros stay zeros.

    The iteration runs on the smaller of the two Gram matrices, which is what saves time for weights of convolutions.
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
    """The parameters of a network that Muon is for: directions of convolutions with more than one output."""
    found: list[Tensor] = []
    for conv in convolutions(module):
        weight = dict(conv.named_parameters())["parametrizations.weight.original1"]
        if weight.requires_grad and min(_matrix_shape(weight)) > 1:
            found.append(weight)
    return found


def _matrix_shape(weight: Tensor) -> tuple[int, int]:
    return weight.shape[0], weight[0].numel()
