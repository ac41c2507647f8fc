"""Measure the time of a training step and of its parts.

    python scripts/benchmarks/training.py experiment=44khz data.sounds=/my/sounds

prints a row for training in float32, bf16 and compiled, and one for float32 without each optimization that is no
setting, with ratios to the first row. The rows take turns in one process, in rounds of a few steps. "loader" is the
rate at which one worker alone prepares excerpts. A GPU is synchronized between the parts of a step, so that steps take
slightly longer than in a real run.
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
from report import table
from timing import interleave, positive, summarize, timed
from torch import Tensor

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
STEPS = 5  # per round, and of warm-up
LOADER_SECONDS = 5.0


class Stopwatch(Trainer):
    """A run that records the seconds of each part of a step."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._stream = self._batches()  # kept, because starting its workers takes longer than a round
        losses = self.losses.forward

        def measured(fake: Tensor, real: Tensor) -> dict[str, Tensor]:
            with self.measure("losses"):
                return losses(fake, real)

        self.losses.forward = measured  # type: ignore[method-assign]

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Record the time of a block."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds[part].append(time.perf_counter() - started)

    def measured_steps(self, n_steps: int) -> None:
        """Train some steps without saving or validating."""
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


def _not_shared(magnitude: Callable[[Spectra, int], Tensor]) -> Callable[[Spectra, int], Tensor]:
    return lambda spectra, window: magnitude(Spectra(spectra.audio), window)


def _one_by_one(forward: Callable[[Discriminator, Tensor], list[list[Tensor]]]) -> Callable[..., list[list[Tensor]]]:
    """Run the halves of a batch (fake and real) one after the other in steps of the discriminator."""

    def judge(discriminator: Discriminator, audio: Tensor) -> list[list[Tensor]]:
        if not next(discriminator.parameters()).requires_grad:
            return forward(discriminator, audio)
        maps = [forward(discriminator, half) for half in audio.chunk(2)]
        return [[torch.cat(parts) for parts in zip(*groups, strict=True)] for groups in zip(*maps, strict=True)]

    return judge


CHANGES: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "Snake as one function": (layers, "snake", lambda _: _plain_snake),
    "fused optimizer": (torch.optim, "AdamW", _unfused),
    "shared spectrograms": (Spectra, "magnitude", _not_shared),
    "real and fake together": (Discriminator, "forward", _one_by_one),
}
"""Optimizations of a step: owner, attribute, and a function from the optimized to the plain version."""


def without(change: str | None) -> AbstractContextManager[object]:
    """Disable one of `CHANGES` within the block; None disables nothing."""
    if change is None:
        return nullcontext()
    owner, name, undo = CHANGES[change]
    return patch.object(owner, name, undo(getattr(owner, name)))


class Row:
    """A variant of training. `left_out` is the optimization that it does without, if any."""

    def __init__(self, config: TrainConfig, left_out: str | None) -> None:
        self._left_out = left_out
        with without(left_out):
            self._run = Stopwatch(config)
            self._run.measured_steps(STEPS)
        self._run.seconds.clear()

    def measure(self) -> float:
        """Train a round of steps; return the seconds per step."""
        with without(self._left_out):
            return timed(self._run.measured_steps, STEPS) / STEPS

    def parts(self) -> dict[str, float]:
        """Return the median seconds of a step and of its parts."""
        found = {part: statistics.median(values) for part, values in self._run.seconds.items()}
        found["backward, update"] = found["step"] - sum(found.get(part, 0.0) for part in PARTS)
        return found


def loader_rate(config: TrainConfig) -> float:
    """Return the excerpts per second that one worker prepares while nothing else runs."""
    run = Trainer(config)
    stream = batches(run.data, first_step=0, last_step=10_000, batch_size=8, workers=1)
    next(stream)
    started, n_excerpts = time.perf_counter(), 0
    while time.perf_counter() - started < LOADER_SECONDS:
        n_excerpts += len(next(stream).audio)
    return n_excerpts / (time.perf_counter() - started)


VARIANTS = {
    "float32": (),
    "bf16": ("trainer.precision=bf16-mixed",),
    "float32, compiled": ("trainer.compile=true",),
    "bf16, compiled": ("trainer.precision=bf16-mixed", "trainer.compile=true"),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = {**dict.fromkeys(VARIANTS), **{f"without {change}": change for change in CHANGES}}
    parser.add_argument("--only", nargs="+", choices=rows, default=list(rows), help="rows to measure [all]")
    parser.add_argument("--rounds", type=positive, default=4, help=f"counted rounds of {STEPS} steps [%(default)s]")
    parser.add_argument("overrides", nargs="+", help="settings, as for scripts/train.py")
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
        times = interleave({name: row.measure for name, row in measured.items()}, arguments.rounds, warm_up=0)
    excerpts = config.trainer.batch_size * config.trainer.accumulate
    first, lines = times[arguments.only[0]], []
    for name, row in measured.items():
        timing, parts = summarize(times[name], first), row.parts()
        rates = f"{1 / timing.median:.2f}", f"{excerpts / timing.median:.1f}", f"{1000 * timing.median:.0f}"
        shares = (f"{parts.get(part, 0.0) / parts['step']:.0%}" for part in PARTS)
        lines.append([name, *rates, f"{timing.ratio:.2f}", *shares])
    print(table(["training", "steps/s", "excerpts/s", "ms per step", "ratio", *PARTS], lines))


if __name__ == "__main__":
    sys.exit(exit_status(main, (ValueError,)))  # ValueError: an invalid configuration
