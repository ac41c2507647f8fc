"""Snake, the activation of the network, in few passes over memory, with its gradient.

Source: Ziyin et al., "Neural Networks Fail to Learn Periodic Functions and How to Fix It" (2020), eq. 3; section 3.1 of
the DAC paper. The constant 1e-9 is the reference's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TINY = 1e-9
"""Keeps an alpha of zero from dividing by zero."""


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """x + sin^2(alpha x) / (alpha + 1e-9), with one alpha per channel.

    Only x is saved for the gradient. The arithmetic is in alpha's type, or in single precision where that is half: in
    float16 the constant is zero.

    Args:
        x: [B, C, T].
        alpha: [1, C, 1].

    Returns:
        [B, C, T], in the type of x.
    """
    if alpha.dtype in (torch.float16, torch.bfloat16):
        alpha = alpha.float()
    if _in_plain_operations():
        x_alpha = x.to(alpha.dtype)
        return (x_alpha + (alpha * x_alpha).sin().square() * (alpha + TINY).reciprocal()).to(x.dtype)
    y: Tensor = _Snake.apply(x, alpha)  # type: ignore[no-untyped-call]
    return y


def _in_plain_operations() -> bool:
    """Whether Snake must be operations that PyTorch knows: exported, traced, or transformed by `torch.func`."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # since PyTorch 2.7
    return exporting() or torch._C._get_tracing_state() is not None or torch._C._are_functorch_transforms_active()


class _Snake(torch.autograd.Function):
    """Snake with a gradient computed from the input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        x_alpha = x.to(alpha.dtype)
        result = torch.addcmul(x_alpha, torch.mul(x_alpha, alpha).sin_().square_(), (alpha + TINY).reciprocal())
        # With a conversion to the type that it has already, torch.compile (PyTorch 2.11) returns a zero gradient.
        return result if result.dtype == x.dtype else result.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: autograd differentiates these operations
            return _gradients(x, alpha, gradient)
        x_alpha, upstream = x.to(alpha.dtype), gradient.to(alpha.dtype)
        inverse = (alpha + TINY).reciprocal()
        phase = 2 * alpha * x_alpha
        # d/dx sin^2(alpha x) = alpha sin(2 alpha x); sin^2(alpha x) = (1 - cos(2 alpha x)) / 2.
        upstream_sine = phase.sin() * upstream
        dx = torch.addcmul(upstream, upstream_sine, alpha * inverse).to(x.dtype)
        halved = phase.cos_().sub_(1).mul_(upstream).sum((0, 2), keepdim=True) / 2
        dalpha = inverse * (upstream_sine.mul_(x_alpha).sum((0, 2), keepdim=True) + inverse * halved)
        return dx, dalpha


def _gradients(x: Tensor, alpha: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of Snake by x and alpha, in operations that autograd can differentiate again."""
    x_alpha, upstream = x.to(alpha.dtype), gradient.to(alpha.dtype)
    inverse = (alpha + TINY).reciprocal()
    phase = 2 * alpha * x_alpha
    sine = phase.sin() * upstream
    halved = ((phase.cos() - 1) * upstream).sum((0, 2), keepdim=True) / 2
    dalpha = inverse * ((sine * x_alpha).sum((0, 2), keepdim=True) + inverse * halved)
    return (upstream + sine * (alpha * inverse)).to(x.dtype), dalpha
