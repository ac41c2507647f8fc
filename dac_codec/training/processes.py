"""The processes of a run: start, reductions over all of them, and signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from dac_codec.common.errors import DacError
from dac_codec.common.signals import handled_signals
from dac_codec.common.threads import StopFlag
from dac_codec.training.config import TrainConfig


def start(config: TrainConfig) -> Fabric:
    """Start the processes of a run; all of them return from here.

    Raises a DacError if this machine has no such devices, or too few.
    """
    settings = config.trainer
    parallel = settings.strategy == "ddp" or settings.devices * settings.nodes > 1
    # In a phase without the quantizer, its parameters get no gradient.
    unused = any(not phase.quantize for phase in settings.phases)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"  # Fabric's choice may be untested here.
    try:
        fabric = Fabric(
            accelerator=automatic if settings.accelerator == "auto" else settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=DDPStrategy(find_unused_parameters=unused, broadcast_buffers=False) if parallel else "auto",
            precision=settings.precision,
        )
        fabric.launch()
    except (RuntimeError, MisconfigurationException) as error:
        raise DacError(
            f"{settings.devices} processes on trainer.accelerator={settings.accelerator} can't be started: {error}"
        ) from error
    return fabric


def any_process(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is set in any process. All processes must call this."""
    if fabric.world_size == 1:
        return flag
    return bool(total(fabric, torch.tensor(float(flag), device=fabric.device)) > 0)


def total(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor is unchanged."""
    summed = fabric.all_reduce(tensor.clone(), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed


@dataclass
class Stop(StopFlag):
    """Set if the run must stop after this step; `signal` is the cause, SIGTERM if only another process got one."""

    signal: int = signal.SIGTERM


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """A flag that Ctrl-C, SIGTERM and SIGHUP set, so that no step is interrupted. A second signal ends the process.

    Ctrl-C and SIGTERM do so also where a shell ignores them; nohup's SIGHUP stays ignored.
    """
    stop = Stop()

    def handle(number: int) -> None:
        if stop.is_set:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.raise_signal(number)
        stop.signal, stop.is_set = number, True

    with handled_signals(handle, "SIGINT", "SIGTERM", keep_ignored=False), handled_signals(handle, "SIGHUP"):
        yield stop
