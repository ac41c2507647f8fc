"""Random excerpts to train on, and a fixed choice of clips to validate with: the same for the same seed.

A run's items are numbered from its first step to its last, and an item depends on its number and the seed alone. What
a step hears therefore doesn't depend on how many processes share it, on how many workers read, or on whether the run
was interrupted before.
"""

from __future__ import annotations

import atexit
import itertools
import math
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dac_codec import audio as sound
from dac_codec.audio import Audio
from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound
from dac_codec.training import transforms
from dac_codec.training.transforms import Channel

_MAX_FAILURES = 64  # unreadable files in a row that mean that something is wrong with all of them
_CONTEXT = 128  # read on either side of an excerpt that is resampled, in samples at the lower of the two rates
_CUTOFFS = (0.07, 0.47)  # of low-pass filters: shares of the sample rate
_WIDTHS = (0.001, 0.025)  # of their slopes
_PROCESSES = multiprocessing.get_context("spawn")  # see `batches`


class Excerpt(NamedTuple):
    """An excerpt [1, T], and the files that could not be read on the way to it: each its path and the reason."""

    audio: Tensor
    skipped: tuple[str, ...]


class Batch(NamedTuple):
    """Excerpts [B, 1, T], and the files that could not be read on the way to them."""

    audio: Tensor
    skipped: list[str]


class Clip(NamedTuple):
    """Audio [1, T] to validate with. The name is the file's, and the second at which the clip begins in it."""

    name: str
    domain: str
    audio: Tensor


