"""Each layer of the network on a signal that comes in pieces.

A layer keeps what the next outputs need of the inputs so far, and nothing is computed twice. What a whole signal would
be padded with is there before its first sample and after its last, and nowhere else. Signals are [B, T, C] here.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from dac_codec.inference.activation import (
    ActivationFunction,
    SnakeActivation,
    SnakeFunction,
    relu_into,
    signal_dtype,
)
from dac_codec.inference.convolution import Conv
from dac_codec.inference.plain import PlainKernel
from dac_codec.inference.winograd import fastest_conv
from dac_codec.model.decoder import Decoder, DecoderBlock
from dac_codec.model.encoder import Encoder, EncoderBlock
from dac_codec.model.layers import ResidualUnit, Snake, padding_of

State: TypeAlias = "dict[str, Tensor | int]"
"""What a layer keeps, by name; tensors are [B, T, C]. No tensor in it is ever changed in place."""

AnyLayer = TypeVar("AnyLayer", bound="Layer")

_TILE_BYTES = 1 << 23
"""Of the widest signal inside a block of layers that is worked on at once: what stays in the last cache."""

_DEVICE_TILE_BYTES = 1 << 28
"""The same on a GPU, where starting to work on a few MiB takes as long as the work: what there is memory for."""

_NARROWEST_IN_FEW_BITS = 32
"""Channels. Of fewer, products take little of the time; and they are near the audio, where nothing filters any more
what rounding adds at every frequency: where a network leaves the highs faint, that is all of what is heard there."""

_SHORTEST_TILE = 64
"""Samples; with fewer at a time, the time goes into calls and not into numbers."""


class Layer(ABC):
    """A layer and its place in a signal [B, T, C]."""

    @abstractmethod
    def reset(self, batch_size: int) -> None:
        """Go to the start of a new signal."""

    @abstractmethod
    def step(self, x: Tensor, last: bool) -> Tensor:
        """Take the next samples [B, t, C], t >= 0, and give all outputs that are known by then.

        Args:
            x: input; it may be overwritten.
            last: whether the signal ends with it.
        """

    @abstractmethod
    def state(self) -> State:
        """What the layer keeps."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""

    def fresh(self: AnyLayer) -> AnyLayer:
        """The same layer for another signal, to be reset: the weights are shared."""
        return copy.copy(self)


