"""The log of a run: metrics as JSON lines, and optionally Weights & Biases and TensorBoard."""

from __future__ import annotations

import json
import logging
import math
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dac_codec import audio
from dac_codec.common.errors import DacError
from dac_codec.common.files import to_json, write_file
from dac_codec.training.config import LoggerConfig

logger: logging.Logger = logging.getLogger(__name__)


class RunLog:
    """Writes metrics to `log.jsonl`, one JSON object with "step" and the metrics a line, and settings to `config.json`.

    Lines of steps after `step`, at which the run starts or resumes, are from before a crash and are removed. Raises a
    DacError if a file cannot be written, or Weights & Biases or TensorBoard is not installed.
    """

    def __init__(self, folder: Path, config: LoggerConfig, settings: Mapping[str, Any], step: int) -> None:
        self.path: Path = folder / "log.jsonl"
        try:
            write_file(folder / "config.json", to_json(settings))
            self._cut(step)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise DacError(f"can't write {self.path}: {error}") from error
        self._wandb = _start_wandb(folder, config, settings) if config.wandb != "off" else None
        self._tensorboard = _start_tensorboard(folder, step) if config.tensorboard else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the metrics of a step. Raises a DacError if the log cannot be written."""
        try:
            self._file.write(json.dumps({"step": step} | dict(values)) + "\n")
            self._file.flush()
        except OSError as error:
            raise DacError(f"can't write {self.path}: {error}") from error
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def show(self, step: int, sounds: Iterable[Path]) -> None:
        """Copy sounds, and the spectrograms beside them, to Weights & Biases and TensorBoard."""
        for path in sounds:
            spectrogram = path.with_suffix(".png")
            if self._wandb is not None:
                import wandb

                sound, picture = wandb.Audio(str(path)), wandb.Image(str(spectrogram))
                self._wandb.log({f"audio/{path.stem}": sound, f"spectrogram/{path.stem}": picture}, step=step)
            if self._tensorboard is not None:
                from PIL import Image

                waveform, rate = audio.read(path)
                self._tensorboard.add_audio(f"audio/{path.stem}", waveform.mean(0), step, rate)
                pixels = np.asarray(Image.open(spectrogram).convert("RGB"))
                self._tensorboard.add_image(f"spectrogram/{path.stem}", pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Close the log."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _cut(self, step: int) -> None:
        """Remove lines of steps after `step`, and damaged lines."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= step]
        if len(kept) < len(lines):
            write_file(self.path, "".join(kept))


def _step_of(line: str) -> float:
    """The step of a line of the log; infinity for a damaged line."""
    with suppress(ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float(json.loads(line)["step"])
    return math.inf


def _start_wandb(folder: Path, config: LoggerConfig, settings: Mapping[str, Any]) -> Any:
    """Start a run of Weights & Biases, or resume the one of the folder."""
    try:
        import wandb
    except ImportError as error:
        raise DacError("logger.wandb needs wandb: pip install 'dac_codec[train]'") from error

    online = config.wandb == "online" and wandb.api.api_key
    if config.wandb == "online" and not online:
        logger.warning("not logged in to Weights & Biases: the run stays offline; `wandb sync` uploads it")
    identity = folder / "wandb-id"
    if not identity.exists():
        write_file(identity, secrets.token_hex(4))
    return wandb.init(
        project=config.project,
        name=folder.name,
        id=identity.read_text().strip(),
        resume="allow",
        dir=folder,
        mode="online" if online else "offline",
        config=dict(settings),
    )


def _start_tensorboard(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's files; what a crashed run wrote there after `step` is hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DacError("logger.tensorboard needs tensorboard: pip install 'dac_codec[tensorboard]'") from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
