"""Each layer of the network on a signal that comes in pieces.

A layer keeps what the next outputs need of the inputs so far, and nothing is computed twice. What a whole signal would
be padded with is there before its first sample and after its last, and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.model.decoder import Decoder, DecoderBlock
from dac_codec.model.encoder import Encoder, EncoderBlock
from dac_codec.model.layers import ResidualUnit, Snake, convolutions, edges

State: TypeAlias = "dict[str, Tensor | int]"
"""What a layer keeps, by name. No tensor in it is ever changed in place."""


class Layer(ABC):
    """A layer and its place in a signal [B, C, T]."""

    @abstractmethod
    def reset(self, batch_size: int) -> None:
        """Go to the start of a new signal."""

    @abstractmethod
    def step(self, x: Tensor, last: bool) -> Tensor:
        """Take the next samples [B, C, t], t >= 0, and give all outputs that are known by then.

        Args:
            x: input.
            last: whether the signal ends with it.
        """

    @abstractmethod
    def state(self) -> State:
        """What the layer keeps."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""


class Pointwise(Layer):
    """A layer that gives a sample for each sample and keeps nothing.

    Args:
        module: the layer.
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
    """A convolution. It keeps the inputs under its kernel's next place; a stride's phase is how many there are.

    Args:
        conv: its weights are taken as they are now.
    """

    context: Tensor

    def __init__(self, conv: nn.Conv1d) -> None:
        assert conv.bias is not None
        self.weight, self.bias = conv.weight.detach(), conv.bias.detach()
        self.stride, self.dilation = conv.stride[0], conv.dilation[0]
        self.span = self.dilation * (conv.kernel_size[0] - 1) + 1
        self.left, self.right = edges(conv)

    def reset(self, batch_size: int) -> None:
        self.context = self.weight.new_zeros(batch_size, self.weight.shape[1], self.left)

    def step(self, x: Tensor, last: bool) -> Tensor:
        if self.context.shape[-1]:
            x = torch.cat((self.context, x), -1)
        if last and self.right:
            x = F.pad(x, (0, self.right))
        n_outputs = max(0, (x.shape[-1] - self.span) // self.stride + 1)
        # A copy: a view would keep all of x in memory.
        self.context = x[..., n_outputs * self.stride :].clone()
        if n_outputs == 0:
            return x.new_empty(x.shape[0], self.weight.shape[0], 0)
        return F.conv1d(x, self.weight, self.bias, self.stride, 0, self.dilation)

    def state(self) -> State:
        return {"context": self.context}

    def restore(self, state: State) -> None:
        self.context = _tensor(state["context"])


class TransposedConvolution(Layer):
    """A transposed convolution. It keeps what its inputs so far add to outputs that later ones add to as well.

    Args:
        conv: its weights are taken as they are now.
    """

    tail: Tensor
    to_cut: int

    def __init__(self, conv: nn.ConvTranspose1d) -> None:
        self.weight = conv.weight.detach()
        assert conv.bias is not None
        self.bias = conv.bias.detach()[:, None]
        self.stride = conv.stride[0]
        self.overlap = conv.kernel_size[0] - self.stride
        self.left, self.right = edges(conv)

    def reset(self, batch_size: int) -> None:
        self.tail = self.weight.new_zeros(batch_size, self.weight.shape[1], self.overlap)
        self.to_cut = self.left

    def step(self, x: Tensor, last: bool) -> Tensor:
        n_complete = x.shape[-1] * self.stride
        if n_complete:
            y = F.conv_transpose1d(x, self.weight, stride=self.stride)
            y[..., : self.overlap] += self.tail
            self.tail = y[..., n_complete:].clone()
        else:
            y = self.tail.clone()
        stop = max(0, y.shape[-1] - self.right) if last else n_complete
        start = min(self.to_cut, stop)
        self.to_cut -= start
        return y[..., start:stop].add_(self.bias)

    def state(self) -> State:
        return {"tail": self.tail, "to_cut": self.to_cut}

    def restore(self, state: State) -> None:
        self.tail = _tensor(state["tail"])
        self.to_cut = int(state["to_cut"])


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
            if x.shape[-1] == 0 and not last:
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


class Residual(Layer):
    """A residual unit. It keeps the inputs to which its block has not answered yet.

    Args:
        unit: its weights are taken as they are now.
    """

    waiting: Tensor

    def __init__(self, unit: ResidualUnit) -> None:
        self.block = chain(unit.block)
        bias = next(convolutions(unit)).bias
        assert bias is not None
        self.nothing = bias.detach()[None, :, None][..., :0]

    def reset(self, batch_size: int) -> None:
        self.block.reset(batch_size)
        self.waiting = self.nothing.expand(batch_size, -1, -1)

    def step(self, x: Tensor, last: bool) -> Tensor:
        y = self.block.step(x, last)
        if self.waiting.shape[-1]:
            x = torch.cat((self.waiting, x), -1)
        self.waiting = x[..., y.shape[-1] :].clone()
        return x[..., : y.shape[-1]] + y

    def state(self) -> State:
        return {"waiting": self.waiting, **self.block.state()}

    def restore(self, state: State) -> None:
        self.waiting = _tensor(state["waiting"])
        self.block.restore(state)


def chain(module: nn.Module) -> Chain:
    """The streaming form of an encoder, a decoder or a block of one.

    Raises:
        TypeError: there is a layer in it that has no streaming form.
    """
    return Chain([_layer(child) for child in _children(module)])


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a block in the order of the signal's way, a residual unit being one."""
    if isinstance(module, (Encoder, Decoder, EncoderBlock, DecoderBlock, nn.Sequential)):
        for child in module.children():
            yield from _children(child)
    else:
        yield module


def _layer(module: nn.Module) -> Layer:
    if isinstance(module, ResidualUnit):
        return Residual(module)
    if isinstance(module, nn.Conv1d):
        return Convolution(module)
    if isinstance(module, nn.ConvTranspose1d):
        return TransposedConvolution(module)
    if isinstance(module, (Snake, nn.ReLU, nn.Tanh)):
        return Pointwise(module)
    raise TypeError(f"{type(module).__name__} has no streaming form")


def _tensor(value: Tensor | int) -> Tensor:
    assert isinstance(value, Tensor)
    return value
