"""Snake: the activation of the network, in few passes over memory, forwards and backwards.

Source: Ziyin et al., "Neural Networks Fail to Learn Periodic Functions and How to Fix It" (2020), eq. 3; section 3.1 of
the DAC paper. The tiny constant is the reference's.
"""

from __future__ import annotations

import math
import threading
import warnings
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TINY = 1e-9
"""Keeps an alpha of zero from dividing by zero."""

SQUARED_SINE = (0.77865517, 2.46533478)
"""c and a for which sin^2(pi u) is 4 a (w - a w^2) where w = u^2 - c u^4, within 8.4e-4 of itself for |u| <= 1/2.

That is less than what bfloat16 rounds to. sin^2(2 x) = 4 (sin^2(x) - sin^4(x)), and a w stands for sin^2(pi u / 2); the
two numbers make the largest relative error as small as it can be.
"""


def snake(x: Tensor, alpha: Tensor) -> Tensor:
    """x + sin^2(alpha x) / (alpha + 1e-9), with one alpha for each channel.

    Nothing but x is kept for the gradient. The arithmetic is that of alpha's type, in single precision if that is half:
    in float16 the tiny constant is zero.

    Args:
        x: [B, C, T].
        alpha: [1, C, 1].

    Returns:
        [B, C, T], of the type of x.
    """
    if alpha.dtype in (torch.float16, torch.bfloat16):
        alpha = alpha.float()
    y: Tensor = _Snake.apply(x, alpha)  # type: ignore[no-untyped-call]
    return y


class Scales(NamedTuple):
    """What a layer's Snake multiplies by, each [C].

    Attributes:
        alpha: its frequencies.
        inverse: 1 / (alpha + 1e-9).
        turns: alpha / pi.
        height: 4 a / (alpha + 1e-9), with the a of `SQUARED_SINE`.
    """

    alpha: Tensor
    inverse: Tensor
    turns: Tensor
    height: Tensor


def scales(alpha: Tensor) -> Scales:
    """What `snake_into` needs to know of the alphas [C]."""
    inverse = (alpha + TINY).reciprocal()
    return Scales(alpha, inverse, alpha / math.pi, 4 * SQUARED_SINE[1] * inverse)


def snake_into(x: Tensor, scales: Scales, out: Tensor) -> None:
    """The same over a signal with its channels last, without a gradient.

    Args:
        x: [B, T, C], contiguous.
        scales: of the alphas; the arithmetic is of their type.
        out: [B, T, C], where the result goes; of any floating type, each item contiguous. On a CPU, the sine is as
            accurate as this type can show.
    """
    alpha = scales.alpha
    kernels = _triton_kernels(x.device) if x.is_cuda and alpha.dtype == torch.float32 else None
    if kernels is not None:
        kernels.forward_channels_last(x.contiguous(), alpha, out)
        return
    if x.dtype != alpha.dtype:
        x = _scratch("input", x, alpha.dtype).copy_(x)
    if out.dtype == torch.bfloat16:
        squared, height = _rough_squared_sine(x, scales.turns), scales.height
    else:
        squared, height = torch.mul(x, alpha, out=_scratch("squared", x, alpha.dtype)).sin_(), scales.inverse
        squared.mul_(squared)
    if out.dtype == x.dtype:
        torch.addcmul(x, squared, height, out=out)
    else:
        out.copy_(torch.addcmul(x, squared, height, out=squared))


def _rough_squared_sine(x: Tensor, turns: Tensor) -> Tensor:
    """sin^2(pi turns x) / (4 a), as `SQUARED_SINE` has it: in less than half the time that a sine takes."""
    c, a = SQUARED_SINE
    squared = torch.mul(x, turns, out=_scratch("squared", x, turns.dtype))
    squared.sub_(torch.round(squared, out=_scratch("rounded", x, turns.dtype)))
    squared.mul_(squared)
    for factor in (c, a):
        torch.addcmul(squared, squared, squared, value=-factor, out=squared)
    return squared


_LARGEST_SCRATCH = 1 << 21
"""Values: as many as the engine has at once in a full tile. More of them are better forgotten afterwards."""

