"""Where groups of sounds are encoded: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

import torch
from tqdm import tqdm

from dac_codec.common.errors import DacError
from dac_codec.common.signals import follow_parent
from dac_codec.common.threads import available_cores
from dac_codec.corpus.encoding import Failure, Outcome, Settings, encode
from dac_codec.corpus.sources import Source

_WORKERS_PER_GPU = 2  # one reads while the other one computes
_GROUPS_PER_WORKER = 4  # submitted and not yet written: workers stay busy behind a slow group
_GROUPS_PER_ACTOR = 2  # one waits while the other one is encoded
_CONNECTION_SECONDS = 10.0

_device = "cpu"  # device of this worker process


class WorkerLostError(Exception):
    """The process that encoded a group ended before it was done."""


class Engine(Protocol):
    """Encodes groups of sounds, at most `n_workers` at a time."""

    settings: Settings
    n_workers: int

    def submit(self, group: Source) -> Any: ...
    def result(self, submitted: Any) -> list[Outcome]:
        """Wait for the outcomes of a group. Raises a WorkerLostError if its worker was lost."""
        ...


def run(engine: Engine, groups: Iterable[Source]) -> Iterator[list[Outcome]]:
    """The outcomes of each group, in order. A bounded number of groups is submitted at a time.

    A group whose worker is lost is submitted once more, and then sound by sound: one that ends its process again, as by
    a crash of a decoder, is a failure.
    """
    waiting: deque[tuple[Source, Any]] = deque()
    for group in groups:
        waiting.append((group, engine.submit(group)))
        if len(waiting) == _GROUPS_PER_WORKER * engine.n_workers:
            yield _outcomes(engine, *waiting.popleft())
    while waiting:
        yield _outcomes(engine, *waiting.popleft())


def _outcomes(engine: Engine, group: Source, submitted: Any) -> list[Outcome]:
    with suppress(WorkerLostError):
        return engine.result(submitted)
    with suppress(WorkerLostError):
        return engine.result(engine.submit(group))
    parts = [group[index : index + 1] for index in range(len(group))]
    if len(parts) > 1:
        return [outcome for part in parts for outcome in _outcomes(engine, part, engine.submit(part))]
    return [Failure(next(iter(group)).id, "its process ended twice: a crash of the decoder, or not enough memory")]


# This machine ---------------------------------------------------------------------------------------------------------


class _Processes:
    def __init__(self, settings: Settings, n_workers: int | None) -> None:
        self.settings = settings
        devices = [settings.device if settings.uses_batches else "cpu"]
        if settings.uses_batches and settings.device == "auto":
            devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        self.n_workers = n_workers or (len(devices) * _WORKERS_PER_GPU if settings.uses_batches else available_cores())
        self._devices = devices * -(-self.n_workers // len(devices))
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        devices = context.SimpleQueue()
        for device in self._devices:
            devices.put(device)
        return ProcessPoolExecutor(self.n_workers, context, _start_worker, (devices,))

    def submit(self, group: Source) -> Future[list[Outcome]]:
        try:
            return self._pool.submit(_encode, self.settings, group)
        except BrokenProcessPool:
            self._pool = self._start()
            return self._pool.submit(_encode, self.settings, group)

    def result(self, submitted: Future[list[Outcome]]) -> list[Outcome]:
        try:
            return submitted.result()
        except BrokenProcessPool as error:
            raise WorkerLostError from error

    def close(self) -> None:
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.terminate()  # the pool would wait for what it encodes
        self._pool.shutdown(cancel_futures=True)


def _start_worker(devices: Any) -> None:
    global _device
    _device = devices.get()
    tqdm.set_lock(threading.RLock())  # its own is a semaphore, which would outlive a process that is terminated
    follow_parent()


def _encode(settings: Settings, group: Source) -> list[Outcome]:
    return encode(replace(settings, device=_device), group)


@contextmanager
def on_this_machine(settings: Settings, n_workers: int | None = None) -> Iterator[Engine]:
    """Processes of this machine: `n_workers`, or one for each core, or two for each GPU. They end with the block.

    The processes are spawned and import the script again: it must do its work under `if __name__ == "__main__":`.
    """
    engine = _Processes(settings, n_workers)
    try:
        yield engine
    finally:
        engine.close()


# Ray ------------------------------------------------------------------------------------------------------------------


class _Worker:
    """An actor. It loads the model with its first group."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def encode(self, group: Source) -> list[Outcome]:
        return encode(self._settings, group)


class _Ray:
    """Actors. Each lost one is replaced by another, which starts on any machine that has room.

    Behind each group, its actor is asked whether it is ready; it gets another group when it has answered.
    """

    def __init__(self, ray: Any, settings: Settings) -> None:
        resources = ray.cluster_resources()
        n_gpus = 0 if settings.device == "cpu" else int(resources.get("GPU", 0))
        self.settings = replace(settings, device="cuda" if n_gpus else "cpu")
        self.n_workers = n_gpus * _WORKERS_PER_GPU or max(1, int(resources.get("CPU", 1)))
        share = {"num_gpus": 1 / _WORKERS_PER_GPU} if n_gpus else {}
        self._ray, self._errors = ray, ray.exceptions
        self._worker = ray.remote(num_cpus=1, **share)(_Worker)
        self._ask([self._worker.remote(self.settings) for _ in range(self.n_workers)] * _GROUPS_PER_ACTOR)

    def _ask(self, actors: Iterable[Any]) -> None:
        self._asked = {actor.__ray_ready__.remote(): actor for actor in actors}

    def submit(self, group: Source) -> Any:
        while True:
            (ready,), _ = self._ray.wait(list(self._asked))
            actor = self._asked[ready]
            try:
                self._ray.get(ready)
            except self._errors.RayActorError as error:
                if error.actor_init_failed:  # such as: this package is not installed there
                    raise DacError(f"a worker of Ray can't start: {str(error).splitlines()[-1]}") from error
                new = self._worker.remote(self.settings)
                self._ask([new if other is actor else other for other in self._asked.values()])
                continue
            del self._asked[ready]
            submitted = actor.encode.remote(group)
            self._asked[actor.__ray_ready__.remote()] = actor
            return submitted

    def result(self, submitted: Any) -> list[Outcome]:
        try:
            found: list[Outcome] = self._ray.get(submitted)
            return found
        except (self._errors.RayActorError, self._errors.OutOfMemoryError, self._errors.ObjectLostError) as error:
            self._ask(self._asked.values())  # an answer may be older than the loss
            raise WorkerLostError from error
        except self._errors.RayTaskError as error:
            raise error.cause from error


@contextmanager
def on_ray(settings: Settings, address: str = "auto") -> Iterator[Engine]:
    """A Ray cluster, whose machines have this package, the model and the sounds at the same paths.

    Raises:
        DacError: Ray is not installed, or there is no cluster at `address`.
    """
    try:
        ray = import_module("ray")
    except ModuleNotFoundError as error:
        raise DacError("Ray is not installed: pip install 'dac_codec[ray]'") from error
    try:
        if address != "auto":  # Ray would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), _CONNECTION_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:
        raise DacError(f"no Ray cluster at {address!r} ({error}); `ray start --head` starts one") from error
    try:
        yield _Ray(ray, settings)
    finally:
        ray.shutdown()
