"""Validation on fixed clips: distances, codebook use, sounds and spectrograms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dac_codec import audio
from dac_codec.common.errors import DacError
from dac_codec.common.manifest import Sound
from dac_codec.common.spectral import Spectra, mel_distance, multi_scale_stft, si_sdr
from dac_codec.evaluation import figures
from dac_codec.evaluation.metrics import codebook_use
from dac_codec.model import DAC
from dac_codec.training.clips import ValidationClip, read_clips
from dac_codec.training.config import TrainConfig
from dac_codec.training.processes import any_process, total

logger = logging.getLogger(__name__)

MEASURES = ("val/mel_distance", "val/stft_distance", "val/si_sdr")


@dataclass(frozen=True)
class Findings:
    """The results of a validation.

    Attributes:
        values: means over all clips, and entropy (bits) and share of used entries of each codebook.
        sounds, pictures: files of the example clips by name: decoded audio and spectrograms.
    """

    values: dict[str, float]
    sounds: dict[str, Path] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)


class Validation:
    """Validates networks on the same clips, which are divided among the processes.

    Args:
        config: of the run.
        sounds: files to take clips from. Those that cannot be read are logged.
        folder: for sounds and spectrograms of the example clips: `step-*/NAME.flac` and `.png`.
        fabric: the processes.
    """

    def __init__(self, config: TrainConfig, sounds: Sequence[Sound], folder: Path, fabric: Fabric) -> None:
        self.folder, self.fabric = folder, fabric
        self.n_examples = config.trainer.validation_examples
        self.clips, skipped = read_clips(
            sounds, config.data, sample_rate=config.model.sample_rate, seed=config.trainer.seed
        )
        if fabric.is_global_zero:
            for file in skipped:
                logger.warning("skipped %s", file)
        self.mel_distance = mel_distance(config.model.sample_rate).to(fabric.device)

    @torch.no_grad()
    def run(self, model: DAC, step: int, quantize: bool, stop: Event) -> Findings | None:
        """Validate a network after a step. Returns None if the run is stopped meanwhile."""
        model.eval()
        device = self.fabric.device
        sums = torch.zeros(len(MEASURES) + 1, dtype=torch.float64, device=device)
        counts = torch.zeros(model.n_codebooks, model.codebook_size, dtype=torch.int64, device=device)
        findings = Findings({})
        mine = range(self.fabric.global_rank, len(self.clips), self.fabric.world_size)
        with torch.compiler.set_stance("force_eager"):  # each length of a clip would be compiled
            for index in mine:
                if stop.is_set():
                    break
                clip = self.clips[index]
                real = clip.audio[None].to(device)
                fake, codes = _round_trip(model, real, quantize)
                sums += torch.stack([*self._measure(fake, real), sums.new_ones(())])
                for count, used in zip(counts, codes, strict=False):
                    count += torch.bincount(used, minlength=model.codebook_size)
                if index < self.n_examples:
                    self._keep(f"{index:02}-{clip.name}", clip, fake, model.sample_rate, step, findings)
        if any_process(self.fabric, stop.is_set()):
            return None
        totals = total(self.fabric, sums).tolist()
        findings.values.update({name: one / totals[-1] for name, one in zip(MEASURES, totals, strict=False)})
        if quantize:
            entropy, share = codebook_use(total(self.fabric, counts).cpu().numpy())
            for stage in range(model.n_codebooks):
                findings.values[f"val/codebook_entropy_{stage}"] = float(entropy[stage])
                findings.values[f"val/codebook_use_{stage}"] = float(share[stage])
        return findings

    def _measure(self, fake: Tensor, real: Tensor) -> list[Tensor]:
        spectra = Spectra(fake), Spectra(real)
        distances = [self.mel_distance(*spectra), multi_scale_stft(*spectra), si_sdr(fake, real)[0]]
        return [distance.double() for distance in distances]

    def _keep(
        self, name: str, clip: ValidationClip, fake: Tensor, sample_rate: int, step: int, findings: Findings
    ) -> None:
        """Write the decoded audio and the spectrograms of an example clip."""
        original, decoded = clip.audio.numpy(), fake[0].float().cpu().numpy()
        folder = self.folder / f"step-{step:08}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            reference = self.folder / "original" / f"{name}.flac"
            if not reference.exists():
                reference.parent.mkdir(exist_ok=True)
                audio.write(reference, original, sample_rate)
            audio.write(folder / f"{name}.flac", decoded, sample_rate)
            figures.spectrograms({name: (original, decoded)}, sample_rate, folder / f"{name}.png")
        except OSError as error:
            raise DacError(f"can't write validation examples to {folder}: {error}") from error
        findings.sounds[name] = folder / f"{name}.flac"
        findings.pictures[name] = folder / f"{name}.png"


def _round_trip(model: DAC, real: Tensor, quantize: bool) -> tuple[Tensor, list[Tensor]]:
    """Decoded audio [1, 1, T], and the codes of each codebook [F], none without the quantizer."""
    z = model.encoder(model.preprocess(real))
    codes: list[Tensor] = []
    if quantize:
        quantized = model.quantizer(z)
        z, codes = quantized.z, list(quantized.codes[0])
    return model.decode(z)[..., : real.shape[-1]], codes
