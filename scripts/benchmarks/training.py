"""Measure what a training step costs and what it is spent on.

    python scripts/benchmarks/training.py experiment=44khz data.sounds=/my/sounds

prints a table with a row for float32, bf16 and compiled training, and then one for each thing that makes a step
quicker and that is not a setting: what a step costs in float32 without it. The rows take turns, in rounds of a few
steps, so that all see the same machine. Before the steps that count there are some that don't. "loader" is the rate at
which one worker alone prepares excerpts. On a GPU the device is waited for at the border of every part, so that a step
takes a little longer than in a real run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from dac_codec.common.scripts import exit_status
from dac_codec.common.spectral import Spectra
from dac_codec.model import layers
from dac_codec.model.discriminator import Discriminator
from dac_codec.model.snake import TINY
from dac_codec.training.config import TrainConfig
from dac_codec.training.generator import Generated
from dac_codec.training.loader import batches
from dac_codec.training.trainer import Trainer

PARTS = ("data", "generator forward", "discriminators", "losses", "adversary", "backward, update")
WARM_UP, A_ROUND = 5, 5


class Stopwatch(Trainer):
    """A run that notes how long each part of a step takes, in seconds."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._stream = self._batches()  # Starting its workers takes longer than a round.
        losses = self.losses.forward

        def timed(fake: Tensor, real: Tensor) -> dict[str, Tensor]:
            with self.measure("losses"):
                return losses(fake, real)

        self.losses.forward = timed  # type: ignore[method-assign]

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Note the time that a block takes."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds[part].append(time.perf_counter() - started)

    def measured_steps(self, n_steps: int) -> None:
        """Train some steps without saving or validating anything."""
        for _ in range(n_steps):
            with self.measure("step"):
                with self.measure("data"):
                    reals = [self._audio_of(next(self._stream)) for _ in range(self.config.trainer.accumulate)]
                self._train_step(reals)
            self.step += 1

    def _generate(self, real: Tensor, index: int) -> Generated:
        with self.measure("generator forward"):
            return super()._generate(real, index)

    def _discriminator_step(self, reals: list[Tensor], shared: Any) -> dict[str, float]:
        with self.measure("discriminators"):
            return super()._discriminator_step(reals, shared)

    def _judge(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        with self.measure("adversary"):
            return super()._judge(fake, real)

    def _wait(self) -> None:
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()


def _plain_snake(x: Tensor, alpha: Tensor) -> Tensor:
    return x + (alpha + TINY).reciprocal() * torch.sin(alpha * x).pow(2)


def _unfused(optimizer: Callable[..., torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    return lambda *arguments, **settings: optimizer(*arguments, **settings | {"fused": False})


def _computed_anew(magnitude: Callable[[Spectra, int], Tensor]) -> Callable[[Spectra, int], Tensor]:
    return lambda spectra, window: magnitude(Spectra(spectra.audio), window)


def _one_by_one(forward: Callable[[Discriminator, Tensor], list[list[Tensor]]]) -> Callable[..., list[list[Tensor]]]:
    """Where the discriminator learns, judge the halves of a batch, which are fake and real, one after the other."""

    def judge(discriminator: Discriminator, audio: Tensor) -> list[list[Tensor]]:
        if not next(discriminator.parameters()).requires_grad:
            return forward(discriminator, audio)
        maps = [forward(discriminator, half) for half in audio.chunk(2)]
        return [[torch.cat(parts) for parts in zip(*groups, strict=True)] for groups in zip(*maps, strict=True)]

    return judge


CHANGES: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "Snake as one function": (layers, "snake", lambda _: _plain_snake),
    "fused optimizer": (torch.optim, "AdamW", _unfused),
    "shared spectrograms": (Spectra, "magnitude", _computed_anew),
    "real and fake together": (Discriminator, "forward", _one_by_one),
}
"""What makes a step quicker: where it is, its name there, and what makes of it the way it would be written at first."""


def without(change: str | None) -> AbstractContextManager[object]:
    """Train without one of `CHANGES` meanwhile; None: with all."""
    if change is None:
        return nullcontext()
    owner, name, undo = CHANGES[change]
    return patch.object(owner, name, undo(getattr(owner, name)))


class Row:
    """A way to train, and what it was measured to cost."""

    def __init__(self, config: TrainConfig, left_out: str | None) -> None:
        self._left_out = left_out
        with without(left_out):
            self._run = Stopwatch(config)
            self._run.measured_steps(WARM_UP)
        self._run.seconds.clear()

    def measure(self) -> None:
        """A round of steps that count."""
        with without(self._left_out):
            self._run.measured_steps(A_ROUND)

    def found(self) -> dict[str, float]:
        """Median milliseconds of a step and of its parts."""
        found = {part: 1000 * statistics.median(values) for part, values in self._run.seconds.items()}
        found["backward, update"] = found["step"] - sum(found.get(part, 0.0) for part in PARTS)
        return found


def loader_rate(config: TrainConfig) -> float:
    """Excerpts a second that one worker prepares, nothing else being done."""
    run = Trainer(config)
    stream = batches(run.data, first_step=0, last_step=10_000, batch_size=8, workers=1)
    next(stream)
    started, heard = time.perf_counter(), 0
    while time.perf_counter() - started < 5:
        heard += len(next(stream).audio)
    return heard / (time.perf_counter() - started)


VARIANTS = {
    "float32": (),
    "bf16": ("trainer.precision=bf16-mixed",),
    "float32, compiled": ("trainer.compile=true",),
    "bf16, compiled": ("trainer.precision=bf16-mixed", "trainer.compile=true"),
}


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = {**dict.fromkeys(VARIANTS), **{f"without {change}": change for change in CHANGES}}
    parser.add_argument("--only", nargs="+", choices=rows, default=list(rows), help="rows to measure")
    parser.add_argument("--rounds", type=int, default=4, help=f"of {A_ROUND} steps [4]")
    parser.add_argument("overrides", nargs="+", help="settings, as scripts/train.py takes them")
    arguments = parser.parse_args()
    folder = str(Path(__file__).parents[2] / "configs")
    measured: dict[str, Row] = {}
    with ExitStack() as stack:
        stack.enter_context(initialize_config_dir(folder, version_base="1.3"))
        for name in arguments.only:
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
            settings = ["trainer.compile=false", *VARIANTS.get(name, ()), f"trainer.folder={scratch}"]
            values: Any = OmegaConf.to_container(compose("train", [*arguments.overrides, *settings]), resolve=True)
            config = TrainConfig.parse(values)
            if not measured:
                print(f"loader: {loader_rate(config):.0f} excerpts/s from one worker\n", flush=True)
            measured[name] = Row(config, rows[name])
        for _ in tqdm(range(arguments.rounds), desc="rounds", disable=None):
            for row in measured.values():
                row.measure()
    excerpts = config.trainer.batch_size * config.trainer.accumulate
    found = {name: row.found() for name, row in measured.items()}
    first = next(iter(found.values()))["step"]
    print("| | steps/s | excerpts/s | ms a step | speed to the first row | " + " | ".join(PARTS) + " |")
    print("|---|" + "---:|" * (len(PARTS) + 4))
    for name, parts in found.items():
        step = parts["step"]
        shares = " | ".join(f"{parts.get(part, 0.0) / step:.0%}" for part in PARTS)
        rates = f"{1000 / step:.2f} | {1000 * excerpts / step:.1f} | {step:.0f} | {first / step:.2f}"
        print(f"| {name} | {rates} | {shares} |")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, (ValueError,)))  # what a configuration is wrong with
