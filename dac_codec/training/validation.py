"""Validation on fixed clips: distances, codebook use, sounds and spectrograms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dac_codec import audio
from dac_codec.common.errors import DacError
from dac_codec.common.manifest import Sound
from dac_codec.common.spectral import MultiScaleMel, Spectra, mel_distance, multi_scale_stft, si_sdr
from dac_codec.common.threads import StopFlag
from dac_codec.evaluation import figures
from dac_codec.evaluation.metrics import codebook_use
from dac_codec.model import DAC
from dac_codec.training.clips import read_clips
from dac_codec.training.config import TrainConfig
from dac_codec.training.processes import any_process, total

logger: logging.Logger = logging.getLogger(__name__)

_MEASURES = ("val/mel_distance", "val/stft_distance", "val/si_sdr")


class Validation:
    """Validates networks on the same clips of sounds, which are divided among the processes.

    Sounds that cannot be read are logged. The folder gets example clips: `original/NAME.flac`, and decoded with
    spectrograms `step-*/NAME.flac` and `.png`.
    """

    def __init__(self, config: TrainConfig, sounds: Sequence[Sound], folder: Path, fabric: Fabric) -> None:
        self._folder, self._fabric, self._n_examples = folder, fabric, config.trainer.validation_examples
        rate = config.model.sample_rate
        self._clips, skipped = read_clips(sounds, config.data, sample_rate=rate, seed=config.trainer.seed)
        if fabric.is_global_zero:
            for file in skipped:
                logger.warning("skipped %s", file)
        self.mel_distance: MultiScaleMel = mel_distance(rate).to(fabric.device)

    @torch.no_grad()
    def run(self, model: DAC, step: int, quantize: bool, stop: StopFlag) -> tuple[dict[str, float], list[Path]] | None:
        """Validate a network after a step.

        Returns:
            Means over all clips, and entropy (bits) and share of used entries of each codebook; and the files of the
            decoded examples of this process, with spectrograms beside them. None if the run is stopped meanwhile.
        """
        model.eval()
        device = self._fabric.device
        sums = torch.zeros(len(_MEASURES) + 1, dtype=torch.float64, device=device)
        counts = torch.zeros(model.n_codebooks, model.codebook_size, dtype=torch.int64, device=device)
        examples: list[Path] = []
        mine = range(self._fabric.global_rank, len(self._clips), self._fabric.world_size)
        with torch.compiler.set_stance("force_eager"):  # otherwise each length of a clip would be compiled
            for index in mine:
                if stop.is_set:
                    break
                clip = self._clips[index]
                real = clip.audio[None].to(device)
                z = model.encoder(model.preprocess(real))
                if quantize:
                    z, codes, *_ = model.quantizer(z)
                    for count, used in zip(counts, codes[0], strict=True):
                        count += torch.bincount(used, minlength=model.codebook_size)
                fake = model.decode(z)[..., : real.shape[-1]]
                spectra = Spectra(fake), Spectra(real)
                distances = self.mel_distance(*spectra), multi_scale_stft(*spectra), si_sdr(fake, real)[0]
                sums += torch.stack([*(one.double() for one in distances), sums.new_ones(())])
                if index < self._n_examples:
                    path = self._folder / f"step-{step:08}" / f"{index:02}-{clip.name}.flac"
                    self._write_example(path, clip.audio, fake[0], model.sample_rate)
                    examples.append(path)
        if any_process(self._fabric, stop.is_set):
            return None
        totals = total(self._fabric, sums).tolist()
        values = {name: one / totals[-1] for name, one in zip(_MEASURES, totals, strict=False)}
        if quantize:
            entropy, share = codebook_use(total(self._fabric, counts).cpu().numpy())
            values |= {f"val/codebook_entropy_{stage}": float(bits) for stage, bits in enumerate(entropy)}
            values |= {f"val/codebook_use_{stage}": float(used) for stage, used in enumerate(share)}
        return values, examples

    def _write_example(self, path: Path, real: Tensor, fake: Tensor, sample_rate: int) -> None:
        """Write the decoded audio [1, T] of an example clip to `path`, its spectrograms, and once the original."""
        original, decoded = real.numpy(), fake.float().cpu().numpy()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            reference = self._folder / "original" / path.name
            if not reference.exists():
                reference.parent.mkdir(exist_ok=True)
                audio.write(reference, original, sample_rate)
            audio.write(path, decoded, sample_rate)
            figures.spectrograms({path.stem: (original, decoded)}, sample_rate, path.with_suffix(".png"))
        except OSError as error:
            raise DacError(f"can't write validation examples to {path.parent}: {error}") from error