class ExcerptDataset(Dataset[Excerpt]):
    """Endless random mono excerpts [1, T]: any index from 0 on is one, and says with the seed all about it.

    A domain is drawn by its weight, a file by its duration, a place in it uniformly. Only that place is read. Then
    come, in this order: one channel, the sample rate, the loudness, the peak (at most 1.0), and as far as they are
    asked for a low-pass filter before the peak, and behind it a rotation of all phases, the peak again, an attenuation,
    and silence. A file that is shorter than an excerpt is padded with zeros, as much on either side as chance will
    have it.

    A file that can't be read, or has samples that aren't finite, or fewer than its header says, is skipped: something
    else is drawn, and the excerpt names the file.

    Args:
        sounds: files to draw from.
        sample_rate: of the excerpts, Hz.
        length: samples of an excerpt.
        weights: how often each domain is drawn, relative to the others; domains that it doesn't name are never drawn.
            None: all domains equally often, which is the paper's balanced sampling. "by_duration": every second of
            sound equally often, whatever its domain.
        seed: of all randomness, 0 or more.
        quietest: excerpts below this loudness, in LUFS, are drawn again,
        tries: but at most this many are drawn in all; then the loudest of them is taken.
        channel: of a file with several: "mix" is their mean, "random" one of them.
        target_lufs: loudness of the excerpts.
        rotate_phase: move all phases by an angle that is uniform in [-pi, pi].
        low_pass: share of the excerpts that lose all above a random frequency, as lossy codecs and lower sample rates
            make it. A model that has heard few such sounds puts something there.
        attenuation: half of the excerpts are lowered by up to this many dB. Whole files have pauses and quiet
            passages, which excerpts that are all equally loud would not prepare a model for.
        silence: share of the excerpts of which a random part, at the beginning or the end, becomes digital silence.
        distinct: number of excerpts before they repeat; None: they never do.

    Raises:
        AudioError: no sounds, none of a domain that has a weight, or a number that makes no sense. From indexing: 64
            files in a row can't be read.
    """

    def __init__(
        self,
        *,
        sounds: Sequence[Sound],
        sample_rate: int,
        length: int,
        weights: Mapping[str, float] | Literal["by_duration"] | None = None,
        seed: int = 0,
        quietest: float = -40.0,
        tries: int = 8,
        channel: Channel = "mix",
        target_lufs: float = -16.0,
        rotate_phase: bool = False,
        low_pass: float = 0.0,
        attenuation: float = 0.0,
        silence: float = 0.0,
        distinct: int | None = None,
    ) -> None:
        for name, value, least, most in (
            ("sample_rate", sample_rate, 1, math.inf),
            ("length", length, 1, math.inf),
            ("seed", seed, 0, math.inf),
            ("tries", tries, 1, math.inf),
            ("low_pass", low_pass, 0, 1),
            ("attenuation", attenuation, 0, math.inf),
            ("silence", silence, 0, 1),
            ("distinct", 1 if distinct is None else distinct, 1, math.inf),
        ):
            if not least <= value <= most:
                raise AudioError(f"excerpts: {name} is {value}, expected {least} to {most}")
        if channel not in ("mix", "random"):
            raise AudioError(f"excerpts: the channel is {channel!r}, expected 'mix' or 'random'")
        self.sample_rate = sample_rate
        self.length = length
        self.seed = seed
        self.quietest = quietest
        self.tries = tries
        self.channel: Channel = channel
        self.target_lufs = target_lufs
        self.rotate_phase = rotate_phase
        self.low_pass = low_pass
        self.attenuation = attenuation
        self.silence = silence
        self.distinct = distinct
        odds = _odds(sounds, weights)
        self.sounds = [one for one, chance in zip(sounds, odds, strict=True) if chance > 0]
        self._cumulative = np.cumsum([chance for chance in odds if chance > 0])
        self._cumulative /= self._cumulative[-1]

    def __getitem__(self, index: int) -> Excerpt:
        random = np.random.default_rng([self.seed, index % self.distinct if self.distinct else index])
        excerpt, skipped = self._draw(random)
        if self.low_pass and random.random() < self.low_pass:
            excerpt = transforms.low_pass(excerpt, random.uniform(*_CUTOFFS), random.uniform(*_WIDTHS))
        excerpt = transforms.limit_peak(excerpt)
        if self.rotate_phase:
            excerpt = transforms.limit_peak(transforms.rotate_phase(excerpt, random.uniform(-math.pi, math.pi)))
        if self.attenuation and random.random() < 0.5:
            excerpt = sound.apply_gain(excerpt, -self.attenuation * random.random())
        if self.silence and random.random() < self.silence:
            excerpt = transforms.silence_part(excerpt, random)
        return Excerpt(torch.from_numpy(excerpt), skipped)

    def _draw(self, random: np.random.Generator) -> tuple[Audio, tuple[str, ...]]:
        """An excerpt [1, T] at the target loudness that was loud enough before, and what was skipped for it."""
        loudest, most = np.zeros((1, self.length), np.float32), -math.inf
        skipped: dict[str, None] = {}
        n_drawn = n_failures = 0
        while n_drawn < self.tries and most < self.quietest:
            chosen = self.sounds[int(np.searchsorted(self._cumulative, random.random(), side="right"))]
            try:
                candidate, _ = _read(chosen, self.sample_rate, self.length, self.channel, random)
            except AudioError as error:
                skipped[str(error)] = None
                n_failures += 1
                if n_failures == _MAX_FAILURES:
                    raise AudioError(
                        f"data set: {n_failures} files in a row can't be read, the last is {error}; "
                        "check that the files are where they were found, or find them again"
                    ) from error
                continue
            n_drawn += 1
            n_failures = 0
            candidate, measured = transforms.normalize_loudness(
                _pad(candidate, self.length, random), self.sample_rate, self.target_lufs
            )
            if measured > most:
                loudest, most = candidate, measured
        return loudest, tuple(skipped)


