"""Random excerpts of the sounds in a manifest, the same for the same seed."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dac_codec import audio as sound
from dac_codec.errors import AudioError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sound:
    """A file of the manifest."""

    path: Path
    domain: str
    duration: float


def read_manifest(manifest: str | Path, split: str) -> list[Sound]:
    """The files of one split of a manifest written by `scripts/prepare_data.py`.

    Raises:
        AudioError: no such manifest, or nothing in that split.
    """
    manifest = Path(manifest).expanduser()
    try:
        with manifest.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
    except (OSError, KeyError) as error:
        raise AudioError(f"{manifest} is not a manifest ({error!r}); scripts/prepare_data.py writes one") from error
    if not rows:
        raise AudioError(f"{manifest} has no files in its {split} split")
    return [Sound(manifest.parent / row["path"], row["domain"], float(row["duration"])) for row in rows]


class ExcerptDataset(Dataset[Tensor]):
    """Endless random mono excerpts [1, T], normalized to -16 LUFS.

    Item i depends on the seed and on i alone, so any number of workers gives the same stream. A domain is drawn by
    its weight, a file by its duration, a place in it uniformly. A file shorter than the excerpt is padded with zeros.

    Args:
        sounds: files to draw from.
        sample_rate: rate of the excerpts in Hz.
        length: samples of an excerpt.
        size: number of items.
        weights: how often each domain is drawn, relative to the others; missing domains are never drawn. None: all
            that the sounds have, equally often, which is the paper's balanced sampling.
        seed: of all randomness.
        quietest: excerpts below this loudness, in LUFS, are drawn again, at most `tries` times.
        tries: how often an excerpt is drawn before a quiet one is accepted.
        attenuation: half of the excerpts are lowered by up to this many dB after normalization. Whole files have
            pauses and quiet passages, which excerpts that are all equally loud would not prepare a model for.
        silence: share of the excerpts of which a random part, at the beginning or the end, becomes digital silence.
    """

    def __init__(
        self,
        sounds: Sequence[Sound],
        sample_rate: int,
        length: int,
        size: int,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        quietest: float = -40.0,
        tries: int = 8,
        attenuation: float = 0.0,
        silence: float = 0.0,
    ) -> None:
        self.sample_rate = sample_rate
        self.length = length
        self.size = size
        self.seed = seed
        self.quietest = quietest
        self.tries = tries
        self.attenuation = attenuation
        self.silence = silence
        weights = weights or {one.domain: 1.0 for one in sounds}
        self.domains = [name for name in sorted(weights) if weights[name] > 0]
        total = sum(weights[name] for name in self.domains)
        self.domain_odds = [weights[name] / total for name in self.domains]
        self.sounds = {name: [one for one in sounds if one.domain == name] for name in self.domains}
        for name, group in self.sounds.items():
            if not group:
                raise AudioError(f"the data set has no sounds of the domain {name!r}")
        self.odds = {
            name: np.array([one.duration for one in group]) / sum(one.duration for one in group)
            for name, group in self.sounds.items()
        }

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        random = np.random.default_rng([self.seed, index])
        excerpt = np.zeros((1, self.length), np.float32)
        for _ in range(self.tries):
            domain = random.choice(self.domains, p=self.domain_odds)
            chosen = self.sounds[domain][random.choice(len(self.sounds[domain]), p=self.odds[domain])]
            try:
                candidate = self._excerpt(chosen, random)
            except (soundfile.LibsndfileError, AudioError) as error:
                logger.warning("skipped %s: %s", chosen.path, error)
                continue
            excerpt, gain = sound.normalize(candidate, self.sample_rate)
            # The loudness before normalization follows from the gain; 0 dB means silence.
            if gain != 0.0 and -16.0 - gain >= self.quietest:
                break
        if random.random() < 0.5:
            excerpt = sound.apply_gain(excerpt, -self.attenuation * random.random())
        if random.random() < self.silence:
            cut = int(random.integers(self.length))
            excerpt[:, slice(cut) if random.random() < 0.5 else slice(cut, None)] = 0.0
        return torch.from_numpy(excerpt)

    def _excerpt(self, chosen: Sound, random: np.random.Generator) -> np.ndarray:
        """A random excerpt [1, T] of a file, at the data set's rate."""
        with soundfile.SoundFile(str(chosen.path)) as file:
            wanted = int(np.ceil(self.length * file.samplerate / self.sample_rate))
            start = int(random.integers(0, max(1, file.frames - wanted + 1)))
            file.seek(start)
            samples = file.read(wanted, dtype="float32", always_2d=True).T
            rate = file.samplerate
        mono = np.ascontiguousarray(samples.mean(0, keepdims=True))
        if mono.shape[-1] == 0 or not np.isfinite(mono).all():
            raise AudioError("no finite samples where they were looked for")
        excerpt = sound.resample(mono, rate, self.sample_rate)[:, : self.length]
        missing = self.length - excerpt.shape[-1]
        before = int(random.integers(0, missing + 1))
        return np.pad(excerpt, ((0, 0), (before, missing - before)))
