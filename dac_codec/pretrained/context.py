"""The context models beside a codec's weights: probabilities with which its codes are entropy coded."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from dac_codec.bitstream.context_model import ContextModel
from dac_codec.common.errors import CheckpointError
from dac_codec.model import DAC
from dac_codec.pretrained.checkpoints import WEIGHTS_FILE
from dac_codec.pretrained.models import weights_file


def context_model(model: str | os.PathLike[str] | DAC, fingerprint: bytes | None = None) -> ContextModel | None:
    """The context model that lies beside a model's weights.

    It is `context.safetensors` in a model's folder, and `weights.context.safetensors` beside `weights.pth`. Models that
    only decode older files have names that continue it: `context-1.safetensors`.

    Args:
        model: a loaded model, or an argument of `load`. Nothing is downloaded.
        fingerprint: of the context model that a file needs; None for the one that new files use.

    Returns:
        None if there is none, or none with that fingerprint.

    Raises:
        CheckpointError: a context model can't be read or is not valid.
    """
    weights = model.weights_file if isinstance(model, DAC) else weights_file(model)
    if weights is None:
        return None
    found = (_load(file, _state(file)) for file in _files(weights))
    return next((context for context in found if fingerprint in (None, context.fingerprint)), None)


def _files(weights: Path) -> Iterator[Path]:
    """The context models beside a file of weights, the current one first."""
    stem = "context" if weights.name == WEIGHTS_FILE else f"{weights.stem}.context"
    current = weights.with_name(f"{stem}.safetensors")
    older = sorted(weights.parent.glob(f"{glob.escape(stem)}-*.safetensors"))
    return (file for file in (current, *older) if file.exists())


def _state(file: Path) -> tuple[int, int]:
    """What changes when a file changes."""
    try:
        status = file.stat()
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error}") from error
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _load(file: Path, state: tuple[int, int]) -> ContextModel:
    return ContextModel.load(file)
