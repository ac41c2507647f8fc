"""The same recording is known again in what was made of it, and only there."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.training.duplicates import Landmarks, find_matches, groups, landmarks

RATE = 44100


def melody(seed: int, seconds: float = 4.0) -> Audio:
    """Decaying notes with overtones [1, T], eight a second, and some noise."""
    random = np.random.default_rng(seed)
    wave = 0.002 * random.standard_normal(round(seconds * RATE))
    for begin in range(0, len(wave), RATE // 8):
        time = np.arange(len(wave) - begin) / RATE
        pitch = random.uniform(100, 800)
        for overtone in range(1, 6):
            wave[begin:] += random.uniform(0.02, 0.1) * np.exp(-4 * time) * np.sin(2 * np.pi * pitch * overtone * time)
    return wave[None].astype(np.float32)


def vorbis(wave: Audio) -> Audio:
    file = io.BytesIO()
    soundfile.write(file, wave.T, RATE, format="OGG", subtype="VORBIS")
    file.seek(0)
    return soundfile.read(file, dtype="float32", always_2d=True)[0].T


def equalized(wave: Audio) -> Audio:
    """Treble up by 6 dB and more, and loud parts compressed."""
    bright = wave + np.diff(wave, prepend=wave[:, :1])
    return np.tanh(3 * bright).astype(np.float32)


ORIGINAL = melody(0)
VERSIONS = {
    "quieter": (0.03 * ORIGINAL, RATE),
    "vorbis": (vorbis(ORIGINAL), RATE),
    "remaster": (equalized(ORIGINAL), RATE),
    "stereo": (np.concatenate([ORIGINAL, 0.5 * ORIGINAL]), RATE),
    "16 kHz": (audio.resample(ORIGINAL, RATE, 16000), 16000),
    "later": (np.pad(ORIGINAL, ((0, 0), (12345, 0))), RATE),
    "excerpt": (ORIGINAL[:, 54321:120000], RATE),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_of_a_recording_is_known_again(version: str) -> None:
    others = [landmarks(melody(seed), RATE) for seed in range(1, 4)]
    matches = find_matches([landmarks(ORIGINAL, RATE), *others, landmarks(*VERSIONS[version])])
    assert [(match.first, match.second) for match in matches] == [(0, 4)]
    assert matches[0].share > 0.25


def test_other_recordings_are_not() -> None:
    notes = [melody(seed) for seed in range(20)]
    hiss = [np.random.default_rng(seed).standard_normal((1, 2 * RATE)).astype(np.float32) for seed in range(10)]
    hum = np.sin(2 * np.pi * 50 * np.arange(4 * RATE) / RATE, dtype=np.float32)[None]
    with_hum = [one + hum for one in notes[:5]]
    silent = [np.zeros((1, RATE), np.float32), np.zeros((1, 100), np.float32)]
    clicks = [np.pad(np.ones((1, 1), np.float32), ((0, 0), (place, 9000 - place))) for place in (0, 99, 5000)]
    sounds = [landmarks(one, RATE) for one in (*notes[5:], *with_hum, *hiss, *silent, *clicks)]
    assert find_matches(sounds) == []
    assert find_matches([]) == []


def test_the_number_of_common_landmarks_is_exact() -> None:
    kinds = np.arange(100, dtype=np.uint32)
    frames = np.arange(100, dtype=np.int32)
    sounds = [
        Landmarks(kinds, frames),
        Landmarks(kinds[:50], frames[:50] + 1000 + np.arange(50, dtype=np.int32) % 2),  # a frame more or less
        Landmarks(kinds[:50], 3 * frames[:50]),  # another speed
    ]
    (match,) = find_matches(sounds)
    assert match == (0, 1, 50, 1.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=15))
def test_groups_are_what_hangs_together(pairs: list[tuple[int, int]]) -> None:
    found = groups(10, pairs)
    reached = {(one, one) for one in range(10)} | set(pairs) | {(second, first) for first, second in pairs}
    for middle, first, second in itertools.product(range(10), repeat=3):
        if (first, middle) in reached and (middle, second) in reached:
            reached.add((first, second))
    assert found == [min(other for other in range(10) if (one, other) in reached) for one in range(10)]
