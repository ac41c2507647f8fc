"""Band levels: the filter, their choice, and files that have them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio, bitstream, inference
from dac_codec.bitstream import Coding, Header, LevelParameters
from dac_codec.codec import (
    DacFile,
    DacStream,
    choose_rate,
    compress,
    compress_stream,
    decompress,
    load_model,
    to_legacy,
)
from dac_codec.codec.level_analysis import COSTS, Costs, LevelAnalyzer
from dac_codec.codec.levels import LevelFilter, band_edges, level_parameters
from dac_codec.common import spectral
from dac_codec.common.errors import BitstreamError
from dac_codec.model import DAC
from tests.conftest import golden_model

ROOT = Path(__file__).parents[2]
HOP = 32
PARAMETERS = LevelParameters(bands=5, step_db=3.0)
HEADER = Header(
    model_fingerprint=b"12345678", model_name="", sample_rate=44100, channels=2, n_samples=None, gain_db=0.0,
    model_sample_rate=44100, hop_length=HOP, n_codebooks=3, codebook_size=16, coding=Coding.LAYERED, levels=PARAMETERS,
)  # fmt: skip


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def random_levels(parameters: LevelParameters, channels: int, n_frames: int, seed: int = 0) -> npt.NDArray[np.int8]:
    random = np.random.default_rng(seed)
    shape = channels, parameters.bands, parameters.n_windows(n_frames)
    return random.integers(parameters.lowest, parameters.highest + 1, shape).astype(np.int8)


def filtered(
    sound: npt.NDArray[np.float32], levels: npt.NDArray[np.int8], sizes: list[int] | None = None, first_frame: int = 0
) -> npt.NDArray[np.float32]:
    """`sound` through the filter, in blocks of some sizes."""
    level_filter = LevelFilter(HEADER, first_frame)
    level_filter.add(first_frame, levels)
    places = np.cumsum(sizes or []).astype(int).tolist()
    return np.concatenate(list(level_filter.blocks(np.split(sound, places, axis=1))), axis=1)


def by_definition(sound: npt.NDArray[np.float32], levels: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """The formula of LEVELS.md, window by window, of a whole sound."""
    hop = PARAMETERS.hop * HOP
    n_windows = -(-sound.shape[1] // hop)
    levels = np.concatenate((levels, levels[..., -1:]), -1)  # the last window's once more
    padded = np.pad(sound.astype(np.float64), ((0, 0), (hop, 3 * hop)))
    output = np.zeros_like(padded)
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2 * hop) / (2 * hop)))
    bark = np.arange(hop + 1) * 44100 / (2 * hop)
    bark = bark / (1960 + bark)
    bands = np.minimum(np.floor(PARAMETERS.bands * bark / (16000 / (1960 + 16000))), PARAMETERS.bands - 1).astype(int)
    for index in range(n_windows + 1):
        part = slice(index * hop, (index + 2) * hop)
        gains = 10 ** (PARAMETERS.step_db * levels[:, bands, index] / 20)
        output[:, part] += window * np.fft.irfft(gains * np.fft.rfft(window * padded[:, part]))
    return output[:, hop : hop + sound.shape[1]]


def test_the_filter_is_that_of_the_specification() -> None:
    n_frames = 23
    sound, levels = noise(2, n_frames * HOP), random_levels(PARAMETERS, 2, n_frames)
    np.testing.assert_allclose(filtered(sound, levels), by_definition(sound, levels), atol=1e-6)


def test_edges_of_bands() -> None:
    edges = band_edges(PARAMETERS, 44100, 2048)
    assert edges.tolist() == [0, 20, 51, 105, 226, 1025]


@given(st.lists(st.integers(0, 700), max_size=4), st.integers(1, 60), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_blocks_do_not_change_a_bit(sizes: list[int], n_frames: int, seed: int) -> None:
    sound, levels = noise(2, n_frames * HOP), random_levels(PARAMETERS, 2, n_frames, seed)
    whole = filtered(sound, levels)
    assert whole.shape == sound.shape
    np.testing.assert_array_equal(filtered(sound, levels, sizes), whole)


@pytest.mark.parametrize("first_frame", [1, 7, 8])
def test_a_part_is_a_slice_bit_for_bit(first_frame: int) -> None:
    n_frames, margin = 50, 2 * PARAMETERS.hop
    sound, levels = noise(2, n_frames * HOP), random_levels(PARAMETERS, 2, n_frames)
    whole = filtered(sound, levels)
    part = filtered(sound[:, first_frame * HOP :], levels[..., PARAMETERS.n_windows(first_frame) :], None, first_frame)
    np.testing.assert_array_equal(part[:, margin * HOP :], whole[:, (first_frame + margin) * HOP :])


def test_level_0_changes_nothing() -> None:
    sound, levels = noise(2, 40 * HOP), random_levels(PARAMETERS, 2, 40)
    levels[..., :5] = 0
    output = filtered(sound, levels)
    np.testing.assert_array_equal(output[:, : 4 * PARAMETERS.hop * HOP], sound[:, : 4 * PARAMETERS.hop * HOP])
    np.testing.assert_array_equal(filtered(sound, levels[..., :0]), sound)


def test_the_output_is_complete_two_hops_later() -> None:
    level_filter = LevelFilter(HEADER)
    hop = PARAMETERS.hop * HOP
    sizes = [level_filter.push(noise(2, hop)).shape[1] for _ in range(3)]
    # Nothing precedes the first sample: the first window begins a hop before it.
    assert sizes == [0, hop, hop]


def analysed(
    original: npt.NDArray[np.float32],
    decoded: npt.NDArray[np.float32],
    size: int,
    bit_weight: float = 0.0,
    header: Header = HEADER,
) -> npt.NDArray[np.int8]:
    analyzer = LevelAnalyzer(header, COSTS._replace(bit=bit_weight))
    levels = [
        analyzer.push(original[:, start : start + size], decoded[:, start : start + size])
        for start in range(0, decoded.shape[1], size)
    ]
    return np.concatenate([*levels, analyzer.flush()], -1)


def test_the_choice_corrects_gains() -> None:
    """Twice the original gets -6 dB: 2 steps."""
    original = noise(2, 40 * HOP)
    levels = analysed(original[:, : 39 * HOP + 5], 2 * original, 999)
    assert levels.shape == (2, 5, 10)
    assert (levels[..., :9] == -2).mean() > 0.95


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_the_choice_does_not_depend_on_the_blocks(size: int) -> None:
    original = noise(2, 20 * HOP)
    decoded = original + noise(2, 20 * HOP, seed=1)
    np.testing.assert_array_equal(analysed(original, decoded, size, 0.01), analysed(original, decoded, 333, 0.01))


def test_segments_of_a_file_are_independent() -> None:
    """Chosen side by side, the levels of a file are those of a stream that forgets them at each segment."""
    hop, length = PARAMETERS.hop * HOP, 700 * PARAMETERS.hop * HOP
    original = noise(2, length)
    decoded = original + noise(2, length, seed=1)
    found = analysed(original, decoded, 9999, 0.01, replace(HEADER, n_samples=length))
    assert found.shape == (2, 5, 700)
    analyzer = LevelAnalyzer(HEADER, COSTS._replace(bit=0.01))
    windows = []
    for index in range(700):
        if index % 128 == 0:
            analyzer._symbols[:] = 0  # a segment begins
        part = slice(index * hop, (index + 1) * hop)
        windows.append(analyzer.push(original[:, part], decoded[:, part]))
    streamed = np.concatenate((*windows, analyzer.flush()), -1)
    assert (found != 0).mean() > 0.1
    np.testing.assert_array_equal(found, streamed)


@pytest.mark.parametrize(
    ("sample_rate", "hop_length", "bandwidth", "expected"),
    [
        (44100, 512, None, (4, 40, 16000)),
        (44100, 512, 4000, (4, 30, 4000)),
        (44100, 512, 20000, (4, 40, 16000)),
        (24000, 512, None, (2, 32, 12000)),  # 16 bands for each frame of the hop at most
        (24000, 320, None, (3, 39, 12000)),
        (16000, 320, None, (2, 32, 8000)),
        (8000, 1024, None, (1, 16, 4000)),
    ],
)
def test_parameters_of_the_encoder(
    sample_rate: int, hop_length: int, bandwidth: int | None, expected: tuple[int, int, int]
) -> None:
    parameters = level_parameters(sample_rate, hop_length, bandwidth)
    assert (parameters.hop, parameters.bands, parameters.top) == expected


# Files -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> DAC:
    return golden_model("44khz")


@pytest.fixture(scope="module")
def with_levels(model: DAC) -> DacFile:
    file = compress((noise(2, 100_000), 44100), model, n_quantizers=3)
    parameters = LevelParameters(bands=8)
    header = replace(file.header, coding=Coding.LAYERED, levels=parameters)
    levels = random_levels(parameters, 2, file.codes.shape[-1])
    return DacFile(header, file.codes, torch.from_numpy(levels))


def test_a_decoded_file_is_filtered(model: DAC, with_levels: DacFile) -> None:
    decoded = inference.decode(model, with_levels.codes)[:, 0].numpy()
    level_filter = LevelFilter(with_levels.header)
    assert with_levels.levels is not None
    level_filter.add(0, with_levels.levels.numpy())
    expected = np.concatenate(list(level_filter.blocks([decoded])), 1)[:, :100_000]
    expected *= 10 ** (-with_levels.header.gain_db / 20)
    found, _ = decompress(DacFile.from_bytes(with_levels.to_bytes()), model)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    without, _ = decompress(replace(with_levels, header=replace(with_levels.header, levels=None), levels=None), model)
    assert (found - without).abs().max() > 0.01


def test_levels_bring_the_sound_closer() -> None:
    """Guitar that the bundled model was not trained on: less mel distance at no less SI-SDR, for a tenth more bytes."""
    sound, rate = audio.read(ROOT / "docs/listen/guit-em9-original.flac")
    sound = sound[:1, : 2 * rate]
    model = load_model("dac-mini-44khz", "cpu")
    found = []
    for levels in (False, True):
        file = compress((sound, rate), model, effort=0, levels=levels)
        decoded, _ = decompress(file, model)
        pair = decoded[None], torch.from_numpy(sound)[None]
        distance = spectral.mel_distance(rate)(*map(spectral.Spectra, pair))
        found.append((float(distance), float(spectral.si_sdr(*pair)), len(file.to_bytes(model))))
    (without, without_sdr, without_bytes), (with_levels, with_sdr, with_bytes) = found
    assert with_levels < 0.93 * without
    assert with_sdr > without_sdr
    assert with_bytes < 1.15 * without_bytes


@pytest.mark.parametrize(
    ("wish", "costs"),
    [
        ({"quality": 3.0}, Costs(0.02, 8.0)),
        ({"quality": 6.55}, Costs(0.02 * 2**-1.58, 8.0 * 2**-0.82)),
        ({"quality": 30.0}, Costs(0.02 * 2**-2.7255, 8.0 * 2**-1.4145)),
        ({"bitrate": 5000.0}, Costs(0.02 * 2**-2.7255, 8.0 * 2**-1.4145)),
        ({"constant": True}, Costs(0.02, 8.0)),
    ],
)
def test_files_and_pipes_with_levels(model: DAC, wish: dict[str, Any], costs: Costs) -> None:
    """The levels of a stream are those of a file, and are the choice for what its codes decode to."""
    sound = noise(2, 100_001)
    file = compress((sound, 44100), model, effort=0, levels=True, **wish)
    assert file.header.levels == level_parameters(44100, file.header.hop_length, file.header.bandwidth)
    assert file.levels is not None
    assert bool((file.levels != 0).any())
    assert file.codes.shape[-1] == 196
    assert file.levels.shape == (2, 40, 49)
    exact = inference.prepare_cached(model)
    for decoder, least in ((exact.approximate, 0.99), (exact, 0.9)):  # rounding of the network
        decoded = inference.decode(decoder, file.codes)[:, 0].numpy()
        original = np.pad(sound * 10 ** (file.header.gain_db / 20), ((0, 0), (0, decoded.shape[1] - sound.shape[1])))
        analyzer = LevelAnalyzer(file.header, costs)
        expected = np.concatenate((analyzer.push(original.astype(np.float32), decoded), analyzer.flush()), -1)
        assert (file.levels.numpy() == expected).mean() > least
    if "bitrate" in wish:
        return
    target = io.BytesIO()
    reader = audio.Reader.raw(io.BytesIO(sound.T.tobytes()), 44100, 2, "f32le")
    compress_stream(reader, target, model, effort=0, levels=True, **wish)
    streamed = DacFile.from_bytes(target.getvalue(), model=model)
    assert streamed.levels is not None
    assert streamed.levels.shape == file.levels.shape
    assert decompress(streamed, model)[0].shape == sound.shape


@pytest.mark.parametrize(
    ("wish", "live", "expected"),
    [
        ({}, False, True), ({"effort": 2}, False, True), ({"effort": 1}, False, False), ({"effort": 0}, False, False),
        ({"constant": True}, False, False), ({}, True, False), ({"levels": True}, True, True),
        ({"effort": 3, "levels": False}, False, False), ({"bitrate": 4000.0}, False, True),
    ],
)  # fmt: skip
def test_which_files_have_levels(model: DAC, wish: dict[str, Any], live: bool, expected: bool) -> None:
    assert choose_rate(model, live=live, **wish).levels is expected


@pytest.mark.parametrize(("start", "duration"), [(0.0, 0.5), (0.3, 1.0), (1.21, None), (2.2, None)])
def test_a_part_is_a_slice_of_the_whole(model: DAC, with_levels: DacFile, start: float, duration: float | None) -> None:
    whole, _ = decompress(with_levels, model)
    data = io.BytesIO()
    with bitstream.Writer(data, with_levels.header, 40) as writer:
        assert with_levels.levels is not None
        writer.write(with_levels.codes.numpy(), with_levels.levels.numpy())
    part, _ = decompress(io.BytesIO(data.getvalue()), model, start=start, duration=duration)
    first = round(start * 44100)
    last = None if duration is None else first + round(duration * 44100)
    np.testing.assert_allclose(part, whole[:, first:last], atol=1e-5)


def test_inconsistent_levels(model: DAC, with_levels: DacFile) -> None:
    assert with_levels.levels is not None
    for levels, message in (
        (None, "the levels of the file are missing"),
        (with_levels.levels.long() + 100, "levels must be in"),
        (with_levels.levels[:, :3], "levels must have shape"),
    ):
        with pytest.raises(BitstreamError, match=message):
            decompress(replace(with_levels, levels=levels), model)
    constant = replace(with_levels, codes=with_levels.codes.clamp(min=0))
    with pytest.raises(BitstreamError, match="has no band levels: remove them first"):
        to_legacy(constant, model)


def test_chunks_without_their_levels_are_decoded(model: DAC, with_levels: DacFile) -> None:
    """Damaged levels count as 0: the sound there is that of the codes."""
    data = io.BytesIO()
    n_frames = 40
    with bitstream.Writer(data, with_levels.header, n_frames) as writer:
        assert with_levels.levels is not None
        writer.write(with_levels.codes.numpy(), with_levels.levels.numpy())
    # The last layer of the last chunk precedes the chunk's checksum (4 bytes) and END (5 bytes and more).
    damaged = bytearray(data.getvalue())
    damaged[-12] ^= 1
    with DacStream(io.BytesIO(damaged)) as stream, pytest.warns(UserWarning, match="layer 4 is missing"):
        found = np.concatenate(list(stream.blocks(model, conceal=True)), 1)
    n_chunks = -(-with_levels.codes.shape[-1] // n_frames)
    levels = with_levels.levels.clone()
    first = (n_chunks - 1) * n_frames
    levels[..., PARAMETERS.n_windows(first) :] = 0
    expected, _ = decompress(replace(with_levels, levels=levels), model)
    np.testing.assert_allclose(found, expected, atol=1e-5)
