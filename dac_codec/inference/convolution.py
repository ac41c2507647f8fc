"""Convolutions of signals [B, T, C], channels last, without padding: matrix products over rows that lie in memory.

With the channels last, neighbouring samples are one longer row. A strided convolution then has stride 1, and a
transposed one gives several samples per row:

    stride 2, kernel 4        samples   a  b  c  d  e  f      weight [O, C, 4]
                              rows     (a  b)(c  d)(e  f)     weight [O, 2 C, 2]

    transposed, stride 2      rows      a     b     c         weight [C, O, 4]
                              outputs  (u  v)(w  x)           weight [2 O, C, 2]
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_NARROW = 8
"""Output channels below which vector registers stay half empty, unless a row holds several samples."""

_SAMPLES_PER_ROW = 16
"""Samples per row of a convolution with fewer than `_NARROW` output channels."""

_MAX_LAYOUTS = 2
"""Prepacked layouts kept per weight: the one for the usual input shape and the one for the latest other shape."""


class Conv(ABC):
    """A convolution, strided or transposed, without its padding.

    Attributes:
        out_channels: output channels O.
        dtype: type of the arithmetic, the input and the output.
    """

    out_channels: int
    dtype: torch.dtype

    @abstractmethod
    def n_inputs(self, n_outputs: int) -> int:
        """Input length needed for at least `n_outputs` samples."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Convolve x [B, T, C], T a result of `n_inputs`, to [B, T', O]."""


