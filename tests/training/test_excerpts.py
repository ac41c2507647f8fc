"""What a training step hears, and what validation does."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from dac_codec import audio as sound
from dac_codec.audio import Audio
from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound, read_split
from dac_codec.training import data
from dac_codec.training.excerpts import ClipDataset, ExcerptDataset, batches

RATE = 44100


def dataset(sounds: list[Sound], **options: Any) -> ExcerptDataset:
    values: dict[str, Any] = {"sample_rate": RATE, "length": 8192, "seed": 5}
    return ExcerptDataset(sounds=sounds, **(values | options))


def noise(path: Path, seconds: float = 1.0, level: float = 0.1, channels: int = 1, rate: int = RATE) -> Sound:
    """A file of noise; its domain is the name of its folder."""
    path.parent.mkdir(exist_ok=True)
    random = np.random.default_rng(len(path.name))
    samples = level * random.standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return Sound(path, path.parent.name, seconds)


@pytest.fixture(scope="session")
def sounds(manifest: Path) -> list[Sound]:
    """Ten tones of two domains at three rates, one of them unreadable."""
    return read_split(manifest, "train")


def heard(of: ExcerptDataset, **options: Any) -> list[Tensor]:
    return [batch.audio for batch in batches(of, **options)]


# The stream.


def test_the_seed_and_the_index_say_all(sounds: list[Sound]) -> None:
    options: dict[str, Any] = {"rotate_phase": True, "attenuation": 20.0, "silence": 0.5, "channel": "random"}
    options["low_pass"] = 0.5
    first, second, other = dataset(sounds, **options), dataset(sounds, **options), dataset(sounds, seed=6, **options)
    for index in (7, 0, 3, 10**12):
        assert torch.equal(first[index].audio, second[index].audio)
        assert first[index].skipped == second[index].skipped
    assert not torch.equal(first[0].audio, other[0].audio)
    assert not torch.equal(first[0].audio, first[1].audio)
    assert first[0].audio.shape == (1, 8192)
    assert first[0].audio.dtype == torch.float32


def test_a_step_hears_the_same_for_any_split_of_the_work(sounds: list[Sound]) -> None:
    of = dataset(sounds, length=1024)
    whole = heard(of, first_step=0, last_step=3, batch_size=8)
    assert [batch.shape for batch in whole] == [(8, 1, 1024)] * 3
    for accumulate, world_size in ((4, 1), (1, 4), (2, 2)):
        options = {"first_step": 0, "last_step": 3, "batch_size": 2, "accumulate": accumulate}
        ranks = [heard(of, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
        assert all(len(rank) == 3 * accumulate for rank in ranks)
        in_order = list(itertools.chain.from_iterable(zip(*ranks, strict=True)))
        assert torch.equal(torch.cat(in_order), torch.cat(whole))


def test_a_resumed_run_hears_what_is_left(sounds: list[Sound]) -> None:
    of = dataset(sounds, length=1024)
    options = {"batch_size": 2, "accumulate": 2, "rank": 1, "world_size": 2}
    whole = heard(of, first_step=0, last_step=4, **options)
    rest = heard(of, first_step=3, last_step=4, **options)
    assert len(rest) == 2
    assert torch.equal(torch.cat(rest), torch.cat(whole[-2:]))
    assert heard(of, first_step=4, last_step=4, **options) == []


def test_workers_change_nothing(sounds: list[Sound], tmp_path: Path) -> None:
    of = dataset([*sounds, Sound(tmp_path / "gone.wav", "tones", 3.0)], length=1024)
    alone = list(batches(of, first_step=1, last_step=4, batch_size=3))
    helped = list(batches(of, first_step=1, last_step=4, batch_size=3, workers=2))
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.audio, other.audio)
        assert one.skipped == other.skipped
    assert any(batch.skipped for batch in helped)


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_are_all_bad_are_one_plain_error(tmp_path: Path, workers: int) -> None:
    of = dataset([Sound(tmp_path / "gone.wav", "speech", 1.0)])
    with pytest.raises(AudioError, match=r"^data set: 64 files in a row.*gone\.wav: no such file") as error:
        next(batches(of, first_step=0, last_step=1, batch_size=1, workers=workers))
    assert "\n" not in str(error.value)


def test_workers_live_through_a_signal_and_end_with_their_process(sounds: list[Sound], tmp_path: Path) -> None:
    """Workers pass over a SIGTERM, but not over one from an interpreter that ends while they are still held."""
    script = tmp_path / "script.py"
    script.write_text(
        "import itertools, multiprocessing, os, signal, sys\n"
        "from dac_codec import manifest\n"
        "from dac_codec.training import data\n"
        "if __name__ == '__main__':\n"
        "    found = manifest.read_split(sys.argv[1], 'train')\n"
        "    of = data.ExcerptDataset(sounds=found, sample_rate=44100, length=1024)\n"
        "    held = data.batches(of, first_step=0, last_step=1000, batch_size=1, workers=1)\n"
        "    next(held)\n"
        "    os.kill(multiprocessing.active_children()[0].pid, signal.SIGTERM)\n"
        "    assert len(list(itertools.islice(held, 30))) == 30\n"
        "    raise SystemExit(3)\n"
    )
    manifest = sounds[0].path.parent / "manifest.csv"
    assert subprocess.run([sys.executable, script, manifest], timeout=100).returncode == 3


def test_distinct_excerpts_repeat(sounds: list[Sound]) -> None:
    of = dataset(sounds, distinct=3)
    assert torch.equal(of[1].audio, of[7].audio)
    assert torch.equal(of[1].audio, dataset(sounds)[1].audio)
    assert not torch.equal(of[1].audio, of[2].audio)


# What is read.


def garbled(path: Path) -> None:
    path.write_bytes(b"fLaC" + bytes(200))


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
    assert all(sound.loudness(excerpt.audio.numpy(), RATE) > -17 for excerpt in excerpts)
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
def test_a_resampled_tone_goes_on_to_the_ends(tmp_path: Path, rate: int) -> None:
    """It keeps its frequency, and the ends of an excerpt don't sound like the ends of a file."""
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 1234.0 * np.arange(2 * rate) / rate), rate)
    of = dataset([Sound(tmp_path / "tone.wav", "tones", 2.0)])
    phase = 2 * np.pi * 1234.0 * np.arange(8192) / RATE
    waves = np.stack([np.cos(phase), np.sin(phase)], 1)
    for index in range(3):
        excerpt = of[index].audio[0].numpy()
        fitted = waves @ np.linalg.lstsq(waves, excerpt)[0]
        assert np.abs(excerpt - fitted).max() < 1e-3 * np.abs(excerpt).max()


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


