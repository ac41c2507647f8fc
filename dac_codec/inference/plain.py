"""The arithmetic of the model itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.inference.convolution import Conv


class PlainKernel(Conv):
    """The very arithmetic of the model, in the order of its own sums.

    Args:
        conv: its weights are taken as they are now, weight norm applied.
    """

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
        assert conv.bias is not None
        self._weight, self._bias = conv.weight.detach(), conv.bias.detach().clone()
        self._is_transposed = isinstance(conv, nn.ConvTranspose1d)
        self._stride, self._dilation, self._width = conv.stride[0], conv.dilation[0], conv.kernel_size[0]
        self.out_channels, self.dtype = conv.out_channels, conv.weight.dtype

    def n_inputs(self, n_outputs: int) -> int:
        if self._is_transposed:
            return n_outputs // self._stride + self._width // self._stride - 1
        return (n_outputs - 1) * self._stride + self._dilation * (self._width - 1) + 1

    def __call__(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        if not self._is_transposed:
            return F.conv1d(x, self._weight, self._bias, self._stride, 0, self._dilation).transpose(1, 2)
        y = F.conv_transpose1d(x, self._weight, self._bias, self._stride)
        # The first and the last outputs lack what inputs before and after these would add.
        return y[..., self._width - self._stride : x.shape[-1] * self._stride].transpose(1, 2)
