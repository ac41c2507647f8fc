"""Which files of a data set hold the same recording: copies in other formats, remasters, excerpts and loops.

A recording is known again by its landmarks: pairs of peaks of its spectrogram, near each other, of which the two
frequencies and the time between them are kept. This is the fingerprint of Wang, "An industrial-strength audio search
algorithm" (ISMIR 2003). Loudness, codecs, sample rates, equalizers and what is cut off at either end leave many peaks
where they are. Another speed or pitch moves them all: such versions are not found.

Landmarks are quick to compare, ten thousand sounds with each other, but some agree where only the hum is the same. So
they propose, and unless very many agree, `likeness` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from dac_codec.audio import Audio

ALIKE = 0.6
"""Likeness from which two sounds count as the same recording.

Of sounds that Debian distributes, copies in other formats were seen to have 0.8 and more, takes that share material 0.6
to 0.8, and words that one speaker says in the same noise less.
"""

_BIN = 20  # Hz between the frequencies of the spectrogram; its windows last 1 / _BIN seconds
_BINS = 250  # of the spectrogram: up to 5 kHz, which every sample rate from 10 kHz on has, and every codec keeps
_FRAMES = 80  # of the spectrogram, in a second
_REACH = (8, 10)  # a peak is the largest value within this many frames and bins on either side
_QUIETEST = 1e-3  # of the largest value in the file: what is lower is no peak
_PARTNERS = 5  # peaks that follow a peak and make a landmark with it,
_LONGEST = 64  # if they come less than this many frames later
_BLOCK = 1024  # frames that are transformed at a time
_CERTAIN = 300  # landmarks: pieces of five minutes that have nothing in common but a beat were seen to share 242
_COMMON = 64  # a landmark that occurs more often than this in all files tells nothing
_SOUND_BITS, _DISTANCE_BITS = 20, 23  # of a sound's place, and of a distance in frames, in a number that holds them

VERSION = 1
"""Of `landmarks`: what was computed by another version must be computed again."""


class Landmarks(NamedTuple):
    """The landmarks of a sound: of each [L] what it is, as a number below 2^22, and the frame [L] at which it is."""

    kinds: NDArray[np.uint32]
    frames: NDArray[np.int32]


class Match(NamedTuple):
    """Two sounds, by their places in a list, that have landmarks in common at the same distance in time.

    Attributes:
        first, second: the places; first < second.
        common: number of landmarks that agree.
        share: `common` as a share of the landmarks of the sound that has fewer.
    """

    first: int
    second: int
    common: int
    share: float

    @property
    def certain(self) -> bool:
        """Whether more agrees than chance can bring about, even where a correlation over all of both would be low:
        pieces with a part in common, or in another mix."""
        return self.common >= _CERTAIN or (self.common >= 100 and self.share >= 0.1)


def landmarks(audio: Audio, sample_rate: int) -> Landmarks:
    """The landmarks of a sound [C, T], in the order of time for each partner; silence and clicks may have none."""
    mono = audio.mean(0)
    window = round(sample_rate / _BIN)
    taper = np.hanning(window + 2)[1:-1].astype(np.float32)
    n_frames = int(len(mono) * _FRAMES / sample_rate) + 1
    starts = np.round(np.arange(n_frames) * sample_rate / _FRAMES).astype(np.int64)
    views = np.lib.stride_tricks.sliding_window_view(np.pad(mono, (window // 2, window)), window)
    spectrogram = np.concatenate(
        [
            np.abs(fft.rfft(views[starts[first : first + _BLOCK]] * taper, axis=1)[:, :_BINS]).astype(np.float32)
            for first in range(0, n_frames, _BLOCK)
        ]
    )
    size = (2 * _REACH[0] + 1, 2 * _REACH[1] + 1)
    highest = ndimage.maximum_filter(spectrogram, size, mode="constant")
    peaks = (spectrogram == highest) & (spectrogram > _QUIETEST * spectrogram.max())
    frames, bins = np.nonzero(peaks)
    kinds, places = [], []
    for later in range(1, _PARTNERS + 1):
        gaps = frames[later:] - frames[:-later]
        near = gaps < _LONGEST
        kinds.append((bins[:-later] << 14 | bins[later:] << 6 | gaps)[near])
        places.append(frames[:-later][near])
    return Landmarks(np.concatenate(kinds).astype(np.uint32), np.concatenate(places).astype(np.int32))


def find_matches(sounds: Sequence[Landmarks]) -> list[Match]:
    """Find the pairs of sounds that may be the same recording, or of which one may be a part of the other.

    Two sounds match at the distance in time at which most of their landmarks agree, give or take a frame: at least 5,
    and a twentieth of those that the sound with fewer has, or as many as are certain.

    Args:
        sounds: the landmarks of each sound; at most 2^20 sounds.

    Returns:
        The matches, by their places.
    """
    if not sounds:
        return []
    n_landmarks = np.array([len(sound.kinds) for sound in sounds])
    numbers, counts = np.unique(_agreements(sounds), return_counts=True)
    # Peaks fall between two frames, so that what agrees is spread over two distances.
    next_too = np.append(numbers[1:] == numbers[:-1] + 1, False)
    counts = counts + np.where(next_too, np.append(counts[1:], 0), 0)
    pairs = numbers >> _DISTANCE_BITS
    starts = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1])) if len(pairs) else np.zeros(0, np.int64)
    common = np.maximum.reduceat(counts, starts) if len(pairs) else counts
    first, second = pairs[starts] >> _SOUND_BITS, pairs[starts] & ((1 << _SOUND_BITS) - 1)
    share = common / np.minimum(n_landmarks[first], n_landmarks[second])
    good = (common >= 5) & ((share >= 0.05) | (common >= _CERTAIN))
    return [
        Match(int(one), int(other), int(number), float(part))
        for one, other, number, part in zip(first[good], second[good], common[good], share[good], strict=True)
    ]


def likeness(first: Audio, second: Audio) -> float:
    """The largest normalized cross-correlation of two sounds [1, T] at one sample rate, whatever their signs.

    They are shifted against each other as far as 60% of the shorter one and a fifth of its energy stay in the overlap,
    over which the correlation is normalized. It is the differences of successive samples that are correlated: hum, and
    the thump that strokes and steps begin with, are much alike in different recordings.
    """
    longer, shorter = sorted((np.diff(one[0].astype(np.float64)) for one in (first, second)), key=len, reverse=True)
    if len(shorter) == 0:
        return 0.0
    n_fft = fft.next_fast_len(len(longer) + len(shorter))
    products = fft.irfft(fft.rfft(longer, n_fft) * np.conj(fft.rfft(shorter, n_fft)), n_fft)
    least = max(1, round(0.6 * len(shorter)))
    shifts = np.arange(least - len(shorter), len(longer) - least + 1)
    begin, end = np.maximum(0, shifts), np.minimum(len(longer), shifts + len(shorter))
    of_longer = np.append(0.0, np.cumsum(longer**2))
    of_shorter = np.append(0.0, np.cumsum(shorter**2))
    energy = of_longer[end] - of_longer[begin]
    own_energy = of_shorter[end - shifts] - of_shorter[begin - shifts]
    # Where the longer one is silent, the difference of two sums is nothing but rounding.
    heard = (own_energy > 0.2 * of_shorter[-1]) & (energy > 1e-9 * of_longer[-1])
    if not heard.any():
        return 0.0
    return float(np.max(np.abs(products[shifts[heard]]) / np.sqrt(energy[heard] * own_energy[heard])))


def groups(n: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Of each of `n` things the lowest number that it hangs together with, directly or by way of others."""
    parents = list(range(n))

    def root(one: int) -> int:
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parents[high] = low
    return [root(one) for one in range(n)]


