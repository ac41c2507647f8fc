"""A training run's state on disk: the last few checkpoints and the best one, each of them whole."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch

from dac_codec import pretrained
from dac_codec.common.errors import CheckpointError
from dac_codec.common.files import atomic_write
from dac_codec.model.discriminator import Discriminator

DISCRIMINATOR_FILE = "discriminator.safetensors"
"""Beside a model's own files: discriminators to train it against, with the reference's names."""

_NAME = re.compile(r"step-(\d+)\.pt")


def save(state: dict[str, Any], path: Path) -> None:
    """Write a state so that the file is either the old one or the whole new one, even if the power fails.

    Raises:
        CheckpointError: it can't be written.
    """
    try:
        with atomic_write(path) as temporary:
            torch.save(state, temporary)
            _to_disk(temporary)
        _to_disk(path.parent)
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


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are.
        keep_last: how many to keep, besides the best one.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.keep_last = keep_last
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"can't make the folder {folder}: {error}") from error

    @property
    def best(self) -> Path:
        """Where the best one is."""
        return self.folder / "best.pt"

    def steps(self) -> list[tuple[int, Path]]:
        """The checkpoints that are there, oldest first."""
        named = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in named if match)

    def latest(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        steps = self.steps()
        return steps[-1][1] if steps else None

    def save(self, state: dict[str, Any], step: int, best: bool) -> None:
        """Write the state after a step, and remove the checkpoints that are not among the last ones any more.

        Raises:
            CheckpointError: it can't be written.
        """
        path = self.folder / f"step-{step:08}.pt"
        save(state, path)
        try:
            if best:
                with atomic_write(self.best) as temporary:
                    temporary.unlink()
                    try:
                        os.link(path, temporary)
                    except OSError:  # a file system without hard links
                        shutil.copyfile(path, temporary)
            for _, old in self.steps()[: -self.keep_last]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"can't tidy up {self.folder}: {error}") from error


def save_discriminator(
    discriminator: Discriminator, folder: Path, dtype: Literal["float32", "float16"] = "float32"
) -> None:
    """Write the discriminators' weights beside those of a model, for the next one to be fine-tuned from.

    Raises:
        CheckpointError: they can't be written.
    """
    tensors = {
        key: one.detach().to("cpu", getattr(torch, dtype)).contiguous()
        for key, one in pretrained.canonical(discriminator.state_dict()).items()
    }
    path = folder / DISCRIMINATOR_FILE
    parts = json.dumps(list(discriminator.parts()))
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt", "parts": parts}))
    except OSError as error:
        raise CheckpointError(f"can't write {path}: {error}") from error


def load_discriminator(discriminator: Discriminator, folder: Path) -> list[str]:
    """Fill those discriminators of which `save_discriminator` has written the weights.

    Returns:
        The names of the others, which are left as they are. A file that doesn't say what its discriminators look at is
        taken to hold them all.

    Raises:
        CheckpointError: the file can't be read, or its weights don't fit.
    """
    path, missing = folder / DISCRIMINATOR_FILE, []
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
        stored = json.loads(metadata["parts"]) if "parts" in metadata else list(discriminator.parts())
        for name, part in discriminator.parts().items():
            if name in stored:
                prefix = f"discriminators.{stored.index(name)}."
                part.load_state_dict(
                    {key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)}
                )
            else:
                missing.append(name)
    except (safetensors.SafetensorError, OSError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold these discriminators: {first_reason(error)}") from error
    return missing


def remove_temporaries(folder: Path) -> None:
    """Remove what a process that was killed while writing has left in a folder of a run."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
    for path in folder.glob(".saving-*"):
        shutil.rmtree(path, ignore_errors=True)


def first_reason(error: BaseException) -> str:
    """What PyTorch complains of first, in one line; the heading above its list of complaints says nothing."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else "".join(lines[:1])


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
