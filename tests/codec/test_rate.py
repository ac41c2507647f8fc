"""The number of codes per frame."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio, codec, compress, decompress
from dac_codec.bitstream import Coding
from dac_codec.codec import DacFile, choose_rate, compress_stream, rate
from dac_codec.common.errors import DacError
from dac_codec.evaluation.demo import clip_at
from dac_codec.inference import Frames
from dac_codec.model import DAC
from tests.inference.networks import TINY, lively

RATE = 44100
TINY_MODEL = lively(replace(TINY, n_codebooks=4))


@pytest.fixture(scope="module")
def model() -> DAC:
    """The bundled model: with random weights, more codes are no better."""
    return codec.load_model("dac-mini-44khz", "cpu")


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Three seconds of stereo: bursts of noise and tones, between near silence."""
    generator = np.random.default_rng(0)
    time = np.arange(3 * RATE) / RATE
    envelope = np.exp(-8 * (time % 0.5)) * (1 + np.sign(np.sin(2 * np.pi * 0.7 * time))) + 1e-3
    tone = np.sin(2 * np.pi * (200 + 300 * np.floor(2 * time)) * time)
    return (0.1 * envelope * (tone + 0.3 * generator.standard_normal((2, len(time))))).astype(np.float32)


def frames(n_frames: int, n_codebooks: int = 5, channels: int = 2, seed: int = 0) -> Frames:
    """Frames of different power, whose errors fall by a different factor per code."""
    generator = torch.Generator().manual_seed(seed)
    factors = 0.4 + 0.5 * torch.rand(channels, 1, n_frames, generator=generator, dtype=torch.float64)
    errors = factors ** torch.arange(1, n_codebooks + 1)[:, None]
    codes = torch.randint(0, 100, (channels, n_codebooks, n_frames), generator=generator)
    return Frames(codes, errors, torch.rand(channels, n_frames, generator=generator, dtype=torch.float64) ** 4)


def in_blocks(whole: Frames, size: int) -> list[Frames]:
    return [Frames(*parts) for parts in zip(*(part.split(size, -1) for part in whole), strict=True)]


