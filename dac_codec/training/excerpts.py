"""Random training excerpts. An excerpt depends on its index and the seed alone.

The excerpts of a run are numbered from its first step to its last (`loader.py`), so that the excerpts of a step do not
depend on the number of processes or workers, or on interruptions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound
from dac_codec.training import transforms
from dac_codec.training.config import DataConfig
from dac_codec.training.transforms import Channel

_MAX_FAILURES = 64  # unreadable files in a row after which the data set counts as broken
_CONTEXT = 128  # samples at the lower of the two rates that are read on either side of a resampled excerpt
_SPEEDS = (0.7, 1.7)  # range of playback speeds
_CUTOFFS = (0.07, 0.47)  # range of low-pass cutoffs, in shares of the sample rate
_WIDTHS = (0.001, 0.025)  # range of low-pass transition widths, in shares of the sample rate
_BACKGROUNDS = (-30.0, -5.0)  # range of levels of another excerpt that is added, in dB
_DECAYS = (0.1, 0.8)  # range of reverberation times, in seconds
_ROOMS = (-20.0, 0.0)  # range of the energy of a room's echoes, relative to the sound that reaches the ear first, in dB
_SLOPES = (-4.0, 4.0)  # range of spectral tilts, in dB per octave
_CLIPPED = (1.0, 15.0)  # range of what clipping takes from the peak, in dB


class Excerpt(NamedTuple):
    """An excerpt [1, T], and the files that could not be read while drawing it: path and reason of each."""

    audio: Tensor
    skipped: tuple[str, ...]


class ExcerptDataset(Dataset[Excerpt]):
    """Endless random mono excerpts [1, T]; every index from 0 on is valid.

    A domain is drawn by its weight, a file by its duration, a position uniformly. Only that part of the file is read.
    The steps are, in this order: one channel, speed, sample rate, loudness, another excerpt in the background,
    reverberation, tilt, low-pass filter, clipping, peak (at most 1.0), phase rotation, peak, attenuation, silence. A
    file shorter than an excerpt is padded with zeros at a random position.

    A file that cannot be read, has non-finite samples, or has fewer samples than its header says is skipped: another
    one is drawn, and the excerpt names the file.

    Args:
        sounds: files to draw from.
        config: domain weights and augmentation.
        sample_rate, length: of an excerpt, in Hz and in samples.
        seed: of all randomness, 0 or more.

    Raises:
        AudioError: there are no sounds, or none of a domain that has a weight. From indexing: 64 files in a row cannot
            be read.
    """

    def __init__(
        self, sounds: Sequence[Sound], config: DataConfig, *, sample_rate: int, length: int, seed: int = 0
    ) -> None:
        self.config = config
        self.sample_rate = sample_rate
        self.length = length
        self.seed = seed
        odds = _odds(sounds, config.weights)
        self.sounds: list[Sound] = [sound for sound, chance in zip(sounds, odds, strict=True) if chance > 0]
        self._cumulative = np.cumsum([chance for chance in odds if chance > 0])
        self._cumulative /= self._cumulative[-1]

    def __getitem__(self, index: int) -> Excerpt:
        config = self.config
        random = np.random.default_rng([self.seed, index % config.distinct if config.distinct else index])

        def happens(share: float) -> bool:
            return share > 0 and random.random() < share

        speed = math.exp(random.uniform(*np.log(_SPEEDS))) if happens(config.speed) else 1.0
        excerpt, skipped = self._draw(random, speed)
        if happens(config.background):
            other, also_skipped = self._draw(random, speed)
            excerpt = excerpt + audio.apply_gain(other, random.uniform(*_BACKGROUNDS))
            skipped += also_skipped
        if happens(config.reverberation):
            room = random.uniform(*_DECAYS), random.uniform(*_ROOMS)
            excerpt = transforms.reverberate(excerpt, self.sample_rate, *room, random)
        if happens(config.tilt):
            excerpt = transforms.tilt(excerpt, self.sample_rate, random.uniform(*_SLOPES))
        if happens(config.low_pass):
            excerpt = transforms.low_pass(excerpt, random.uniform(*_CUTOFFS), random.uniform(*_WIDTHS))
        if happens(config.clipping):
            excerpt = transforms.clip(excerpt, random.uniform(*_CLIPPED))
        excerpt = transforms.limit_peak(excerpt)
        if config.rotate_phase:
            excerpt = transforms.limit_peak(transforms.rotate_phase(excerpt, random.uniform(-math.pi, math.pi)))
        if config.attenuation and random.random() < 0.5:
            excerpt = audio.apply_gain(excerpt, -config.attenuation * random.random())
        if happens(config.silence):
            excerpt = transforms.silence_part(excerpt, random)
        return Excerpt(torch.from_numpy(excerpt), skipped)

    def _draw(self, random: np.random.Generator, speed: float) -> tuple[Audio, tuple[str, ...]]:
        """The first excerpt [1, T] that is loud enough, or the loudest, at the target loudness; and skipped files."""
        loudest, highest = np.zeros((1, self.length), np.float32), -math.inf
        skipped: dict[str, None] = {}
        n_drawn = n_failures = 0
        while n_drawn < self.config.tries and highest < self.config.quietest:
            sound = self.sounds[int(np.searchsorted(self._cumulative, random.random(), side="right"))]
            try:
                waveform, _ = read_excerpt(sound, self.sample_rate, self.length, self.config.channel, random, speed)
            except AudioError as error:
                skipped[str(error)] = None
                n_failures += 1
                if n_failures == _MAX_FAILURES:
                    raise AudioError(
                        f"data set: {n_failures} files in a row can't be read, the last is {error}; "
                        "check that the files have not been moved since they were listed"
                    ) from error
                continue
            n_drawn, n_failures = n_drawn + 1, 0
            waveform, lufs = transforms.normalize_loudness(_pad(waveform, self.length, random), self.sample_rate)
            if lufs > highest:
                loudest, highest = waveform, lufs
        return loudest, tuple(skipped)


def read_excerpt(
    sound: Sound, sample_rate: int, length: int, channel: Channel, random: np.random.Generator, speed: float = 1.0
) -> tuple[Audio, float]:
    """Read a random excerpt of a file.

    There is one seek and one read, of the excerpt and the context that the resampler needs:

        file     |--------[ context |   excerpt   | context ]-------|
                          ^ seek                            ^ end of the read

    Args:
        sound: the file.
        sample_rate, length: of the excerpt, in Hz and in samples.
        channel: of a file with several channels.
        random: source of the position and the channel.
        speed: at which the excerpt is played, relative to the file's.

    Returns:
        The excerpt [1, T] at `sample_rate`, where T is `length` or, for a shorter file, its length; and the second at
        which it starts in the file.

    Raises:
        AudioError: the file can't be read, its samples aren't finite, or there are fewer than the header says.
    """
    with audio.Reader(sound.path) as file:
        rate, n_frames = round(speed * file.sample_rate), file.complete_length()
        wanted = -(-length * rate // sample_rate)
        start = int(random.integers(max(0, n_frames - wanted) + 1))
        context = 0 if rate == sample_rate else math.ceil(_CONTEXT * max(1.0, rate / sample_rate))
        before = min(start, context)
        n_read = min(before + wanted + context, n_frames - start + before)
        samples = file.excerpt(start - before, n_read)
    if not 0 < n_read == samples.shape[1]:
        raise AudioError(f"{sound.path}: {samples.shape[1]} samples at {start - before}, expected {max(1, n_read)}")
    if not np.isfinite(samples).all():
        raise AudioError(f"{sound.path}: NaN or infinite samples after {start - before}")
    mono = transforms.to_mono(samples, channel, random)
    first = before * sample_rate // rate
    return audio.resample(mono, rate, sample_rate)[:, first : first + length], start / file.sample_rate


def _odds(sounds: Sequence[Sound], weights: Mapping[str, float] | Literal["by_duration"] | None) -> list[float]:
    """Relative probability of each sound."""
    seconds: dict[str, float] = {}
    for sound in sounds:
        seconds[sound.domain] = seconds.get(sound.domain, 0.0) + sound.duration
    if weights is None:
        weights = dict.fromkeys(seconds, 1.0)
    elif isinstance(weights, str):  # by duration
        weights = seconds
    for domain, weight in weights.items():
        if weight > 0.0 and domain not in seconds:
            known = ", ".join(seconds) or "none"
            raise AudioError(f"data set: no sounds of the domain {domain!r}, which has a weight; there are: {known}")
    odds = [weights.get(sound.domain, 0.0) * sound.duration / seconds[sound.domain] for sound in sounds]
    if not any(odds):
        raise AudioError(f"data set: {len(sounds)} sounds, none of which is in a domain with a weight above zero")
    return odds


def _pad(waveform: Audio, length: int, random: np.random.Generator) -> Audio:
    """Pad a waveform [1, T] with zeros to `length`, at a random position."""
    missing = length - waveform.shape[-1]
    if missing <= 0:
        return waveform
    before = int(random.integers(missing + 1))
    return np.pad(waveform, ((0, 0), (before, missing - before)))
