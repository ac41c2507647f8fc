"""Short files whose network runs in a batch equal those that are done alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dac_codec import audio, codec, inference
from dac_codec.codec import DacFile, DacStream, batches
from dac_codec.codec.batches import ShortFile
from dac_codec.codec.rate import Rate
from dac_codec.common.errors import DacError
from dac_codec.inference import Frames, prepare
from dac_codec.inference.quantizer import FoldedQuantizer
from dac_codec.model import DAC
from dac_codec.model.quantizer import ResidualVectorQuantize
from tests.inference.networks import TINY, lively, noise

MODEL = lively(replace(TINY, encoder_rates=(3, 5), decoder_rates=(5, 3)))
OTHER = lively(TINY)
HOP = MODEL.hop_length
CONSTANT = Rate(2)
MOST = 200 * HOP
"""Samples of a batch in these tests; a file is short up to a quarter of that."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "block_samples", lambda device: MOST)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and samples of each batch that is encoded, padding included."""
    found: list[tuple[int, int]] = []
    encode = inference.encode_frames_batch

    def counting(model: DAC, signals: Sequence[Tensor], *arguments: int) -> list[Frames]:
        found.append((sum(len(signal) for signal in signals), max(signal.shape[-1] for signal in signals)))
        return encode(model, signals, *arguments)

    monkeypatch.setattr(inference, "encode_frames_batch", counting)
    return found


def sound_file(channels: int, n_samples: int, seed: int = 0) -> io.BytesIO:
    """A wav file of noise at the model's rate."""
    stream = io.BytesIO()
    soundfile.write(
        stream, 0.1 * noise(channels, 1, n_samples, seed=seed)[:, 0].T.numpy(), MODEL.sample_rate, format="WAV"
    )
    stream.seek(0)
    return stream


def read(stream: io.BytesIO, rate: Rate = CONSTANT) -> ShortFile | None:
    stream.seek(0)
    with audio.Reader(stream) as reader:
        return batches.read_sound(reader, MODEL, rate)


def short(stream: io.BytesIO, rate: Rate = CONSTANT) -> ShortFile:
    sound = read(stream, rate)
    assert sound is not None
    return sound


def successes(outputs: Sequence[Any]) -> list[Any]:
    assert not any(isinstance(output, DacError) for output in outputs)
    return list(outputs)


@pytest.mark.filterwarnings("ignore:.*the file is .* larger")
@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, MOST // 12 - HOP)), min_size=1, max_size=8),
    st.sampled_from(
        [{"constant": True}, {"quality": -3.0}, {"bitrate": 1.2 * MODEL.config.bitrate(1)}, {"quality": 9, "effort": 0}]
    ),
)
def test_files_of_a_batch_equal_those_that_are_done_alone(shapes: list[tuple[int, int]], wish: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "block_samples", lambda device: MOST)
        files = [sound_file(*shape, seed=seed) for seed, shape in enumerate(shapes)]
        rate = codec.choose_rate(MODEL, 2, **wish)
        sounds = [short(file, rate) for file in files]
        targets = [io.BytesIO() for _ in files]
        for sound, codes, target in zip(sounds, successes(batches.compute(sounds)), targets, strict=True):
            result = sound.write(codes, target)
            assert result.n_bytes == len(target.getvalue())
        for file, target in zip(files, targets, strict=True):
            alone = io.BytesIO()
            file.seek(0)
            codec.compress_stream(file, alone, MODEL, 2, **wish)
            assert target.getvalue() == alone.getvalue()

        coded = []
        for target in targets:
            target.seek(0)
            with DacStream(target) as stream:
                coded.append(batches.read_codes(stream, MODEL))
        inputs = [file for file in coded if file is not None]
        assert len(inputs) == len(files)
        for file, decoded, target in zip(inputs, successes(batches.compute(inputs)), targets, strict=True):
            waveform = io.BytesIO()
            result = file.write(decoded, waveform)
            expected, _ = codec.decompress(DacFile.from_bytes(target.getvalue()), MODEL)
            assert (result.channels, result.n_samples) == expected.shape
            waveform.seek(0)
            found, _ = soundfile.read(waveform, always_2d=True)
            np.testing.assert_allclose(found.T, expected.clamp(-1, 1), atol=2**-14)


def test_a_batch_is_no_larger_than_a_block(computed: list[tuple[int, int]]) -> None:
    shapes = [(1 + index % 3, (5 + index % 11) * HOP) for index in range(40)]
    successes(batches.compute([short(sound_file(*shape)) for shape in shapes]))
    assert all(rows * n_samples <= MOST for rows, n_samples in computed)
    assert sum(rows for rows, _ in computed) == sum(channels for channels, _ in shapes)
    assert len(computed) <= 10


