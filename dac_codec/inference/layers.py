"""The layers of the network on signals [B, T, C] that arrive in chunks.

Each layer keeps the inputs that its next outputs need, so that nothing is computed twice. Zero padding is added before
the first sample and after the last one, never between chunks.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from dac_codec.inference.activation import ActivationFunction, SnakeFunction, relu_into, signal_dtype, snake_activation
from dac_codec.inference.convolution import Conv
from dac_codec.inference.winograd import fastest_conv
from dac_codec.model.decoder import Decoder, DecoderBlock
from dac_codec.model.encoder import Encoder, EncoderBlock
from dac_codec.model.layers import ResidualUnit, Snake, padding_of

State: TypeAlias = "dict[str, Tensor | int]"
"""The state of a layer by name; tensors are [B, T, C]. No tensor in it is changed in place."""

AnyLayer = TypeVar("AnyLayer", bound="Layer")

_TILE_BYTES = 1 << 23
"""Bytes of a tile where it has most channels: it stays in the last-level cache."""

_DEVICE_TILE_BYTES = 1 << 28  # GPU only, not yet measured: small tiles would spend their time on kernel launches.

_MIN_TILE = 64
"""Samples of a tile below which call overhead dominates."""

_MIN_CHANNELS = 32
"""Convolutions with fewer channels keep the model's precision: they take little time, and they are next to the audio,
where rounding noise would fill frequencies that the network leaves almost silent."""


class Layer(ABC):
    """A layer and its state in a signal [B, T, C].

    Attributes:
        children: layers inside it, by name.
        kept: names of the attributes that are its own state.
    """

    children: Mapping[str, Layer] = MappingProxyType({})
    kept: tuple[str, ...] = ()

    @abstractmethod
    def step(self, x: Tensor, last: bool) -> Tensor:
        """Take the next samples [B, t, C], t >= 0, and return all outputs known by then; x may be overwritten.

        `last`: whether the signal ends with them.
        """

    def reset(self, batch_size: int) -> None:
        """Start new signals."""
        for child in self.children.values():
            child.reset(batch_size)

    def state(self) -> State:
        """The state of this layer and its children."""
        state: State = {name: getattr(self, name) for name in self.kept}
        for prefix, child in self.children.items():
            state.update({f"{prefix}.{name}": value for name, value in child.state().items()})
        return state

    def restore(self, state: State) -> None:
        """Continue from what `state` returned."""
        for name in self.kept:
            setattr(self, name, state[name])
        for child_name, child in self.children.items():
            prefix = f"{child_name}."
            child.restore({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)})

    def new_stream(self: AnyLayer) -> AnyLayer:
        """The same layer for another signal, to be reset before use; weights are shared."""
        twin = copy.copy(self)
        twin.children = {name: child.new_stream() for name, child in self.children.items()}
        return twin


class Elementwise(Layer):
    """A function of each sample."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def step(self, x: Tensor, last: bool) -> Tensor:
        y: Tensor = self.module(x)
        return y


