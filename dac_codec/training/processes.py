"""The processes of a run: how they are started, how they agree, and how they are asked to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor

from dac_codec.common.errors import DacError
from dac_codec.training.config import TrainConfig


def start(config: TrainConfig) -> Fabric:
    """Start the processes that a configuration asks for; each of them goes on from here.

    Raises:
        DacError: this machine has no such devices, or fewer.
    """
    settings = config.trainer
    parallel = settings.strategy == "ddp" or settings.devices * settings.nodes > 1
    # A phase without the quantizer gives no gradient to its parameters.
    partial = any(not phase.quantize for phase in settings.phases)
    accelerator = settings.accelerator
    if accelerator == "auto":  # Fabric knows more of them, which nothing here has been tried on.
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=DDPStrategy(find_unused_parameters=partial, broadcast_buffers=False) if parallel else "auto",
            precision=settings.precision,
        )
        fabric.launch()
    except (RuntimeError, MisconfigurationException) as error:
        raise DacError(
            f"{settings.devices} processes on trainer.accelerator={settings.accelerator} can't be started: {error}"
        ) from error
    return fabric


def any_process(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is set in any process; all of them have to ask."""
    if fabric.world_size == 1:
        return flag
    return bool(total(fabric, torch.tensor(float(flag), device=fabric.device)) > 0)


def total(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself stays as it is."""
    summed = fabric.all_reduce(tensor.clone(), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed


class StopFlag:
    """Whether somebody has asked this process to stop."""

    def __init__(self) -> None:
        self.is_set = False


@contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """A flag for Ctrl-C and SIGTERM, so that a step is never cut in half. A second one ends the process as usual."""
    flag = StopFlag()
    previous: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        flag.is_set = True
        restore()

    previous.update({number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)})
    try:
        yield flag
    finally:
        restore()
