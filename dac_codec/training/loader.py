"""Batches of excerpts in the order of the steps, read by worker processes."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from functools import cache, partial
from multiprocessing.synchronize import Event
from types import FrameType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dac_codec.common.errors import AudioError
from dac_codec.training.excerpts import Excerpt, ExcerptDataset

_PROCESSES = multiprocessing.get_context("spawn")  # threads and CUDA do not survive a fork


class Batch(NamedTuple):
    """Excerpts [B, 1, T], and the files that could not be read while drawing them."""

    audio: Tensor
    skipped: list[str]


def batches(
    dataset: ExcerptDataset,
    first_step: int,
    last_step: int,
    *,
    batch_size: int,
    accumulate: int = 1,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The batches of one process: `accumulate` for each step.

    A step takes the next world_size * accumulate * batch_size excerpts, however they are shared: batch `micro` of a
    step has the excerpts from ((step * accumulate + micro) * world_size + rank) * batch_size on.

    Args:
        dataset: source of the excerpts.
        first_step, last_step: range of the steps, without the last one.
        batch_size: excerpts in a batch.
        accumulate: batches in a step of this process.
        rank, world_size: index of this process, and number of processes.
        workers: spawned processes that read, one thread each; 0: this process reads. A script that asks for workers
            must start under `if __name__ == "__main__"`.
        pin_memory: whether the audio is in page-locked memory, from which a GPU copies asynchronously.

    Raises:
        AudioError: 64 files in a row cannot be read.
    """
    numbers = range(first_step * accumulate * world_size + rank, last_step * accumulate * world_size + rank, world_size)
    loader: DataLoader[Excerpt] = DataLoader(
        dataset,
        batch_sampler=(list(range(number * batch_size, (number + 1) * batch_size)) for number in numbers),
        collate_fn=_collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=partial(_ignore_signals, _exiting()) if workers else None,
        multiprocessing_context=_PROCESSES if workers else None,
        pin_memory=pin_memory,
    )
    failure = ""
    try:
        yield from loader
    except AudioError as error:  # a worker's has its traceback as text, and the message at the end
        failure = str(error).rpartition(f"{AudioError.__name__}: ")[2].strip()
    if failure:  # raised here, where nothing refers to the loader's iterator any more: its workers have ended
        raise AudioError(failure)


def _collate(excerpts: Sequence[Excerpt]) -> Batch:
    skipped = dict.fromkeys(file for excerpt in excerpts for file in excerpt.skipped)
    return Batch(torch.stack([excerpt.audio for excerpt in excerpts]), list(skipped))


@cache
def _exiting() -> Event:
    """An event that is set when this process exits."""
    exiting = _PROCESSES.Event()
    atexit.register(exiting.set)
    return exiting


def _ignore_signals(exiting: Event, worker: int) -> None:
    """Ignore Ctrl-C, SIGTERM and SIGHUP, which reach the whole process group, so that the last step gets its data.

    Python ends remaining workers with SIGTERM when their parent exits, and waits for them: then SIGTERM is obeyed.
    """

    def exit_with_parent(number: int, frame: FrameType | None) -> None:
        if exiting.is_set():
            os._exit(0)

    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, exit_with_parent)
