"""Measure what a training step costs and what it is spent on.

    python scripts/benchmark_training.py experiment=44khz data.sounds=/my/sounds

prints a table with a row for float32, bf16 and compiled training, one after the other in the same run; arguments are
those of `scripts/train.py`. Before the steps that count there are some that don't. "loader" is the rate at which one
worker alone prepares excerpts. On a GPU the device is waited for at the border of every part, so that the parts add up
to a little more than a step of the real loop takes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from dac_codec.errors import DacError
from dac_codec.training.config import TrainConfig
from dac_codec.training.data import batches
from dac_codec.training.loop import Trainer

PARTS = ("data", "generator forward", "discriminators", "losses", "adversary", "backward, update")
WARM_UP, MEASURED = 5, 20


class Stopwatch(Trainer):
    """A run that notes how long each part of a step takes, in seconds."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
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
        stream = self._batches()
        for _ in range(n_steps):
            with self.measure("step"):
                with self.measure("data"):
                    reals = [self._heard(next(stream)) for _ in range(self.config.trainer.accumulate)]
                self._train_step(reals)
            self.step += 1

    def _generate(self, real: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
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


def measure(config: TrainConfig) -> dict[str, float]:
    """Median milliseconds of a step and of its parts, peak memory in GiB."""
    run = Stopwatch(config)
    run.measured_steps(WARM_UP)
    run.seconds.clear()
    if run.fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run.measured_steps(MEASURED)
    found = {part: 1000 * statistics.median(values) for part, values in run.seconds.items()}
    found["backward, update"] = found["step"] - sum(found.get(part, 0.0) for part in PARTS)
    if run.fabric.device.type == "cuda":
        found["GiB"] = torch.cuda.max_memory_allocated() / 2**30
    else:
        found["GiB"] = psutil.Process().memory_info().rss / 2**30
    return found


def loader_rate(config: TrainConfig) -> float:
    """Excerpts a second that one worker prepares, nothing else being done."""
    run = Trainer(config)
    stream = batches(run.data, first_step=0, last_step=10_000, batch_size=8, workers=1)
    next(stream)
    started, heard = time.perf_counter(), 0
    while time.perf_counter() - started < 10:
        heard += len(next(stream).audio)
    return heard / (time.perf_counter() - started)


def main() -> int:
    """Measure and print. Returns the exit status."""
    variants = {"float32": [], "bf16": ["trainer.precision=bf16-mixed"]}
    variants["bf16, compiled"] = ["trainer.precision=bf16-mixed", "trainer.compile=true"]
    variants["float32, compiled"] = ["trainer.compile=true"]
    rows = {}
    folder = str(Path(__file__).parents[1] / "configs")
    try:
        for name, extra in variants.items():
            with initialize_config_dir(folder, version_base="1.3"), tempfile.TemporaryDirectory() as scratch:
                overrides = ["trainer.compile=false", *extra, f"trainer.folder={scratch}"]
                values: Any = OmegaConf.to_container(compose("train", [*sys.argv[1:], *overrides]), resolve=True)
                config = TrainConfig.parse(values)
                rows[name] = measure(config)
                print(f"measured {name}", file=sys.stderr)
                if "rate" not in locals():
                    rate = loader_rate(config)
    except (DacError, ValueError) as error:
        print(f"benchmark_training: {error}", file=sys.stderr)
        return 1
    per_step = config.trainer.batch_size * config.trainer.accumulate
    print(f"loader: {rate:.0f} excerpts/s from one worker")
    print("| | steps/s | excerpts/s | ms a step | " + " | ".join(PARTS) + " | GiB |")
    print("|---" * (len(PARTS) + 5) + "|")
    for name, found in rows.items():
        shares = " | ".join(f"{found.get(part, 0.0) / found['step']:.0%}" for part in PARTS)
        rate_of_steps = 1000 / found["step"]
        print(
            f"| {name} | {rate_of_steps:.2f} | {rate_of_steps * per_step:.1f} | {found['step']:.0f} | {shares} "
            f"| {found['GiB']:.1f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
