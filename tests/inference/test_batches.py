"""Signals of different lengths in one batch give the same results as alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import inference
from dac_codec.inference import decode_batch, encode_frames_batch, encoder_context, prepare
from dac_codec.inference.batches import similar_lengths
from dac_codec.model import DAC
from tests.conftest import golden_model
from tests.inference.networks import TINY, lively, noise

CONFIGS = [TINY, replace(TINY, encoder_rates=(3, 5), decoder_rates=(5, 3))]
MODELS = [lively(replace(config, causal=causal)) for config in CONFIGS for causal in (False, True)]
MODELS += [prepare(model, exact=True) for model in MODELS]
WHICH = st.integers(0, len(MODELS) - 1)
SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(0, 400)), min_size=1, max_size=6)
"""Rows, frames and missing samples of the last frame, per signal."""


@settings(max_examples=60, deadline=None)
@given(WHICH, SHAPES, st.sampled_from([1, 3]))
@torch.no_grad()
def test_codes_in_a_batch_equal_those_alone(which: int, shapes: list[tuple[int, int, int]], n_quantizers: int) -> None:
    model = MODELS[which]
    hop = model.hop_length
    signals = [
        noise(rows, 1, n_frames * hop - lacking % hop, seed=seed)
        for seed, (rows, n_frames, lacking) in enumerate(shapes)
    ]
    for signal, frames in zip(signals, encode_frames_batch(model, signals, n_quantizers), strict=True):
        assert torch.equal(frames.codes, model.encode(signal, n_quantizers).codes)


@settings(max_examples=60, deadline=None)
@given(WHICH, SHAPES)
@torch.no_grad()
def test_audio_in_a_batch_equals_that_alone(which: int, shapes: list[tuple[int, int, int]]) -> None:
    model = MODELS[which]
    generator = torch.Generator().manual_seed(0)
    signals = [torch.randint(256, (rows, 2, n_frames), generator=generator) for rows, n_frames, _ in shapes]
    for signal, audio in zip(signals, decode_batch(model, signals), strict=True):
        assert audio.shape == (signal.shape[0], 1, signal.shape[-1] * model.hop_length)
        assert torch.allclose(audio, model.decode_codes(signal), rtol=0, atol=1e-12)


@pytest.mark.parametrize("model", MODELS[:4], ids=lambda model: f"{model.config.encoder_rates}-{model.config.causal}")
def test_encoder_context(model: DAC) -> None:
    hop, context = model.hop_length, encoder_context(model)
    frame, n_frames = context.before + 1, context.before + context.after + 3
    audio = noise(1, 1, n_frames * hop)

    def reaches(source: int) -> bool:
        """Whether a frame of samples affects the frame of codes."""
        nudged = audio.clone()
        nudged[..., source * hop : (source + 1) * hop] += 1000.0
        return not torch.allclose(model.encoder(nudged)[..., frame], before, rtol=0, atol=1e-12)

    before = model.encoder(audio)[..., frame]
    assert [reaches(source) for source in (0, 1, frame, n_frames - 2, n_frames - 1)] == [False, True, True, True, False]


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 50)), max_size=30), st.integers(1, 400))
def test_batches_have_similar_lengths_and_bounded_size(shapes: list[tuple[int, int]], most: int) -> None:
    batches = similar_lengths(shapes, most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(shapes)))
    for batch in batches:
        lengths = [shapes[index][1] for index in batch]
        assert max(lengths) <= 2 * min(lengths)
        assert len(batch) == 1 or sum(shapes[index][0] for index in batch) * max(lengths) <= most


def test_batches_are_as_large_as_possible() -> None:
    assert similar_lengths([(2, 10), (1, 30), (1, 9), (1, 10), (2, 11)], 55) == [[2, 0, 3], [4], [1]]
    assert similar_lengths([(1, 100), (1, 100), (1, 100)], 200) == [[0, 1], [2]]
    assert similar_lengths([(1, 100)], 10) == [[0]]
    assert similar_lengths([], 10) == []


@pytest.mark.parametrize("prepared", [False, True])
def test_waveforms_of_different_lengths_have_the_codes_that_they_have_alone(prepared: bool) -> None:
    model = golden_model("44khz")
    model = inference.prepare(model, exact=True) if prepared else model
    lengths = [5000, 512, 20000, 1, 7777]
    waveforms = [0.1 * torch.randn(length, generator=torch.Generator().manual_seed(length)) for length in lengths]
    codes, mask = model.encode(waveforms, n_quantizers=3)
    assert codes.shape == (5, 3, 40)
    batch = torch.full((5, 1, 20000), 9.0)  # whatever is behind their ends
    for row, waveform in zip(batch, waveforms, strict=True):
        row[0, : len(waveform)] = waveform
    again, same_mask = model.encode(batch, 3, lengths=lengths)
    assert torch.equal(again, codes)
    assert torch.equal(same_mask, mask)
    for row, valid, waveform in zip(codes, mask, waveforms, strict=True):
        alone = model.encode(waveform[None, None], 3).codes[0]
        assert int(valid.sum()) == alone.shape[-1]
        assert valid[: alone.shape[-1]].all()
        assert (row[:, valid] == alone).float().mean() > 0.99  # two entries may be equally near
        assert not row[:, ~valid].any()


@pytest.mark.parametrize("lengths", [[1], [1, 0], [1, 101], [1, 2, 3]])
def test_wrong_lengths(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="lengths must be 2 numbers from 1 to 100"):
        golden_model("44khz").encode(torch.zeros(2, 1, 100), lengths=lengths)
