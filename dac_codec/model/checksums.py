"""Checksums of weights, to notice that a model has changed."""

from __future__ import annotations

import google_crc32c
import torch
from torch import nn


def checksums(module: nn.Module) -> tuple[tuple[object, ...], ...]:
    """Name, shape, type and CRC-32C of each parameter and buffer, much faster than a SHA-256.

    PyTorch's version counters are no substitute: the step of a fused optimizer does not increment them.
    """
    return tuple((name, tensor.shape, tensor.dtype, _checksum(tensor)) for name, tensor in module.state_dict().items())


def _checksum(tensor: torch.Tensor) -> int:
    if tensor.is_meta:
        return 0
    values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return int(google_crc32c.value(values))
