"""The folded quantizer equals the model's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.inference import prepare, quantizer
from dac_codec.inference.quantizer import FoldedQuantizer
from dac_codec.model import DAC, DACConfig
from tests.conftest import GOLDEN, golden_model
from tests.inference.networks import TINY, lively, noise

MODELS = [
    lively(TINY),
    lively(replace(TINY, lookup="euclidean")),
    lively(replace(TINY, codebook_learning="moving_average", lookup="euclidean", codebook_dim=6)),
    lively(replace(TINY, quantizer="grouped", groups=3)),
    lively(replace(TINY, codebook_sizes=(1024, 50, 7))),
    lively(replace(TINY, quantizer="additive", lookup="euclidean", codebook_sizes=(64, 50, 7))),
]
FINITE = lively(
    replace(TINY, quantizer="fsq", codebook_sizes=(9, 5, 4), codebook_dim=1, lookup="euclidean", quantizer_dropout=0.0)
)


@given(st.sampled_from(MODELS), st.integers(1, 3), st.integers(1, 40), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_it_equals_the_quantizer(model: torch.nn.Module, batch: int, n_frames: int, n_quantizers: int) -> None:
    z = noise(batch, 6, n_frames)
    expected = model.quantizer(z, n_quantizers)
    folded = FoldedQuantizer(model.quantizer)
    found = folded.encode(z, n_quantizers)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(folded.codes(z, n_quantizers), expected.codes)
    for name in ("z", "latents", "commitment_loss", "codebook_loss"):
        assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-12), name
    assert torch.allclose(folded.decode(expected.codes), expected.z, atol=1e-12)


@torch.no_grad()
def test_finite_scalars() -> None:
    z = noise(2, 6, 30)
    expected, folded = FINITE.quantizer(z), FoldedQuantizer(FINITE.quantizer)
    found = folded.encode(z, 3)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(folded.codes(z, 3), expected.codes)
    assert torch.allclose(found.z, expected.z, atol=1e-12)
    assert torch.allclose(found.latents, expected.latents, atol=1e-12)
    assert torch.allclose(folded.decode(expected.codes), expected.z, atol=1e-12)
    for index, (levels, stage) in enumerate(zip((9, 5, 4), FINITE.quantizer.stages(), strict=True)):
        bounded = torch.tanh(stage.in_proj(z))[:, 0]
        half = (levels - 1) / 2
        assert torch.equal(expected.codes[:, index], (half * bounded + half).round().long())
        assert torch.allclose(stage.entries(expected.codes[:, index])[:, 0], (half * bounded + half).round() / half - 1)
    prepared = prepare(FINITE, exact=True)
    assert torch.equal(prepared.look_up(4)(z, 3), expected.codes)  # there are no paths to search
    for refused in (
        lambda: FINITE.quantizer(z, 2),
        lambda: prepared.encode(noise(1, 1, 60), 2),
        lambda: FINITE.decode_codes(expected.codes[:, :2]),
        lambda: prepared.decode_codes(expected.codes[:, :2]),
    ):
        with pytest.raises(ValueError, match="needs all 3 codes of a frame, not 2"):
            refused()


@pytest.mark.parametrize("model", [FINITE, MODELS[-1]])
def test_codes_of_smaller_codebooks(model: DAC) -> None:
    codes = torch.tensor(model.config.sizes)[None, :, None] - 1
    model.quantizer.from_codes(codes)
    codes[0, 2] += 1
    for decode in (model.quantizer.from_codes, FoldedQuantizer(model.quantizer).decode):
        with pytest.raises(ValueError, match="codes of codebook 2 must be below"):
            decode(codes)


@torch.no_grad()
def test_groups_are_quantized_apart() -> None:
    """A group's codes depend on its channels, and so do its part of the latents."""
    quantizer = lively(replace(TINY, quantizer="grouped", groups=3)).quantizer
    z = noise(1, 6, 20)
    changed = z.clone()
    changed[:, 2:4] = -changed[:, 2:4]
    one, other = quantizer(z), quantizer(changed)
    same = [torch.equal(mine, its) for mine, its in zip(one.codes[0], other.codes[0], strict=True)]
    assert same == [True, False, True]
    assert torch.equal(one.z[:, :2], other.z[:, :2])
    assert not torch.equal(one.z[:, 2:4], other.z[:, 2:4])