class Convolution(Layer):
    """A convolution, strided or transposed, and the activation before it.

    It keeps the inputs that the next position of the kernel covers. A kernel of 3 with padding 1:

        rows       0  a  b  c  d            zero padding, then the first chunk
        outputs       A  B  C               D needs the next sample
        context             c  d
        rows                c  d  e  0      context, the last chunk, zero padding
        outputs                D  E

    A transposed convolution (kernel 4, stride 2, padding 1) gives `stride` outputs per position over `kernel / stride`
    inputs, with zeros around the signal, and cuts its padding from both ends of the output:

        rows           0  a  b  0
        outputs        (u v)(w x)(y z)      u and z are cut

    The module's weights are copied; `dtype` is the type of the arithmetic.
    """

    context: Tensor
    to_cut: int

    def __init__(
        self, conv: nn.Conv1d | nn.ConvTranspose1d, activation: ActivationFunction | None, dtype: torch.dtype
    ) -> None:
        self.conv: Conv = fastest_conv(conv, dtype)
        self.activation = activation
        self.in_channels: int = conv.in_channels
        self.device: torch.device = conv.weight.device
        self._stride, self._out_samples, self._cut = 1, 1, (0, 0)
        if isinstance(conv, nn.ConvTranspose1d):
            self._out_samples = conv.stride[0]
            self._span = conv.kernel_size[0] // conv.stride[0]
            self._left = self._right = self._span - 1
            self._cut = padding_of(conv)
        else:
            self._stride = conv.stride[0]
            self._span = conv.dilation[0] * (conv.kernel_size[0] - 1) + 1
            self._left, self._right = padding_of(conv)
        self.kept: tuple[str, ...] = ("context", "to_cut") if self._cut[0] else ("context",)

    def reset(self, batch_size: int) -> None:
        self.context = torch.zeros(batch_size, self._left, self.in_channels, dtype=self.conv.dtype, device=self.device)
        self.to_cut = self._cut[0]

    def step(self, x: Tensor, last: bool) -> Tensor:
        n_rows = self.context.shape[1] + x.shape[1] + (self._right if last else 0)
        n_positions = max(0, (n_rows - self._span) // self._stride + 1)
        n_used = self.conv.n_inputs(n_positions * self._out_samples) if n_positions else 0
        rows = self._gather(x, max(n_rows, n_used))
        # A copy, as a view would keep all rows in memory.
        self.context = rows[:, n_positions * self._stride : n_rows].clone()
        if n_positions == 0:
            return rows.new_empty(x.shape[0], 0, self.conv.out_channels)
        y = self.conv(rows[:, :n_used])[:, : n_positions * self._out_samples]
        stop = max(0, y.shape[1] - self._cut[1]) if last else y.shape[1]
        start = min(self.to_cut, stop)
        self.to_cut -= start
        return y[:, start:stop]

    def _gather(self, x: Tensor, n_rows: int) -> Tensor:
        """The context, the activated input and zeros, `n_rows` samples together."""
        n_context, n_new = self.context.shape[1], x.shape[1]
        if self.activation is None and n_rows == n_new and x.dtype == self.conv.dtype:
            return x
        rows = torch.empty(x.shape[0], n_rows, self.in_channels, dtype=self.conv.dtype, device=x.device)
        rows[:, :n_context] = self.context
        rows[:, n_context + n_new :] = 0
        if n_new:
            target = rows[:, n_context : n_context + n_new]
            if self.activation is None:
                target.copy_(x)
            else:
                self.activation(x, target)
        return rows


class Chain(Layer):
    """Layers in sequence. Where no output is known, the number of channels may be any layer's."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.children: Mapping[str, Layer] = {str(index): layer for index, layer in enumerate(layers)}

    def step(self, x: Tensor, last: bool) -> Tensor:
        for layer in self.children.values():
            if x.shape[1] == 0 and not last:
                break
            x = layer.step(x, last)
        return x

    def parts(self) -> list[Chain]:
        """The same layers in parts that each contain one block of the network; their state is shared."""
        groups: list[list[Layer]] = [[]]
        for layer in self.children.values():
            if _has_residuals(layer) and any(map(_has_residuals, groups[-1])):
                groups.append([])
            groups[-1].append(layer)
        return [Chain(group) for group in groups]


class Tiled(Chain):
    """Layers in sequence over short tiles, so that the signal between them stays in the cache.

                   tile 0   tile 1   tile 2
        layer 0       1        4        7
        layer 1       2        5        8         order of the computation
        layer 2       3        6        9

    `sample_bytes` is the size of the signal inside the layers where that is largest, per sample of the input.
    """

    def __init__(self, layers: Sequence[Layer], sample_bytes: int) -> None:
        super().__init__(layers)
        self.sample_bytes = sample_bytes

    def step(self, x: Tensor, last: bool) -> Tensor:
        n_bytes = _TILE_BYTES if x.device.type == "cpu" else _DEVICE_TILE_BYTES
        n_samples = max(_MIN_TILE, n_bytes // (self.sample_bytes * x.shape[0]))
        tiles = x.split(1 << (n_samples.bit_length() - 1), 1)
        outputs = [super(Tiled, self).step(tile, last and tile is tiles[-1]) for tile in tiles]
        if len(outputs) == 1:
            return outputs[0]
        return torch.cat([output for output in outputs if output.shape[1]] or outputs[:1], 1)


class Residual(Layer):
    """A residual unit. It keeps the inputs that its block has not answered yet.

        input      a    b    c    d    e
        block      A    B    C              behind by its look-ahead
        output    a+A  b+B  c+C
        pending                   d    e

    The module's weights are copied; `dtype` is the type of the convolutions.
    """

    kept: tuple[str, ...] = ("pending",)
    pending: Tensor

    def __init__(self, unit: ResidualUnit, dtype: torch.dtype, snake: SnakeFunction) -> None:
        dilated, pointwise = _layers(unit.block, dtype, snake)
        assert isinstance(dilated, Convolution)
        self.children: Mapping[str, Layer] = {"dilated": dilated, "pointwise": pointwise}
        self._in_channels, self._device, self._dtype = dilated.in_channels, dilated.device, _signal_dtype(unit)

    def reset(self, batch_size: int) -> None:
        super().reset(batch_size)
        self.pending = torch.empty(batch_size, 0, self._in_channels, dtype=self._dtype, device=self._device)

    def step(self, x: Tensor, last: bool) -> Tensor:
        x = x.to(self._dtype)
        y = self.children["pointwise"].step(self.children["dilated"].step(x, last), last)
        n_samples, n_pending = y.shape[1], self.pending.shape[1]
        if n_samples < n_pending:
            x = torch.cat((self.pending, x), 1)
            self.pending = x[:, n_samples:].clone()
            return x[:, :n_samples] + y
        y = y.to(self._dtype)
        n_answered = n_samples - n_pending
        y[:, :n_pending] += self.pending
        y[:, n_pending:] += x[:, :n_answered]
        self.pending = x[:, n_answered:].clone()
        return y


def _has_residuals(layer: Layer) -> bool:
    return any(isinstance(child, Residual) for child in layer.children.values())


def chain(module: nn.Module, dtype: torch.dtype, snake: SnakeFunction) -> Chain:
    """The streaming form of an encoder or a decoder; `dtype` is for its convolutions, except those of few channels.

    Raises TypeError if a layer has no streaming form.
    """
    return Chain(_layers(module, dtype, snake))


def _layers(module: nn.Module, dtype: torch.dtype, snake: SnakeFunction) -> list[Layer]:
    """The layers of a block in the order of the signal path; an activation belongs to the convolution after it."""
    layers: list[Layer] = []
    activation: ActivationFunction | None = None
    sample_bytes = 1
    for child in _children(module):
        if isinstance(child, (EncoderBlock, DecoderBlock)):
            sample_bytes = _sample_bytes(child)
            layers.append(Tiled(_layers(child.block, dtype, snake), sample_bytes))
        elif isinstance(child, ResidualUnit):
            layers.append(Residual(child, dtype, snake))
        elif isinstance(child, Snake):
            activation = snake_activation(child, _signal_dtype(child), snake)
        elif isinstance(child, nn.ReLU):
            activation = relu_into
        elif isinstance(child, (nn.Conv1d, nn.ConvTranspose1d)):
            has_few_channels = min(child.in_channels, child.out_channels) < _MIN_CHANNELS
            layers.append(Convolution(child, activation, _signal_dtype(child) if has_few_channels else dtype))
            activation = None
        elif isinstance(child, nn.Tanh):
            # The last convolution has as many input channels as the block before it has output channels.
            layers.append(Tiled([layers.pop(), Elementwise(child)], sample_bytes))
        else:
            raise TypeError(f"{type(child).__name__} has no streaming form")
    return layers


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that a signal passes through, in order."""
    if isinstance(module, (Encoder, Decoder, nn.Sequential)):
        for child in module.children():
            yield from _children(child)
    else:
        yield module


def _sample_bytes(block: EncoderBlock | DecoderBlock) -> int:
    """Bytes per input sample of a block at the higher of its rates, in single precision."""
    conv = block.block[-1] if isinstance(block, EncoderBlock) else block.block[1]
    assert isinstance(conv, (nn.Conv1d, nn.ConvTranspose1d))
    return 4 * (conv.in_channels if isinstance(block, EncoderBlock) else conv.out_channels * conv.stride[0])


def _signal_dtype(module: nn.Module) -> torch.dtype:
    return signal_dtype(next(module.parameters()).dtype)
