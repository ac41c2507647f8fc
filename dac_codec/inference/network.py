"""An encoder or a decoder, made fast, on signals that come in pieces."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from dac_codec.inference.activation import SnakeFunction, snake_into
from dac_codec.inference.layers import State, chain
from dac_codec.inference.precision import pinned_precision
from dac_codec.model.layers import convolutions


def block_samples(device: torch.device) -> int:
    """Samples of audio, of all signals of a batch together, that a device does best at once.

    On a CPU, 1.5 s of mono at 44.1 kHz: with longer blocks, what the layers hand on no longer stays in the cache. On
    others, as many as keep it busy.
    """
    return 1 << 16 if device.type == "cpu" else 1 << 21


class Network:
    """The layers of an encoder or a decoder and their places in signals [B, C, T].

    Args:
        module: its weights are taken as they are now: their device and type are the network's.
        dtype: that the convolutions compute in; None for the model's own arithmetic, in the order of its own sums.
        snake: what computes the activations.
        exact: whether products in single precision are made in nothing less (`pinned_precision`).

    Attributes:
        device: where it computes.
        dtype: of what goes in and comes out.
    """

    def __init__(
        self, module: nn.Module, dtype: torch.dtype | None, snake: SnakeFunction | None = None, exact: bool = False
    ) -> None:
        parameter = next(module.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._is_exact = exact
        strides = [conv.stride[0] for conv in convolutions(module) if isinstance(conv, nn.ConvTranspose1d)]
        self._hop_length = math.prod(strides)
        with torch.no_grad(), pinned_precision(self.device, exact):
            self._layers = chain(module, dtype, snake or snake_into)

    def fresh(self) -> Network:
        """The same network at the start of another signal, to be reset: the weights are shared."""
        twin = copy.copy(self)
        twin._layers = self._layers.fresh()
        return twin

    def reset(self, batch_size: int) -> None:
        """Go to the start of new signals."""
        self._layers.reset(batch_size)

    @torch.no_grad()
    def step(self, x: Tensor, last: bool) -> Tensor:
        """Take the next samples.

        Args:
            x: [B, T, C].
            last: whether the signal ends with it.

        Returns:
            All outputs [B, T', C'] that are known by now; where there are none, the number of channels is any.
        """
        with pinned_precision(self.device, self._is_exact):
            return self._layers.step(x.to(self.device, self.dtype), last).to(self.dtype)

    def whole(self, x: Tensor) -> Tensor:
        """All outputs [B, T', C'] for a whole signal [B, T, C], T > 0, apart from the one that this one may be in."""
        network = self.fresh()
        network.reset(x.shape[0])
        blocks = x.split(max(1, block_samples(self.device) // (self._hop_length * x.shape[0])), 1)
        outputs = [network.step(block, block is blocks[-1]) for block in blocks]
        return torch.cat([output for output in outputs if output.shape[1]], 1)

    def state(self) -> State:
        """What the layers keep."""
        return self._layers.state()

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        self._layers.restore(state)
