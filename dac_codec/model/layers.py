"""Layers of the encoder, the decoder and the quantizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.autocast_mode import is_autocast_available
from torch.nn.utils.parametrizations import weight_norm

from dac_codec.model.config import Activation
from dac_codec.model.snake import snake

_AUTOCAST_DEVICES = frozenset(
    kind for kind in ("cpu", "cuda", "mps", "xpu", "hpu", "xla") if is_autocast_available(kind)
)
"""Found at import, since torch.compile can't trace the question."""

AnyConv = TypeVar("AnyConv", nn.Conv1d, nn.ConvTranspose1d)


class Snake(nn.Module):
    """Periodic activation with one alpha per channel, see `snake`.

    Shapes:
        [B, C, T] -> [B, C, T]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha: nn.Parameter = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return snake(x, self.alpha)


def activation(kind: Activation, channels: int) -> nn.Module:
    """The nonlinearity of a configuration, for [B, channels, T]."""
    return Snake(channels) if kind == "snake" else nn.ReLU()


class CausalConv1d(nn.Conv1d):
    """A convolution padded at its start only: output i depends on inputs before (i + 1) * stride.

        kernel 3       0  0  a  b  c
                      |_____|           output 0
                            |_____|     output 2

    Shapes:
        [B, in_channels, T] -> [B, out_channels, T / stride]
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, padding_of(self)))


class CausalConvTranspose1d(nn.ConvTranspose1d):
    """A transposed convolution cut at its end only: outputs before (i + 1) * stride depend on inputs up to i.

    Shapes:
        [B, in_channels, T] -> [B, out_channels, T * stride]
    """

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(x, output_size)[..., : x.shape[-1] * self.stride[0]]


def conv1d(
    n_in: int, n_out: int, kernel: int, causal: bool = False, padding: int = 0, stride: int = 1, dilation: int = 1
) -> nn.Conv1d:
    """A weight-normalized 1-D convolution; `padding` is that of both ends, which a `CausalConv1d` ignores."""
    if causal:
        return _initialized(CausalConv1d(n_in, n_out, kernel, stride, dilation=dilation))
    return _initialized(nn.Conv1d(n_in, n_out, kernel, stride, padding, dilation))


def _initialized(conv: AnyConv) -> AnyConv:
    """`conv` with weight norm, truncated normal weights (standard deviation 0.02, as in the paper) and zero bias."""
    nn.init.trunc_normal_(conv.weight, std=0.02)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    normalized: AnyConv = weight_norm(conv)
    return normalized


class ResidualUnit(nn.Module):
    """x + block(x): activation, dilated convolution with kernel 7, activation, 1x1 convolution.

    Without padding (`Decoder.without_padding`) the block's output is shorter, and added to the middle of x.

    Shapes:
        [B, C, T] -> [B, C, T]
    """

    def __init__(self, channels: int, dilation: int, kind: Activation = "snake", causal: bool = False) -> None:
        super().__init__()
        self.block: nn.Sequential = nn.Sequential(
            activation(kind, channels),
            conv1d(channels, channels, 7, causal, padding=3 * dilation, dilation=dilation),
            activation(kind, channels),
            conv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        trim = (x.shape[-1] - y.shape[-1]) // 2
        return x[..., trim : x.shape[-1] - trim] + y


def up_sampling(in_channels: int, out_channels: int, stride: int, causal: bool) -> nn.ConvTranspose1d:
    """The transposed convolution of a decoder block: kernel 2 * stride, padding ceil(stride / 2).

    T samples become `stride * T`, or `stride * T - 1` where the stride is odd and the layer isn't causal.
    """
    if causal:
        return _initialized(CausalConvTranspose1d(in_channels, out_channels, 2 * stride, stride))
    padding = math.ceil(stride / 2)
    return _initialized(nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride, padding))


def padding_of(conv: nn.Conv1d | nn.ConvTranspose1d) -> tuple[int, int]:
    """Zeros added before and after a convolution's input, or samples cut from a transposed one's output.

    convolution     0 0 | a b c d | 0 0         transposed     x x | u v w x | x x
                    left            right                      left            right
    """
    if isinstance(conv, CausalConv1d):
        return conv.dilation[0] * (conv.kernel_size[0] - 1) + 1 - conv.stride[0], 0
    if isinstance(conv, CausalConvTranspose1d):
        return 0, conv.kernel_size[0] - conv.stride[0]
    return int(conv.padding[0]), int(conv.padding[0])


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Turn off `torch.autocast` for a device."""
    if device.type in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def convolutions(module: nn.Module) -> Iterator[nn.Conv1d | nn.ConvTranspose1d]:
    """The convolutions inside a module, in the order of the signal path."""
    for child in module.modules():
        if isinstance(child, (nn.Conv1d, nn.ConvTranspose1d)):
            yield child
