"""Several files through the network at once: a short one alone can't keep a GPU busy.

Each file is still a job of its own, in a thread of its own: it is read, checked, named in errors and written as if it
were alone. Only at the network do files meet: some that follow one another wait until each of them has come with its
sound, has failed or turned out to be long. Then those that came go through the network in batches of similar length.
Which ones go together depends on the files alone, and not on which thread was quick.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from dac_codec import inference
from dac_codec.codec.models import best_device, is_out_of_memory
from dac_codec.inference.batches import similar_lengths
from dac_codec.inference.network import block_samples
from dac_codec.model import DAC

FILES_THAT_MEET = 32
"""Files that are divided into batches: enough for some of similar length."""

LONG_AT_ONCE = 8
"""Long files that are under way; each takes as much memory as one alone."""

_PART = 4
"""A file with more than one such part of what a device does best at once is long: it keeps the device busy alone."""

_PATIENCE_S = 0.1
"""An interruption comes to a thread between two waits."""


class Coder:
    """What takes the one signal of a file through the network: here alone, and as a member of `Batches` with others."""

    def encode_blocks(
        self, model: DAC, blocks: Iterable[Tensor], n_quantizers: int | None = None, block_frames: int | None = None
    ) -> Iterator[Tensor]:
        """What `inference.encode_blocks` gives."""
        return inference.encode_blocks(model, blocks, n_quantizers, block_frames)

    def decode_blocks(self, model: DAC, codes: Iterable[Tensor], at_once: bool = False) -> Iterator[Tensor]:
        """What `inference.decode_blocks` gives."""
        return inference.decode_blocks(model, codes, at_once)

    def go_alone(self) -> None:
        """Say that the file goes its own way, and wait until there is room for it."""


ALONE = Coder()
"""For a file that no other goes with."""


def together(device: str, n_files: int) -> Batches | None:
    """What takes files through the network together, where that is quicker than one by one: several, on a GPU.

    Args:
        device: as `load_model` takes it for models that it loads.
        n_files: how many there are.
    """
    chosen = best_device() if device == "auto" else torch.device(device)
    return None if chosen.type == "cpu" or n_files < 2 else Batches(n_files)


class Batches:
    """Files that meet at the network.

    Each has to become a `member`, in their order, and `n_at_once` of them at a time.

    Args:
        n_files: how many there are.

    Attributes:
        n_at_once: files to work on at a time: those that wait for one another, and those that come next.
    """

    def __init__(self, n_files: int) -> None:
        self.n_at_once = min(n_files, 2 * FILES_THAT_MEET)
        self._meetings = [
            _Meeting(min(FILES_THAT_MEET, n_files - first)) for first in range(0, n_files, FILES_THAT_MEET)
        ]
        self._long = threading.Semaphore(LONG_AT_ONCE)

    @contextmanager
    def member(self, index: int) -> Iterator[Coder]:
        """The coder of a file, for its one signal; others may wait for the file until the block ends."""
        member = _Member(index, self._meetings[index // FILES_THAT_MEET], self._long)
        interruption: BaseException | None = None
        try:
            yield member
        except BaseException as error:
            interruption = None if isinstance(error, Exception) else error
            raise
        finally:
            member.end(interruption)


@dataclass
class _Request:
    """A signal that is to go through the network.

    Attributes:
        index: of the file.
        kind: what the signals of a batch have in common.
        signal: [B, C, T].
        n_frames: its length.
        most: rows times frames of a batch.
        network: what gives the outputs for a batch.
        output: what comes of the signal.
    """

    index: int
    kind: tuple[str, DAC, int | None]
    signal: Tensor
    n_frames: int
    most: int
    network: Callable[[list[Tensor]], list[Tensor]]
    output: Future[Tensor] = field(default_factory=Future)


class _Member(Coder):
    """A file's way through the network, in a batch or, if it is long, alone.

    Args:
        index: of the file.
        meeting: the files that it meets.
        long: what limits the long files that are under way.
    """

    def __init__(self, index: int, meeting: _Meeting, long: threading.Semaphore) -> None:
        self._index, self._meeting, self._long = index, meeting, long
        self._is_awaited, self._is_long = True, False

    def encode_blocks(
        self, model: DAC, blocks: Iterable[Tensor], n_quantizers: int | None = None, block_frames: int | None = None
    ) -> Iterator[Tensor]:
        """As of every coder."""
        blocks = iter(blocks)
        most = block_samples(model.device)
        begun, is_all = _beginning(blocks, most // _PART if block_frames is None else 0)
        if is_all:
            signal = torch.cat(begun, -1)
            n_frames = -(-signal.shape[-1] // model.hop_length)
            network = partial(inference.encode_batch, model, n_quantizers=n_quantizers)
            kind = ("encode", model, n_quantizers)
            yield self._met(_Request(self._index, kind, signal, n_frames, most // model.hop_length, network))
        else:
            self.go_alone()
            yield from inference.encode_blocks(model, chain(begun, blocks), n_quantizers, block_frames)

    def decode_blocks(self, model: DAC, codes: Iterable[Tensor], at_once: bool = False) -> Iterator[Tensor]:
        """As of every coder."""
        codes = iter(codes)
        most = block_samples(model.device) // model.hop_length
        begun, is_all = _beginning(codes, 0 if at_once else most // _PART)
        if is_all:
            signal = torch.cat(begun, -1)
            network = partial(inference.decode_batch, model)
            kind = ("decode", model, signal.shape[1])
            yield self._met(_Request(self._index, kind, signal, signal.shape[-1], most, network))
        else:
            self.go_alone()
            yield from inference.decode_blocks(model, chain(begun, codes), at_once)

    def go_alone(self) -> None:
        """As of every coder."""
        self._come(None)
        while not self._is_long:
            self._is_long = self._long.acquire(timeout=_PATIENCE_S)

    def end(self, interruption: BaseException | None) -> None:
        """See that nothing waits for this file any more; after an interruption, that no other waits for any."""
        if self._is_long:
            self._is_long = False
            self._long.release()
        self._come(None, interruption)

    def _met(self, request: _Request) -> Tensor:
        self._come(request)
        while not request.output.done():
            wait([request.output], _PATIENCE_S)
        return request.output.result()

    def _come(self, request: _Request | None, interruption: BaseException | None = None) -> None:
        if self._is_awaited:
            self._is_awaited = False
            self._meeting.come(request, interruption)


class _Meeting:
    """Files that wait for one another.

    Args:
        n_files: how many.
    """

    def __init__(self, n_files: int) -> None:
        self._n_awaited = n_files
        self._requests: list[_Request] = []
        self._interruption: BaseException | None = None
        self._lock = threading.Lock()

    def come(self, request: _Request | None, interruption: BaseException | None) -> None:
        """A file need not be waited for any longer. The thread of the last one does what was requested.

        Args:
            request: of the file, if it has one.
            interruption: what every request ends with, if nobody is to wait for anything.
        """
        with self._lock:
            self._n_awaited -= 1
            self._requests += [] if request is None else [request]
            self._interruption = self._interruption or interruption
            if self._interruption is None and self._n_awaited:
                return
            requests, self._requests = self._requests, []
        try:
            if self._interruption is None:
                for batch in _batches(requests):
                    _compute(batch)
        except BaseException as error:
            self._interruption = error
            raise
        finally:
            for left in requests:
                if not left.output.done():
                    left.output.set_exception(self._interruption or KeyboardInterrupt())


def _beginning(blocks: Iterator[Tensor], most: int) -> tuple[list[Tensor], bool]:
    """The first blocks [B, C, t] of a signal: all, or so many that B * t are more than `most`; and whether it is all.

    A signal without a sample is for nobody to wait for: that counts as not all.
    """
    taken: list[Tensor] = []
    n_taken = 0
    for block in blocks:
        taken.append(block)
        n_taken += block.shape[0] * block.shape[-1]
        if n_taken > most:
            return taken, False
    return taken, n_taken > 0


def _batches(requests: list[_Request]) -> Iterator[list[_Request]]:
    """The requests that go through the network together, whatever order they came in."""
    kinds: dict[object, list[_Request]] = defaultdict(list)
    for request in sorted(requests, key=lambda request: request.index):
        kinds[request.kind].append(request)
    for alike in kinds.values():
        shapes = [(request.signal.shape[0], request.n_frames) for request in alike]
        for indices in similar_lengths(shapes, alike[0].most):
            yield [alike[index] for index in indices]


def _compute(batch: list[_Request]) -> None:
    """Do what is requested; what goes wrong goes to those who requested it.

    Where there is not enough memory for all at once, there may be for one after the other.
    """
    try:
        outputs = batch[0].network([request.signal for request in batch])
    except Exception as error:
        if len(batch) == 1 or not is_out_of_memory(error):
            for request in batch:
                request.output.set_exception(error)
            return
    else:
        for request, output in zip(batch, outputs, strict=True):
            request.output.set_result(output)
        return
    for request in batch:  # Out here, where the error holds no memory any more.
        _compute([request])
