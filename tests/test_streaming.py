"""Windows give what the whole gives."""

from __future__ import annotations

import pytest
import torch

from dac_codec import streaming
from dac_codec.model import DAC, DACConfig
from tests.conftest import golden_model


@pytest.mark.parametrize("name", ["44khz", "24khz"])
@torch.no_grad()
def test_windows_are_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = golden_model(name)
    audio = torch.randn(2, 1, model.hop_length * 57 - 11, generator=torch.Generator().manual_seed(0)) * 0.2
    whole = model.encode(audio).codes
    heard = model.decode_codes(whole)
    monkeypatch.setattr(streaming, "WINDOW_SAMPLES", 1)
    monkeypatch.setattr(streaming, "_SHORTEST_WINDOW", 7)
    assert (streaming.encode(model, audio) == whole).float().mean() > 0.9999
    assert torch.allclose(streaming.decode(model, whole), heard, atol=1e-5)


@pytest.mark.parametrize("rates", [(2, 4, 8, 8), (4, 5), (3,)])
@torch.no_grad()
def test_context_covers_all_that_is_looked_at(rates: tuple[int, ...]) -> None:
    config = DACConfig(encoder_dim=2, encoder_rates=rates, decoder_dim=32, decoder_rates=rates[::-1], latent_dim=8)
    torch.manual_seed(0)
    model = DAC(config).double().eval()
    for parameter in model.parameters():
        parameter.data.abs_().add_(0.5)
    context = streaming.encoder_context(model), streaming.decoder_context(model)
    n_frames = 2 * max(context) + 21
    frame = n_frames // 2

    audio = torch.zeros(1, 1, n_frames * model.hop_length, dtype=torch.float64)
    changed = audio.clone()
    changed[..., frame * model.hop_length : (frame + 1) * model.hop_length] = 1.0
    moved = (model.encoder(audio) != model.encoder(changed)).any(1)[0].nonzero()
    assert int((moved - frame).abs().max()) <= context[0]

    z = torch.zeros(1, 8, n_frames, dtype=torch.float64)
    changed = z.clone()
    changed[..., frame] = 1e-3
    moved = (model.decoder.model[:-1](z) != model.decoder.model[:-1](changed))[0, 0].nonzero() // model.hop_length
    assert int((moved - frame).abs().max()) <= context[1]