class ClipDataset(Dataset[Clip]):
    """The clips that a model is validated with: always the same, read once and kept.

    Domains take turns. In each, files come in a random order, and when all had their turn those that are long enough
    for another clip come again. A clip is a random place in its file, or all of a file that is shorter. Files that
    can't be read and places that are silent are passed over.

    Args:
        sounds: files to choose from.
        sample_rate: of the clips, Hz.
        seconds: most that a clip lasts.
        n_clips: number of clips; there are fewer if the sounds don't have as many.
        seed: of the choice, 0 or more.
        channel, target_lufs: as in `ExcerptDataset`.

    Attributes:
        skipped: the files that could not be read: each its path and the reason.

    Raises:
        AudioError: no sounds, or none of them gives a clip.
    """

    def __init__(
        self,
        *,
        sounds: Sequence[Sound],
        sample_rate: int,
        seconds: float = 5.0,
        n_clips: int = 48,
        seed: int = 0,
        channel: Channel = "mix",
        target_lufs: float = -16.0,
    ) -> None:
        if not (seconds > 0 and n_clips > 0):
            raise AudioError(f"validation: {n_clips} clips of {seconds} s, expected at least one that is longer than 0")
        self.skipped: tuple[str, ...] = ()
        self._clips: list[Clip] = []
        length = max(1, round(seconds * sample_rate))
        random = np.random.default_rng(seed)
        unreadable: set[Sound] = set()
        for chosen in _in_turns(sounds, seconds, n_clips, random):
            if len(self._clips) == n_clips:
                break
            if chosen in unreadable:
                continue
            try:
                clip, start = _read(chosen, sample_rate, length, channel, random)
            except AudioError as error:
                unreadable.add(chosen)
                self.skipped += (str(error),)
                continue
            clip, measured = transforms.normalize_loudness(clip, sample_rate, target_lufs)
            if measured > sound.SILENCE_LUFS:
                name = f"{chosen.path.name}@{start:.2f}s"
                self._clips.append(Clip(name, chosen.domain, torch.from_numpy(transforms.limit_peak(clip))))
        if not self._clips:
            reason = f", the first is {self.skipped[0]}" if self.skipped else ""
            raise AudioError(
                f"validation: no clip in {len(sounds)} files, of which {len(self.skipped)} can't be read{reason}; "
                "expected at least one sound that is not silent"
            )

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Clip:
        return self._clips[index]


