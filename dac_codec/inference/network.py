"""A prepared encoder or decoder on signals [B, C, T], whole or in chunks."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from dac_codec.common.threads import available_cores, pipeline
from dac_codec.inference.activation import SnakeFunction, snake_into
from dac_codec.inference.layers import Chain, chain
from dac_codec.inference.precision import pinned_precision
from dac_codec.model.layers import convolutions

_IDLE = 0.85
"""Share of the time for which PyTorch's threads work, at least, if no other program takes their cores.

With the bundled model on two cores it is 0.91 or more in a block if these are idle, 0.77 or less beside a busy program.
"""


def block_samples(device: torch.device) -> int:
    """Audio samples, over all items of a batch, that a device processes best at once.

    On a CPU that is 1.5 s of mono at 44.1 kHz: the signal between layers then stays in the cache.
    """
    return 1 << 16 if device.type == "cpu" else 1 << 21  # GPU only, not yet measured.


@contextmanager
def pipelined(
    items: Iterable[Any], functions: Sequence[Callable[[Any], Any]], in_threads: bool, tries_layers: bool = False
) -> Iterator[Iterator[Any]]:
    """The items after all functions, one function after the other, or a thread for each (`threads.pipeline`).

    PyTorch's threads meet at the end of every operation, and wait for the one that shares its core with another
    program. Threads with an operation each do not. They get half of the caller's number of threads, or of the cores
    that this process may use, as they differ in their work; if the caller has one thread, there are none.

    `tries_layers`: PyTorch's threads are the faster ones on idle cores, and take the items until they have to wait.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1 or not in_threads:
        for function in functions:
            items = map(function, items)
        yield iter(items)
        return

    n_each = max(1, min(n_threads, available_cores()) // 2)

    def start() -> None:
        torch.get_num_threads()  # else the first operation would replace the number of this thread
        torch.set_num_threads(n_each)

    def lead() -> float:
        return time.process_time() - _IDLE * n_threads * time.perf_counter()

    def outputs(left: Iterator[Any]) -> Iterator[Any]:
        is_idle = tries_layers
        for item in left if is_idle else ():
            before = lead()
            for function in functions:
                item = function(item)
            is_idle = lead() >= before
            yield item
            if not is_idle:
                break
        if not is_idle:
            found = stack.enter_context(pipeline(left, functions, start))
            torch.set_num_threads(n_threads)  # of the process again
            yield from found

    with ExitStack() as stack:
        yield outputs(iter(items))


class Step(NamedTuple):
    """The next samples [B, C, t], t >= 0, of signals that pass through a network, and whether the signals end there."""

    signal: Tensor
    last: bool


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
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self._is_exact = exact
        strides = [conv.stride[0] for conv in convolutions(module) if isinstance(conv, nn.ConvTranspose1d)]
        self._hop_length = math.prod(strides)
        with torch.no_grad(), pinned_precision(self.device, exact):
            self.layers: Chain = chain(module, dtype, snake or snake_into)

    def new_stream(self) -> Network:
        """The same network for other signals; reset its layers before use. Weights are shared."""
        twin = copy.copy(self)
        twin.layers = self.layers.new_stream()
        return twin

    def step(self, step: Step) -> Step:
        """Take the next samples.

        Returns:
            All outputs [B, C', t'] known by now; if there are none, C' is arbitrary.
        """
        return self._step(self.layers, True, True, step)

    def stages(self, n_networks: int = 1) -> list[Callable[[Step], Step]]:
        """`step` as functions to be called one after the other, each with one block of the network.

        With `n_networks` running at once, and no more threads than that, there is one function: more of them than
        threads would compete for the caches.
        """
        parts = self.layers.parts() if torch.get_num_threads() > n_networks else [self.layers]
        return [partial(self._step, part, part is parts[0], part is parts[-1]) for part in parts]

    @torch.no_grad()
    def _step(self, layers: Chain, is_first: bool, is_last: bool, step: Step) -> Step:
        with pinned_precision(self.device, self._is_exact):
            x = rearrange(step.signal, "b c t -> b t c")
            y = layers.step(x.to(self.device, self.dtype) if is_first else x, step.last)
        return Step(rearrange(y.to(self.dtype) if is_last else y, "b t c -> b c t"), step.last)

    def whole(self, x: Tensor) -> Tensor:
        """All outputs [B, C', T'] for whole signals [B, C, T], T > 0; the state stays as it is."""
        network = self.new_stream()
        network.layers.reset(x.shape[0])
        size = max(1, block_samples(self.device) // (self._hop_length * x.shape[0]))
        blocks = x.split(size, -1)
        outputs = [network.step(Step(block, block is blocks[-1])).signal for block in blocks]
        joined = torch.cat([rearrange(output, "b c t -> b t c") for output in outputs if output.shape[-1]], 1)
        return rearrange(joined, "b t c -> b c t")  # channels are last in memory
