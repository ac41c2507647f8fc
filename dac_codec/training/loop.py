"""The training loop: stages of one run, from a first autoencoder to the adversary."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dac_codec.model import DAC, DACConfig
from dac_codec.model.discriminator import Discriminator
from dac_codec.model.layers import convolutions
from dac_codec.spectral import MultiScaleMel, Spectra, mel_distance, si_sdr
from dac_codec.training import checkpoint, codebooks
from dac_codec.training.data import ExcerptDataset, batches
from dac_codec.training.losses import discriminator_loss, generator_losses
from dac_codec.training.sounds import read_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A part of a run: from where the stage before it ends, up to step `until`."""

    until: int
    quantize: bool = True
    adversarial: bool = True


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts; the defaults are the paper's."""

    mel: float = 15.0
    waveform: float = 0.0
    adversarial: float = 1.0
    feature_matching: float = 2.0
    codebook: float = 1.0
    commitment: float = 0.25


@dataclass(frozen=True)
class TrainerConfig:
    """How to train.

    Attributes:
        folder: where the run's checkpoint, log and model go. A run that is there already is continued.
        stages: in order; the last one's `until` is the length of the run in steps.
        batch_size: excerpts of a step.
        learning_rate: of AdamW with betas 0.8 and 0.99, for generator and discriminators.
        decay: factor on the learning rate at every step.
        cooldown: number of steps at the end over which the learning rate falls linearly to zero.
        clip_generator, clip_discriminator: largest norm of the gradient.
        seed: of weights, data and quantizer dropout.
        save_every, validate_every: in steps.
        fan_in_init: start convolutions from PyTorch's default, scaled by their fan-in, and not from the paper's
            truncated normal: a narrow network hardly passes a signal on with the latter.
        codebook_batches: batches whose latents the codebooks are fitted to when quantization begins.
        workers: processes that read audio.
        device: of the networks.
        compile: whether encoder and decoder go through torch.compile.
    """

    folder: str
    stages: Sequence[Stage]
    batch_size: int = 72
    learning_rate: float = 1e-4
    decay: float = 0.999996
    cooldown: int = 0
    clip_generator: float = 1000.0
    clip_discriminator: float = 10.0
    seed: int = 0
    save_every: int = 500
    validate_every: int = 1000
    fan_in_init: bool = False
    codebook_batches: int = 200
    workers: int = 1
    device: str = "cpu"
    compile: bool = False


@dataclass(frozen=True)
class DataConfig:
    """What to train on: see `ExcerptDataset`."""

    manifest: str
    excerpt: int = 16384
    weights: Mapping[str, float] | None = None
    attenuation: float = 0.0
    silence: float = 0.0
    validation_excerpts: int = 48


