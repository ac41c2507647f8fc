"""Convolutions with seven taps in fewer multiplications, by minimal filtering."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dac_codec.inference.convolution import Conv, PackedConv, RowConv, can_prepack, round_up

_MIN_CHANNELS = 192
"""Channels from which the saved multiplications outweigh the added additions."""

_MIN_PAIRS = 8
"""Pairs of outputs from which it pays: the last pair may be almost empty."""


class WinogradConv(Conv):
    """A convolution with seven taps in five sevenths of the multiplications.

    F(2, 3) gives two outputs of a three-tap filter, d samples apart, with four products instead of six. With inputs x
    and taps w,

        y0 = m1 + m2 + m3    m1 = (x0 - x2) w0    m2 = (x1 + x2) (w0 + w1 + w2) / 2
        y1 = m2 - m3 - m4    m4 = (x1 - x3) w2    m3 = (x2 - x1) (w0 - w1 + w2) / 2

    where each product is a matrix product over channels. The seven taps are two groups of three, whose products are
    summed before y0 and y1 are formed, and the middle tap:

        taps     0  1  2 | 3 | 4  5  6
                 F(2, 3)   1   F(2, 3)

    Sources: Winograd, "Arithmetic Complexity of Computations" (1980); Lavin & Gray, "Fast Algorithms for Convolutional
    Neural Networks" (2016). The factors are rounded once more than in a `RowConv`: in bfloat16 the error doubles.

    The module's weights are copied with weight norm applied; `dtype` is the type of the arithmetic.
    """

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype) -> None:
        assert conv.bias is not None
        assert conv.kernel_size[0] == 7
        self._direct = RowConv(conv, dtype)
        self._dilation = conv.dilation[0]
        self.out_channels: int = conv.out_channels
        self.dtype = dtype
        weight, bias = conv.weight.detach(), conv.bias.detach()
        w0, w1, w2 = (weight[:, :, [index, 4 + index]] for index in range(3))
        self._products = [
            PackedConv(taps, None, 2 * self._dilation, dtype)
            for taps in (w0, (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2, -w2)
        ]
        self._middle = PackedConv(weight[:, :, 3:4], bias, 1, dtype)

    def n_inputs(self, n_outputs: int) -> int:
        n_pairs = -(-n_outputs // (2 * self._dilation))
        if n_pairs < _MIN_PAIRS:
            return self._direct.n_inputs(n_outputs)
        return 2 * self._dilation * (round_up(n_pairs, 6) + 3)

    def __call__(self, x: Tensor) -> Tensor:
        batch, n_rows, n_in = x.shape
        n_pairs, rest = divmod(n_rows, 2 * self._dilation)
        n_pairs -= 3
        if rest or n_pairs < _MIN_PAIRS:
            return self._direct(x)
        even, odd = x.view(batch, n_pairs + 3, 2, self._dilation * n_in).unbind(2)
        factors = x.new_empty(4, batch, n_pairs + 2, self._dilation * n_in)
        torch.sub(even[:, :-1], even[:, 1:], out=factors[0])
        torch.add(odd[:, :-1], even[:, 1:], out=factors[1])
        torch.sub(even[:, 1:], odd[:, :-1], out=factors[2])
        torch.sub(odd[:, :-1], odd[:, 1:], out=factors[3])
        rows = [factor.view(batch, -1, n_in) for factor in factors]
        m1, m2, m3, m4 = self._products
        sum_2, sum_3 = m2(rows[1]), m3(rows[2])
        second = sum_2 - sum_3
        first = sum_2.add_(sum_3)
        m1.add_to(first, rows[0])
        m4.add_to(second, rows[3])
        y = x.new_empty(batch, n_pairs, 2, self._dilation * self.out_channels)
        y[:, :, 0] = first.view(batch, n_pairs, -1)
        y[:, :, 1] = second.view(batch, n_pairs, -1)
        y = y.view(batch, -1, self.out_channels)
        self._middle.add_to(y, x[:, 3 * self._dilation : 3 * self._dilation + y.shape[1]])
        return y


def fastest_conv(conv: nn.Conv1d | nn.ConvTranspose1d, dtype: torch.dtype) -> Conv:
    """The faster of `RowConv` and `WinogradConv` for a module and a type."""
    if (
        isinstance(conv, nn.Conv1d)
        and conv.kernel_size[0] == 7
        and conv.stride[0] == 1
        and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
        and dtype == torch.bfloat16
        and can_prepack(conv.weight.device, dtype)
    ):
        return WinogradConv(conv, dtype)
    return RowConv(conv, dtype)
