"""Random excerpts: what is read, how it is changed, how often it is drawn."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound
from dac_codec.training import excerpts
from dac_codec.training.excerpts import ExcerptDataset, read_excerpt
from tests.training.conftest import RATE, dataset, garbled, noise


def test_an_excerpt_depends_on_seed_and_index_alone(sounds: list[Sound]) -> None:
    options: dict[str, Any] = {"rotate_phase": True, "attenuation": 20.0, "silence": 0.5, "channel": "random"}
    options |= {"low_pass": 0.5, "speed": 0.5, "background": 0.5, "reverberation": 0.5, "tilt": 0.5, "clipping": 0.5}
    first, second, other = dataset(sounds, **options), dataset(sounds, **options), dataset(sounds, seed=6, **options)
    for index in (7, 0, 3, 10**12):
        assert torch.equal(first[index].audio, second[index].audio)
        assert first[index].skipped == second[index].skipped
    assert not torch.equal(first[0].audio, other[0].audio)
    assert not torch.equal(first[0].audio, first[1].audio)
    assert first[0].audio.shape == (1, 8192)
    assert first[0].audio.dtype == torch.float32


def test_distinct_excerpts_repeat(sounds: list[Sound]) -> None:
    of = dataset(sounds, distinct=3)
    assert torch.equal(of[1].audio, of[7].audio)
    assert torch.equal(of[1].audio, dataset(sounds)[1].audio)
    assert not torch.equal(of[1].audio, of[2].audio)


def truncated(path: Path) -> None:
    """The header promises ten times the samples that are there."""
    noise(path, 10.0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 10])


def empty(path: Path) -> None:
    path.touch()


def without_samples(path: Path) -> None:
    noise(path, 0.0)


def not_finite(path: Path) -> None:
    samples = np.full(RATE, 0.1)
    samples[::100] = np.nan
    soundfile.write(path.with_suffix(".wav"), samples, RATE, subtype="FLOAT")
    path.with_suffix(".wav").rename(path)


def vanished(path: Path) -> None:
    pass


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [garbled, truncated, empty, without_samples, not_finite, vanished, a_folder])
def test_a_bad_file_is_skipped_and_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    bad = tmp_path / "bad.flac"
    make(bad)
    good = noise(tmp_path / "good.wav")
    of = dataset([good, Sound(bad, good.domain, 1.0)], length=4000)
    excerpts = [of[index] for index in range(12)]
    named = [line for excerpt in excerpts for line in excerpt.skipped]
    assert named
    assert all(line.startswith(f"{bad}: ") and "\n" not in line for line in named)
    assert all(audio.loudness(excerpt.audio.numpy(), RATE) > -17 for excerpt in excerpts)
    assert any(not excerpt.skipped for excerpt in excerpts)


@pytest.mark.parametrize("rate", [RATE, 48000, 8000])
def test_only_what_is_needed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    long = noise(tmp_path / "long.flac", 20.0, rate=rate)
    read, counts = soundfile.SoundFile.read, []

    def counted(self: soundfile.SoundFile, *args: Any, **kwargs: Any) -> Any:
        samples = read(self, *args, **kwargs)
        counts.append(len(samples))
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    dataset([long])[0]
    assert len(counts) == 1
    needed = math.ceil(8192 * rate / RATE)
    assert needed <= counts[0] <= needed + 600


def test_an_excerpt_is_a_part_of_its_file(tmp_path: Path) -> None:
    whole = noise(tmp_path / "a.wav")
    samples, _ = soundfile.read(whole.path, dtype="float32")
    places = set()
    for index in range(5):
        excerpt = dataset([whole], length=2048)[index].audio[0].numpy()
        place = int(np.correlate(samples, excerpt, "valid").argmax())
        part = samples[place : place + 2048]
        np.testing.assert_allclose(excerpt, part * (excerpt[0] / part[0]), atol=1e-5)
        places.add(place)
    assert len(places) == 5


@pytest.mark.parametrize("rate", [22050, 48000, 8000, 128000])
def test_a_resampled_tone_continues_to_the_ends(tmp_path: Path, rate: int) -> None:
    """The context around an excerpt is read, so that its ends are not resampled like the ends of a file."""
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 1234.0 * np.arange(2 * rate) / rate), rate)
    of = dataset([Sound(tmp_path / "tone.wav", "tones", 2.0)])
    phase = 2 * np.pi * 1234.0 * np.arange(8192) / RATE
    waves = np.stack([np.cos(phase), np.sin(phase)], 1)
    for index in range(3):
        excerpt = of[index].audio[0].numpy()
        fitted = waves @ np.linalg.lstsq(waves, excerpt)[0]
        assert np.abs(excerpt - fitted).max() < 1e-3 * np.abs(excerpt).max()


def test_a_resampled_excerpt_is_a_part_of_torchaudios_resampled_file(tmp_path: Path) -> None:
    file = noise(tmp_path / "noise.wav", rate=RATE // 2)
    samples, _ = soundfile.read(file.path, dtype="float32")
    whole = torchaudio.functional.resample(torch.from_numpy(samples), RATE // 2, RATE, lowpass_filter_width=64).numpy()
    below = (np.fft.rfftfreq(8192) < 0.23)[None]  # the two filters differ near the Nyquist frequency of the file
    for seed in range(3):
        excerpt, second = read_excerpt(file, RATE, 8192, "mix", np.random.default_rng(seed))
        start = round(second * RATE)
        part = whole[None, start : start + 8192]
        found, expected = (np.fft.rfft(one * np.hanning(8192)) for one in (excerpt, part))
        np.testing.assert_allclose(found[below], expected[below], atol=1e-3 * np.abs(expected).max())


def test_channels_are_mixed_or_chosen(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    left, right = 0.1 * random.standard_normal((2, RATE)).astype(np.float32)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), RATE, subtype="FLOAT")
    stereo = [Sound(tmp_path / "stereo.wav", "noise", 1.0)]

    def source(excerpt: Audio) -> str:
        likeness = {
            name: float(np.correlate(wave, excerpt, "valid").max() / np.linalg.norm(excerpt))
            for name, wave in (("left", left), ("right", right), ("mix", (left + right) / math.sqrt(2)))
        }
        return max(likeness, key=lambda name: likeness[name])

    mixed, chosen = dataset(stereo, length=512), dataset(stereo, length=512, channel="random")
    assert {source(mixed[index].audio[0].numpy()) for index in range(4)} == {"mix"}
    assert {source(chosen[index].audio[0].numpy()) for index in range(16)} == {"left", "right"}


def test_a_file_shorter_than_an_excerpt_is_padded(tmp_path: Path) -> None:
    of = dataset([noise(tmp_path / "short.wav", 0.1)])
    begins = set()
    for index in range(5):
        sounding = of[index].audio[0].nonzero()
        assert len(sounding) == 4410
        begins.add(int(sounding[0]))
    assert len(begins) == 5


def test_excerpts_have_the_target_loudness_and_peak(sounds: list[Sound], tmp_path: Path) -> None:
    for options in ({}, {"rotate_phase": True}):
        of = dataset(sounds, length=16384, **options)
        for index in range(5):
            excerpt = of[index].audio.numpy()
            assert audio.loudness(excerpt, RATE) == pytest.approx(-16.0, abs=0.5)
            assert np.abs(excerpt).max() <= 1.0
    clicks = np.random.default_rng(0).standard_normal(RATE) * 1e-3
    clicks[::2000] = 0.9
    soundfile.write(tmp_path / "clicks.wav", clicks, RATE)
    peaks = [
        float(dataset([Sound(tmp_path / "clicks.wav", "a", 1.0)], rotate_phase=True)[index].audio.abs().max())
        for index in range(5)
    ]
    assert max(peaks) <= 1.0


def test_a_share_is_played_at_another_speed(tmp_path: Path) -> None:
    wave = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)
    soundfile.write(tmp_path / "tone.wav", wave, RATE)
    changed = dataset([Sound(tmp_path / "tone.wav", "speech", 2.0)], speed=0.5)
    speeds = []
    for index in range(80):
        excerpt = changed[index].audio
        assert excerpt.shape == (1, 8192)
        spectrum = torch.fft.rfft(excerpt[0] * torch.hann_window(8192)).abs()
        speeds.append(int(spectrum.argmax()) * RATE / 8192 / 1000)
    others = [speed for speed in speeds if abs(speed - 1.0) > 0.004]
    assert 25 < len(others) < 55
    assert 0.69 < min(others) < 0.8
    assert 1.5 < max(others) < 1.71
    assert len(others) / 4 < sum(speed < math.sqrt(0.7 * 1.7) for speed in others) < len(others) * 3 / 4


def test_rotation_changes_the_waveform_and_not_the_spectrum(sounds: list[Sound]) -> None:
    plain, rotated = dataset(sounds)[3].audio, dataset(sounds, rotate_phase=True)[3].audio
    assert not torch.allclose(plain, rotated, atol=0.05)
    spectra = [torch.fft.rfft(one * torch.hann_window(8192)).abs() for one in (plain, rotated)]
    assert torch.allclose(*spectra, atol=0.02 * float(spectra[0].max()))


def test_a_share_is_low_pass_filtered(tmp_path: Path) -> None:
    passed = dataset([noise(tmp_path / "noise.wav", seconds=2.0)], low_pass=0.5)
    cutoffs = []
    for index in range(40):
        spectrum = torch.fft.rfft(passed[index].audio[0] * torch.hann_window(8192)).abs()
        last = float((spectrum > 1e-3 * spectrum.max()).nonzero().max()) / 8192
        if last < 0.49:
            cutoffs.append(last)
    assert 10 < len(cutoffs) < 30
    assert 0.05 < min(cutoffs) < 0.2
    assert max(cutoffs) > 0.3


@pytest.mark.parametrize("change", ["background", "reverberation", "tilt", "clipping"])
def test_a_share_is_changed_like_a_recording(sounds: list[Sound], change: str) -> None:
    changed, plain = dataset(sounds, **{change: 0.5}), dataset(sounds)
    differences = []
    for index in range(30):
        excerpt = changed[index].audio
        assert excerpt.shape == (1, 8192)
        assert excerpt.dtype == torch.float32
        assert float(excerpt.abs().max()) <= 1.0
        differences.append(float((excerpt - plain[index].audio).abs().max()))
    # Unchanged ones are those of the plain set: what follows the draw changes no random number before it.
    assert 6 < sum(difference > 1e-4 for difference in differences) < 24


def test_the_background_is_quieter(tmp_path: Path) -> None:
    tones = []
    for frequency in (500.0, 2000.0):
        path, times = tmp_path / f"{frequency:.0f}.wav", np.arange(RATE) / RATE
        soundfile.write(path, 0.1 * np.sin(2 * np.pi * frequency * times), RATE, subtype="FLOAT")
        tones.append(Sound(path, "tones", 1.0))
    mixed = dataset(tones, background=1.0)
    levels = []
    for index in range(40):
        spectrum = torch.fft.rfft(mixed[index].audio[0] * torch.hann_window(8192)).abs()
        one, other = (float(spectrum[round(hz * 8192 / RATE) + torch.arange(-3, 4)].max()) for hz in (500.0, 2000.0))
        if min(one, other) > 0.01 * max(one, other):  # else both are of the same file
            levels.append(20 * math.log10(min(one, other) / max(one, other)))
    assert 10 < len(levels) < 30
    assert -34 < min(levels) < -20
    assert -12 < max(levels) < -1


def test_half_are_attenuated(sounds: list[Sound]) -> None:
    lowered = dataset(sounds, attenuation=40.0)
    levels = [audio.loudness(lowered[index].audio.numpy(), RATE) for index in range(40)]
    quieter = [level for level in levels if level < -16.5]
    assert 8 < len(quieter) < 32
    assert -57 < min(quieter) < -30


def test_a_share_is_partly_silent(sounds: list[Sound]) -> None:
    cut = dataset(sounds, silence=0.5)
    silent = sum(bool((cut[index].audio == 0).sum() > 1) for index in range(40))
    assert 10 < silent < 30


def test_quiet_excerpts_are_drawn_again_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = [noise(tmp_path / f"{'q' * n}.wav", level=level) for n, level in ((1, 1e-3), (2, 2e-3), (3, 3e-3))]
    loud = noise(tmp_path / "loud.wav")
    asked: list[Sound] = []
    read = excerpts.read_excerpt

    def noted(chosen: Sound, *args: Any) -> Any:
        asked.append(chosen)
        return read(chosen, *args)

    monkeypatch.setattr(excerpts, "read_excerpt", noted)
    for index in range(10):
        asked.clear()
        dataset([*quiet, loud])[index]
        assert asked[-1] == loud or len(asked) == 8
        assert loud not in asked[:-1]
    # Without anything loud, the loudest of what was drawn is taken: the noise with the highest level.
    asked.clear()
    taken = dataset(quiet, tries=20)[0].audio
    assert len(asked) == 20
    wave, _ = soundfile.read(quiet[2].path, dtype="float32")
    assert np.correlate(wave, taken[0].numpy()).max() > 0.9 * np.linalg.norm(taken) * 3e-3 * math.sqrt(8192)


def test_silent_files_give_silent_excerpts(tmp_path: Path) -> None:
    excerpt = dataset([noise(tmp_path / "silent.wav", level=0.0)], rotate_phase=True, attenuation=6.0)[0]
    assert not excerpt.audio.any()
    assert excerpt.skipped == ()


def drawn(of: ExcerptDataset, monkeypatch: pytest.MonkeyPatch, n_items: int = 600) -> Counter[str]:
    """How often each file is drawn, by its name."""
    counts: Counter[str] = Counter()

    def pretended(chosen: Sound, rate: int, length: int, *_: object) -> tuple[Audio, float]:
        counts[chosen.path.name] += 1
        return np.ones((1, length), np.float32), 0.0

    monkeypatch.setattr(excerpts, "read_excerpt", pretended)
    monkeypatch.setattr(excerpts.transforms, "normalize_loudness", lambda audio, *_: (audio, 0.0))
    for index in range(n_items):
        of[index]
    return counts


SET = [
    Sound(Path("a"), "speech", 1.0),
    Sound(Path("b"), "speech", 3.0),
    Sound(Path("c"), "music", 36.0),
    Sound(Path("d"), "effects", 10.0),
]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, {"a": 50, "b": 150, "c": 200, "d": 200}),
        ("by_duration", {"a": 12, "b": 36, "c": 432, "d": 120}),
        ({"speech": 2.0, "music": 1.0}, {"a": 100, "b": 300, "c": 200}),
        ({"speech": 0.0, "music": 0.5, "effects": 0.5}, {"c": 300, "d": 300}),
    ],
)
def test_files_are_drawn_as_the_weights_say(
    monkeypatch: pytest.MonkeyPatch, weights: Any, expected: dict[str, int]
) -> None:
    counts = drawn(dataset(SET, weights=weights), monkeypatch)
    assert counts.keys() == expected.keys()
    for name, count in counts.items():
        assert abs(count - expected[name]) < 5 * math.sqrt(expected[name])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"talk": 1.0}, "'talk', which has a weight; there are: speech, music, effects"),
        ({"speech": 0.0}, "above zero"),
    ],
)
def test_weights_that_draw_nothing(weights: dict[str, float], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        dataset(SET, weights=weights)


def test_no_sounds_are_an_error() -> None:
    with pytest.raises(AudioError, match="0 sounds"):
        dataset([])