# How it sounds.


def test_excerpts_have_the_target_loudness_and_no_overs(sounds: list[Sound], tmp_path: Path) -> None:
    for options in ({}, {"rotate_phase": True}, {"target_lufs": -23.0}):
        of = dataset(sounds, length=16384, **options)
        for index in range(5):
            excerpt = of[index].audio.numpy()
            assert sound.loudness(excerpt, RATE) == pytest.approx(options.get("target_lufs", -16.0), abs=0.5)
            assert np.abs(excerpt).max() <= 1.0
    clicks = np.random.default_rng(0).standard_normal(RATE) * 1e-3
    clicks[::2000] = 0.9
    soundfile.write(tmp_path / "clicks.wav", clicks, RATE)
    peaks = [
        float(dataset([Sound(tmp_path / "clicks.wav", "a", 1.0)], rotate_phase=True)[index].audio.abs().max())
        for index in range(5)
    ]
    assert max(peaks) <= 1.0


def test_rotation_changes_the_wave_alone(sounds: list[Sound]) -> None:
    plain, rotated = dataset(sounds)[3].audio, dataset(sounds, rotate_phase=True)[3].audio
    assert not torch.allclose(plain, rotated, atol=0.05)
    spectra = [torch.fft.rfft(one * torch.hann_window(8192)).abs() for one in (plain, rotated)]
    assert torch.allclose(*spectra, atol=0.02 * float(spectra[0].max()))


def test_a_share_of_them_ends_at_a_cutoff(tmp_path: Path) -> None:
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


def test_attenuation_lowers_half_of_them(sounds: list[Sound]) -> None:
    lowered = dataset(sounds, attenuation=40.0)
    levels = [sound.loudness(lowered[index].audio.numpy(), RATE) for index in range(40)]
    quieter = [level for level in levels if level < -16.5]
    assert 8 < len(quieter) < 32
    assert -57 < min(quieter) < -30


def test_a_share_of_them_is_partly_silent(sounds: list[Sound]) -> None:
    cut = dataset(sounds, silence=0.5)
    silent = sum(bool((cut[index].audio == 0).sum() > 1) for index in range(40))
    assert 10 < silent < 30


def test_quiet_places_are_drawn_again_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = [noise(tmp_path / f"{'q' * n}.wav", level=level) for n, level in ((1, 1e-3), (2, 2e-3), (3, 3e-3))]
    loud = noise(tmp_path / "loud.wav")
    asked: list[Sound] = []
    read = data._read

    def noted(chosen: Sound, *args: Any) -> Any:
        asked.append(chosen)
        return read(chosen, *args)

    monkeypatch.setattr(data, "_read", noted)
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


