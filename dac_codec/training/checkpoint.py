"""The state of a run on disk: the last checkpoints and the best one, each written atomically."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from dac_codec import pretrained
from dac_codec.common.errors import CheckpointError
from dac_codec.common.files import atomic_write, expanded, remove_abandoned, write_files
from dac_codec.model import DAC
from dac_codec.model.discriminator import Discriminator
from dac_codec.pretrained.checkpoints import unpickle
from dac_codec.training.optimizers import Muon

logger: logging.Logger = logging.getLogger(__name__)

DISCRIMINATOR_FILE = "discriminator.safetensors"
"""File beside a model's own files: the discriminators it was trained against, with the reference's names."""

_OPTIONAL = {"ema", "discriminator", "discriminator_optimizer", "usage"}
_NAME = re.compile(r"step-(\d+)\.pt")


def save(state: dict[str, Any], path: Path) -> None:
    """Write a state atomically: the file is the old or the new one, also after a power failure.

    Raises a CheckpointError if the file cannot be written.
    """
    try:
        with atomic_write(path) as temporary:
            torch.save(state, temporary)
            _to_disk(temporary)
        _to_disk(path.parent)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError when the disk is full
        raise CheckpointError(f"can't write {path}: {_write_failure(error, path)}") from error


def _write_failure(error: Exception, path: Path) -> str:
    """Why a file can't be written: PyTorch's own errors don't say that the disk is full."""
    if isinstance(error, OSError):
        return str(error)
    try:
        free = f"{shutil.disk_usage(path.parent).free / 1e6:.0f} MB are free"
    except OSError:
        free = "its free space is unknown"
    return f"PyTorch couldn't write all of it; check the disk ({free}) and its quota"


def load(path: Path) -> dict[str, Any]:
    """Read a state written by `save`, without executing code from the file.

    Raises a CheckpointError if there is no such file, or it is not a state.
    """
    state = unpickle(path)
    if not isinstance(state, dict) or type(state.get("step")) is not int:
        raise CheckpointError(f"{path} is not a checkpoint of a training run: it has no step")
    return state


def restore(
    state: Mapping[str, Any], parts: Mapping[str, nn.Module | Optimizer], network: Mapping[str, Any], folder: Path
) -> tuple[int, int, float, set[str]]:
    """Load the state of the run in a folder into its modules and optimizers, given by their names in the state.

    `network` is the configuration of the model, which must be that of the run, except for its quantizer dropout. A run
    may be resumed with discriminators, a moving average or usage counts that it did not start with: these keep
    their initial state, and the moving average starts from the model.

    Returns:
        The step, the step that was validated last, the best distance, and the files that could not be read.

    Raises:
        CheckpointError: the state does not fit.
    """
    try:
        before = state["config"]["model"]
        if others := [
            f"{name} is {network[name]!r}, was {before[name]!r}"
            for name in network
            if name in before and name != "quantizer_dropout" and network[name] != before[name]
        ]:
            raise ValueError(f"the model's {', '.join(others)}")
        for name, part in parts.items():
            if name in state or name not in _OPTIONAL:
                _restore(part, state[name])
        ema = parts.get("ema")
        if isinstance(ema, AveragedModel) and "ema" not in state:
            ema.module.load_state_dict(state["model"])
        step, validated, best, skipped = (state[name] for name in ("step", "validated", "best", "skipped"))
        counts = all(type(value) is int and 0 <= value < 2**53 for value in (step, validated))
        texts = isinstance(skipped, list) and all(isinstance(value, str) for value in skipped)
        if not (counts and texts and isinstance(best, float) and best == best):
            raise ValueError("its step, validated, best or skipped is not of its kind")
        return step, validated, best, set(skipped)
    except MemoryError:
        raise
    except Exception as error:  # a part that is of another kind can raise anything
        raise CheckpointError(
            f"the checkpoint in {folder} does not fit this configuration: {_first_reason(error)}"
        ) from error


def _restore(part: nn.Module | Optimizer, state: Any) -> None:
    """Load the state of a part. Raises any exception if it is damaged, of another kind or not finite."""
    if isinstance(part, nn.Module):
        part.load_state_dict(state)
        if not all(bool(tensor.isfinite().all()) for tensor in part.state_dict().values()):
            raise ValueError("it has weights that are not finite")
        return
    settings = [
        {key: value for key, value in group.items() if key not in ("params", "lr")} for group in part.param_groups
    ]
    part.load_state_dict(state)
    for group, expected in zip(part.param_groups, settings, strict=True):
        if type(group["lr"]) is not float or any(group[key] != value for key, value in expected.items()):
            raise ValueError("its optimizer has other settings")
    names = {"average"} if isinstance(part, Muon) else {"step", "exp_avg", "exp_avg_sq"}
    parameters = {id(parameter) for group in part.param_groups for parameter in group["params"]}
    for parameter, values in part.state.items():
        if id(parameter) not in parameters or not isinstance(values, dict) or values.keys() != names:
            raise ValueError("its optimizer has a state of another kind")
        for name, value in values.items():
            shape = () if name == "step" else parameter.shape
            fits = isinstance(value, Tensor) and value.is_floating_point() and value.shape == shape
            if not fits or not value.isfinite().all() or (name == "step" and value < 1):
                raise ValueError(f"its optimizer has no {name} for a weight of {list(parameter.shape)}")


