"""Activations of signals [B, T, C], channels last, written into a buffer that the caller provides."""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dac_codec.model.layers import Snake
from dac_codec.model.snake import TINY

SQUARED_SINE = (0.77865517, 2.46533478)
"""c and a of sin^2(pi u) ~ 4 a (w - a w^2), w = u^2 - c u^4, with a relative error below 8.4e-4 for |u| <= 1/2.

That is less than the rounding of bfloat16. It follows from sin^2(2 x) = 4 (sin^2(x) - sin^4(x)) with a w for
sin^2(pi u / 2); the two numbers minimize the largest relative error.
"""

_MAX_SCRATCH = 1 << 21
"""Values of a full tile (`layers._TILE_BYTES` in single precision); larger scratch memory is freed after use."""

_LEAST_PART = 1 << 16
"""Fewest values for a thread of their own: with fewer, starting it takes longer than their sines."""


class Scales(NamedTuple):
    """Per-channel factors of a Snake, each [C].

    Attributes:
        alpha: the frequencies.
        inverse: 1 / (alpha + 1e-9).
        turns: alpha / pi.
        height: 4 a / (alpha + 1e-9), with the a of `SQUARED_SINE`.
    """

    alpha: Tensor
    inverse: Tensor
    turns: Tensor
    height: Tensor


ActivationFunction = Callable[[Tensor, Tensor], None]
"""Writes f(x), x [B, T, C], into the second tensor, of the same shape and of any floating type."""

SnakeFunction = Callable[[Tensor, Scales, Tensor], None]
"""`snake_into`, or a replacement with the same arguments."""


def signal_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of the signal between layers: the model's, but single precision where it is half, as sums need more bits."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def scales(alpha: Tensor) -> Scales:
    """The factors for alphas [C]."""
    inverse = (alpha + TINY).reciprocal()
    return Scales(alpha, inverse, alpha / math.pi, 4 * SQUARED_SINE[1] * inverse)


def snake_into(x: Tensor, scales: Scales, out: Tensor) -> None:
    """Snake without a gradient.

    Args:
        x: [B, T, C], contiguous.
        scales: the factors; their type is that of the arithmetic.
        out: [B, T, C], of any floating type, each item contiguous. On a CPU the sine is as accurate as that type.
    """
    alpha = scales.alpha
    if x.dtype != alpha.dtype:
        x = _scratch("input", x, alpha.dtype).copy_(x)
    squared = _scratch("squared", x, x.dtype)
    target = out if out.dtype == x.dtype else squared
    if out.dtype == torch.bfloat16:
        torch.addcmul(x, _rough_squared_sine(x, scales.turns, squared), scales.height, out=target)
    else:
        torch.mul(x, alpha, out=squared)
        _sine_(squared)
        squared.mul_(squared)
        torch.addcmul(x, squared, scales.inverse, out=target)
    if target is not out:
        out.copy_(target)


def _sine_(x: Tensor) -> None:
    """Replace values by their sine: on a CPU by NumPy's, which takes less than half the time of PyTorch's."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        x.sin_()
        return
    values = x.numpy().reshape(-1)
    n_parts = max(1, min(torch.get_num_threads(), len(values) // _LEAST_PART))
    first, *others = np.array_split(values, n_parts)
    results = [_threads(os.getpid(), n_parts - 1).submit(_numpy_sine, part) for part in others]
    _numpy_sine(first)
    for result in results:
        result.result()


def _numpy_sine(values: npt.NDArray[np.float32]) -> None:
    with np.errstate(invalid="ignore"):
        np.sin(values, out=values)


@lru_cache(maxsize=2)
def _threads(process: int, n: int) -> ThreadPoolExecutor:
    """Thread pool of a process; a forked child needs one of its own."""
    return ThreadPoolExecutor(n)


def _rough_squared_sine(x: Tensor, turns: Tensor, out: Tensor) -> Tensor:
    """sin^2(pi turns x) / (4 a) by `SQUARED_SINE`, in less than half the time of a sine."""
    c, a = SQUARED_SINE
    squared = torch.mul(x, turns, out=out)
    squared.sub_(torch.round(squared, out=_scratch("rounded", x, turns.dtype)))
    squared.mul_(squared)
    for factor in (c, a):
        torch.addcmul(squared, squared, squared, value=-factor, out=squared)
    return squared


_scratches = threading.local()


def _scratch(name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Scratch memory of this thread in the shape of `like`: reused memory is in the cache, new memory is not."""
    n_values = like.numel()
    if n_values > _MAX_SCRATCH or like.device.type != "cpu":
        return torch.empty(like.shape, dtype=dtype, device=like.device)
    memory = getattr(_scratches, name, None)
    if memory is None or memory.dtype != dtype or memory.numel() < n_values:
        # It outlives the call, and tensors made in inference mode can't be written to outside of it.
        with torch.inference_mode(False):
            memory = torch.empty(n_values, dtype=dtype, device=like.device)
        setattr(_scratches, name, memory)
    return memory[:n_values].view(like.shape)


