"""The arithmetic of the layers on signals [B, T, C], channels last: what is quickest on the device at hand.

With the channels last, a stride is a longer row, and a transposed convolution is one that gives several samples at
once: every layer becomes a matrix product over rows that lie in memory already.
"""

from __future__ import annotations

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.model.layers import Snake
from dac_codec.model.snake import SQUARED_SINE, Scales, scales, snake_into

_NARROW = 8
"""Output channels below which a processor's vectors stay half empty, unless several samples are computed at once."""

_SAMPLES_AT_ONCE = 16

_LAYOUTS = 2
"""Layouts of a kernel's weights that are kept: that for the usual length, and that for the latest other one."""

_WIDE = 192
"""Channels from which additions are so much quicker than products that `WinogradConv` pays."""

_FEWEST_PAIRS = 8
"""With fewer pairs of outputs than these it does not, as the last one may be all but wasted."""


class Kernel(ABC):
    """A convolution, strided or transposed, without its padding.

    Attributes:
        out_channels: of the output.
        dtype: that it computes in.
    """

    out_channels: int
    dtype: torch.dtype

    @abstractmethod
    def n_inputs(self, n_outputs: int) -> int:
        """Samples of input that a call has to have to give so many of output, or a few more."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Convolve x [B, T, C], where T is a result of `n_inputs`, to [B, T', out_channels]."""


class PlainKernel(Kernel):
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
        """As of every kernel."""
        if self._is_transposed:
            return n_outputs // self._stride + self._width // self._stride - 1
        return (n_outputs - 1) * self._stride + self._dilation * (self._width - 1) + 1

    def __call__(self, x: Tensor) -> Tensor:
        """As of every kernel."""
        x = x.transpose(1, 2)
        if not self._is_transposed:
            return F.conv1d(x, self._weight, self._bias, self._stride, 0, self._dilation).transpose(1, 2)
        y = F.conv_transpose1d(x, self._weight, self._bias, self._stride)
        # The first and the last outputs lack what inputs before and after these would add.
        return y[..., self._width - self._stride : x.shape[-1] * self._stride].transpose(1, 2)