def _agreements(sounds: Sequence[Landmarks]) -> NDArray[np.int64]:
    """For every landmark that two sounds share, both sounds and the distance between its places, as one number.

    The distance is that of frame 0 of the first sound from frame 0 of the second, with half the numbers that its bits
    can hold added; the first sound is that which comes first.
    """
    kinds = np.concatenate([sound.kinds for sound in sounds])
    frames = np.concatenate([sound.frames for sound in sounds]).astype(np.int64)
    owners = np.repeat(np.arange(len(sounds)), [len(sound.kinds) for sound in sounds])
    order = np.argsort(kinds, kind="stable")  # so that owners rise within a kind
    _, counts = np.unique(kinds, return_counts=True)
    order = order[np.repeat(counts <= _COMMON, counts)]
    kinds, frames, owners = kinds[order], frames[order], owners[order]
    found = [np.zeros(0, np.int64)]
    for step in range(1, _COMMON):
        same = np.flatnonzero(kinds[step:] == kinds[:-step])
        same = same[owners[same] != owners[same + step]]
        pairs = owners[same] << _SOUND_BITS | owners[same + step]
        distances = frames[same + step] - frames[same]
        found.append((pairs << _DISTANCE_BITS) + distances + (1 << (_DISTANCE_BITS - 1)))
    return np.concatenate(found)
