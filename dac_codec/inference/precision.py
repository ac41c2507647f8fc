"""Precision settings that hold while the network computes, whatever the calling program has set."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dac_codec.model.layers import without_autocast

Undo = Callable[[], object]

_gpu_lock = threading.RLock()  # GPU only, not yet measured: two threads at once would take twice the memory.


@contextmanager
def pinned_precision(device: torch.device, exact: bool) -> Iterator[None]:
    """Turn `torch.autocast` off and, on a GPU, let one thread compute at a time.

    Args:
        device: where the network computes.
        exact: whether products in single precision never use a shorter type, whatever
            `torch.set_float32_matmul_precision` and the flags of cuDNN and oneDNN allow. These settings are
            process-wide: other threads are affected until the last one leaves the block.
    """
    with ExitStack() as stack:
        stack.enter_context(without_autocast(device))
        if device.type == "cuda":
            stack.enter_context(_gpu_lock)
        if exact:
            stack.enter_context(_exact_matmul)
            if device.type in _exact_convolutions:
                stack.enter_context(_exact_convolutions[device.type])
        yield


class _SharedSetting:
    """A process-wide setting that is changed while any thread is inside; `change` returns what restores it."""

    def __init__(self, change: Callable[[], Undo]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._n_inside = 0
        self._undo: Undo = lambda: None

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._undo = self._change()
            self._n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._undo()


def _exact_matrix_products() -> Undo:
    """Change matrix products, on GPU and CPU."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # Settings of single backends are in use, which PyTorch does not allow to mix with this one.
        backends: tuple[Any, ...] = (torch.backends.cuda, torch.backends.mkldnn)
        undos = [_ieee(getattr(backend, "matmul", None)) for backend in backends]
        return lambda: [undo() for undo in undos]
    if before == "highest":
        return lambda: None
    torch.set_float32_matmul_precision("highest")
    return lambda: torch.set_float32_matmul_precision(before)


def _exact_cudnn() -> Undo:
    """Change convolutions on a GPU; cuDNN's other flags stay as they are."""
    cudnn: Any = torch.backends.cudnn
    try:
        allowed = cudnn.allow_tf32
    except RuntimeError:  # As in `_exact_matrix_products`.
        return _ieee(cudnn.conv)
    if not allowed:
        return lambda: None
    cudnn.allow_tf32 = False
    return lambda: setattr(cudnn, "allow_tf32", True)


def _ieee(setting: Any) -> Undo:
    """Change one of PyTorch's settings for an operation of a backend; None where this version has none."""
    before = getattr(setting, "fp32_precision", "none")
    if before in ("none", "ieee"):
        return lambda: None
    setting.fp32_precision = "ieee"
    return lambda: setattr(setting, "fp32_precision", before)


_exact_matmul = _SharedSetting(_exact_matrix_products)
_exact_convolutions = {
    "cpu": _SharedSetting(lambda: _ieee(getattr(torch.backends.mkldnn, "conv", None))),
    "cuda": _SharedSetting(_exact_cudnn),
}
