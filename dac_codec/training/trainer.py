"""The training loop: on one CPU, one GPU or many, from the first step to the last."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dac_codec import pretrained
from dac_codec.common.errors import CheckpointError, DacError
from dac_codec.common.files import expanded
from dac_codec.common.manifest import Sound
from dac_codec.inference.memory import keep_freed_memory
from dac_codec.model import DAC
from dac_codec.model.discriminator import Discriminator
from dac_codec.model.layers import convolutions
from dac_codec.training import checkpoint, codebooks
from dac_codec.training.config import Phase, TrainConfig
from dac_codec.training.excerpts import ExcerptDataset
from dac_codec.training.loader import Batch, batches
from dac_codec.training.losses import ReconstructionLosses, discriminator_loss, generator_losses, weighted_sum
from dac_codec.training.optimizers import Muon, directions
from dac_codec.training.processes import StopFlag, any_process, start, stop_signals, total
from dac_codec.training.runlog import RunLog
from dac_codec.training.sounds import find_sounds
from dac_codec.training.validation import Validation

logger = logging.getLogger(__name__)


class Trainer:
    """One training run. The same configuration again goes on where the run stopped.

    What is random in a step depends on the seed, the step and the process alone, so the number of the step is all that
    has to be remembered to go on exactly.

    Args:
        config: everything about it.

    Raises:
        DacError: there is nothing to hear, a checkpoint can't be read or belongs to another network, or the folder
            holds a run that must not be continued.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        settings = config.trainer
        self.folder = expanded(settings.folder)
        self.checkpoints = checkpoint.Checkpoints(self.folder / "checkpoints", settings.keep_last)
        self.fabric = start(config)
        if self.fabric.device.type == "cpu":
            keep_freed_memory()
        state = self._find_state()

        train, val = _sounds(config, self.fabric)
        self.data = ExcerptDataset(
            train, config.data, sample_rate=config.model.sample_rate, length=config.excerpt_length, seed=settings.seed
        )
        self.skipped: set[str] = set()

        torch.manual_seed(settings.seed)
        self.model = DAC(config.model)
        self.model.name = self.folder.name
        if settings.fan_in_init:
            for conv in convolutions(self.model):
                conv.weight = nn.init.kaiming_uniform_(torch.empty_like(conv.weight), a=math.sqrt(5))
        self.discriminator: Discriminator | None = None
        if config.adversarial:
            self.discriminator = Discriminator(
                sample_rate=config.model.sample_rate, **config.discriminator.model_dump()
            )
        if settings.init_from is not None and state is None:
            self._start_from(settings.init_from)
        self.model.to(self.fabric.device)
        self.ema: AveragedModel | None = None
        if settings.ema is not None:
            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
        self.usage: codebooks.Usage | None = None
        if settings.revive_every:
            self.usage = codebooks.Usage(self.model).to(self.fabric.device)
        self.losses = ReconstructionLosses(config.loss, config.model.sample_rate).to(self.fabric.device)
        self.validation = Validation(config, val, self.folder / "validation", self.fabric)
        if self.fabric.is_global_zero:
            for file in self.validation.skipped:
                logger.warning("skipped %s", file)

        turned = directions(self.model) if settings.optimizer == "muon" else []
        self.generator_optimizer = _adamw(self.model, settings.learning_rate, turned)
        self.muon = Muon(turned, settings.learning_rate) if turned else None
        self.generator = self.fabric.setup_module(_Generator(self.model, settings.compile))
        if self.discriminator is not None:
            if settings.compile:
                self.discriminator.compile()
            self.discriminator_optimizer = _adamw(self.discriminator, settings.learning_rate)
            self.critic = self.fabric.setup_module(self.discriminator)

        self.step = 0
        self.validated = 0
        self.best = math.inf
        if state is not None:
            self._restore(state)

    # ------------------------------------------------------------------------------------------------------------------
    # The run
    # ------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end of the last phase, or until Ctrl-C or SIGTERM, which save the state and return.

        Raises:
            DacError: a loss or gradient is not finite, or nothing can be read or written any more.
        """
        settings = self.config.trainer
        with ExitStack() as stack:
            stop = stack.enter_context(stop_signals())
            stack.enter_context(logging_redirect_tqdm())
            log, progress = None, tqdm(total=settings.n_steps, initial=self.step, disable=True)
            if self.fabric.is_global_zero:
                for folder in (self.checkpoints.folder, self.folder, self.folder / "best", self.folder / "model"):
                    checkpoint.remove_temporaries(folder)
                log = RunLog(self.folder, self.config.logger, self.config.to_dict(), self.step)
                stack.callback(log.close)
                progress = stack.enter_context(
                    tqdm(total=settings.n_steps, initial=self.step, disable=None, unit="step")
                )

            if settings.compile and self.fabric.is_global_zero:
                logger.info("the first steps are compiled, which takes some minutes")
            validated = self.validated
            improved = self._validate_if_due(log, stop)
            if self.validated != validated:  # the run was stopped before it could be
                self._save(improved)
            stream = self._batches()
            while self.step < settings.n_steps and not any_process(self.fabric, stop.is_set):
                started = time.perf_counter()
                if self._quantization_begins():
                    self.best = math.inf  # No quantizer is as good as none.
                    self._fit_codebooks()
                micro_batches = [self._heard(next(stream)) for _ in range(settings.accumulate)]
                waited = time.perf_counter() - started
                values = self._train_step(micro_batches)
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
                    logger.warning("stopped at step %d; the same command, with resume=auto, goes on", self.step)
            elif self.fabric.is_global_zero:
                self._export("model")

    def phase(self, step: int) -> Phase:
        """The phase that a step belongs to, the first one being step 0."""
        phases = self.config.trainer.phases
        return next((phase for phase in phases if step < phase.until), phases[-1])

    def _batches(self) -> Iterator[Batch]:
        """What this process hears in the steps that are left."""
        settings = self.config.trainer
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

    def _heard(self, batch: Batch) -> Tensor:
        """A batch's audio [B, 1, T] on the device; files that could not be read are named, each once."""
        for file in batch.skipped:
            if file not in self.skipped:
                self.skipped.add(file)
                logger.warning("skipped %s", file)
        return batch.audio.to(self.fabric.device, non_blocking=True)

    # ------------------------------------------------------------------------------------------------------------------
    # A step
    # ------------------------------------------------------------------------------------------------------------------

    def _train_step(self, reals: list[Tensor]) -> dict[str, float]:
        """One step of the discriminators and one of the generator on micro-batches of audio [B, 1, T].

        Returns:
            The losses, unweighted, and the norms of the gradients before clipping.
        """
        phase = self.phase(self.step)
        self._set_learning_rate()
        self.model.train(phase.generator)
        values: dict[str, float] = {}
        # One pass of the generator serves both steps. The graphs of several micro-batches would not fit into memory
        # together, so that with accumulation the discriminators get a pass of their own.
        shared = self._generate(reals[0], 0) if len(reals) == 1 else None
        if self.discriminator is not None and phase.adversarial:
            values |= self._discriminator_step(reals, shared)
        if phase.generator:
            values |= self._generator_step(reals, shared)
        return values

    def _discriminator_step(self, reals: list[Tensor], shared: tuple[Tensor, ...] | None) -> dict[str, float]:
        self.critic.requires_grad_(True)
        mean = torch.zeros((), device=self.fabric.device)
        for index, real in enumerate(reals):
            with torch.no_grad():
                fake = shared[0].detach() if shared is not None else self._generate(real, index)[0]
            with self.fabric.no_backward_sync(self.critic, enabled=index + 1 < len(reals)):
                maps = self.critic(torch.cat([fake, real]))
                loss = discriminator_loss(*_halves(maps)) / len(reals)
                self.fabric.backward(loss)
            mean += loss.detach()
        values = {"discriminator": mean}
        return self._update(self.critic, [self.discriminator_optimizer], values, reals, "discriminator")

    def _generator_step(self, reals: list[Tensor], shared: tuple[Tensor, ...] | None) -> dict[str, float]:
        phase = self.phase(self.step)
        totals: dict[str, Tensor] = {}
        for index, real in enumerate(reals):
            with self.fabric.no_backward_sync(self.generator, enabled=index + 1 < len(reals)):
                fake, commitment, codebook, codes, latents = (
                    shared if shared is not None else self._generate(real, index)
                )
                losses = self.losses(fake, real)
                if phase.quantize:
                    losses |= {"codebook": codebook, "commitment": commitment}
                    if self.usage is not None:
                        self.usage.count(codes)
                if self.discriminator is not None and phase.adversarial:
                    adversarial, matching = self._judge(fake, real)
                    losses |= {"adversarial": adversarial, "feature_matching": matching}
                self.fabric.backward(weighted_sum(losses, self.config.loss) / len(reals))
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) + loss.detach() / len(reals)
        optimizers = [self.generator_optimizer, self.muon] if self.muon is not None else [self.generator_optimizer]
        values = self._update(self.generator, optimizers, totals, reals, "generator")
        if self.usage is not None and phase.quantize and (self.step + 1) % self.config.trainer.revive_every == 0:
            randomness = _generator_of([self.config.trainer.seed, self.step])
            values["revived"] = self.usage.revive(
                self.model, latents, self.generator_optimizer, self.fabric, randomness, self._average()
            )
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return values

    def _generate(self, real: Tensor, index: int) -> tuple[Tensor, ...]:
        """Decoded audio [B, 1, T], commitment loss, codebook loss, codes and latents of a micro-batch of the step."""
        phase = self.phase(self.step)
        trained = phase.generator and torch.is_grad_enabled()
        seeds = [self.config.trainer.seed, self.step, index, self.fabric.global_rank]
        with torch.set_grad_enabled(trained):
            outputs: tuple[Tensor, ...] = self.generator(real, phase.quantize, _generator_of(seeds))
        return outputs

    def _judge(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Adversarial and feature-matching loss; only the generator learns from them."""
        assert self.discriminator is not None
        self.discriminator.requires_grad_(False)
        with self.fabric.autocast():
            with torch.no_grad():
                real_maps = self.discriminator(real)
            return generator_losses(self.discriminator(fake), real_maps)

    def _update(
        self,
        module: Any,
        optimizers: Sequence[torch.optim.Optimizer],
        losses: dict[str, Tensor],
        reals: list[Tensor],
        name: str,
    ) -> dict[str, float]:
        """Clip the gradients and step, unless something is not finite: then save everything and stop."""
        limit = self.config.trainer.clip_generator if name == "generator" else self.config.trainer.clip_discriminator
        norm = nn.utils.clip_grad_norm_(module.parameters(), limit)
        measured = losses | {f"gradient/{name}": norm}
        numbers = torch.stack([value.detach().float() for value in measured.values()]).tolist()
        values = dict(zip(measured, numbers, strict=True))
        if any_process(self.fabric, not all(map(math.isfinite, numbers))):
            self._give_up(values, reals)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return values

    def _give_up(self, values: dict[str, float], reals: list[Tensor]) -> None:
        wrong = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        path = self.folder / f"failed-step-{self.step + 1:08}-process-{self.fabric.global_rank}.pt"
        checkpoint.save(self._state() | {"batch": [real.cpu() for real in reals], "values": values}, path)
        raise DacError(
            f"{', '.join(wrong) or 'something in another process is not finite'} at step {self.step + 1}; "
            f"the state and the batch are in {path}"
        )

    def _set_learning_rate(self) -> None:
        settings = self.config.trainer
        rate = settings.learning_rate * settings.decay**self.step
        if settings.cooldown:
            rate *= min(1.0, (settings.n_steps - self.step) / settings.cooldown)
        for optimizer in self._optimizers().values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _quantization_begins(self) -> bool:
        return self.step > 0 and self.phase(self.step).quantize > 0 and not self.phase(self.step - 1).quantize

    @torch.no_grad()
    def _fit_codebooks(self) -> None:
        """Start the quantizer from k-means on the latents of the training data, the same in every process."""
        settings = self.config.trainer
        if self.config.model.codebook_learning == "moving_average":
            return  # Those start from the data by themselves.
        self.model.eval()
        heard = batches(
            self.data,
            first_step=0,
            last_step=settings.codebook_batches,
            batch_size=settings.batch_size,
            workers=settings.workers,
        )
        latents = [self.model.encoder(self.model.preprocess(self._heard(batch))) for batch in heard]
        flat = torch.cat([one.transpose(1, 2).flatten(0, 1).float() for one in latents])
        codebooks.initialise(self.model, flat, _generator_of([settings.seed, self.step]))
        for parameter in self.model.quantizer.parameters():
            parameter.copy_(self.fabric.broadcast(parameter))
            # What the optimizers remember of the random projections is worth nothing now.
            for optimizer in self._optimizers().values():
                optimizer.state.pop(parameter, None)
        if (average := self._average()) is not None:
            average.quantizer.load_state_dict(self.model.quantizer.state_dict())

    # ------------------------------------------------------------------------------------------------------------------
    # Watching it
    # ------------------------------------------------------------------------------------------------------------------

    def _report(self, values: dict[str, float], log: RunLog | None, progress: Any) -> None:
        if self.fabric.world_size > 1:
            sums = total(self.fabric, torch.tensor(list(values.values()), device=self.fabric.device))
            values = dict(zip(values, (sums / self.fabric.world_size).tolist(), strict=True))
        values["learning_rate"] = self.generator_optimizer.param_groups[0]["lr"]
        values["skipped_files"] = len(self.skipped)
        if self.fabric.device.type == "cuda":
            values["gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if log is not None:
            log.write(self.step, values)
        shown = {
            name: f"{value:.3g}" for name, value in values.items() if name not in ("learning_rate", "skipped_files")
        }
        progress.set_postfix(shown)

    def _validate_if_due(self, log: RunLog | None, stop: StopFlag) -> bool:
        """Validate if this step asks for it and it has not been done yet. Returns whether it is the best so far."""
        settings = self.config.trainer
        due = self.step > 0 and (self.step % settings.validate_every == 0 or self.step == settings.n_steps)
        if not due or self.validated == self.step:
            return False
        model = self._trained_model()
        found = self.validation.run(model, self.step, self.phase(self.step - 1).quantize > 0, stop)
        if found is None:  # stopped on the way; it is done again when the run goes on
            return False
        self.validated = self.step
        improved = found.values["val/mel_distance"] < self.best
        self.best = min(self.best, found.values["val/mel_distance"])
        if log is not None:
            log.write(self.step, found.values)
            log.show(self.step, found.sounds, found.pictures)
        if improved and self.fabric.is_global_zero:
            self._export("best")
        return improved

    def _trained_model(self) -> DAC:
        """The network that is validated and exported: the averaged one where there is an average."""
        average = self._average()
        return self.model if average is None else average

    def _average(self) -> DAC | None:
        """The network whose weights are moving averages, where there is one."""
        if self.ema is None:
            return None
        average: DAC = self.ema.module  # type: ignore[assignment]
        return average

    def _export(self, name: str) -> None:
        """Write the model, and the discriminators beside it, for `DAC.from_pretrained` and for fine-tuning."""
        folder = self.folder / name
        self._trained_model().save_pretrained(folder)
        if self.discriminator is not None:
            checkpoint.save_discriminator(self.discriminator, folder)

    # ------------------------------------------------------------------------------------------------------------------
    # Never losing work
    # ------------------------------------------------------------------------------------------------------------------

    def _save(self, best: bool) -> None:
        if self.fabric.is_global_zero:
            self.checkpoints.save(self._state(), self.step, best)
        self.fabric.barrier()

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        optimizers: dict[str, torch.optim.Optimizer] = {"generator_optimizer": self.generator_optimizer}
        if self.muon is not None:
            optimizers["muon"] = self.muon
        if self.discriminator is not None:
            optimizers["discriminator_optimizer"] = self.discriminator_optimizer
        return optimizers

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module | None] = {
            "model": self.model,
            "ema": self.ema,
            "discriminator": self.discriminator,
            "usage": self.usage,
        }
        return {name: module for name, module in modules.items() if module is not None}

    def _state(self) -> dict[str, Any]:
        """Everything that the run needs to go on as if it had never stopped."""
        parts = self._modules() | self._optimizers()
        return {
            "config": self.config.to_dict(),
            "step": self.step,
            "validated": self.validated,
            "best": self.best,
            "skipped": sorted(self.skipped),
        } | {name: part.state_dict() for name, part in parts.items()}

    def _find_state(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one."""
        latest, wish = self.checkpoints.latest(), self.config.resume
        if wish == "auto":
            return checkpoint.load(latest) if latest is not None else None
        if wish != "never":
            state = checkpoint.load(expanded(wish))
            later = [path.name for step, path in self.checkpoints.steps() if step > state.get("step", step)]
            if later:
                raise CheckpointError(
                    f"{self.folder} goes on to a later step than {wish}: take another trainer.folder, or remove "
                    f"{', '.join(later)} from its checkpoints"
                )
            return state
        if latest is not None:
            raise CheckpointError(f"{self.folder} holds a run already: take another trainer.folder, or resume=auto")
        return None

    def _restore(self, state: dict[str, Any]) -> None:
        modules, optimizers = self._modules(), self._optimizers()
        # A run may have been started without discriminators, an average or a watch on codebooks, and go on with them.
        optional = {"ema", "discriminator", "discriminator_optimizer", "usage"}
        try:
            for name, part in (modules | optimizers).items():
                if name in state or name not in optional:
                    part.load_state_dict(state[name])
            if self.ema is not None and "ema" not in state:
                self.ema.module.load_state_dict(state["model"])
            self.step, self.validated, self.best = state["step"], state["validated"], state["best"]
            self.skipped = set(state["skipped"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint that {self.folder} goes on from does not fit this configuration: "
                f"{checkpoint.first_reason(error)}"
            ) from error
        if self.fabric.is_global_zero:
            logger.info("going on from step %d", self.step)

    def _start_from(self, name_or_path: str) -> None:
        """Take over weights to fine-tune."""
        source = pretrained.load(name_or_path, progress=self.fabric.is_global_zero)
        try:
            self.model.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise CheckpointError(
                f"{name_or_path} is a network of another shape than the one to be trained: {source.config}"
            ) from error
        folder = pretrained.folder_of(name_or_path)
        if self.discriminator is not None and folder is not None and (folder / checkpoint.DISCRIMINATOR_FILE).is_file():
            missing = checkpoint.load_discriminator(self.discriminator, folder)
            if missing and self.fabric.is_global_zero:
                logger.info("discriminators that begin anew, as %s has none: %s", name_or_path, "; ".join(missing))


class _Generator(nn.Module):
    """Encoder, quantizer and decoder as one call, which is what parallel strategies and autocast wrap."""

    def __init__(self, model: DAC, compile: bool) -> None:
        super().__init__()
        self.model = model
        if compile:
            model.encoder.compile()
            model.decoder.compile()

    def forward(self, real: Tensor, quantize: float, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Decoded audio of real audio [B, 1, T], commitment loss, codebook loss, codes [B, N, F] and what was looked up
        [B, N * codebook_dim, F]; without the quantizer, no codes.

        Args:
            real: what to encode and decode.
            quantize: share of the batch that is decoded from quantized latents.
            generator: of what is left to chance.
        """
        z = self.model.encoder(self.model.preprocess(real))
        commitment = codebook = z.new_zeros(())
        codes = latents = z.new_zeros(0)
        if quantize:
            quantized = self.model.quantizer(z, generator=generator)
            _, codes, latents, commitment, codebook = quantized
            drawn = torch.rand(z.shape[0], 1, 1, generator=generator) < quantize
            z = torch.where(drawn.to(z.device), quantized.z, z)
        fake = self.model.decode(z)
        return fake[..., : real.shape[-1]], commitment, codebook, codes, latents.detach()


def _sounds(config: TrainConfig, fabric: Fabric) -> tuple[Sequence[Sound], Sequence[Sound]]:
    """What to train and what to validate with; files that can't be read are named and counted."""
    found = find_sounds(
        config.data.sounds,
        "train",
        "val",
        progress=fabric.is_global_zero,
        least_bandwidth=config.data.least_bandwidth,
    )
    train, val = found.sounds["train"], found.sounds["val"]
    if fabric.is_global_zero:
        for file in found.unreadable:
            logger.warning("skipped %s", file)
        logger.info(
            "sounds to train with: %d, to validate with: %d, that can't be read: %d",
            len(train),
            len(val),
            len(found.unreadable),
        )
    return train, val


def _adamw(module: nn.Module, learning_rate: float, excluded: Sequence[Tensor] = ()) -> torch.optim.AdamW:
    others = {id(one) for one in excluded}
    trained = [one for one in module.parameters() if one.requires_grad and id(one) not in others]
    return torch.optim.AdamW(trained, learning_rate, betas=(0.8, 0.99), fused=True)


def _generator_of(seeds: Sequence[int]) -> torch.Generator:
    """A source of randomness that depends on all of some numbers."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1))


def _halves(maps: list[list[Tensor]]) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """The feature maps of the two halves of a batch."""
    split = [[one.chunk(2) for one in group] for group in maps]
    return [[one for one, _ in group] for group in split], [[other for _, other in group] for group in split]
