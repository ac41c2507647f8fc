"""A prepared encoder or decoder on signals [B, C, T], whole or in chunks."""

from __future__ import annotations

import copy
import math

import torch
from einops import rearrange
from torch import Tensor, nn

from dac_codec.inference.activation import SnakeFunction, snake_into
from dac_codec.inference.layers import chain
from dac_codec.inference.precision import pinned_precision
from dac_codec.model.layers import convolutions


def block_samples(device: torch.device) -> int:
    """Audio samples, over all items of a batch, that a device processes best at once.

    On a CPU that is 1.5 s of mono at 44.1 kHz: the signal between layers then stays in the cache.
    """
    return 1 << 16 if device.type == "cpu" else 1 << 21  # GPU only, not yet measured.


class Network:
    """An encoder or a decoder in the signals of one stream: [B, C, T] outside, [B, T, C] inside.

    The module's weights are copied; its device and type are the network's. The other arguments are as in `PreparedDAC`.

    Attributes:
        device: where it computes.
        dtype: type of input and output.
        layers: the layers, which hold the state.
    """

    def __init__(
        self, module: nn.Module, dtype: torch.dtype, snake: SnakeFunction | None = None, exact: bool = False
    ) -> None:
        parameter = next(module.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._is_exact = exact
        strides = [conv.stride[0] for conv in convolutions(module) if isinstance(conv, nn.ConvTranspose1d)]
        self._hop_length = math.prod(strides)
        with torch.no_grad(), pinned_precision(self.device, exact):
            self.layers = chain(module, dtype, snake or snake_into)

    def new_stream(self) -> Network:
        """The same network for other signals; reset its layers before use. Weights are shared."""
        twin = copy.copy(self)
        twin.layers = self.layers.new_stream()
        return twin

    @torch.no_grad()
    def step(self, x: Tensor, last: bool) -> Tensor:
        """Take the next samples.

        Args:
            x: [B, C, t], t >= 0.
            last: whether the signals end with it.

        Returns:
            All outputs [B, C', t'] known by now; if there are none, C' is arbitrary.
        """
        with pinned_precision(self.device, self._is_exact):
            outputs = self.layers.step(rearrange(x, "b c t -> b t c").to(self.device, self.dtype), last)
        return rearrange(outputs.to(self.dtype), "b t c -> b c t")

    def whole(self, x: Tensor) -> Tensor:
        """All outputs [B, C', T'] for whole signals [B, C, T], T > 0; the state stays as it is."""
        network = self.new_stream()
        network.layers.reset(x.shape[0])
        size = max(1, block_samples(self.device) // (self._hop_length * x.shape[0]))
        blocks = x.split(size, -1)
        outputs = [network.step(block, block is blocks[-1]) for block in blocks]
        joined = torch.cat([rearrange(output, "b c t -> b t c") for output in outputs if output.shape[-1]], 1)
        return rearrange(joined, "b t c -> b c t")  # channels are last in memory