_scratches = threading.local()


def _scratch(name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory of this thread for a tensor's shape. It is in the processor's cache where new memory is not."""
    n_values = like.numel()
    if n_values > _LARGEST_SCRATCH or like.device.type != "cpu":
        return torch.empty(like.shape, dtype=dtype, device=like.device)
    memory = getattr(_scratches, name, None)
    if memory is None or memory.dtype != dtype or memory.numel() < n_values:
        # It outlives the call: what is made in inference mode can't be written to outside of it.
        with torch.inference_mode(False):
            memory = torch.empty(n_values, dtype=dtype, device=like.device)
        setattr(_scratches, name, memory)
    return memory[:n_values].view(like.shape)


class _Snake(torch.autograd.Function):
    """Snake with a gradient that is worked out from the input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(x, alpha)
        kernels = _triton_kernels(x.device) if _suits_triton(x, alpha) else None
        if kernels is not None:
            y: Tensor = kernels.forward(x, alpha)
            return y
        wide = x.to(alpha.dtype)
        sine = (alpha * wide).sin_()
        result = torch.addcmul(wide, sine, sine * (alpha + TINY).reciprocal())
        # A conversion to what it is already makes torch.compile (of PyTorch 2.11) take the gradient for zero.
        return result if result.dtype == x.dtype else result.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, alpha = ctx.saved_tensors
        kernels = _triton_kernels(x.device) if _suits_triton(x, alpha) else None
        if kernels is not None:
            dx, dalpha = kernels.backward(x, alpha, gradient.contiguous())
            return dx, dalpha
        wide, upstream = x.to(alpha.dtype), gradient.to(alpha.dtype)
        inverse = (alpha + TINY).reciprocal()
        phase = 2 * alpha * wide
        # d/dx sin^2(alpha x) = alpha sin(2 alpha x); sin^2(alpha x) = (1 - cos(2 alpha x)) / 2.
        upstream_sine = phase.sin() * upstream
        dx = torch.addcmul(upstream, upstream_sine, alpha * inverse).to(x.dtype)
        halved = phase.cos_().sub_(1).mul_(upstream).sum((0, 2), keepdim=True) / 2
        dalpha = inverse * (upstream_sine.mul_(wide).sum((0, 2), keepdim=True) + inverse * halved)
        return dx, dalpha


def _suits_triton(x: Tensor, alpha: Tensor) -> bool:
    return x.is_cuda and alpha.dtype == torch.float32 and x.is_contiguous()


_tried: dict[torch.device, ModuleType | None] = {}
"""What `_working_kernels` found for each device."""

_trying = threading.Lock()


def _triton_kernels(device: torch.device) -> ModuleType | None:
    """The kernels for a CUDA device; None where there are none: found out once for each device."""
    if torch.compiler.is_compiling():  # What traces this needs Triton itself, and can't follow a trial.
        return _imported_kernels()
    if device not in _tried:
        with _trying:
            if device not in _tried:
                _tried[device] = _working_kernels(device)
    return _tried[device]


def _working_kernels(device: torch.device) -> ModuleType | None:
    """The kernels for a CUDA device; None where Triton is missing and, with a warning, where it doesn't work.

    Triton builds a launcher when a kernel is first used, for which a host needs a C compiler and Python's headers.
    """
    kernels = _imported_kernels()
    if kernels is None:
        return None
    try:
        with torch.inference_mode(False), torch.no_grad():
            x, alpha = torch.ones(1, 2, 2, device=device), torch.ones(1, 2, 1, device=device)
            kernels.forward(x, alpha)
            kernels.forward_channels_last(x, alpha.view(2), torch.empty_like(x))
            kernels.backward(x, alpha, x)
    except Exception as error:  # Whatever Triton, a compiler or a driver may say.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        warnings.warn(f"activations on {device} are computed without Triton, which is slower: {reason}", stacklevel=4)
        return None
    return kernels


def _imported_kernels() -> ModuleType | None:
    """The kernels; None where Triton is missing."""
    try:
        from dac_codec.model import snake_triton
    except ImportError:
        return None
    return snake_triton