@pytest.mark.parametrize(
    ("channels", "n_samples", "is_short"),
    [(1, MOST // 4, True), (1, MOST // 4 + 1, False), (2, MOST // 8, True), (2, MOST // 8 + 1, False)],
)
def test_long_files_are_not_batched(channels: int, n_samples: int, is_short: bool) -> None:
    file = sound_file(channels, n_samples)
    assert (read(file) is not None) is is_short
    target = io.BytesIO()
    file.seek(0)
    codec.compress_stream(file, target, MODEL, 2, constant=True)
    target.seek(0)
    with DacStream(target) as stream:
        assert (batches.read_codes(stream, MODEL) is not None) is is_short


def test_models_and_numbers_of_codebooks_are_not_mixed() -> None:
    inputs = []
    for model, n_quantizers in [(MODEL, 1), (OTHER, 1), (MODEL, None), (OTHER, 3)]:
        file = codec.compress((noise(1, 1, 100)[0], model.sample_rate), model, n_quantizers)
        with DacStream(io.BytesIO(file.to_bytes())) as stream:
            short = batches.read_codes(stream, model)
            assert short is not None
            inputs.append((short, file, model))
    decoded = successes(batches.compute([short for short, _, _ in inputs]))
    for (_, file, model), output in zip(inputs, decoded, strict=True):
        assert torch.allclose(output, inference.decode(model, file.codes), rtol=0, atol=1e-6)


def test_pipes_and_legacy_files_are_not_batched(tmp_path: Path) -> None:
    reader = audio.Reader.raw(io.BytesIO(bytes(100)), MODEL.sample_rate, 1)
    assert batches.read_sound(reader, MODEL, CONSTANT) is None
    golden = Path(__file__).parents[1] / "golden" / "legacy_44khz_mono_48k_nq4.dac"
    with DacStream(golden) as stream:
        assert batches.read_codes(stream, MODEL) is None


def test_the_error_of_a_batch_is_returned_for_each_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: DAC, signals: Sequence[Tensor], *arguments: int) -> list[Tensor]:
        if max(signal.shape[-1] for signal in signals) > 100:
            raise RuntimeError("CUDA error: misaligned address")
        return [torch.ones(1)] * len(signals)

    monkeypatch.setattr(inference, "encode_frames_batch", fail)
    sounds = [short(sound_file(1, n_samples)) for n_samples in (400, 50, 500, 60)]
    outputs = batches.compute(sounds)
    assert [isinstance(output, DacError) for output in outputs] == [True, False, True, False]


def test_without_enough_memory_files_are_computed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode = inference.encode_frames_batch

    def small(model: DAC, signals: Sequence[Tensor], *arguments: int) -> list[Frames]:
        sizes.append(len(signals))
        if len(signals) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return encode(model, signals, *arguments)

    monkeypatch.setattr(inference, "encode_frames_batch", small)
    sounds = [short(sound_file(*shape)) for shape in ((1, 370), (1, 380), (2, 350))]
    for sound, frames in zip(sounds, successes(batches.compute(sounds)), strict=True):
        assert torch.equal(frames.codes, inference.encode(MODEL, sound.signal, 2))
    assert sizes == [3, 1, 1, 1]


def test_a_batch_is_encoded_to_codes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decoded, and no loss is computed."""

    def unwanted(*arguments: object) -> None:
        raise AssertionError

    signals = [noise(1, 1, 400), noise(2, 1, 380)]
    prepared = prepare(MODEL)
    expected = [model.encode(signal, 2).codes for model in (MODEL, prepared) for signal in signals]
    monkeypatch.setattr(FoldedQuantizer, "encode", unwanted)
    monkeypatch.setattr(FoldedQuantizer, "decode", unwanted)
    monkeypatch.setattr(ResidualVectorQuantize, "forward", unwanted)
    found = [frames for model in (MODEL, prepared) for frames in inference.encode_frames_batch(model, signals, 2)]
    for mine, wanted in zip(found, expected, strict=True):
        assert torch.equal(mine.codes, wanted)
    with pytest.raises(ValueError, match="between 1 and"):
        inference.encode_frames_batch(MODEL, signals, 0)


def test_batches_are_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert not batches.uses_batches("cpu")
        assert batches.uses_batches("auto") is has_gpu
    assert batches.uses_batches("cuda")