@pytest.mark.parametrize("name", ["44khz", "24khz"])
@torch.no_grad()
def test_golden_codes(name: str) -> None:
    golden = np.load(GOLDEN / f"dac_{name}_tiny_io.npz")
    folded = FoldedQuantizer(golden_model(name).quantizer)
    z = torch.from_numpy(golden["encoder_out"])
    for n_quantizers, suffix in ((golden["codes"].shape[1], ""), (3, "_3")):
        found = folded.encode(z, n_quantizers)
        assert np.array_equal(found.codes, golden[f"codes{suffix}"])
        assert np.allclose(found.z, golden[f"z{suffix}"], atol=1e-4 * np.abs(golden["z"]).max())


@pytest.mark.parametrize("name", ["44khz", "24khz"])
@pytest.mark.parametrize("n_frames", [1, 199, 200, 201, 1999])
@torch.no_grad()
def test_number_of_frames_at_once_has_no_effect(name: str, n_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = golden_model(name)
    folded, n_codebooks = FoldedQuantizer(model.quantizer), model.n_codebooks
    z = noise(2, model.config.latent_width, n_frames, dtype=torch.float32)
    expected = folded.encode(z, n_codebooks)
    monkeypatch.setattr(quantizer, "_FRAMES_AT_ONCE", 100)
    largest = []
    argmax = torch.argmax

    def counting(scores: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        largest.append(len(scores))
        return argmax(scores, *arguments, **options)

    monkeypatch.setattr(torch, "argmax", counting)
    found = folded.encode(z, n_codebooks)
    for mine, wanted in zip(found, expected, strict=True):
        assert torch.equal(mine, wanted)
    assert max(largest) <= 100


@pytest.mark.parametrize("codes", [torch.full((1, 2, 3), 1024), torch.full((1, 2, 3), -2), torch.zeros(1, 4, 3).long()])
@pytest.mark.parametrize("model", MODELS)
def test_wrong_codes(model: torch.nn.Module, codes: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="codes must be"):
        FoldedQuantizer(model.quantizer).decode(codes)


def test_latent_width_differs_from_codebook_dim() -> None:
    config = DACConfig(encoder_dim=4, encoder_rates=(2,), decoder_dim=8, decoder_rates=(2,), n_codebooks=2)
    assert FoldedQuantizer(lively(config).quantizer).codes(noise(1, 8, 5), 1).shape == (1, 1, 5)


@given(st.sampled_from(MODELS), st.lists(st.integers(0, 3), min_size=1, max_size=8))
@settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_frames_of_fewer_codes(model: DAC, n_codes: list[int]) -> None:
    """A frame with n codes has the latents of its first n codes."""
    whole = model.encode(noise(1, 1, 6 * len(n_codes))).codes
    codes = whole.masked_fill(torch.arange(3)[:, None] >= torch.tensor(n_codes), -1)
    z, entries, _ = model.quantizer.from_codes(codes)
    assert torch.allclose(FoldedQuantizer(model.quantizer).decode(codes), z, atol=1e-12)
    for frame, n in enumerate(n_codes):
        if n:
            alone = model.quantizer.from_codes(whole[:, :n, frame : frame + 1])
            assert torch.allclose(z[..., frame], alone[0][..., 0], atol=1e-12)
            assert torch.equal(entries[:, : alone[1].shape[1], frame], alone[1][..., 0])
        width = entries.shape[1] // 3
        assert not entries[:, n * width :, frame].any()
        assert n or not z[..., frame].any()
