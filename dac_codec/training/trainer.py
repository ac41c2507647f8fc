"""The training loop, on one CPU, one GPU or several processes.

Read `Trainer.run` first, then `_train_step`. The state on disk is in `checkpoint.py`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.contrib.logging import logging_redirect_tqdm

from dac_codec.common.errors import DacError
from dac_codec.common.files import expanded
from dac_codec.common.progress import progress_bar
from dac_codec.common.threads import StopFlag
from dac_codec.inference.memory import keep_freed_memory
from dac_codec.model import DAC
from dac_codec.model.discriminator import Discriminator
from dac_codec.training import checkpoint, codebooks
from dac_codec.training.config import Phase, TrainConfig
from dac_codec.training.excerpts import ExcerptDataset
from dac_codec.training.generator import Generated, Generator, build_model
from dac_codec.training.loader import Batch, batches
from dac_codec.training.losses import ReconstructionLosses, discriminator_loss, generator_losses, halves, weighted_sum
from dac_codec.training.optimizers import build_optimizers
from dac_codec.training.processes import any_process, start, stop_signals, total
from dac_codec.training.runlog import RunLog
from dac_codec.training.sounds import find_sounds
from dac_codec.training.validation import Validation

logger: logging.Logger = logging.getLogger(__name__)

_SAY_SECONDS = 60.0  # time between lines of progress where standard error is no terminal
_MOST_FAILURES = 10  # updates in a row that are not finite


class Trainer:
    """One training run. A run with the same configuration continues where the last one stopped.

    The random numbers of a step depend only on the seed, the step and the process, so that resuming needs no random
    state besides the step. With `progress`, bars are shown.

    Raises:
        DacError: there are no sounds, a checkpoint cannot be read or belongs to another network, or the folder holds a
            run that must not be continued.
    """

    def __init__(self, config: TrainConfig, progress: bool = True) -> None:
        self.config = config
        self._settings = settings = config.trainer
        self._folder = expanded(settings.folder)
        self._checkpoints = checkpoint.Checkpoints(self._folder / "checkpoints", settings.keep_last)
        self.fabric: Fabric = start(config)
        device = self.fabric.device
        if device.type == "cpu":
            keep_freed_memory()
        state = self._checkpoints.find(config.resume)

        data, first = config.data, self.fabric.is_global_zero
        self._shows_progress = progress and first
        sounds, unreadable = find_sounds(
            data.sounds, "train", "val", progress=self._shows_progress, least_bandwidth=data.least_bandwidth
        )
        train, val = sounds["train"], sounds["val"]
        if first:
            for file in unreadable:
                logger.warning("skipped %s", file)
            logger.info("sounds: %d train, %d validation, %d unreadable", len(train), len(val), len(unreadable))
        self.data: ExcerptDataset = ExcerptDataset(
            train, data, sample_rate=config.model.sample_rate, length=config.excerpt_length, seed=settings.seed
        )
        self.skipped: set[str] = set()
        self.validation: Validation = Validation(config, val, self._folder / "validation", self.fabric)

        torch.manual_seed(settings.seed)
        self.model: DAC = build_model(config)
        self.model.name = self._folder.name
        if settings.decoder_only:
            for part in (self.model.encoder, self.model.quantizer):
                part.requires_grad_(False)
        self.discriminator: Discriminator | None = None
        if config.adversarial:
            shapes = config.discriminator.model_dump()
            self.discriminator = Discriminator(sample_rate=config.model.sample_rate, **shapes)
        if settings.init_from is not None and state is None:
            checkpoint.load_pretrained(self.model, self.discriminator, settings.init_from, verbose=first)
        self.model.to(device)
        self.ema: AveragedModel | None = None
        self.result: DAC = self.model  # what is validated and exported
        if settings.ema is not None:
            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
            self.result = self.ema.module  # type: ignore[assignment]
        self.usage: codebooks.Usage | None = codebooks.Usage(self.model).to(device) if settings.revive_every else None
        self.losses: ReconstructionLosses = ReconstructionLosses(config.loss, config.model.sample_rate).to(device)

        self.optimizers: dict[str, torch.optim.Optimizer] = build_optimizers(self.model, self.discriminator, settings)
        self._generator = self.fabric.setup_module(Generator(self.model, settings.compile))
        if self.discriminator is not None:
            if settings.compile:
                self.discriminator.compile()
            self._critic = self.fabric.setup_module(self.discriminator)

        self.step: int = 0
        self._failures: Counter[str] = Counter()  # updates in a row that were left out
        self._said: float | None = None  # time of the last line of progress
        self._first_report = (0, 0.0)  # step and time
        self.validated: int = 0
        self.best: float = math.inf
        if state is not None:
            network = config.model.to_dict()
            restored = checkpoint.restore(state, self._parts(), network, self._folder)
            self.step, self.validated, self.best, self.skipped = restored
            if first:
                logger.info("resuming at step %d", self.step)

    # The run ----------------------------------------------------------------------------------------------------------

    def run(self) -> int | None:
        """Train to the end of the last phase, or until Ctrl-C, SIGTERM or SIGHUP; the state is saved in either case.

        Returns:
            The number of the signal that stopped the run, in its first process; None at the end.

        Raises:
            DacError: losses or gradients are not finite in ten updates in a row, or a file cannot be read or written.
        """
        settings = self._settings
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            log, progress = self._start_log(stack)
            validated = self.validated
            improved = self._validate_if_due(log, stop)  # the last run may have been stopped during its validation
            if self.validated != validated:
                self._save(improved)
            stream = self._batches()
            while self.step < settings.n_steps and not any_process(self.fabric, stop.is_set):
                started = time.perf_counter()
                before, phase = self.phase(max(0, self.step - 1)), self.phase(self.step)
                begins = phase.quantize and not before.quantize
                if begins:
                    self.best = math.inf  # distances without a quantizer do not compare with those with one
                if begins or (phase.fit_codebooks and phase is not before):
                    self._fit_codebooks()
                reals = [self._audio_of(next(stream)) for _ in range(settings.accumulate)]
                waited = time.perf_counter() - started
                values = self._train_step(reals)
                self.step += 1
                progress.update()
                if self.step % settings.log_every == 0 or self.step == settings.n_steps:
                    values |= {"data_seconds": waited, "step_seconds": time.perf_counter() - started}
                    self._report(values, log, progress)
                improved = self._validate_if_due(log, stop)
                if self.step % settings.save_every == 0 or self.step == settings.n_steps or improved:
                    self._save(improved)
            if self.step < settings.n_steps:
                self._save(best=False)
                if self.fabric.is_global_zero:
                    return stop.signal
            elif self.fabric.is_global_zero:
                self._export("model")
                logger.info(
                    "the model is in %s, its best state so far in %s", self._folder / "model", self._folder / "best"
                )
        return None

    def phase(self, step: int) -> Phase:
        """The phase of a step; the first step is 0."""
        phases = self._settings.phases
        return next((phase for phase in phases if step < phase.until), phases[-1])

    def _start_log(self, stack: ExitStack) -> tuple[RunLog | None, Any]:
        """The log, in the first process only, and the progress bar; both are closed with the stack."""
        stack.enter_context(logging_redirect_tqdm())
        log = None
        if self.fabric.is_global_zero:
            names = ("", "checkpoints", "best", "model", "validation")
            for folder in (*(self._folder / name for name in names), *self._folder.glob("validation/*/")):
                checkpoint.remove_temporaries(folder)
            log = RunLog(self._folder, self.config.logger, self.config.to_dict(), self.step)
            stack.callback(log.close)
            if self._settings.compile:
                logger.info("compiling; the first steps take some minutes")
        n_steps, show = self._settings.n_steps, self._shows_progress
        bar = progress_bar(None, n_steps, show, lines=False, initial=self.step, unit="step")
        return log, stack.enter_context(bar)

    def _batches(self) -> Iterator[Batch]:
        """The batches of this process for the remaining steps."""
        settings = self._settings
        return batches(
            self.data,
            first_step=self.step,
            last_step=settings.n_steps,
            batch_size=settings.batch_size,
            accumulate=settings.accumulate,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            workers=settings.workers,
            pin_memory=self.fabric.device.type == "cuda",
        )

    def _audio_of(self, batch: Batch) -> Tensor:
        """The audio [B, 1, T] of a batch on the device. Files that could not be read are logged, each once."""
        for file in batch.skipped:
            if file not in self.skipped:
                self.skipped.add(file)
                logger.warning("skipped %s", file)
        return batch.audio.to(self.fabric.device, non_blocking=True)

    # A step -----------------------------------------------------------------------------------------------------------

    def _train_step(self, reals: list[Tensor]) -> dict[str, float]:
        """One step of the discriminators and one of the generator on micro-batches of audio [B, 1, T].

        Returns:
            The unweighted losses, and the norms of the gradients before clipping.
        """
        phase = self.phase(self.step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self._learning_rate() * group.get("share", 1.0)
        self.model.train(phase.generator)
        values: dict[str, float] = {}
        # With one micro-batch, a single generator pass serves both steps. The graphs of several micro-batches would not
        # fit into memory together, so that the discriminators then get passes of their own.
        shared = self._generate(reals[0], 0) if len(reals) == 1 else None
        if self.discriminator is not None and phase.adversarial:
            values |= self._discriminator_step(reals, shared)
        if phase.generator:
            values |= self._generator_step(reals, shared)
        return values

    def _discriminator_step(self, reals: list[Tensor], shared: Generated | None) -> dict[str, float]:
        self._critic.requires_grad_(True)
        mean = torch.zeros((), device=self.fabric.device)
        for index, real in enumerate(reals):
            with torch.no_grad():
                fake = (shared or self._generate(real, index)).audio.detach()
            with self.fabric.no_backward_sync(self._critic, enabled=index + 1 < len(reals)):
                loss = discriminator_loss(*halves(self._critic(torch.cat([fake, real])))) / len(reals)
                self.fabric.backward(loss)
            mean += loss.detach()
        return self._update("discriminator", {"discriminator": mean}, reals)

    def _generator_step(self, reals: list[Tensor], shared: Generated | None) -> dict[str, float]:
        phase = self.phase(self.step)
        totals: dict[str, Tensor] = {}
        for index, real in enumerate(reals):
            with self.fabric.no_backward_sync(self._generator, enabled=index + 1 < len(reals)):
                fake = shared or self._generate(real, index)
                losses = self.losses(fake.audio, real)
                if phase.quantize:
                    losses |= {"codebook": fake.codebook_loss, "commitment": fake.commitment_loss}
                    if self.usage is not None:
                        self.usage.count(fake.codes)
                if self.discriminator is not None and phase.adversarial:
                    adversarial, matching = self._judge(fake.audio, real)
                    losses |= {"adversarial": adversarial, "feature_matching": matching}
                self.fabric.backward(weighted_sum(losses, self.config.loss) / len(reals))
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) + loss.detach() / len(reals)
        values = self._update("generator", totals, reals)
        if self._failures["generator"]:
            return values
        if self.usage is not None and phase.quantize and (self.step + 1) % self._settings.revive_every == 0:
            optimizer, random = self.optimizers["generator_optimizer"], _seeded(self._settings.seed, self.step)
            values["revived"] = self.usage.revive(self.model, fake.latents, optimizer, self.fabric, random, self.result)
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return values

    def _generate(self, real: Tensor, index: int) -> Generated:
        """Encode and decode micro-batch `index` of the step, with gradients if the generator is trained."""
        phase = self.phase(self.step)
        generator = _seeded(self._settings.seed, self.step, index, self.fabric.global_rank)
        with torch.set_grad_enabled(phase.generator and torch.is_grad_enabled()):
            generated: Generated = self._generator(real, phase.quantize, generator)
        return generated

    def _judge(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Adversarial and feature-matching loss, with gradients for the generator only."""
        assert self.discriminator is not None
        self.discriminator.requires_grad_(False)
        with self.fabric.autocast():
            with torch.no_grad():
                real_maps = self.discriminator(real)
            return generator_losses(self.discriminator(fake), real_maps)

    def _update(
        self, name: Literal["generator", "discriminator"], losses: dict[str, Tensor], reals: list[Tensor]
    ) -> dict[str, float]:
        """Clip the gradients and step, or leave the step out if a value is not finite."""
        if name == "generator":
            optimizers = [one for key, one in self.optimizers.items() if key != "discriminator_optimizer"]
            norm = nn.utils.clip_grad_norm_(self._generator.parameters(), self._settings.clip_generator)
        else:
            optimizers = [self.optimizers["discriminator_optimizer"]]
            norm = nn.utils.clip_grad_norm_(self._critic.parameters(), self._settings.clip_discriminator)
        measured = losses | {f"gradient/{name}": norm}
        numbers = torch.stack([value.detach().float() for value in measured.values()]).tolist()
        values = dict(zip(measured, numbers, strict=True))
        is_finite = not any_process(self.fabric, not all(map(math.isfinite, numbers)))
        self._failures[name] = 0 if is_finite else self._failures[name] + 1
        if not is_finite:
            self._note_failure(name, values, reals)
        for optimizer in optimizers:
            if is_finite:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return values

    def _note_failure(self, name: str, values: dict[str, float], reals: list[Tensor]) -> None:
        """Log that a step of `name` is left out. The first one in a row is saved; too many raise a DacError."""
        wrong = [f"{key} is {value}" for key, value in values.items() if not math.isfinite(value)]
        what = f"{', '.join(wrong) or 'a value of another process is not finite'} at step {self.step + 1}"
        path = self._folder / f"failed-{name}-process-{self.fabric.global_rank}.pt"
        if self._failures[name] == 1:
            checkpoint.save(self._state() | {"batch": [real.cpu() for real in reals], "values": values}, path)
        if self._failures[name] == _MOST_FAILURES:
            before = f"as in the {_MOST_FAILURES - 1} steps before"
            raise DacError(f"{what}, {before}; the state and the batch of the first such step are in {path}")
        logger.warning("%s: the %s's update is left out (see %s)", what, name, path.name)

    def _learning_rate(self) -> float:
        settings = self._settings
        cooldown = min(1.0, (settings.n_steps - self.step) / max(1, settings.cooldown))
        return settings.learning_rate * settings.decay**self.step * cooldown

    @torch.no_grad()
    def _fit_codebooks(self) -> None:
        """Initialize the quantizer by k-means on latents of the training data, the same in every process."""
        settings = self._settings
        if self.config.model.codebook_learning == "moving_average" or self.config.model.quantizer == "fsq":
            return  # moving averages start from the first batch, and finite scalars have no codebooks
        self.model.eval()
        stream = batches(
            self.data, 0, settings.codebook_batches, batch_size=settings.batch_size, workers=settings.workers
        )
        latents = [self.model.encoder(self.model.preprocess(self._audio_of(batch))) for batch in stream]
        codebooks.initialize(self.model, torch.cat(latents), _seeded(settings.seed, self.step))
        for parameter in self.model.quantizer.parameters():
            parameter.copy_(self.fabric.broadcast(parameter))
            for optimizer in self.optimizers.values():  # their moments belong to the random initialization
                optimizer.state.pop(parameter, None)
        if self.ema is not None:
            self.result.quantizer.load_state_dict(self.model.quantizer.state_dict())

    # Logs, validation and export --------------------------------------------------------------------------------------

    def _report(self, values: dict[str, float], log: RunLog | None, progress: Any) -> None:
        if self.fabric.world_size > 1:
            sums = total(self.fabric, torch.tensor(list(values.values()), device=self.fabric.device))
            values = dict(zip(values, (sums / self.fabric.world_size).tolist(), strict=True))
        if self.fabric.device.type == "cuda":
            values["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        progress.set_postfix({name: f"{value:.3g}" for name, value in values.items()})
        if progress.disable and self.fabric.is_global_zero:
            self._say(values)
        values["learning_rate"] = self.optimizers["generator_optimizer"].param_groups[0]["lr"]
        values["skipped_files"] = len(self.skipped)
        if log is not None:
            log.write(self.step, values)

    def _say(self, values: Mapping[str, float]) -> None:
        """Log the losses, the speed and the time left: at the first and the last report, and once a minute."""
        now, n_steps = time.monotonic(), self._settings.n_steps
        if self._said is None:
            self._first_report = (self.step, now)
        elif now - self._said < _SAY_SECONDS and self.step < n_steps:
            return
        self._said = now
        n_done, seconds = self.step - self._first_report[0], now - self._first_report[1]
        each = seconds / n_done if n_done else values["step_seconds"]
        left = timedelta(seconds=round(each * (n_steps - self.step)))
        losses = ", ".join(f"{name} {value:.3g}" for name, value in values.items() if not name.endswith("_seconds"))
        logger.info("step %d of %d: %s; %.2f s a step, %s left", self.step, n_steps, losses, each, left)

    def _validate_if_due(self, log: RunLog | None, stop: StopFlag) -> bool:
        """Validate if it is due at this step and not yet done. Returns whether the network is the best so far."""
        due = self.step % self._settings.validate_every == 0 or self.step == self._settings.n_steps
        if not due or self.validated == self.step:  # both are 0 before the first step
            return False
        quantize = self.phase(self.step - 1).quantize > 0
        findings = self.validation.run(self.result, self.step, quantize, stop)
        if findings is None:  # stopped; the resumed run validates again
            return False
        values, examples = findings
        self.validated = self.step
        improved = values["val/mel_distance"] < self.best
        self.best = min(self.best, values["val/mel_distance"])
        if log is not None:
            log.write(self.step, values)
            log.show(self.step, examples)
        if improved and self.fabric.is_global_zero:
            self._export("best")
        return improved

    def _export(self, name: str) -> None:
        """Write the model for `DAC.from_pretrained`, and the discriminators beside it for fine-tuning."""
        folder = self._folder / name
        self.result.save_pretrained(folder)
        if self.discriminator is not None:
            checkpoint.save_discriminator(self.discriminator, folder)

    def _save(self, best: bool) -> None:
        if self.fabric.is_global_zero:
            self._checkpoints.save(self._state(), self.step, best)
        self.fabric.barrier()

    def _state(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        return {
            "config": self.config.to_dict(),
            "step": self.step,
            "validated": self.validated,
            "best": self.best,
            "skipped": sorted(self.skipped),
        } | {name: part.state_dict() for name, part in self._parts().items()}

    def _parts(self) -> Mapping[str, nn.Module | torch.optim.Optimizer]:
        """The modules and optimizers with a state, by their names in a checkpoint."""
        modules = {"model": self.model, "ema": self.ema, "discriminator": self.discriminator, "usage": self.usage}
        return {name: module for name, module in modules.items() if module is not None} | self.optimizers


def _seeded(*seeds: int) -> torch.Generator:
    """A generator seeded by several numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1))