class Pointwise(Layer):
    """A function of each sample.

    Args:
        module: the function.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def reset(self, batch_size: int) -> None:
        pass

    def step(self, x: Tensor, last: bool) -> Tensor:
        y: Tensor = self.module(x)
        return y

    def state(self) -> State:
        return {}

    def restore(self, state: State) -> None:
        pass


class Convolution(Layer):
    """A convolution, strided or transposed, and the activation before it.

    It keeps the inputs under its kernel's next place; a stride's phase is how many there are.

    Args:
        conv: its weights are taken as they are now.
        activation: what is done to the input first.
        dtype: that it computes in; None for the model's own arithmetic.
    """

    context: Tensor
    to_cut: int

    def __init__(
        self, conv: nn.Conv1d | nn.ConvTranspose1d, activation: ActivationFunction | None, dtype: torch.dtype | None
    ) -> None:
        self.kernel: Conv = PlainKernel(conv) if dtype is None else fastest_conv(conv, dtype)
        self.activation = activation
        self.in_channels = conv.in_channels
        self.device = conv.weight.device
        self.stride, self.cut = 1, (0, 0)
        if isinstance(conv, nn.ConvTranspose1d):
            # Outputs that depend on inputs before the first or after the last, as if these were zero.
            self.span = conv.kernel_size[0] // conv.stride[0]
            self.left = self.right = self.span - 1
            self.cut = padding_of(conv)
        else:
            self.stride = conv.stride[0]
            self.span = conv.dilation[0] * (conv.kernel_size[0] - 1) + 1
            self.left, self.right = padding_of(conv)
        self.out_samples = conv.stride[0] if isinstance(conv, nn.ConvTranspose1d) else 1

    def reset(self, batch_size: int) -> None:
        self.context = torch.zeros(batch_size, self.left, self.in_channels, dtype=self.kernel.dtype, device=self.device)
        self.to_cut = self.cut[0]

    def step(self, x: Tensor, last: bool) -> Tensor:
        n_rows = self.context.shape[1] + x.shape[1] + (self.right if last else 0)
        n_places = max(0, (n_rows - self.span) // self.stride + 1)
        n_used = self.kernel.n_inputs(n_places * self.out_samples) if n_places else 0
        rows = self._gather(x, max(n_rows, n_used))
        # A copy: a view would keep all rows in memory.
        self.context = rows[:, n_places * self.stride : n_rows].clone()
        if n_places == 0:
            return rows.new_empty(x.shape[0], 0, self.kernel.out_channels)
        y = self.kernel(rows[:, :n_used])[:, : n_places * self.out_samples]
        stop = max(0, y.shape[1] - self.cut[1]) if last else y.shape[1]
        start = min(self.to_cut, stop)
        self.to_cut -= start
        return y[:, start:stop]

    def _gather(self, x: Tensor, n_rows: int) -> Tensor:
        """The context and the activated input, and then zeros, so that they are `n_rows` samples."""
        n_context, n_new = self.context.shape[1], x.shape[1]
        if self.activation is None and n_rows == n_new and x.dtype == self.kernel.dtype:
            return x
        rows = torch.empty(x.shape[0], n_rows, self.in_channels, dtype=self.kernel.dtype, device=x.device)
        rows[:, :n_context] = self.context
        rows[:, n_context + n_new :] = 0
        if n_new:
            fresh = rows[:, n_context : n_context + n_new]
            if self.activation is None:
                fresh.copy_(x)
            else:
                self.activation(x, fresh)
        return rows

    def state(self) -> State:
        return {"context": self.context, "to_cut": self.to_cut} if self.cut[0] else {"context": self.context}

    def restore(self, state: State) -> None:
        self.context = _tensor(state["context"])
        self.to_cut = int(state.get("to_cut", 0))


class Chain(Layer):
    """Layers one after the other.

    Args:
        layers: the layers.
    """

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers

    def reset(self, batch_size: int) -> None:
        for layer in self.layers:
            layer.reset(batch_size)

    def step(self, x: Tensor, last: bool) -> Tensor:
        """As of every layer; where nothing comes out, the number of channels is any layer's."""
        for layer in self.layers:
            if x.shape[1] == 0 and not last:
                break
            x = layer.step(x, last)
        return x

    def state(self) -> State:
        return {
            f"{index}.{name}": value for index, layer in enumerate(self.layers) for name, value in layer.state().items()
        }

    def restore(self, state: State) -> None:
        for index, layer in enumerate(self.layers):
            prefix = f"{index}."
            layer.restore({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)})

    def fresh(self: AnyLayer) -> AnyLayer:
        twin = copy.copy(self)
        assert isinstance(self, Chain)
        assert isinstance(twin, Chain)
        twin.layers = [layer.fresh() for layer in self.layers]
        return twin