def test_silent_files_give_silence(tmp_path: Path) -> None:
    excerpt = dataset([noise(tmp_path / "silent.wav", level=0.0)], rotate_phase=True, attenuation=6.0)[0]
    assert not excerpt.audio.any()
    assert excerpt.skipped == ()


# What is drawn.


def drawn(of: ExcerptDataset, monkeypatch: pytest.MonkeyPatch, n_items: int = 600) -> Counter[str]:
    """How often each file is drawn, by its name."""
    counts: Counter[str] = Counter()

    def pretended(chosen: Sound, rate: int, length: int, *_: object) -> tuple[Audio, float]:
        counts[chosen.path.name] += 1
        return np.ones((1, length), np.float32), 0.0

    monkeypatch.setattr(data, "_read", pretended)
    monkeypatch.setattr(data.transforms, "normalize_loudness", lambda audio, *_: (audio, 0.0))
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
    ("options", "message"),
    [
        ({"weights": {"talk": 1.0}}, "'talk', which has a weight; there are: speech, music, effects"),
        ({"weights": {"speech": -1.0}}, "weight of 'speech' is -1"),
        ({"weights": {"speech": 0.0}}, "above zero"),
        ({"weights": "by_size"}, "by_size"),
        ({"length": 0}, "length is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"silence": 1.5}, "silence is 1.5"),
        ({"low_pass": -0.5}, "low_pass is -0.5"),
        ({"distinct": 0}, "distinct is 0"),
        ({"channel": "left"}, "'left'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        dataset(SET, **options)


def test_no_sounds_are_an_error() -> None:
    with pytest.raises(AudioError, match="0 sounds"):
        dataset([])


# Clips.


def test_clips_are_a_fixed_choice_of_all_domains(tmp_path: Path) -> None:
    files = [noise(tmp_path / "speech" / f"{'s' * n}.wav", 0.5) for n in range(1, 10)]
    files += [noise(tmp_path / "music" / "m.wav", 3.0), noise(tmp_path / "music" / "mm.wav", 0.2)]
    first, second, other = (
        ClipDataset(sounds=files, sample_rate=24000, seconds=1.0, n_clips=8, seed=seed) for seed in (1, 1, 2)
    )
    assert len(first) == 8
    assert [first[index].name for index in range(8)] == [second[index].name for index in range(8)]
    assert [first[index].name for index in range(8)] != [other[index].name for index in range(8)]
    for index in range(8):
        clip = first[index]
        assert torch.equal(clip.audio, second[index].audio)
        assert sound.loudness(clip.audio.numpy(), 24000) == pytest.approx(-16.0, abs=0.5)
        assert float(clip.audio.abs().max()) <= 1.0
    # Music, of which there are two files and room for three more clips than one each, keeps its turn.
    assert [first[index].domain for index in range(8)] == ["speech", "music"] * 4
    clips = list(first)  # ends, as any sequence does
    lengths = {clip.name.partition(".")[0]: clip.audio.shape[-1] for clip in clips}
    assert lengths["mm"] == 4800
    assert lengths["m"] == 24000
    assert sum(clip.name.startswith("mm.") for clip in clips) == 1
    assert len({clip.name for clip in clips}) == 8


def test_clips_end_when_the_sounds_do(tmp_path: Path) -> None:
    files = [noise(tmp_path / "a.wav", 0.3), noise(tmp_path / "bb.wav", 2.5)]
    clips = ClipDataset(sounds=files, sample_rate=RATE, seconds=1.0, n_clips=100, seed=0)
    assert sorted(clip.name.partition(".")[0] for clip in clips) == ["a", "bb", "bb"]


def test_clips_pass_over_what_cant_be_read_or_heard(tmp_path: Path) -> None:
    garbled(tmp_path / "torn.flac")
    torn = Sound(tmp_path / "torn.flac", "speech", 1000.0)
    silent = Sound(noise(tmp_path / "silent.wav", level=0.0).path, "speech", 1.0)
    good = [Sound(noise(tmp_path / f"{'g' * n}.wav").path, "speech", 1.0) for n in (1, 2)]
    clips = ClipDataset(sounds=[torn, silent, *good], sample_rate=RATE, seconds=1.0, n_clips=4, seed=0)
    assert sorted(clip.name for clip in clips) == ["g.wav@0.00s", "gg.wav@0.00s"]
    assert len(clips.skipped) == 1
    assert clips.skipped[0].startswith(str(torn.path))
    with pytest.raises(AudioError, match=r"2 files, of which 1 can't be read.*torn\.flac"):
        ClipDataset(sounds=[torn, silent], sample_rate=RATE, seconds=1.0, n_clips=4, seed=0)
    with pytest.raises(AudioError, match="0 clips"):
        ClipDataset(sounds=good, sample_rate=RATE, n_clips=0)
