"""The fixed clips that a run is validated with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dac_codec import audio
from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound
from dac_codec.training import transforms
from dac_codec.training.config import DataConfig
from dac_codec.training.excerpts import read_excerpt


class ValidationClip(NamedTuple):
    """A clip [1, T]. Its name is the file's name and the second at which the clip starts in it."""

    name: str
    domain: str
    audio: Tensor


def read_clips(
    sounds: Sequence[Sound], config: DataConfig, *, sample_rate: int, seed: int = 0
) -> tuple[list[ValidationClip], list[str]]:
    """Choose and read validation clips: the same for the same sounds and seed.

    Domains take turns. In each, files come in random order; files that are long enough for another clip come again
    after the last one. A clip is a random part of its file, or all of a shorter file. Files that cannot be read and
    silent parts are left out. `config` has the number and the greatest duration of the clips.

    Returns:
        The clips, fewer if the sounds have no more; and the files that could not be read: path and reason of each.

    Raises:
        AudioError: there are no sounds, or none of them gives a clip.
    """
    skipped: dict[Sound, str] = {}
    found = clips_of(
        sounds, config.validation_seconds, config.validation_clips, skipped, sample_rate=sample_rate, seed=seed
    )
    clips = list(itertools.islice(found, config.validation_clips))
    reasons = list(skipped.values())
    if not clips:
        reason = f", the first is {reasons[0]}" if reasons else ""
        raise AudioError(
            f"validation: no clip in {len(sounds)} files, of which {len(reasons)} can't be read{reason}; "
            "expected at least one sound that is not silent"
        )
    return clips, reasons


def clips_of(
    sounds: Sequence[Sound], seconds: float, most: int, skipped: dict[Sound, str], *, sample_rate: int, seed: int
) -> Iterator[ValidationClip]:
    """Clips as those of `read_clips`, `most` of each domain; files that can't be read are added to `skipped`."""
    length = max(1, round(seconds * sample_rate))
    random = np.random.default_rng(seed)
    for sound in _in_turns(sounds, seconds, most, random):
        if sound in skipped:
            continue
        try:
            waveform, start = read_excerpt(sound, sample_rate, length, "mix", random)
        except AudioError as error:
            skipped[sound] = str(error)
            continue
        waveform, lufs = transforms.normalize_loudness(waveform, sample_rate)
        if lufs > audio.SILENCE_LUFS:
            limited = torch.from_numpy(transforms.limit_peak(waveform))
            yield ValidationClip(f"{sound.path.name}@{start:.2f}s", sound.domain, limited)


def _in_turns(sounds: Sequence[Sound], seconds: float, most: int, random: np.random.Generator) -> Iterator[Sound]:
    """Sounds of alternating domains, in random order within each; a sound comes once for each clip it has room for."""
    queues = []
    for domain in dict.fromkeys(sound.domain for sound in sounds):
        group = [sound for sound in sounds if sound.domain == domain]
        queues.append(_repeated([group[index] for index in random.permutation(len(group))], seconds, most))
    for turn in itertools.zip_longest(*queues):
        yield from (sound for sound in turn if sound is not None)


def _repeated(sounds: Sequence[Sound], seconds: float, most: int) -> Iterator[Sound]:
    """All sounds, then those with room for a second clip, and so on, at most `most` times."""
    for n_before in range(most):
        yield from (sound for sound in sounds if n_before < max(1, sound.duration // seconds))
