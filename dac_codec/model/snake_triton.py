"""Snake and its gradient in Triton, each in one pass over memory, in single precision for any type of signal.

GPU only, not yet measured.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # type: ignore[no-untyped-def]
    x_pointer, alpha_pointer, y_pointer, n_values, n_channels, channel_stride, x_stride, y_stride, BLOCK: tl.constexpr
):
    """A block of one item's values; neighbouring channels are `channel_stride` values apart."""
    # The grid has one axis: the others are limited to 65,535.
    n_blocks = tl.cdiv(n_values, BLOCK)
    item = (tl.program_id(0) // n_blocks).to(tl.int64)
    offsets = (tl.program_id(0) % n_blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n_values
    x = tl.load(x_pointer + item * x_stride + offsets, mask=inside, other=0.0).to(tl.float32)
    alpha = tl.load(alpha_pointer + (offsets // channel_stride) % n_channels, mask=inside, other=1.0)
    sine = tl.sin(alpha * x)
    y = x + sine * sine / (alpha + 1e-9)
    tl.store(y_pointer + item * y_stride + offsets, y.to(y_pointer.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # type: ignore[no-untyped-def]
    x_pointer, alpha_pointer, gradient_pointer, dx_pointer, dalpha_pointer, n_channels, n_samples, BLOCK: tl.constexpr
):
    """A block of one channel of one item, with one value of `dalpha`."""
    n_blocks = tl.cdiv(n_samples, BLOCK)
    row = (tl.program_id(0) // n_blocks).to(tl.int64)
    block = tl.program_id(0) % n_blocks
    alpha = tl.load(alpha_pointer + row % n_channels)
    inverse = 1.0 / (alpha + 1e-9)
    places = block * BLOCK + tl.arange(0, BLOCK)
    inside = places < n_samples
    offsets = row * n_samples + places
    x = tl.load(x_pointer + offsets, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.load(gradient_pointer + offsets, mask=inside, other=0.0).to(tl.float32)
    sine = tl.sin(alpha * x)
    double_sine = 2.0 * sine * tl.cos(alpha * x)
    dx = gradient * (1.0 + alpha * inverse * double_sine)
    tl.store(dx_pointer + offsets, dx.to(dx_pointer.dtype.element_ty), mask=inside)
    dalpha = gradient * inverse * (x * double_sine - inverse * sine * sine)
    tl.store(dalpha_pointer + tl.program_id(0), tl.sum(dalpha, 0))


def forward(x: Tensor, alpha: Tensor) -> Tensor:
    """Snake of x [B, C, T], contiguous, with alpha [1, C, 1]."""
    y = torch.empty_like(x)
    _launch(x, alpha, y, x.shape[2])
    return y


def forward_channels_last(x: Tensor, alpha: Tensor, out: Tensor) -> None:
    """Snake of x [B, T, C], contiguous, with alpha [C], into `out`, of which each item is contiguous."""
    _launch(x, alpha, out, 1)


def backward(x: Tensor, alpha: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x [B, C, T] and alpha [1, C, 1] from the output's gradient [B, C, T], all contiguous."""
    batch, n_channels, n_samples = x.shape
    dx = torch.empty_like(x)
    partial = alpha.new_empty(batch, n_channels, triton.cdiv(n_samples, _BLOCK))
    if x.numel():
        with torch.cuda.device_of(x):
            _backward_kernel[(partial.numel(),)](x, alpha, gradient, dx, partial, n_channels, n_samples, _BLOCK)
    return dx, partial.sum((0, 2)).view_as(alpha)


def _launch(x: Tensor, alpha: Tensor, y: Tensor, channel_stride: int) -> None:
    if x.numel() == 0:
        return
    n_values = x.numel() // x.shape[0]
    grid = (triton.cdiv(n_values, _BLOCK) * x.shape[0],)
    with torch.cuda.device_of(x):
        _forward_kernel[grid](x, alpha, y, n_values, alpha.numel(), channel_stride, x.stride(0), y.stride(0), _BLOCK)
