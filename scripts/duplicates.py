"""Finds files with the same recording: copies in other formats, remasters, excerpts and loops.

A recording is identified by landmarks: the frequencies and the time difference of two neighbouring peaks of its
spectrogram (Wang, "An industrial-strength audio search algorithm", ISMIR 2003). Many of them survive changes of
loudness, codec, sample rate, equalization and cutting. Versions at another speed or pitch are not found.

Comparing landmarks is fast enough for all pairs of ten thousand sounds, but a common hum also gives equal ones. So
matches are candidates, and `likeness` decides unless very many landmarks agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from dac_codec.audio import Audio

ALIKE = 0.6
"""Likeness from which two sounds count as the same recording.

Among the sounds that Debian distributes, copies in other formats have 0.8 and more, takes that share material 0.6 to
0.8, and words of one speaker in the same noise less.
"""

_BIN = 20  # Hz between frequencies of the spectrogram, whose windows last 1 / _BIN seconds
_BINS = 250  # frequencies of the spectrogram: up to 5 kHz, which all codecs and sample rates from 10 kHz on keep
_FRAMES = 80  # frames of the spectrogram in a second
_REACH = (8, 10)  # a peak is the largest value within this many frames and bins on either side
_QUIETEST = 1e-3  # smallest peak, relative to the largest value in the file
_PARTNERS = 5  # following peaks that form a landmark with a peak
_LONGEST = 64  # frames, which the two peaks of a landmark are less than apart
_BLOCK = 1024  # frames that are transformed at a time
_CERTAIN = 300  # landmarks in common; pieces of five minutes with only a beat in common share up to 242
_COMMON = 64  # landmarks that occur more often than this in all files are ignored
_SOUND_BITS, _DISTANCE_BITS = 20, 23  # widths of a sound's index and of a distance in frames, packed into one number

VERSION = 1
"""Version of `landmarks`; those of another version must be computed again."""


class Landmarks(NamedTuple):
    """The landmarks of a sound: the kind of each [L], below 2^22, and its frame [L]."""

    kinds: NDArray[np.uint32]
    frames: NDArray[np.int32]


class Match(NamedTuple):
    """Two sounds with common landmarks at the same distance in time.

    Attributes:
        first, second: indices of the sounds; first < second.
        common: number of common landmarks.
        share: `common` relative to the landmarks of the sound that has fewer.
    """

    first: int
    second: int
    common: int
    share: float

    @property
    def certain(self) -> bool:
        """Whether enough landmarks agree to rule out coincidence, also where the likeness is low: pieces with a
        common part, or in another mix."""
        return self.common >= _CERTAIN or (self.common >= 100 and self.share >= 0.1)


def landmarks(audio: Audio, sample_rate: int) -> Landmarks:
    """The landmarks of a sound [C, T]; silence and clicks may have none."""
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
    """Find pairs of sounds that may have the same recording, also where one is a part of the other.

    Two sounds match if at least 5 landmarks agree at one distance in time (within a frame), and a twentieth of those of
    the sound with fewer, or as many as are certain.

    Args:
        sounds: the landmarks of each sound; at most 2^20 sounds.

    Returns:
        The matches, ordered by their indices.
    """
    if not sounds:
        return []
    n_landmarks = np.array([len(sound.kinds) for sound in sounds])
    numbers, counts = np.unique(_agreements(sounds), return_counts=True)
    # Peaks fall between frames, so that common landmarks are spread over two neighbouring distances.
    next_too = np.append(numbers[1:] == numbers[:-1] + 1, False)
    counts = counts + np.where(next_too, np.append(counts[1:], 0), 0)
    pairs, starts = np.unique(numbers >> _DISTANCE_BITS, return_index=True)
    common = np.maximum.reduceat(counts, starts)
    first, second = pairs >> _SOUND_BITS, pairs & ((1 << _SOUND_BITS) - 1)
    share = common / np.minimum(n_landmarks[first], n_landmarks[second])
    good = (common >= 5) & ((share >= 0.05) | (common >= _CERTAIN))
    return [
        Match(int(one), int(other), int(number), float(part))
        for one, other, number, part in zip(first[good], second[good], common[good], share[good], strict=True)
    ]


def likeness(first: Audio, second: Audio) -> float:
    """The largest absolute normalized cross-correlation of two sounds [1, T] at one sample rate.

    It is normalized over the overlap of the two, which has at least 60% of the samples and a fifth of the energy of the
    shorter one. Differences of successive samples are correlated, since low frequencies (hum, the beginning of strokes
    and steps) are similar in different recordings.
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
    # Where the longer one is silent, the difference of two sums is rounding error.
    audible = (own_energy > 0.2 * of_shorter[-1]) & (energy > 1e-9 * of_longer[-1])
    if not audible.any():
        return 0.0
    return float(np.max(np.abs(products[shifts[audible]]) / np.sqrt(energy[audible] * own_energy[audible])))


def _agreements(sounds: Sequence[Landmarks]) -> NDArray[np.int64]:
    """The two sounds and the distance in frames of each common landmark, packed into one number.

    The number is `first << 43 | second << 23 | distance + 2**22`, where first < second and the distance is that between
    the first frames of the sounds.
    """
    kinds = np.concatenate([sound.kinds for sound in sounds])
    frames = np.concatenate([sound.frames for sound in sounds]).astype(np.int64)
    owners = np.repeat(np.arange(len(sounds)), [len(sound.kinds) for sound in sounds])
    order = np.argsort(kinds, kind="stable")  # keeps owners sorted within a kind
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