def snake_activation(module: Snake, dtype: torch.dtype, function: SnakeFunction) -> ActivationFunction:
    """The Snake of one layer, computed by `function` in `dtype`; the module's alphas are copied."""
    factors = scales(module.alpha.detach().to(dtype, copy=True).view(-1))
    return lambda x, out: function(x, factors, out)


def relu_into(x: Tensor, out: Tensor) -> None:
    """Rectify x into `out`."""
    torch.clamp_min(x, 0, out=out) if x.dtype == out.dtype else out.copy_(x.clamp_min(0))


def _one_pass(x: Tensor, scales: Scales, out: Tensor) -> None:
    """`snake_into` as expressions, for the compiler to fuse."""
    x = x.to(scales.alpha.dtype)
    if out.dtype == torch.bfloat16:
        c, a = SQUARED_SINE
        turns = x * scales.turns
        squared = (turns - torch.round(turns)).square()
        squared = squared - c * squared * squared
        out.copy_(x + (squared - a * squared * squared) * scales.height)
    else:
        out.copy_(x + torch.sin(scales.alpha * x).square() * scales.inverse)


class CompiledSnake:
    """`snake_into` compiled to one pass over memory; if the compiler fails, a warning and `snake_into` itself.

    PyTorch compiles once per argument types, thread count and gradient mode, for any sizes but 1. Items pass through
    it one by one, so that neither the batch size nor the strides of `out` matter.

    Attributes:
        works: False once the compiler has failed.
    """

    def __init__(self) -> None:
        self._one_pass: Callable[..., Any] = torch.compile(_one_pass, dynamic=True)
        self.works: bool = True

    def __call__(self, x: Tensor, scales: Scales, out: Tensor) -> None:
        if self.works and min(x.shape[1:]) > 1:
            try:
                for signal, result in zip(x.unbind(), out.unbind(), strict=True):
                    # `data` is no view: compiled code for a view also depends on the shape of its base.
                    self._one_pass(signal.data, scales, result.data)
                return
            except Exception as error:  # Compilers raise anything.
                with _compile_lock:
                    if self.works:
                        self.works = False
                        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                        warnings.warn(f"activations are not compiled: {reason}", stacklevel=2)
        snake_into(x, scales, out)


_compile_lock = threading.RLock()
"""One thread compiles at a time, and one warns."""

_compiler = lru_cache(maxsize=1)(CompiledSnake)
"""The process-wide instance."""


@torch.no_grad()
def compiled_snake(signal: torch.dtype, dtype: torch.dtype) -> SnakeFunction | None:
    """Snake, compiled now for all types that a network uses and the current number of threads.

    `signal` is the type of the signal between layers and of the activations' arithmetic, `dtype` that of the
    convolutions. Where it can't be compiled, the result is None, after a warning.
    """
    with _compile_lock:
        function = _compiler()
        factors = scales(torch.ones(48, dtype=signal, device="cpu"))
        # Between layers; inside a residual unit; before the convolution to audio.
        for before, after in dict.fromkeys([(signal, dtype), (dtype, dtype), (signal, signal)]):
            x = torch.zeros(1, 80, 48, dtype=before, device="cpu")
            function(x, factors, torch.empty_like(x, dtype=after))
        return function if function.works else None