class Tiled(Chain):
    """Layers through which a signal goes in short pieces, each through all of them, so that it stays in the cache.

    Args:
        layers: the layers.
        widest: bytes of a sample of the input inside them, where they are most.
    """

    def __init__(self, layers: list[Layer], widest: int) -> None:
        super().__init__(layers)
        self.widest = widest

    def step(self, x: Tensor, last: bool) -> Tensor:
        n_bytes = _TILE_BYTES if x.device.type == "cpu" else _DEVICE_TILE_BYTES
        n_samples = max(_SHORTEST_TILE, n_bytes // (self.widest * x.shape[0]))
        tiles = x.split(1 << (n_samples.bit_length() - 1), 1)
        outputs = [super(Tiled, self).step(tile, last and tile is tiles[-1]) for tile in tiles]
        if len(outputs) == 1:
            return outputs[0]
        return torch.cat([output for output in outputs if output.shape[1]] or outputs[:1], 1)


class Residual(Layer):
    """A residual unit. It keeps the inputs to which its block has not answered yet.

    Args:
        unit: its weights are taken as they are now.
        dtype: that its convolutions compute in; None for the model's own arithmetic.
        snake: what computes the activations.
    """

    waiting: Tensor

    def __init__(self, unit: ResidualUnit, dtype: torch.dtype | None, snake: SnakeFunction) -> None:
        self.wide, self.mix = _layers(unit.block, dtype, snake)
        self.dtype = _signal_dtype(unit)

    def reset(self, batch_size: int) -> None:
        assert isinstance(self.wide, Convolution)
        self.wide.reset(batch_size)
        self.mix.reset(batch_size)
        self.waiting = torch.empty(
            batch_size, 0, self.wide.in_channels, dtype=self.dtype, device=self.wide.context.device
        )

    def step(self, x: Tensor, last: bool) -> Tensor:
        x = x.to(self.dtype)
        y = self.mix.step(self.wide.step(x, last), last)
        n_samples, n_waiting = y.shape[1], self.waiting.shape[1]
        if n_samples < n_waiting:
            x = torch.cat((self.waiting, x), 1)
            self.waiting = x[:, n_samples:].clone()
            return x[:, :n_samples] + y
        y = y.to(self.dtype)
        n_answered = n_samples - n_waiting
        y[:, :n_waiting] += self.waiting
        y[:, n_waiting:] += x[:, :n_answered]
        self.waiting = x[:, n_answered:].clone()
        return y

    def state(self) -> State:
        return {
            "waiting": self.waiting,
            **{f"wide.{name}": value for name, value in self.wide.state().items()},
            **{f"mix.{name}": value for name, value in self.mix.state().items()},
        }

    def restore(self, state: State) -> None:
        self.waiting = _tensor(state["waiting"])
        for layer, prefix in ((self.wide, "wide."), (self.mix, "mix.")):
            layer.restore({key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)})

    def fresh(self: AnyLayer) -> AnyLayer:
        twin = copy.copy(self)
        assert isinstance(self, Residual)
        assert isinstance(twin, Residual)
        twin.wide, twin.mix = self.wide.fresh(), self.mix.fresh()
        return twin


def chain(module: nn.Module, dtype: torch.dtype | None, snake: SnakeFunction) -> Chain:
    """The streaming form of an encoder or a decoder.

    Args:
        module: the encoder or the decoder.
        dtype: that its convolutions compute in, but for those of few channels, where there is little to gain; None for
            the model's own arithmetic.
        snake: what computes the activations.

    Raises:
        TypeError: there is a layer in it that has no streaming form.
    """
    return Chain(_layers(module, dtype, snake))


def _layers(module: nn.Module, dtype: torch.dtype | None, snake: SnakeFunction) -> list[Layer]:
    """The layers of a block in the order of the signal's way, an activation being part of the convolution after it."""
    layers: list[Layer] = []
    activation: ActivationFunction | None = None
    widest = 1
    for child in _children(module):
        if isinstance(child, (EncoderBlock, DecoderBlock)):
            widest = _widest(child)
            layers.append(Tiled(_layers(child.block, dtype, snake), widest))
        elif isinstance(child, ResidualUnit):
            layers.append(Residual(child, dtype, snake))
        elif isinstance(child, Snake):
            activation = SnakeActivation(child, _signal_dtype(child), snake)
        elif isinstance(child, nn.ReLU):
            activation = relu_into
        elif isinstance(child, (nn.Conv1d, nn.ConvTranspose1d)):
            is_narrow = min(child.in_channels, child.out_channels) < _NARROWEST_IN_FEW_BITS
            layers.append(Convolution(child, activation, _signal_dtype(child) if dtype and is_narrow else dtype))
            activation = None
        elif isinstance(child, nn.Tanh):
            # The last convolution has as many inputs as the block before it has outputs.
            layers.append(Tiled([layers.pop(), Pointwise(child)], widest))
        else:
            raise TypeError(f"{type(child).__name__} has no streaming form")
    return layers


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """What the signal goes through, one after the other."""
    if isinstance(module, (Encoder, Decoder, nn.Sequential)):
        for child in module.children():
            yield from _children(child)
    else:
        yield module


def _widest(block: EncoderBlock | DecoderBlock) -> int:
    """Bytes of a sample of a block's input where they are most: at the higher of its rates, in single precision."""
    conv = block.block[-1] if isinstance(block, EncoderBlock) else block.block[1]
    assert isinstance(conv, (nn.Conv1d, nn.ConvTranspose1d))
    return 4 * (conv.in_channels if isinstance(block, EncoderBlock) else conv.out_channels * conv.stride[0])


def _signal_dtype(module: nn.Module) -> torch.dtype:
    return signal_dtype(next(module.parameters()).dtype)


def _tensor(value: Tensor | int) -> Tensor:
    assert isinstance(value, Tensor)
    return value