class Checkpoints:
    """The last `keep_last` checkpoints of a run, and the best one, in a folder.

    Raises a CheckpointError if the folder cannot be created.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self.best: Path = folder / "best.pt"
        self.keep_last = keep_last
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"can't create the folder {folder}: {error}") from error

    def steps(self) -> list[tuple[int, Path]]:
        """Step and path of each checkpoint, oldest first."""
        named = ((_NAME.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in named if match)

    def find(self, resume: str) -> dict[str, Any] | None:
        """The state to resume from, if any: see `dac_codec.training.config.TrainConfig` for the values of `resume`.

        Raises a CheckpointError if the checkpoint cannot be read, or the folder holds a run that must not be continued.
        """
        steps, run = self.steps(), self.folder.parent
        if resume == "never" and steps:
            raise CheckpointError(f"{run} holds a run already: choose another trainer.folder, or resume=auto")
        if resume in ("auto", "never"):
            return self._newest_readable()
        state = load(expanded(resume))
        if later := [path.name for step, path in steps if step > state["step"]]:
            raise CheckpointError(
                f"{run} has a later step than {resume}: choose another trainer.folder, or remove {', '.join(later)} "
                "from its checkpoints"
            )
        return state

    def _newest_readable(self) -> dict[str, Any] | None:
        """The newest state that is intact; damaged newer ones are logged and renamed."""
        damaged: list[tuple[Path, CheckpointError]] = []
        for _, path in reversed(self.steps()):
            try:
                state = load(path)
            except CheckpointError as error:
                damaged.append((path, error))
                continue
            for bad, reason in damaged:
                logger.warning("%s; the run resumes from %s", reason, path.name)
                with suppress(OSError):  # another process of the run has done it
                    bad.rename(bad.with_suffix(".damaged"))
            return state
        if damaged:
            raise damaged[0][1]
        return None

    def save(self, state: dict[str, Any], step: int, best: bool) -> None:
        """Write the state after a step, and remove all but the last checkpoints.

        Raises a CheckpointError if a file cannot be written or removed.
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
            raise CheckpointError(f"can't update {self.folder}: {error}") from error


def load_pretrained(model: DAC, discriminator: Discriminator | None, name_or_path: str, *, verbose: bool) -> None:
    """Initialize networks from a pretrained model of the same configuration, and from the discriminators beside it.

    The name or path is as in `DAC.from_pretrained`. With `verbose`, progress is shown, and discriminators that are left
    at random weights are logged. Raises a CheckpointError if the weights cannot be read or do not fit.
    """
    source = pretrained.load(name_or_path, progress=verbose)
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"the network of {name_or_path} has another shape than the one to be trained: {source.config}"
        ) from error
    if discriminator is None:
        return
    folder = pretrained.folder_of(name_or_path)
    found = folder is not None and (folder / DISCRIMINATOR_FILE).is_file()
    missing = load_discriminator(discriminator, folder) if folder and found else list(discriminator.parts())
    if missing and verbose:
        logger.info("discriminators with random weights, as %s has none: %s", name_or_path, "; ".join(missing))
        if folder and not found and Path(pretrained.__file__).parents[1] in folder.parents:
            in_clone = f"checkpoints/{folder.name}"
            logger.warning(
                "the installed package leaves out the discriminators of its models; where a clone of the repository "
                f"has {in_clone}/{DISCRIMINATOR_FILE}, trainer.init_from={in_clone} loads them, too"
            )


def save_discriminator(
    discriminator: Discriminator, folder: Path, dtype: Literal["float32", "float16"] = "float32"
) -> None:
    """Write the weights of discriminators beside those of a model, for fine-tuning.

    Raises a CheckpointError if the file cannot be written.
    """
    tensors = {
        key: one.detach().to("cpu", getattr(torch, dtype)).contiguous()
        for key, one in pretrained.canonical(discriminator.state_dict()).items()
    }
    path = folder / DISCRIMINATOR_FILE
    metadata = {"format": "pt", "parts": json.dumps(list(discriminator.parts()))}
    try:
        write_files(folder, {DISCRIMINATOR_FILE: safetensors.torch.save(tensors, metadata)})
    except OSError as error:
        raise CheckpointError(f"can't write {path}: {error}") from error


def load_discriminator(discriminator: Discriminator, folder: Path) -> list[str]:
    """Load the weights written by `save_discriminator` into the discriminators of the same period or window.

    Returns:
        The names of the discriminators without weights in the file, which are left unchanged. A file that does not name
        its discriminators must hold all of them.

    Raises:
        CheckpointError: the file cannot be read, or its weights do not fit.
    """
    path = folder / DISCRIMINATOR_FILE
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
        stored = json.loads(metadata["parts"]) if "parts" in metadata else list(discriminator.parts())
        if not isinstance(stored, list) or not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("its list of parts is no list, or its weights are not finite")
        for name, part in discriminator.parts().items():
            if name in stored:
                prefix = f"discriminators.{stored.index(name)}."
                own = {key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)}
                part.load_state_dict(own)
    except MemoryError:
        raise
    except Exception as error:  # safetensors and PyTorch raise many types, depending on where the damage is
        raise CheckpointError(f"{path} does not hold these discriminators: {_first_reason(error)}") from error
    return [name for name in discriminator.parts() if name not in stored]


def remove_temporaries(folder: Path) -> None:
    """Remove temporary files that a killed process left in a folder."""
    remove_abandoned(folder)
    for path in folder.glob(".saving-*"):
        shutil.rmtree(path, ignore_errors=True)


def _first_reason(error: BaseException) -> str:
    """The first reason that PyTorch lists in an error, in one line, without the heading above the list."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return lines[1] if len(lines) > 1 and lines[0].endswith(":") else "".join(lines[:1])


def _to_disk(path: Path) -> None:
    """Wait until the content of a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
