"""A training run's state on disk."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from dac_codec.errors import CheckpointError


def save(state: dict[str, Any], path: Path) -> None:
    """Write a state atomically: the file is either the old one or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    try:
        torch.save(state, partial)
        os.replace(partial, path)
    except OSError as error:
        raise CheckpointError(f"can't write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


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