class PackedConv:
    """A convolution over rows [B, T, C] whose weights oneDNN lays out beforehand, where it can.

    Elsewhere, rows that are `dilation` apart are a column of an image, so that no convolution is dilated: for some
    lengths, cuDNN takes a hundred times as long for a dilated one in bfloat16.

        rows a b c d e f, dilation 2      image   a  b      taps   w0
                                                  c  d             w1
                                                  e  f             w2

    Args:
        weight: [O, C, K].
        bias: [O], or None.
        dilation: in rows.
        dtype: type of the arithmetic.

    Attributes:
        is_prepacked: whether oneDNN lays out the weights, once per input shape: use few distinct shapes.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dilation: int, dtype: torch.dtype) -> None:
        self.is_prepacked: bool = can_prepack(weight.device, dtype)
        taps = weight[:, :, None] if self.is_prepacked or dilation == 1 else weight[..., None]
        self._weight = taps.to(dtype).contiguous(memory_format=torch.channels_last)
        self._bias = None if bias is None else bias.to(dtype, copy=True)
        self._dilation = [1, dilation]
        self._layouts: dict[tuple[int, int], Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, rows: Tensor) -> Tensor:
        """Convolve rows [B, T, C] to [B, T', O]."""
        if not self.is_prepacked and self._dilation[1] > 1:
            return self._by_columns(rows)
        image = _as_image(rows)
        if self.is_prepacked:
            y = torch.ops.mkldnn._convolution_pointwise(
                image, self._layout(image), self._bias, [0, 0], [1, 1], self._dilation, 1, "none", [], ""
            )
        else:
            y = F.conv2d(image, self._weight, self._bias)
        convolved: Tensor = y.squeeze(2).transpose(1, 2)
        return convolved

    def _by_columns(self, rows: Tensor) -> Tensor:
        """Convolve rows [B, T, C], each column of the image by itself; zeros complete the last row of the image."""
        width, n_rows = self._dilation[1], rows.shape[1]
        if missing := -n_rows % width:
            rows = F.pad(rows, (0, 0, 0, missing))
        image = rearrange(rows, "b (h w) c -> b c h w", w=width)
        y = rearrange(F.conv2d(image, self._weight, self._bias), "b c h w -> b (h w) c")
        return y[:, : n_rows - width * (self._weight.shape[2] - 1)]

    def add_to(self, total: Tensor, rows: Tensor) -> None:
        """Convolve rows [B, T, C] and add the result to `total` [B, T', O], contiguous, in place."""
        if not self.is_prepacked:
            total.add_(self(rows))
            return
        image = _as_image(rows)
        torch.ops.mkldnn._convolution_pointwise_(
            _as_image(total), image, self._layout(image), self._bias,
            [0, 0], [1, 1], self._dilation, 1, "add", 1.0, None, [], None,
        )  # fmt: skip

    def _layout(self, image: Tensor) -> Tensor:
        """The weights in oneDNN's layout for this input shape; with any other layout it reorders them at every call."""
        key = (image.shape[0], image.shape[3])
        with self._lock:  # Streams in several threads may share the weights.
            layout = self._layouts.pop(key, None)
            if layout is None:
                layout = torch.ops.mkldnn._reorder_convolution_weight(
                    self._weight, [0, 0], [1, 1], self._dilation, 1, list(image.shape)
                )
            self._layouts[key] = layout  # Insertion order is order of use.
            if len(self._layouts) > _MAX_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            return layout


class RowConv(Conv):
    """Any convolution of the network as one of stride 1 over rows of several samples.

    The module's weights are copied with weight norm applied; `dtype` is the type of the arithmetic.
    """

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        assert conv.bias is not None
        weight, bias = conv.weight.detach(), conv.bias.detach()
        stride, self._dilation = conv.stride[0], conv.dilation[0]
        self._in_samples = self._out_samples = 1  # samples per input row, per output row
        self.out_channels: int = conv.out_channels
        self.dtype = dtype
        if isinstance(conv, nn.ConvTranspose1d):
            weight = rearrange(weight, "i o (k s) -> (s o) i k", s=stride).flip(2)
            self._out_samples = stride
        elif stride > 1:
            weight = rearrange(weight, "o i (k s) -> o (s i) k", s=stride)
            self._in_samples = stride
        elif conv.out_channels < _NARROW and self._dilation == 1 and conv.kernel_size[0] <= _SAMPLES_PER_ROW:
            weight = _several_samples(weight, _SAMPLES_PER_ROW)
            self._in_samples = self._out_samples = _SAMPLES_PER_ROW
        self._taps = weight.shape[2]  # input rows per output row, `_dilation` apart
        bias = bias.repeat(self._out_samples)
        self._linear: tuple[Tensor, Tensor] | None = None
        if weight.shape[1] == 1 and self._dilation == 1:
            self._linear = weight[:, 0].to(dtype).contiguous(), bias.to(dtype)
        else:
            self._conv = PackedConv(weight, bias, self._dilation, dtype)

    def n_inputs(self, n_outputs: int) -> int:
        n_rows = -(-n_outputs // self._out_samples)
        if self._linear is None and self._conv.is_prepacked:
            n_rows = round_up(n_rows, 3)
        return (n_rows + self._dilation * (self._taps - 1)) * self._in_samples

    def __call__(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        if self._linear is not None:
            y = F.linear(x.squeeze(2).unfold(1, self._taps, 1), *self._linear)
        else:
            rows = x if self._in_samples == 1 else x.reshape(batch, x.shape[1] // self._in_samples, -1)
            y = self._conv(rows)
        return y.reshape(batch, -1, self.out_channels)


def _several_samples(weight: Tensor, n_samples: int) -> Tensor:
    """The weight for rows of n samples in and out, of a weight [O, I, K] with K <= n + 1.

        taps a b c, n = 4      row 0      row 1
            output 0          a b c .    . . . .
            output 1          . a b c    . . . .
            output 2          . . a b    c . . .
            output 3          . . . a    b c . .

    Returns:
        [n * O, n * I, 2].
    """
    n_out, n_in, width = weight.shape
    shifted = weight.new_zeros(n_samples, n_out, 2 * n_samples, n_in)
    for index in range(n_samples):
        shifted[index, :, index : index + width] = rearrange(weight, "o i k -> o k i")
    return rearrange(shifted, "n o (k m) i -> (n o) (m i) k", k=2)


def can_prepack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN can prepack weights. The functions belong to PyTorch's private interface."""
    return (
        device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise_")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )


def round_up(n_rows: int, bits: int) -> int:
    """The next number with at most `bits` significant bits: few distinct input shapes, little waste."""
    unit = 1 << max(0, n_rows.bit_length() - bits)
    return -(-n_rows // unit) * unit


def _as_image(x: Tensor) -> Tensor:
    """[B, T, C] as an image [B, C, 1, T] in channels-last memory format, without a copy."""
    return x.transpose(1, 2).unsqueeze(2)