class RowConvolution:
    """A convolution over rows [B, T, C] without padding, its weights laid out for the processor beforehand.

    Args:
        weight: [O, C, K].
        bias: [O], or None.
        dilation: of the rows.
        dtype: that it computes in.

    Attributes:
        is_packed: whether weights are laid out, once for each shape of the rows: there had better be few of them.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dilation: int, dtype: torch.dtype) -> None:
        self._weight = weight[:, :, None].to(dtype).contiguous(memory_format=torch.channels_last)
        self._bias = None if bias is None else bias.to(dtype, copy=True)
        self._dilation = [1, dilation]
        self.is_packed = _can_pack(weight.device, dtype)
        self._layouts: dict[tuple[int, int], Tensor] = {}
        self._lock = threading.Lock()

    def __call__(self, rows: Tensor) -> Tensor:
        """Convolve rows [B, T, C] to [B, T', O]."""
        image = _as_image(rows)
        if self.is_packed:
            y = torch.ops.mkldnn._convolution_pointwise(
                image, self._layout(image), self._bias, [0, 0], [1, 1], self._dilation, 1, "none", [], ""
            )
        else:
            y = F.conv2d(image, self._weight, self._bias, dilation=self._dilation)
        convolved: Tensor = y.squeeze(2).transpose(1, 2)
        return convolved

    def add_to(self, sums: Tensor, rows: Tensor) -> None:
        """Convolve rows [B, T, C] and add them to [B, T', O], contiguous."""
        if not self.is_packed:
            sums.add_(self(rows))
            return
        image = _as_image(rows)
        torch.ops.mkldnn._convolution_pointwise_(
            _as_image(sums), image, self._layout(image), self._bias,
            [0, 0], [1, 1], self._dilation, 1, "add", 1.0, None, [], None,
        )  # fmt: skip

    def _layout(self, image: Tensor) -> Tensor:
        """The weights as oneDNN wants them for such an input; for another one it would lay them out at every call."""
        key = (image.shape[0], image.shape[3])
        with self._lock:  # Streams in several threads may share the weights.
            layout = self._layouts.pop(key, None)
            if layout is None:
                layout = torch.ops.mkldnn._reorder_convolution_weight(
                    self._weight, [0, 0], [1, 1], self._dilation, 1, list(image.shape)
                )
            self._layouts[key] = layout  # The latest one comes last.
            if len(self._layouts) > _LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            return layout


class FastKernel(Kernel):
    """A matrix product over rows that lie in memory already.

    A row of its input is `in_samples` samples, side by side; a row of its output `out_samples` of them.

    Args:
        conv: its weights are taken as they are now, weight norm applied.
        dtype: that it computes in.

    Attributes:
        in_samples: samples of a row of the input.
        out_samples: samples of a row of the output.
        taps: rows of the input that a row of the output depends on, `dilation` apart.
        dilation: of the rows.
        out_channels: of the output.
        dtype: that it computes in.
    """

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        assert conv.bias is not None
        weight, bias = conv.weight.detach(), conv.bias.detach()
        stride, self.dilation = conv.stride[0], conv.dilation[0]
        self.in_samples = self.out_samples = 1
        self.out_channels = conv.out_channels
        self.dtype = dtype
        if isinstance(conv, nn.ConvTranspose1d):
            weight = _samples_of_transposed(weight, stride)
            self.out_samples = stride
        elif stride > 1:
            weight = _rows_of_samples(weight, stride)
            self.in_samples = stride
        elif conv.out_channels < _NARROW and self.dilation == 1 and conv.kernel_size[0] <= _SAMPLES_AT_ONCE:
            weight = _several_samples(weight, _SAMPLES_AT_ONCE)
            self.in_samples = self.out_samples = _SAMPLES_AT_ONCE
        self.taps = weight.shape[2]
        bias = bias.repeat(self.out_samples)
        self._narrow: tuple[Tensor, Tensor] | None = None
        if weight.shape[1] == 1 and self.dilation == 1:
            self._narrow = weight[:, 0].to(dtype).contiguous(), bias.to(dtype)
        else:
            self._convolution = RowConvolution(weight, bias, self.dilation, dtype)

    def n_inputs(self, n_outputs: int) -> int:
        """As of every kernel."""
        n_rows = -(-n_outputs // self.out_samples)
        if self._narrow is None and self._convolution.is_packed:
            n_rows = _rounded(n_rows, 3)
        return (n_rows + self.dilation * (self.taps - 1)) * self.in_samples

    def __call__(self, x: Tensor) -> Tensor:
        """As of every kernel."""
        batch = x.shape[0]
        if self._narrow is not None:
            y = F.linear(x.squeeze(2).unfold(1, self.taps, 1), *self._narrow)
        else:
            rows = x if self.in_samples == 1 else x.reshape(batch, x.shape[1] // self.in_samples, -1)
            y = self._convolution(rows)
        return y.reshape(batch, -1, self.out_channels)


class WinogradConv(Kernel):
    """A convolution of seven taps with five sevenths of the multiplications.

    Of two outputs, d samples apart, three taps want four products and not six, by the minimal filtering algorithm
    F(2, 3): with inputs x and taps w,

        y0 = m1 + m2 + m3    m1 = (x0 - x2) w0    m2 = (x1 + x2) (w0 + w1 + w2) / 2
        y1 = m2 - m3 - m4    m4 = (x1 - x3) w2    m3 = (x2 - x1) (w0 - w1 + w2) / 2

    where each product is that of a matrix and the channels. The taps 0 to 2 and 4 to 6 are two such threes, whose
    products are added before they are put together; tap 3 is a product of its own. Sources: Winograd, "Arithmetic
    Complexity of Computations" (1980); Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2016).

    What is multiplied is rounded once more than in a `FastKernel`: with bfloat16 the error is twice as large.

    Args:
        conv: of seven taps; its weights are taken as they are now, weight norm applied.
        dtype: that it computes in.
    """

    def __init__(self, conv: nn.Conv1d, dtype: torch.dtype) -> None:
        assert conv.bias is not None
        assert conv.kernel_size[0] == 7
        self._direct = FastKernel(conv, dtype)
        self._dilation = conv.dilation[0]
        self.out_channels, self.dtype = conv.out_channels, dtype
        weight, bias = conv.weight.detach(), conv.bias.detach()
        w0, w1, w2 = (weight[:, :, [index, 4 + index]] for index in range(3))
        self._products = [
            RowConvolution(taps, None, 2 * self._dilation, dtype)
            for taps in (w0, (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2, -w2)
        ]
        self._middle = RowConvolution(weight[:, :, 3:4], bias, 1, dtype)

    def n_inputs(self, n_outputs: int) -> int:
        """As of every kernel."""
        n_pairs = -(-n_outputs // (2 * self._dilation))
        if n_pairs < _FEWEST_PAIRS:
            return self._direct.n_inputs(n_outputs)
        return 2 * self._dilation * (_rounded(n_pairs, 6) + 3)

    def __call__(self, x: Tensor) -> Tensor:
        """As of every kernel."""
        batch, n_rows, n_in = x.shape
        n_pairs, rest = divmod(n_rows, 2 * self._dilation)
        n_pairs -= 3
        if rest or n_pairs < _FEWEST_PAIRS:
            return self._direct(x)
        first, second = x.view(batch, n_pairs + 3, 2, self._dilation * n_in).unbind(2)
        sums = x.new_empty(4, batch, n_pairs + 2, self._dilation * n_in)
        torch.sub(first[:, :-1], first[:, 1:], out=sums[0])
        torch.add(second[:, :-1], first[:, 1:], out=sums[1])
        torch.sub(first[:, 1:], second[:, :-1], out=sums[2])
        torch.sub(second[:, :-1], second[:, 1:], out=sums[3])
        one, two, three, four = (
            (product, rows.view(batch, -1, n_in)) for product, rows in zip(self._products, sums, strict=True)
        )
        middle_two, middle_three = two[0](two[1]), three[0](three[1])
        last = middle_two - middle_three
        first = middle_two.add_(middle_three)
        one[0].add_to(first, one[1])
        four[0].add_to(last, four[1])
        y = x.new_empty(batch, n_pairs, 2, self._dilation * self.out_channels)
        y[:, :, 0] = first.view(batch, n_pairs, -1)
        y[:, :, 1] = last.view(batch, n_pairs, -1)
        y = y.view(batch, -1, self.out_channels)
        self._middle.add_to(y, x[:, 3 * self._dilation : 3 * self._dilation + y.shape[1]])
        return y


def fast_kernel(conv: nn.Conv1d | nn.ConvTranspose1d, dtype: torch.dtype) -> Kernel:
    """The quickest kernel for a convolution in a type."""
    if (
        isinstance(conv, nn.Conv1d)
        and conv.kernel_size[0] == 7
        and conv.stride[0] == 1
        and min(conv.in_channels, conv.out_channels) >= _WIDE
        and dtype == torch.bfloat16
        and _can_pack(conv.weight.device, dtype)
    ):
        return WinogradConv(conv, dtype)
    return FastKernel(conv, dtype)


def _as_image(x: Tensor) -> Tensor:
    """[B, T, C] as an image [B, C, 1, T] with its channels last, without a copy."""
    return x.transpose(1, 2).unsqueeze(2)


def _rows_of_samples(weight: Tensor, stride: int) -> Tensor:
    """The weight [O, stride * I, K / stride] that does over rows of `stride` samples what [O, I, K] does in strides."""
    n_out, n_in, width = weight.shape
    return weight.view(n_out, n_in, width // stride, stride).permute(0, 3, 1, 2).reshape(n_out, stride * n_in, -1)


def _samples_of_transposed(weight: Tensor, stride: int) -> Tensor:
    """The weight [stride * O, I, K / stride] that gives side by side the samples of a transposed [I, O, K]."""
    n_in, n_out, width = weight.shape
    taps = weight.view(n_in, n_out, width // stride, stride).flip(2)
    return taps.permute(3, 1, 0, 2).reshape(stride * n_out, n_in, -1)


def _several_samples(weight: Tensor, n_samples: int) -> Tensor:
    """The weight [n * O, n * I, 2] that gives n samples at once over rows of n, for [O, I, K] with K <= n + 1."""
    n_out, n_in, width = weight.shape
    shifted = weight.new_zeros(n_samples, n_out, 2 * n_samples, n_in)
    for index in range(n_samples):
        shifted[index, :, index : index + width] = weight.transpose(1, 2)
    return shifted.view(n_samples * n_out, 2, n_samples * n_in).transpose(1, 2)


def _can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN can lay out weights beforehand. The functions are PyTorch's own, but no public ones."""
    return (
        device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise_")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )


def _rounded(n_rows: int, bits: int) -> int:
    """At least as many, with so many significant bits: so that few lengths are met, and little is wasted."""
    unit = 1 << max(0, n_rows.bit_length() - bits)
    return -(-n_rows // unit) * unit


def signal_dtype(dtype: torch.dtype) -> torch.dtype:
    """What layers hand on to one another: a model's own type, but where sums would lose its few bits."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


Activation = Callable[[Tensor, Tensor], None]
"""Writes f(x) of x [B, T, C] into the second tensor, of the same shape and maybe another type; x is not kept."""


SnakeFunction = Callable[[Tensor, Scales, Tensor], None]
"""`snake_into`, or what does the same."""


class FusedSnake:
    """The Snake of a layer.

    Args:
        module: its alphas are taken as they are now.
        dtype: of the arithmetic.
        function: that computes it.
    """

    def __init__(self, module: Snake, dtype: torch.dtype, function: SnakeFunction) -> None:
        # A copy: what a kernel keeps of a model never is the model's own memory, which a later change would reach.
        self._scales = scales(module.alpha.detach().to(dtype, copy=True).view(-1))
        self._function = function

    def __call__(self, x: Tensor, out: Tensor) -> None:
        self._function(x, self._scales, out)


def _one_pass(x: Tensor, scales: Scales, out: Tensor) -> None:
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
    """`snake_into` as one compiled pass over memory; where the compiler fails, with a warning, `snake_into` itself.

    What PyTorch compiles holds for the types of its arguments, the number of threads and whether gradients are wanted;
    of a shape, it takes any but ones. Items go through it one by one, so that neither their number nor the place where
    their results go makes a difference.
    """

    def __init__(self) -> None:
        self._one_pass: Callable[..., Any] = torch.compile(_one_pass, dynamic=True)
        self._works = True

    def __call__(self, x: Tensor, scales: Scales, out: Tensor) -> None:
        if self._works and min(x.shape[1:]) > 1:
            try:
                for signal, result in zip(x.unbind(), out.unbind(), strict=True):
                    # Not as the views that they are: what is compiled would hold for the shape of the whole, too.
                    self._one_pass(signal.data, scales, result.data)
                return
            except Exception as error:  # Whatever a compiler may say.
                self._give_up(error)
        snake_into(x, scales, out)

    @torch.no_grad()
    def warm_up(self, signal: torch.dtype, dtype: torch.dtype) -> bool:
        """Compile all that a network needs, as it will be called, with so many threads as there are now.

        Args:
            signal: the type of what layers hand on to one another, and of the activations' arithmetic.
            dtype: that convolutions compute in.

        Returns:
            Whether it works.
        """
        factors = scales(torch.ones(48, dtype=signal, device="cpu"))
        # Between layers; inside a residual unit; and where the convolution to audio follows.
        for before, after in dict.fromkeys([(signal, dtype), (dtype, dtype), (signal, signal)]):
            x = torch.zeros(1, 80, 48, dtype=before, device="cpu")
            self(x, factors, torch.empty_like(x, dtype=after))
        return self._works

    def _give_up(self, error: Exception) -> None:
        with _compiling:
            if self._works:
                self._works = False
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                warnings.warn(f"activations are not compiled: {reason}", stacklevel=3)


_compiling = threading.RLock()
"""Held by the thread that compiles before it is needed, or says that nothing can be compiled."""


@lru_cache(maxsize=1)
def _compiler() -> CompiledSnake:
    """The one of this process."""
    return CompiledSnake()


def compiled_snake(signal: torch.dtype, dtype: torch.dtype) -> SnakeFunction | None:
    """Snake as one compiled pass over memory; None, and a warning, where it can't be compiled.

    Args:
        signal: as of `CompiledSnake.warm_up`.
        dtype: as of `CompiledSnake.warm_up`.
    """
    with _compiling:
        function = _compiler()
        return function if function.warm_up(signal, dtype) else None


def relu(x: Tensor, out: Tensor) -> None:
    """Rectify x into `out`."""
    torch.clamp_min(x, 0, out=out) if x.dtype == out.dtype else out.copy_(x.clamp_min(0))
