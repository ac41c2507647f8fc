"""Streams have exactly the look-ahead and the context of the formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dac_codec.inference import (
    StreamingDecoder,
    StreamingEncoder,
    decoder_context,
    decoder_look_ahead,
    encoder_look_ahead,
)
from dac_codec.model import DAC
from tests.inference.networks import TINY, lively, noise, shape_of

CONFIGS = [shape_of("44khz"), shape_of("24khz"), replace(TINY, encoder_rates=(3, 5), decoder_rates=(5, 3))]
MODELS = [lively(replace(config, causal=causal)) for config in CONFIGS for causal in (False, True)]


@pytest.fixture(params=MODELS, ids=lambda model: f"{model.config.encoder_rates}-{model.config.causal}")
def model(request: pytest.FixtureRequest) -> DAC:
    found: DAC = request.param
    return found


def test_codes_are_returned_as_soon_as_possible(model: DAC) -> None:
    hop, wait = model.hop_length, encoder_look_ahead(model)
    assert (wait == 0) is model.config.causal
    stream = StreamingEncoder(model)
    n_samples = n_frames = 0
    while n_frames < 3:
        # One sample short of the next frame, then that sample.
        due = (n_frames + 1) * hop + wait
        assert stream.push(noise(1, 1, due - 1 - n_samples)).shape[-1] == 0
        assert stream.push(noise(1, 1, 1)).shape[-1] == 1
        n_samples, n_frames = due, n_frames + 1


def test_a_frame_depends_on_no_more_audio_than_the_look_ahead(model: DAC) -> None:
    hop, end = model.hop_length, 20 * model.hop_length + encoder_look_ahead(model)
    audio = noise(1, 1, 60 * hop)
    frame = model.encoder(audio)[..., 19]
    nudged = audio.clone()
    nudged[..., end:] += 1.0
    assert torch.allclose(model.encoder(nudged)[..., 19], frame, atol=1e-12)
    nudged = audio.clone()
    nudged[..., end - 1] += 1000.0  # Its effect is small.
    assert not torch.allclose(model.encoder(nudged)[..., 19], frame, rtol=0, atol=1e-12)


def test_samples_are_returned_as_soon_as_possible(model: DAC) -> None:
    hop, behind = model.hop_length, decoder_look_ahead(model)
    assert (behind == 0) is model.config.causal
    stream = StreamingDecoder(model)
    n_samples = 0
    for n_frames in range(1, 25):
        n_samples += stream.push(torch.full((1, 3, 1), n_frames)).shape[-1]
        assert n_samples == max(0, n_frames * hop - behind)
        assert stream.samples_owed == min(behind, n_frames * hop)
    assert stream.flush().shape[-1] == behind
    assert stream.samples_owed == 0


def test_decoder_context(model: DAC) -> None:
    hop, context = model.hop_length, decoder_context(model)
    frame, n_frames = context.before + 1, context.before + context.after + 3
    decoder = model.decoder.model[:-1]  # Without tanh, which hides small effects.
    z = noise(1, model.config.latent_width, n_frames)

    def output(z: torch.Tensor) -> torch.Tensor:
        return decoder(z)[..., frame * hop : (frame + 1) * hop]

    def reaches(source: int) -> bool:
        nudged = z.clone()
        nudged[..., source] += 1000.0
        return not torch.allclose(output(nudged), before, rtol=0, atol=1e-12)

    before = output(z)
    assert [reaches(source) for source in (0, 1, frame, n_frames - 2, n_frames - 1)] == [False, True, True, True, False]
