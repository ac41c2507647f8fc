"""Start, end and state of a stream, shared by `StreamingEncoder` and `StreamingDecoder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from dac_codec.inference.layers import State
from dac_codec.inference.network import Network, Step


class Stream:
    """An encoder or a decoder on signals that arrive in chunks.

    A stream uses the model's weights as they are when it is made, and its device and type. Nothing is stored on the
    model; all streams of a prepared model (`dac_codec.inference.prepare`) share its weights. The network's state is for
    this stream alone.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self.device: torch.device = network.device
        self.dtype: torch.dtype = network.dtype
        self._network = network
        self.reset()

    def reset(self) -> None:
        """Start new signals."""
        self._network.layers.reset(self.batch_size)
        self._n_taken = self._n_given = 0
        self._ended = False

    def state_dict(self) -> State:
        """The state of the stream: tensors and integers, which `torch.save` can store."""
        return {
            "n_taken": self._n_taken,
            "n_given": self._n_given,
            "ended": int(self._ended),
            **{f"layers.{name}": value for name, value in self._network.layers.state().items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Continue where a stream of the same model was when `state_dict` returned `state`, on any device.

        Raises:
            ValueError: the state belongs to another kind of stream; this stream is unchanged.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            raise ValueError("this is the state of another kind of stream: it has other names")
        layers: State = {}
        for name, current in expected.items():
            value = state[name]
            if isinstance(current, Tensor) != isinstance(value, Tensor):
                raise ValueError(f"this is the state of another kind of stream: {name} is a {type(value).__name__}")
            if isinstance(current, Tensor) and isinstance(value, Tensor):
                shape = current.shape[:1] + current.shape[2:]
                if value.dtype != current.dtype or value.shape[:1] + value.shape[2:] != shape:
                    raise ValueError(
                        f"this is the state of another kind of stream: {name} is {value.dtype} {list(value.shape)}, "
                        f"expected {current.dtype} {[shape[0], 'any', *shape[1:]]}"
                    )
                value = value.to(self.device)
            if name.startswith("layers."):
                layers[name.removeprefix("layers.")] = value
        self._network.layers.restore(layers)
        self._n_taken, self._n_given = int(state["n_taken"]), int(state["n_given"])
        self._ended = bool(state["ended"])

    def stages(self, n_networks: int = 1) -> list[Callable[[Step], Step]]:
        """The network's part of `push` and `flush`, as `Network.stages`, for `pipelined`."""
        return self._network.stages(n_networks)

    def _check_open(self) -> None:
        if self._ended:
            raise ValueError("the signal has ended with flush(): call reset() before the next one")
