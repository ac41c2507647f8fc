"""A training run's state on disk."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from dac_codec.errors import CheckpointError
from dac_codec.files import replacing


def save(state: dict[str, Any], path: Path) -> None:
    """Write a state atomically: the file is either the old one or the whole new one."""
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer says "RuntimeError" when the disk is full
        raise CheckpointError(f"can't write {path}: {error}") from error


def load(path: Path) -> dict[str, Any]:
    """Read a state that `save` wrote, without running code from it.

    Raises:
        CheckpointError: the file is not there, or not such a state.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a readable training checkpoint: {error}") from error
    return state
