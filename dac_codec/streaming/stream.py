"""What the encoder's and the decoder's streams share: their start, their end and their state."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.model.layers import convolutions
from dac_codec.model.quantizer import ResidualVectorQuantize
from dac_codec.streaming.layers import State, chain


class Stream:
    """A part of the network on signals that come in chunks.

    The model's weights are taken as they are when the stream is made: their device and type are the stream's, and they
    must not change while it is in use. Nothing is stored on the model. Where weights are normalized, as in every model
    that was just trained or loaded, a stream holds a copy of what the normalization gives.

    Args:
        network: the encoder or the decoder.
        batch_size: signals that go side by side.

    Raises:
        ValueError: `batch_size` is less than 1.
    """

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        parameter = next(network.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        with torch.no_grad():
            self._layers = chain(network)
        self.reset()

    def reset(self) -> None:
        """Go to the start of new signals."""
        self._layers.reset(self.batch_size)
        self._n_taken = self._n_given = 0
        self._ended = False

    def state_dict(self) -> State:
        """All that the stream knows of its signals so far: tensors and integers, for `torch.save` and later."""
        return {
            "n_taken": self._n_taken,
            "n_given": self._n_given,
            "ended": int(self._ended),
            **{f"layers.{name}": value for name, value in self._layers.state().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Go on from where a stream of the same model was when `state_dict` gave `state`, on any device.

        Raises:
            ValueError: it is the state of another kind of stream; this one is left as it was.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise ValueError("this is the state of another kind of stream: it has other names")
        layers: State = {}
        for name, mine in expected.items():
            value = state[name]
            if isinstance(mine, Tensor) != isinstance(value, Tensor):
                raise ValueError(f"this is the state of another kind of stream: {name} is a {type(value).__name__}")
            if isinstance(mine, Tensor) and isinstance(value, Tensor):
                if (value.dtype, value.shape[:-1]) != (mine.dtype, mine.shape[:-1]):
                    raise ValueError(
                        f"this is the state of another kind of stream: {name} is {value.dtype} {list(value.shape)}, "
                        f"and {mine.dtype} {[*mine.shape[:-1], 'any']} is needed"
                    )
                value = value.to(self.device)
            if name.startswith("layers."):
                layers[name.removeprefix("layers.")] = value
        self._layers.restore(layers)
        self._n_taken, self._n_given = int(state["n_taken"]), int(state["n_given"])
        self._ended = bool(state["ended"])

    def _check_open(self) -> None:
        if self._ended:
            raise ValueError("the signal has ended with flush(): call reset() before the next one")


class _Projection(nn.Module):
    """A convolution of width 1 with the weights that weight norm gives.

    Args:
        conv: the convolution.
    """

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach(), requires_grad=False)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias)


def without_weight_norm(quantizer: ResidualVectorQuantize) -> ResidualVectorQuantize:
    """A copy in evaluation mode that needs not normalize weights at every call; the codebooks are shared."""
    stay: dict[int, object] = {id(tensor): tensor for tensor in (*quantizer.parameters(), *quantizer.buffers())}
    stay.update((id(conv), _Projection(conv)) for conv in convolutions(quantizer))
    return copy.deepcopy(quantizer, stay).eval()