class Trainer:
    """One training run."""

    def __init__(self, model: DACConfig, data: DataConfig, loss: LossWeights, trainer: TrainerConfig) -> None:
        self.config, self.weights = trainer, loss
        self.device = torch.device(trainer.device)
        self.folder = Path(trainer.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(trainer.seed)
        self.random = torch.Generator().manual_seed(trainer.seed)
        self.step = 0

        self.model = DAC(model)
        self.model.name = self.folder.name
        if trainer.fan_in_init:
            for conv in convolutions(self.model):
                conv.weight = nn.init.kaiming_uniform_(torch.empty_like(conv.weight), a=math.sqrt(5))
        self.model.to(self.device)
        self.encoder: nn.Module = self.model.encoder
        self.decoder: nn.Module = self.model.decoder
        if trainer.compile:
            self.encoder = torch.compile(self.encoder)  # type: ignore[assignment]
            self.decoder = torch.compile(self.decoder)  # type: ignore[assignment]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), trainer.learning_rate, betas=(0.8, 0.99))
        self.discriminator: Discriminator | None = None
        self.discriminator_optimizer: torch.optim.Optimizer | None = None
        if any(stage.adversarial for stage in trainer.stages):
            self.discriminator = Discriminator(sample_rate=model.sample_rate).to(self.device)
            self.discriminator_optimizer = torch.optim.AdamW(
                self.discriminator.parameters(), trainer.learning_rate, betas=(0.8, 0.99)
            )
        self.mel = MultiScaleMel(model.sample_rate).to(self.device)
        self.mel_distance = mel_distance(model.sample_rate).to(self.device)

        self.data = ExcerptDataset(
            sounds=read_manifest(data.manifest, "train"),
            sample_rate=model.sample_rate,
            length=data.excerpt,
            weights=data.weights,
            seed=trainer.seed,
            attenuation=data.attenuation,
            silence=data.silence,
        )
        # Validation hears longer excerpts, always the same ones.
        self.validation = ExcerptDataset(
            sounds=read_manifest(data.manifest, "val"),
            sample_rate=model.sample_rate,
            length=4 * data.excerpt,
            weights=data.weights,
            seed=trainer.seed,
            distinct=data.validation_excerpts,
        )
        if self.checkpoint_path.exists():
            self._restore(checkpoint.load(self.checkpoint_path))

    @property
    def checkpoint_path(self) -> Path:
        """Where the state of the run is."""
        return self.folder / "last.pt"

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to, the first one being step 0."""
        return next((stage for stage in self.config.stages if step < stage.until), self.config.stages[-1])

    def run(self) -> None:
        """Train to the end of the last stage, or until Ctrl-C or SIGTERM, which save the state and return."""
        stop = _StopSignal()
        n_steps = self.config.stages[-1].until
        quantized = self.step > 0 and self.stage(self.step - 1).quantize
        with (
            (self.folder / "log.jsonl").open("a") as log,
            tqdm(total=n_steps, initial=self.step, disable=None) as progress,
        ):
            for batch in self._batches(self.step, n_steps):
                if self.stage(self.step).quantize and not quantized:
                    if self.step > 0:
                        self._fit_codebooks()
                    quantized = True
                started = time.perf_counter()
                values = self._train_step(batch.to(self.device))
                self.step += 1
                progress.update()
                if not all(map(_is_finite, values.values())):
                    raise FloatingPointError(f"a loss is not finite at step {self.step}: {values}")
                if self.step % 20 == 0:
                    values["seconds"] = time.perf_counter() - started
                    progress.set_postfix({key: f"{value:.3f}" for key, value in values.items()})
                    _log(log, {"step": self.step} | values)
                if self.step % self.config.validate_every == 0 or self.step == n_steps:
                    _log(log, {"step": self.step} | self._validate())
                if self.step % self.config.save_every == 0 or self.step == n_steps or stop.requested:
                    checkpoint.save(self._state(), self.checkpoint_path)
                if stop.requested:
                    logger.warning("stopped at step %d; the same command goes on from there", self.step)
                    return
        self.model.eval().save_pretrained(self.folder / "model")

    def _batches(self, first_step: int, last_step: int) -> Iterator[Tensor]:
        """The batches [B, 1, T] of some steps."""
        config = self.config
        for batch in batches(
            self.data,
            first_step=first_step,
            last_step=last_step,
            batch_size=config.batch_size,
            workers=config.workers,
        ):
            for reason in batch.skipped:
                logger.warning("skipped %s", reason)
            yield batch.audio

    def _train_step(self, real: Tensor) -> dict[str, float]:
        """One step of the discriminators (in an adversarial stage) and one of the generator, on audio [B, 1, T]."""
        stage = self.stage(self.step)
        self._set_learning_rate()
        self.model.train()
        z = self.encoder(self.model.preprocess(real))
        commitment = codebook = z.new_zeros(())
        if stage.quantize:
            quantized = self.model.quantizer(z, generator=self.random)
            z, commitment, codebook = quantized.z, quantized.commitment_loss, quantized.codebook_loss
        fake = self.decoder(z)
        fake = F.pad(fake, (0, real.shape[-1] - fake.shape[-1]))
        values: dict[str, float] = {}

        adversarial = matching = z.new_zeros(())
        if stage.adversarial and self.discriminator is not None and self.discriminator_optimizer is not None:
            loss = discriminator_loss(self.discriminator(fake.detach()), self.discriminator(real))
            self.discriminator_optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.discriminator.parameters(), self.config.clip_discriminator)
            self.discriminator_optimizer.step()
            values["discriminator"] = loss.item()
            with torch.no_grad():
                real_maps = self.discriminator(real)
            adversarial, matching = generator_losses(self.discriminator(fake), real_maps)

        losses = {
            "mel": self.mel(Spectra(fake), Spectra(real)),
            "waveform": F.l1_loss(fake, real),
            "adversarial": adversarial,
            "feature_matching": matching,
            "codebook": codebook,
            "commitment": commitment,
        }
        total = torch.stack([getattr(self.weights, name) * loss for name, loss in losses.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_generator)
        self.optimizer.step()
        return values | {name: loss.item() for name, loss in losses.items()} | {"gradient": norm.item()}

    def _set_learning_rate(self) -> None:
        left = self.config.stages[-1].until - self.step
        rate = self.config.learning_rate * self.config.decay**self.step
        rate *= min(1.0, left / self.config.cooldown) if self.config.cooldown else 1.0
        for optimizer in (self.optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = rate

    @torch.no_grad()
    def _fit_codebooks(self) -> None:
        """Start the quantizer from k-means on the latents of the training data."""
        self.model.eval()
        latents = [
            self.model.encoder(self.model.preprocess(batch.to(self.device))).transpose(1, 2).flatten(0, 1)
            for batch in self._batches(0, self.config.codebook_batches)
        ]
        codebooks.initialise(self.model, torch.cat(latents), self.random)
        # What Adam remembers of the random projections is worth nothing now.
        for parameter in self.model.quantizer.parameters():
            self.optimizer.state.pop(parameter, None)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Mean distances over the validation excerpts, and the share of each codebook's entries that were used."""
        self.model.eval()
        rows, codes = [], []
        for index in range(self.validation.distinct or 0):
            real = self.validation[index].audio[None].to(self.device)
            z = self.model.encoder(self.model.preprocess(real))
            if self.stage(self.step - 1).quantize:
                quantized = self.model.quantizer(z)
                z = quantized.z
                codes.append(quantized.codes[0])
            fake = self.model.decode(z)[..., : real.shape[-1]]
            distance = self.mel_distance(Spectra(fake), Spectra(real))
            rows.append(torch.stack([distance, si_sdr(fake, real)[0]]))
        mean = torch.stack(rows).mean(0)
        values = {"val/mel_distance": mean[0].item(), "val/si_sdr": mean[1].item()}
        for index, used in enumerate(torch.cat(codes, 1) if codes else ()):
            values[f"val/codebook_use_{index}"] = used.unique().numel() / self.model.codebook_size
        return values

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "step": self.step,
            "model_config": self.model.config.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": self.random.get_state(),
        }
        if self.discriminator is not None and self.discriminator_optimizer is not None:
            state["discriminator"] = self.discriminator.state_dict()
            state["discriminator_optimizer"] = self.discriminator_optimizer.state_dict()
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.random.set_state(state["random"])
        # A run may have been started without an adversary and continued with one.
        if "discriminator" in state and self.discriminator is not None and self.discriminator_optimizer is not None:
            self.discriminator.load_state_dict(state["discriminator"])
            self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])
        logger.info("going on from step %d", self.step)


class _StopSignal:
    """Notes Ctrl-C and SIGTERM, so that a step is never cut in half. A second one ends the process as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _is_finite(value: float) -> bool:
    return value - value == 0.0


def _log(file: Any, values: Mapping[str, float]) -> None:
    file.write(json.dumps({key: round(value, 6) for key, value in values.items()}) + "\n")
    file.flush()