@given(st.floats(-5, 20), st.integers(1, 60), st.integers(1, 60), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_a_quality(quality: float, n_frames: int, size: int, seed: int) -> None:
    """Each frame has the number of codes of the least cost, in blocks of any size, and its first codes."""
    whole = frames(n_frames, seed=seed)
    found = torch.cat(list(rate.at_quality(in_blocks(whole, size), quality)), -1)
    counts = (found >= 0).sum(1)
    assert torch.equal(found, rate.limited(whole.codes, counts))
    lagrange = 0.06042 * 2 ** (5 - quality)
    weights = (whole.power + 1e-4) ** 0.3
    for channel, frame in np.ndindex(2, n_frames):
        costs = [
            float(weights[channel, frame] * whole.errors[channel, n - 1, frame]) + lagrange * n for n in range(1, 6)
        ]
        assert costs[int(counts[channel, frame]) - 1] == pytest.approx(min(costs))


def test_a_higher_quality_takes_more_codes() -> None:
    counts = [
        int((torch.cat(list(rate.at_quality([frames(200)], quality)), -1) >= 0).sum()) for quality in (-6, 4, 5, 7, 30)
    ]
    assert counts == sorted(set(counts))
    assert (counts[0], counts[-1]) == (2 * 200, 2 * 200 * 5)


@given(st.floats(1.2, 4.8), st.integers(1, 50), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_a_bucket_keeps_the_mean(codes_per_frame: float, size: int, seed: int) -> None:
    whole = frames(1500, seed=seed)
    found = torch.cat(list(rate.in_bucket(in_blocks(whole, size), codes_per_frame, 86.0, 5.0)), -1)
    counts = (found >= 0).sum(1).double()
    assert float(counts.mean()) == pytest.approx(codes_per_frame, rel=0.15)
    # What the bucket holds at most, on the way as well.
    level = (counts.mean(0) - codes_per_frame).cumsum(0)
    assert float(level.abs().max()) < 2 * 2 * 86 * codes_per_frame
    assert torch.equal(found, torch.cat(list(rate.in_bucket([whole], codes_per_frame, 86.0, 5.0)), -1))


@given(st.floats(1.2, 4.8), st.integers(1, 400), st.integers(0, 99), st.integers(0, 50))
@settings(deadline=None, max_examples=30)
def test_a_size(codes_per_frame: float, block: int, seed: int, overhead: int) -> None:
    """The size is met, whatever the first guess and what is written besides the codes."""
    whole = frames(400, seed=seed)
    n_bytes = codes_per_frame * 2 * 400 + overhead

    def size_of(codes: Any, mean: float, quality: float) -> int:
        return overhead + sum(int((part >= 0).sum()) for part in codes)

    codes, quality = rate.at_size(in_blocks(whole, block), n_bytes, 3.0, size_of)
    found = list(codes)
    assert size_of(found, 0.0, 0.0) == pytest.approx(n_bytes, rel=0.01)
    assert size_of(rate.at_quality([whole], quality), 0.0, 0.0) == pytest.approx(size_of(found, 0.0, 0.0), rel=0.01)
    assert torch.equal(torch.cat(found, -1), rate.limited(whole.codes, (torch.cat(found, -1) >= 0).sum(1)))


def test_sizes_that_no_quality_has() -> None:
    def size_of(codes: Any, mean: float = 0.0, quality: float = 0.0) -> int:
        return sum(int((part >= 0).sum()) for part in codes)

    with pytest.warns(UserWarning, match="5900% larger than the bitrate asks for"):
        assert size_of(rate.at_size([frames(30)], 1, 3.0, size_of)[0]) == 2 * 30
    assert size_of(rate.at_size([frames(30)], 10_000, 3.0, size_of)[0]) == 2 * 30 * 5
    assert size_of(rate.at_size([frames(1)], 3, 3.0, size_of)[0]) in range(2, 5)
    assert list(rate.at_size([], 100, 3.0, size_of)[0]) == []


@pytest.mark.parametrize("bitrate", [2000, 4000, 6500])
def test_a_file_has_the_mean_bitrate(model: DAC, sound: np.ndarray, bitrate: float) -> None:
    file = compress((sound, RATE), model, bitrate=bitrate)
    data = file.to_bytes(model)
    assert 8 * len(data) / file.duration / 2 == pytest.approx(bitrate, rel=0.01)
    assert len(torch.unique(file.n_codes)) > 3
    assert decompress(DacFile.from_bytes(data, model=model), model)[0].shape == sound.shape


def test_quality_and_effort(model: DAC, sound: np.ndarray) -> None:
    """More quality takes more codes; more effort finds better ones; loud frames get more than quiet ones."""
    low, high = (compress((sound, RATE), model, quality=quality) for quality in (4.0, 7.5))
    assert low.n_codes.double().mean() + 1 < high.n_codes.double().mean()
    assert low.bitrate < high.bitrate < high.header.bitrate

    def error(file: DacFile, original: np.ndarray) -> float:
        decoded = decompress(file, model)[0].numpy()
        return float(((decoded - original) ** 2).sum())

    assert error(high, sound) < error(low, sound)
    speech = clip_at(RATE)
    constant = [compress((speech, RATE), model, constant=True, effort=effort) for effort in (0, 1, 2)]
    errors = [error(file, speech) for file in constant]
    assert errors[0] > errors[1] > errors[2]
    assert [file.header.coding for file in (high, constant[1])] == [Coding.LAYERED, Coding.FIXED]
    assert not torch.equal(constant[1].codes, constant[2].codes)
    default = compress((sound, RATE), model, n_quantizers=7)
    assert default.header.n_codebooks == 7
    assert torch.equal(default.codes, compress((sound, RATE), model, 7, quality=rate.DEFAULT_QUALITY, effort=1).codes)


@pytest.mark.parametrize("bitrate", [1300, 1800, 2200, 3000])
def test_low_bitrates_at_few_frames_per_second(bitrate: float) -> None:
    """Band levels take as much as one code or more there."""
    speech = codec.load_model("speech", "cpu")
    clip = clip_at(speech.sample_rate)[:1]
    file = compress((clip, speech.sample_rate), speech, bitrate=bitrate)
    assert 8 * len(file.to_bytes(speech)) / file.duration == pytest.approx(bitrate, rel=0.01)


@pytest.mark.parametrize("wish", [{}, {"effort": 2}, {"quality": 7.0}, {"bitrate": 4000.0}, {"constant": True}])
def test_a_pipe(model: DAC, sound: np.ndarray, wish: dict[str, Any]) -> None:
    target = io.BytesIO()
    sound = np.tile(sound, 2 if "bitrate" in wish else 1)  # a bucket is 2 s
    reader = audio.Reader.raw(io.BytesIO(sound.T.tobytes()), RATE, 2, "f32le")
    compress_stream(reader, target, model, **wish)
    file = DacFile.from_bytes(target.getvalue(), model=model)
    if "quality" in wish or "bitrate" in wish:
        assert len(torch.unique(file.n_codes)) > 3
        assert file.header.coding is Coding.LAYERED
        if "bitrate" in wish:
            assert file.bitrate / 2 == pytest.approx(4000, rel=0.25)
    else:
        assert bool((file.n_codes == 9).all())
        assert file.header.coding is Coding.FIXED
    assert decompress(file, model)[0].shape == sound.shape


def test_the_default_quality(model: DAC) -> None:
    """Without band levels, it takes more codes to sound as well."""
    assert choose_rate(TINY_MODEL).quality == rate.DEFAULT_QUALITY
    for wish in ({"levels": False}, {"effort": 0}):
        assert choose_rate(TINY_MODEL, **wish).quality == rate.DEFAULT_WITHOUT_LEVELS  # type: ignore[arg-type]
    assert [choose_rate(model, bitrate=bitrate).levels for bitrate in (2100, 2200)] == [False, True]
    assert choose_rate(TINY_MODEL, live=True).is_constant
    assert choose_rate(TINY_MODEL, quality=3, live=True) == rate.Rate(4, 4, 3, None)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"effort": 4}, "effort must be between 0 and 3, not 4"),
        ({"effort": True}, "effort must be"),
        ({"effort": 1.0}, "effort must be"),
        ({"quality": math.nan}, "quality must be between -100 and 100, not nan"),
        ({"quality": 1e9}, "quality must be between"),
        ({"quality": 5, "bitrate": 3000}, "give quality or bitrate, not both"),
        ({"quality": 5, "constant": True}, "give quality or constant, not both"),
        ({"bitrate": 100}, "too low"),
        ({"n_quantizers": 10}, "n_quantizers must be"),
    ],
)
def test_wrong_wishes(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(DacError, match=message):
        choose_rate(TINY_MODEL, **wish)
