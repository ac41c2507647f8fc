"""The arithmetic of the network, whatever the program around it has set for its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch

from dac_codec.model.layers import without_autocast

Undo = Callable[[], None]

_on_a_gpu = threading.RLock()
"""Held by the thread that computes on a GPU."""


@contextmanager
def pinned_precision(device: torch.device, exact: bool) -> Iterator[None]:
    """What holds while the network computes: its types are its own, and no `torch.autocast` makes others of them.

    On a GPU that is one thread at a time: two would take twice the memory.

    Args:
        device: where it computes.
        exact: whether products in single precision are made in nothing less, whatever
            `torch.set_float32_matmul_precision` and the flags of cuDNN and oneDNN say. These are the whole process's:
            until the last one that needs it has left the block, other threads compute so as well.
    """
    with ExitStack() as stack:
        stack.enter_context(without_autocast(device))
        if device.type == "cuda":
            stack.enter_context(_on_a_gpu)
        if exact:
            stack.enter_context(_exact_products)
            if device.type in _exact_convolutions:
                stack.enter_context(_exact_convolutions[device.type])
        yield


class _Held:
    """A setting of the whole process that is another one as long as any thread is inside.

    Args:
        change: makes it so, and returns what undoes that.
    """

    def __init__(self, change: Callable[[], Undo]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._n_inside = 0
        self._undo: Undo = _nothing

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._undo = self._change()
            self._n_inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._undo()


def _nothing() -> None:
    """There is nothing to undo."""


def _highest_precision() -> Undo:
    """Matrix products, on a GPU and on a CPU."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # It was set by the settings of each backend, which PyTorch does not let one mix with this.
        backends: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
        undone = [_ieee(getattr(backend, "matmul", None)) for backend in backends]

        def undo() -> None:
            for each in undone:
                each()

        return undo
    if before == "highest":
        return _nothing
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


def _no_tensor_float_in_cudnn() -> Undo:
    """Convolutions on a GPU. cuDNN's other flags stay as they are."""
    cudnn: Any = torch.backends.cudnn
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:  # As above.
        return _ieee(cudnn.conv)
    if not allowed:
        return _nothing
    cudnn.allow_tf32 = False

    def undo() -> None:
        cudnn.allow_tf32 = True

    return undo


def _ieee(setting: Any) -> Undo:
    """One of PyTorch's settings for an operation of a backend; None where this version has none."""
    before = getattr(setting, "fp32_precision", "none")
    if before in ("none", "ieee"):
        return _nothing
    setting.fp32_precision = "ieee"

    def undo() -> None:
        setting.fp32_precision = before

    return undo


_exact_products = _Held(_highest_precision)
_exact_convolutions = {
    "cpu": _Held(lambda: _ieee(getattr(torch.backends.mkldnn, "conv", None))),
    "cuda": _Held(_no_tensor_float_in_cudnn),
}