def batches(
    dataset: ExcerptDataset,
    *,
    first_step: int,
    last_step: int,
    batch_size: int,
    accumulate: int = 1,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """What one process of a run hears: for each step `accumulate` batches.

    All processes and batches of a step together hear what one process would hear in one batch of
    world_size * accumulate * batch_size excerpts: the batch `micro` of a step has the items from
    ((step * accumulate + micro) * world_size + rank) * batch_size on.

    Args:
        dataset: what the items are taken from.
        first_step: the step to begin with: 0, or that at which the run was interrupted.
        last_step: the step before which to end.
        batch_size: excerpts of a batch.
        accumulate: batches of a step in this process.
        rank: of this process, of `world_size` processes.
        workers: further processes that read, one thread each; 0: this process reads. They are new processes, not
            forks, because threads and CUDA don't survive a fork: a script that asks for workers must be importable,
            which means that it starts under `if __name__ == "__main__"`.
        pin_memory: hand the audio over in page-locked memory, from which a GPU can copy it asynchronously.

    Raises:
        AudioError: 64 files in a row can't be read.
    """
    loader: DataLoader[Excerpt] = DataLoader(
        dataset,
        batch_sampler=_Numbers(first_step * accumulate, last_step * accumulate, batch_size, rank, world_size),
        collate_fn=_collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=partial(_ignore_signals, _ending()) if workers else None,
        multiprocessing_context=_PROCESSES if workers else None,
        pin_memory=pin_memory,
    )
    failure = ""
    try:
        yield from loader
    except AudioError as error:
        # A worker's error arrives with its traceback as text, of which the message is the end.
        failure = str(error).rpartition(f"{AudioError.__name__}: ")[2].strip()
    if failure:  # raised here, where nothing refers to the loader's iterator any more and its workers have ended
        raise AudioError(failure)


class _Numbers(Sampler[list[int]]):
    """The item numbers of the batches from `first` to before `last` of one process."""

    def __init__(self, first: int, last: int, batch_size: int, rank: int, world_size: int) -> None:
        self.batches = range(first * world_size + rank, last * world_size + rank, world_size)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        for number in self.batches:
            yield list(range(number * self.batch_size, (number + 1) * self.batch_size))

    def __len__(self) -> int:
        return len(self.batches)


def _collate(excerpts: Sequence[Excerpt]) -> Batch:
    """One batch of excerpts."""
    skipped = itertools.chain.from_iterable(excerpt.skipped for excerpt in excerpts)
    return Batch(torch.stack([excerpt.audio for excerpt in excerpts]), list(dict.fromkeys(skipped)))


@cache
def _ending() -> Event:
    """What workers see when this process is at its end."""
    ending = _PROCESSES.Event()
    atexit.register(ending.set)
    return ending


def _ignore_signals(ending: Event, worker: int) -> None:
    """Let Ctrl-C and SIGTERM, which reach the whole process group, not take a worker from under the last step.

    When the process that it reads for is at its end, SIGTERM is how Python ends a worker that is left, and it waits
    until the worker obeys.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if ending.is_set():
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)


def _odds(sounds: Sequence[Sound], weights: Mapping[str, float] | Literal["by_duration"] | None) -> list[float]:
    """How likely each sound is to be drawn, but for a common factor."""
    seconds: dict[str, float] = {}
    for one in sounds:
        seconds[one.domain] = seconds.get(one.domain, 0.0) + one.duration
    if weights == "by_duration":
        weights = seconds
    elif weights is None:
        weights = dict.fromkeys(seconds, 1.0)
    elif isinstance(weights, str):
        raise AudioError(f"data set: the weights are {weights!r}, expected 'by_duration' or a number for each domain")
    for domain, weight in weights.items():
        if not 0.0 <= weight < math.inf:
            raise AudioError(f"data set: the weight of {domain!r} is {weight}, expected a number that is 0 or more")
        if weight > 0.0 and domain not in seconds:
            known = ", ".join(seconds) or "none"
            raise AudioError(f"data set: no sounds of the domain {domain!r}, which has a weight; there are: {known}")
    odds = [weights.get(one.domain, 0.0) * one.duration / seconds[one.domain] for one in sounds]
    if not any(odds):
        raise AudioError(f"data set: {len(sounds)} sounds, none of which is in a domain with a weight above zero")
    return odds


def _in_turns(sounds: Sequence[Sound], seconds: float, most: int, random: np.random.Generator) -> Iterator[Sound]:
    """Domains in turn, their sounds in random order; a sound as often as it has room for clips, but at most `most`."""
    queues = []
    for domain in dict.fromkeys(one.domain for one in sounds):
        group = [one for one in sounds if one.domain == domain]
        queues.append(_again([group[index] for index in random.permutation(len(group))], seconds, most))
    for turn in itertools.zip_longest(*queues):
        yield from (one for one in turn if one is not None)


def _again(sounds: Sequence[Sound], seconds: float, most: int) -> Iterator[Sound]:
    """Each sound once, then those with room for two clips, and so on."""
    for n_before in range(most):
        yield from (one for one in sounds if n_before < max(1, one.duration // seconds))


def _read(
    chosen: Sound, sample_rate: int, length: int, channel: Channel, random: np.random.Generator
) -> tuple[Audio, float]:
    """A random excerpt of a file, and the second at which it begins.

    The file is sought in once and read once, and no more of it than the excerpt and what the resampler needs around it.

    Returns:
        The excerpt [1, T] at `sample_rate`, where T is `length` or, if the file is shorter, all there is; and the
        second.

    Raises:
        AudioError: the file can't be read, its samples aren't finite, or there are fewer than the header says.
    """
    with sound.open_file(chosen.path) as file:
        rate, n_frames = file.samplerate, file.frames
        wanted = -(-length * rate // sample_rate)
        start = int(random.integers(max(0, n_frames - wanted) + 1))
        context = 0 if rate == sample_rate else math.ceil(_CONTEXT * max(1.0, rate / sample_rate))
        before = min(start, context)
        n_read = min(before + wanted + context, n_frames - start + before)
        if start > before:
            file.seek(start - before)
        samples = file.read(n_read, dtype="float32", always_2d=True)
    if not 0 < n_read == len(samples):
        raise AudioError(f"{chosen.path}: {len(samples)} samples at {start - before}, expected {max(1, n_read)}")
    if not np.isfinite(samples).all():
        raise AudioError(f"{chosen.path}: NaN or infinite samples after {start - before}")
    mono = transforms.to_mono(samples.T, channel, random)
    first = before * sample_rate // rate
    return sound.resample(mono, rate, sample_rate)[:, first : first + length], start / rate


def _pad(audio: Audio, length: int, random: np.random.Generator) -> Audio:
    """Audio [1, T] with zeros around it, up to `length`, at a random place."""
    missing = length - audio.shape[-1]
    if missing <= 0:
        return audio
    padded = np.zeros((len(audio), length), np.float32)
    place = int(random.integers(missing + 1))
    padded[:, place : place + audio.shape[-1]] = audio
    return padded
