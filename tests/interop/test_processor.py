"""DACProcessor, beside the feature extractor of transformers where that is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dac_codec.interop import DACProcessor
from dac_codec.model import DAC
from tests.conftest import golden_model

RATE = 44100


@pytest.fixture(scope="module")
def model() -> DAC:
    return golden_model("44khz")


def waveforms() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.uniform(-0.1, 0.1, length).astype(np.float32) for length in (5000, 1, 1024)]


def test_rows_are_padded_to_whole_frames(model: DAC) -> None:
    inputs = DACProcessor(model)(waveforms(), sampling_rate=RATE, padding=True, return_tensors="pt")
    assert inputs["input_values"].shape == (3, 1, 5120)
    assert inputs["padding_mask"].shape == (3, 5120)
    assert inputs["padding_mask"].sum(1).tolist() == [5000, 1, 1024]
    for values, row in zip(inputs["input_values"], waveforms(), strict=True):
        assert np.array_equal(values[0, : len(row)], row)
        assert not values[0, len(row) :].any()


@pytest.mark.parametrize("kind", ["pt", "np", None])
@pytest.mark.parametrize("source", ["one", "list", "several"])
def test_the_same_as_transformers(model: DAC, kind: str | None, source: str) -> None:
    transformers = pytest.importorskip("transformers", minversion="5")  # 4.46 gives no padding_mask
    theirs = transformers.DacFeatureExtractor(sampling_rate=RATE, hop_length=model.hop_length)
    given: Any = {"one": waveforms()[0], "list": waveforms()[0].tolist(), "several": waveforms()}[source]
    expected = theirs(given, sampling_rate=RATE, padding=True, return_tensors=kind)
    found = DACProcessor(model)(given, sampling_rate=RATE, padding=True, return_tensors=kind)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert kind is None or type(values) is type(expected[name])
        for one, other in zip(values, expected[name], strict=True):
            assert one.shape == other.shape
            assert one.dtype == other.dtype
            assert (one == other).all()


def test_codes_have_a_mask(model: DAC) -> None:
    processor = DACProcessor(model)
    outputs = processor.encode(**processor(waveforms(), sampling_rate=RATE, return_tensors="np"), n_quantizers=4)
    codes, mask = outputs["audio_codes"], outputs["audio_codes_mask"]
    assert codes.shape == (3, 4, 10)
    assert mask.sum(1).tolist() == [10, 1, 2]
    for row, valid, waveform in zip(codes, mask, waveforms(), strict=True):
        alone = model.encode(torch.from_numpy(waveform)[None, None], 4).codes[0]
        assert (row[:, valid] == alone).float().mean() > 0.99  # two entries may be equally near
    one = processor(waveforms()[0], sampling_rate=RATE, padding=False, return_tensors="pt")
    assert torch.equal(processor.encode(**one)["audio_codes"], processor.encode(one["input_values"])["audio_codes"])


def test_what_is_refused(model: DAC) -> None:
    processor = DACProcessor(model)
    with pytest.raises(ValueError, match="works at 44100 Hz and the audio is at 16000 Hz"):
        processor(waveforms(), sampling_rate=16000)
    with pytest.raises(ValueError, match="need padding=True"):
        processor(waveforms(), sampling_rate=RATE, padding=False, return_tensors="pt")
    for wrong in (np.zeros((2, 5)), [], np.zeros(5, np.int16), [np.zeros(0)]):
        with pytest.raises(ValueError, match="a waveform must be"):
            processor(wrong, sampling_rate=RATE)
    with pytest.raises(ValueError, match="padding_mask must be"):
        processor.encode(torch.zeros(1, 1, 4), torch.tensor([[1, 0, 1, 1]]))
    with pytest.warns(UserWarning, match="pass sampling_rate"):
        processor(waveforms()[0])
