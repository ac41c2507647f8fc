"""The same recording is found in its versions, and not in others."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from dac_codec import audio
from dac_codec.audio import Audio
from tests.conftest import load_script

duplicates = load_script("duplicates")
ALIKE, Landmarks, landmarks, likeness = (
    duplicates.ALIKE,
    duplicates.Landmarks,
    duplicates.landmarks,
    duplicates.likeness,
)
find_matches = duplicates.find_matches

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


def mono(wave: Audio, rate: int) -> Audio:
    return audio.resample(wave.mean(0, keepdims=True), rate, 8000)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_of_a_recording_is_found(version: str) -> None:
    others = [landmarks(melody(seed), RATE) for seed in range(1, 4)]
    matches = find_matches([landmarks(ORIGINAL, RATE), *others, landmarks(*VERSIONS[version])])
    (match,) = [match for match in matches if match.share > 0.1]
    assert (match.first, match.second) == (0, 4)
    assert match.share > 0.25
    assert likeness(mono(ORIGINAL, RATE), mono(*VERSIONS[version])) > ALIKE
    assert likeness(mono(*VERSIONS[version]), mono(melody(1), RATE)) < ALIKE


def test_other_recordings_are_not() -> None:
    notes = [melody(seed, 2.0) for seed in range(10)]
    hiss = [np.random.default_rng(seed).standard_normal((1, RATE)).astype(np.float32) for seed in range(5)]
    hum = np.sin(2 * np.pi * 50 * np.arange(2 * RATE) / RATE, dtype=np.float32)[None]
    silent = [np.zeros((1, RATE), np.float32), np.zeros((1, 100), np.float32)]
    waves = [*notes[5:], *(one + 0.3 * hum for one in notes[:5]), *hiss, *silent]
    matches = find_matches([landmarks(one, RATE) for one in waves])
    found = [likeness(mono(waves[match.first], RATE), mono(waves[match.second], RATE)) for match in matches]
    assert max(found, default=0.0) < ALIKE
    assert find_matches([]) == []


def test_likeness_is_that_of_the_overlap() -> None:
    wave = np.random.default_rng(0).standard_normal((1, 1000)).astype(np.float32)
    end = wave[:, 300:]
    assert likeness(wave, wave) == pytest.approx(1.0)
    assert likeness(-0.01 * wave, end) == likeness(end, -0.01 * wave) == pytest.approx(1.0)
    assert likeness(wave[:, :700], end) < 0.3  # only 400 of 700 samples are common
    assert likeness(wave[:, :700], wave[:, 200:900]) == pytest.approx(1.0)
    assert likeness(wave, np.zeros((1, 500), np.float32)) == 0.0
    assert likeness(np.pad(wave, ((0, 0), (5000, 0))), wave) == pytest.approx(1.0)


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
    assert not match.certain


def test_a_common_part_is_enough() -> None:
    random = np.random.default_rng(0)
    first, second = (random.permutation(2**22)[:20000].astype(np.uint32) for _ in range(2))
    frames = np.sort(random.integers(0, 20000, 20000)).astype(np.int32)
    assert find_matches([Landmarks(first, frames), Landmarks(second, frames)]) == []
    second[5000:5400] = first[:400]
    shifted = frames.copy()
    shifted[5000:5400] = frames[:400] + 777
    (match,) = find_matches([Landmarks(first, frames), Landmarks(second, shifted)])
    assert 395 <= match.common <= 410
    assert match.certain
