"""What the encoder's and the decoder's streams share: their start, their end and their state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dac_codec.inference.layers import State
from dac_codec.inference.network import Network


class Stream:
    """A part of the network on signals that come in chunks.

    The model's weights are taken as they are when the stream is made: their device and type are the stream's, and they
    must not change while it is in use. Nothing is stored on the model. A stream of a model as it is does the model's
    own arithmetic; one of a prepared model (`engine.prepare`) is faster, and shares its weights with all others.

    Args:
        network: the encoder or the decoder, for this stream alone.
        batch_size: signals that go side by side.

    Raises:
        ValueError: `batch_size` is less than 1.
    """

    def __init__(self, network: Network, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self.device, self.dtype = network.device, network.dtype
        self._layers = network
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
                if value.dtype != mine.dtype or not _alike(value, mine):
                    raise ValueError(
                        f"this is the state of another kind of stream: {name} is {value.dtype} {list(value.shape)}, "
                        f"and {mine.dtype} {[mine.shape[0], 'any', *mine.shape[2:]]} is needed"
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


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two signals [B, T, C] differ in their lengths at most."""
    return one.ndim == other.ndim and (one.shape[0], one.shape[2:]) == (other.shape[0], other.shape[2:])
