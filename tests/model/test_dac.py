"""The network equals the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dac_codec.inference import prepare
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.model.layers import Snake
from dac_codec.model.quantizer import rotated
from tests.conftest import GOLDEN, golden_model
from tests.inference.networks import TINY, lively, noise

SMALL = DACConfig(encoder_dim=4, encoder_rates=(2, 5), decoder_dim=16, decoder_rates=(5, 2), n_codebooks=4)


def close(found: torch.Tensor, expected: np.ndarray) -> bool:
    """Within the tolerance that the reference itself meets between machines."""
    assert found.shape == expected.shape
    return float(np.abs(found.numpy() - expected).max()) <= 1e-4 * float(np.abs(expected).max())


@pytest.mark.parametrize("name", ["44khz", "24khz"])
@torch.no_grad()
def test_golden_values(name: str) -> None:
    model = golden_model(name)
    golden = np.load(GOLDEN / f"dac_{name}_tiny_io.npz")
    audio = torch.from_numpy(golden["audio"])

    padded = model.preprocess(audio, model.sample_rate)
    assert np.array_equal(padded, golden["padded"])
    assert close(model.encoder(padded), golden["encoder_out"])

    encoded = model.encode(audio)
    assert np.array_equal(encoded.codes, golden["codes"])
    assert close(encoded.z, golden["z"])
    assert close(encoded.latents, golden["latents"])
    assert float(encoded.commitment_loss) == pytest.approx(float(golden["commitment_loss"]), rel=1e-4)
    assert float(encoded.codebook_loss) == pytest.approx(float(golden["codebook_loss"]), rel=1e-4)

    three = model.encode(audio, n_quantizers=3)
    assert np.array_equal(three.codes, golden["codes_3"])
    assert close(three.z, golden["z_3"])

    n_reference = golden["decoded"].shape[-1]
    decoded = model.decode(encoded.z)
    assert decoded.shape[-1] == encoded.codes.shape[-1] * int(golden["hop_length"])
    assert close(decoded[..., :n_reference], golden["decoded"])
    assert torch.equal(
        decoded[..., n_reference:], decoded[..., n_reference - 1 : n_reference].expand_as(decoded[..., n_reference:])
    )

    assert close(model(audio)["audio"], golden["forward_audio"])
    z, latents, _ = model.quantizer.from_codes(encoded.codes)
    assert close(z, golden["from_codes_z"])
    assert close(latents, golden["from_codes_latents"])
    assert close(model.quantizer.from_latents(encoded.latents)[0], golden["from_latents_z"])
    assert model.hop_length == int(golden["hop_length"])


@pytest.mark.parametrize(
    ("name", "n_parameters"),
    [("44khz", 76_651_890), ("44khz-16kbps", 64_213_250), ("24khz", 74_708_706), ("16khz", 74_175_906)],
)
def test_presets_have_the_published_size(name: str, n_parameters: int) -> None:
    with torch.device("meta"):
        model = DAC(PRESETS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


def test_n_quantizers_holds_in_train_mode() -> None:
    model = DAC(SMALL).train()
    encoded = model.encode(torch.randn(3, 1, 50), n_quantizers=2)
    assert encoded.codes.shape == (3, 2, 5)
    model.eval()
    assert torch.allclose(encoded.z, model.quantizer.from_codes(encoded.codes)[0], atol=1e-5)


@pytest.mark.parametrize("n_quantizers", [0, -1, 5, 2.5, True, "2", np.float64(2)])
@pytest.mark.parametrize("training", [True, False])
def test_n_quantizers_out_of_range(n_quantizers: int, training: bool) -> None:
    model = DAC(SMALL).train(training)
    with pytest.raises(ValueError, match="between 1 and 4"):
        model.encode(torch.randn(1, 1, 50), n_quantizers=n_quantizers)


def test_n_quantizers_of_any_integer_type() -> None:
    model = DAC(SMALL).eval()
    assert model.encode(torch.randn(1, 1, 50), n_quantizers=np.int64(2)).codes.shape == (1, 2, 5)  # type: ignore[arg-type]


def test_quantizer_dropout_takes_the_first_items() -> None:
    quantizer = DAC(SMALL).quantizer.train()
    z = torch.randn(8, SMALL.latent_width, 6)
    quantizer.quantizer_dropout = 0.5
    dropped = quantizer(z, generator=torch.Generator().manual_seed(3))
    again = quantizer(z, generator=torch.Generator().manual_seed(3))
    whole = quantizer(z, n_quantizers=4)
    assert torch.equal(dropped.z, again.z)
    assert torch.equal(dropped.codes, whole.codes)
    same = [torch.equal(dropped.z[item], whole.z[item]) for item in range(8)]
    assert same[4:] == [True] * 4
    assert not all(same[:4])


def test_the_gradient_passes_straight_through() -> None:
    model = DAC(SMALL).train()
    z = torch.randn(2, SMALL.latent_width, 3, requires_grad=True)
    stage = model.quantizer.quantizers[0]
    stage(z).z.sum().backward()
    into, out = stage.in_proj.weight[..., 0], stage.out_proj.weight[..., 0]
    expected = (torch.ones(1, SMALL.latent_width) @ out @ into).expand(2, 3, -1).transpose(1, 2)
    assert torch.allclose(z.grad, expected, atol=1e-6)


def test_weights_start_as_a_truncated_normal() -> None:
    model = DAC(DACConfig(encoder_dim=32, decoder_dim=256))
    for conv in (model.encoder.block[3].block[4], model.decoder.model[0], model.decoder.model[1].block[1]):
        assert float(conv.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert float(conv.bias.detach().abs().max()) == 0.0


def test_snake_against_its_formula() -> None:
    snake = Snake(3).double()
    snake.alpha.data.uniform_(0.1, 3.0)
    x = torch.randn(2, 3, 50, dtype=torch.float64)
    expected = x + torch.sin(snake.alpha * x) ** 2 / (snake.alpha + 1e-9)
    assert torch.allclose(snake(x), expected, atol=1e-12)


@pytest.mark.parametrize("n_samples", [1, 9, 10, 11, 57])
@torch.no_grad()
def test_forward_keeps_the_length(n_samples: int) -> None:
    model = DAC(SMALL).eval()
    audio = torch.randn(2, 1, n_samples) * 0.1
    out = model(audio, sample_rate=44100)
    assert out["audio"].shape == audio.shape
    assert out["codes"].shape == (2, 4, -(-n_samples // 10))
    assert model.decode_codes(out["codes"]).shape == (2, 1, out["codes"].shape[-1] * 10)
    assert set(out) == {"audio", "z", "codes", "latents", "vq/commitment_loss", "vq/codebook_loss"}


@pytest.mark.parametrize(
    ("audio", "sample_rate", "message"),
    [
        (torch.zeros(1, 2, 10), None, r"\[B, 1, T\]"),
        (torch.zeros(1, 1, 0), None, "at least one sample"),
        (torch.zeros(0, 1, 10), None, "at least one sample"),
        (torch.zeros(1, 1, 10, dtype=torch.int16), None, r"torch\.int16, .* \(32768 for 16 bit\)"),
        (torch.zeros(1, 1, 10, dtype=torch.complex64), None, "complex64"),
        (torch.zeros(10), None, r"\[B, 1, T\]"),
        (torch.zeros(1, 1, 10), 48000, "44100 Hz"),
    ],
)
def test_wrong_audio(audio: torch.Tensor, sample_rate: int | None, message: str) -> None:
    for model in (DAC(SMALL), prepare(DAC(SMALL))):
        with pytest.raises(ValueError, match=message):
            model(audio, sample_rate)
        if sample_rate is None:
            with pytest.raises(ValueError, match=message):
                model.encode(audio)


@torch.no_grad()
def test_samples_of_any_floating_type() -> None:
    model = lively(TINY, torch.float32)
    audio = noise(1, 1, 100).half()
    expected = model.encode(audio.float())
    for other in (model, prepare(model, exact=True)):
        for dtype in (torch.float16, torch.float64):
            found = other.encode(audio.to(dtype))
            assert torch.equal(found.codes, expected.codes)
            assert found.z.dtype == torch.float32


def test_audio_is_padded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = []
    preprocess = DAC.preprocess
    monkeypatch.setattr(DAC, "preprocess", lambda *arguments: padded.append(1) or preprocess(*arguments))
    DAC(SMALL)(torch.randn(1, 1, 50), 44100)
    assert padded == [1]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 5, 2).long(), "1..4"),
        (torch.full((1, 2, 2), 1024), "1023"),
        (torch.full((1, 2, 2), -2), "between 0"),
        (torch.tensor([[[0], [-1], [0]]]), "after the last code"),
        (torch.full((1, 2, 2), 1024, dtype=torch.uint16), "1023"),
        (torch.zeros(1, 4, 0).long(), "at least one frame"),
        (torch.zeros(0, 4, 2).long(), "at least one frame"),
        (torch.full((1, 2, 2), 2.7), r"integers, not torch\.float32"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), r"integers, not torch\.bool"),
    ],
)
def test_wrong_codes(codes: torch.Tensor, message: str) -> None:
    for model in (DAC(SMALL), prepare(DAC(SMALL))):
        with pytest.raises(ValueError, match=message):
            model.decode_codes(codes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32], ids=str)
@torch.no_grad()
def test_codes_of_any_integer_type(dtype: torch.dtype) -> None:
    codes = torch.arange(24).view(1, 4, 6)
    for model in (DAC(SMALL), prepare(DAC(SMALL))):
        assert torch.equal(model.decode_codes(codes.to(dtype)), model.decode_codes(codes))


@pytest.mark.parametrize("shape", [(1, 40, 0), (0, 40, 3), (1, 39, 3), (40, 3)])
def test_wrong_latents(shape: tuple[int, ...]) -> None:
    config = replace(SMALL, latent_dim=40)
    for model in (DAC(config), prepare(DAC(config))):
        with pytest.raises(ValueError, match=r"latents must be \[B, 40, F\] with at least one frame"):
            model.decode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_rates": (2, 4), "decoder_rates": (4, 4)}, "different products"),
        ({"encoder_rates": (2, 1), "decoder_rates": (1, 2)}, "encoder_rates must be integers of at least 2"),
        ({"encoder_rates": (1, 2), "causal": True}, "encoder_rates must be integers of at least 2"),
        ({"decoder_rates": (2, 0)}, "decoder_rates must be integers of at least 1"),
        ({"encoder_rates": (2.9, 4, 8, 8)}, "encoder_rates must be integers"),
        ({"encoder_rates": "2488"}, "encoder_rates must be integers"),
        ({"decoder_rates": (True, 8)}, "decoder_rates must be integers"),
        ({"decoder_rates": []}, "decoder_rates must be integers"),
        ({"encoder_rates": None}, "encoder_rates must be integers"),
        ({"quantizer_dropout": None}, "quantizer_dropout must be a number"),
        ({"quantizer_dropout": "0.5"}, "quantizer_dropout must be a number"),
        ({"n_codebooks": 0}, "n_codebooks"),
        ({"codebook_size": 1}, "codebook_size"),
        ({"quantizer_dropout": 2.0}, "quantizer_dropout"),
        ({"decoder_dim": 24}, "halved"),
        ({"frobnicate": 1}, "frobnicate"),
        ({"sample_rate": "fast"}, "sample_rate"),
        ({"quantizer": "tree"}, "quantizer must be one of"),
        ({"quantizer": "grouped"}, "has 2 groups or more and others 1, not 1"),
        ({"groups": 3}, "has 2 groups or more and others 1, not 3"),
        ({"quantizer": "grouped", "groups": 4}, "must be multiples of groups 4"),
        ({"quantizer": "fsq"}, "needs codebook_dim 1"),
        ({"quantizer": "additive"}, 'quantizer "additive" needs lookup "euclidean", not \'cosine\''),
        ({"codebook_sizes": (8, 8)}, "codebook_sizes has 2 sizes, expected 9"),
        ({"codebook_sizes": (8,) * 8 + (1,)}, "codebook_size must be between"),
        ({"codebook_sizes": 8}, "codebook_sizes has 1"),
    ],
)
def test_wrong_configurations(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DACConfig.from_dict(values)


def test_sizes_of_codebooks() -> None:
    config = replace(SMALL, codebook_sizes=(1024, 1000, 16, 2))
    assert DACConfig.from_dict(config.to_dict()) == config
    assert (config.codebook_size, config.sizes) == (1024, (1024, 1000, 16, 2))
    assert config.bitrate() == pytest.approx(4410 * (10 + 10 + 4 + 1))
    assert config.bitrate(2) == pytest.approx(4410 * 20)
    assert replace(SMALL, codebook_sizes=(512,) * 4) == replace(SMALL, codebook_size=512)


def test_the_rotation_trick() -> None:
    """Forward the entries; backward a latent's gradient is turned by the angle from the entry to the latent."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    entries = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    passed = rotated(latents, entries)
    assert torch.allclose(passed, entries)
    (gradient,) = torch.autograd.grad(passed, latents, entries)
    scale = entries.norm(dim=1, keepdim=True) / latents.norm(dim=1, keepdim=True)
    assert torch.allclose(gradient, scale**2 * latents)  # the entry's direction becomes the latent's
    model = DAC(TINY).train()
    z = torch.randn(2, 6, 8, requires_grad=True)
    straight = torch.autograd.grad(model.quantizer(z, 3).z.square().sum(), z)[0]
    for stage in model.quantizer.stages():
        stage.rotates = True
    turned = torch.autograd.grad(model.quantizer(z, 3).z.square().sum(), z)[0]
    assert turned.isfinite().all()
    assert not torch.allclose(straight, turned)


def test_config_round_trip() -> None:
    assert DACConfig.from_dict(SMALL.to_dict()) == SMALL
    assert SMALL.bitrate(2) == pytest.approx(44100 / 10 * 10 * 2)


@torch.no_grad()
def test_the_quantizer_keeps_its_precision_under_autocast() -> None:
    model = lively(TINY, torch.float32)
    quantizer = model.quantizer
    z = noise(2, 6, 500, dtype=torch.float32)
    expected = quantizer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(z)
        again, from_codes = quantizer.from_latents(found.latents), quantizer.from_codes(found.codes)
        looked_up = quantizer.stages()[0].look_up(found.latents[:, :4])
        assert model.encode(noise(1, 1, 60, dtype=torch.float32)).z.dtype == torch.float32
    for mine, wanted in zip(found, expected, strict=True):
        assert torch.equal(mine, wanted)
    for name, mine in (("z", from_codes[0]), ("z", again[0]), ("codes", again[2])):
        assert torch.equal(mine, {"z": quantizer.from_codes(again[2])[0], "codes": expected.codes}[name])
    assert torch.equal(looked_up, expected.codes[:, 0])


@torch.no_grad()
def test_decoder_without_padding_shares_its_weights() -> None:
    model = DAC(SMALL).eval()
    unpadded = model.decoder.without_padding()
    z = torch.randn(1, SMALL.latent_width, 40)
    padded_out, out = model.decoder(z), unpadded(z)
    # The middle, which the padding does not affect, is the same.
    middle = out.shape[-1] // 2
    offset = (padded_out.shape[-1] - out.shape[-1]) // 2
    matches = [
        torch.allclose(
            out[..., middle - 20 : middle + 20], padded_out[..., middle - 20 + o : middle + 20 + o], atol=1e-6
        )
        for o in (offset - 1, offset, offset + 1)
    ]
    assert any(matches)
    assert unpadded.model[0].bias is model.decoder.model[0].bias
    assert model.decoder.model[0].padding == (3,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_golden_codes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32: with TensorFloat-32, the default of convolutions, an H200 finds 99.2% of the codes."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = golden_model("44khz").cuda()
    golden = np.load(GOLDEN / "dac_44khz_tiny_io.npz")
    codes = model.encode(torch.from_numpy(golden["audio"]).cuda()).codes.cpu().numpy()
    assert (codes == golden["codes"]).mean() > 0.999


def variation(**values: object) -> DAC:
    return DAC(
        DACConfig(
            encoder_dim=4,
            encoder_rates=(2, 4),
            latent_dim=6,
            decoder_dim=8,
            decoder_rates=(4, 2),
            n_codebooks=2,
            codebook_size=16,
            **values,  # type: ignore[arg-type]
        )
    )


def test_relu_instead_of_snake() -> None:
    model = variation(activation="relu")
    assert not any("alpha" in name for name, _ in model.named_parameters())
    assert model(torch.randn(2, 1, 64))["audio"].shape == (2, 1, 64)


def test_euclidean_look_up() -> None:
    stage = variation(lookup="euclidean").quantizer.stages()[0]
    latents = torch.randn(3, 8, 50)
    codes = stage.look_up(latents)
    distance = torch.cdist(latents.transpose(1, 2), stage.codebook.weight.expand(3, -1, -1))
    assert torch.equal(codes, distance.argmin(-1))
    stage.lookup = "cosine"
    assert not torch.equal(codes, stage.look_up(latents))


def test_moving_average_codebooks_find_the_clusters() -> None:
    model = variation(lookup="euclidean", codebook_learning="moving_average", codebook_dim=6, quantizer_dropout=0.0)
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(16, 6, generator=generator)

    def batch() -> torch.Tensor:
        chosen = centres[torch.randint(16, (4, 64), generator=generator)]
        return (chosen + 0.1 * torch.randn(chosen.shape, generator=generator)).transpose(1, 2)

    assert not any(parameter.requires_grad for parameter in model.quantizer.parameters())
    model.train()
    model.quantizer(batch() * float("nan"), generator=generator)  # does not begin with NaN
    for _ in range(150):
        model.quantizer(batch(), generator=generator)
    learned = model.quantizer.stages()[0].codebook.weight.clone()
    with torch.no_grad():
        model.quantizer(batch() + 100.0, generator=generator)
    assert torch.equal(learned, model.quantizer.stages()[0].codebook.weight), "nothing is learned without gradients"
    model.quantizer(batch() * float("nan"), generator=generator)
    assert torch.equal(learned, model.quantizer.stages()[0].codebook.weight), "nothing is learned from NaN"
    model.eval()
    points = batch()
    before = model.quantizer.stages()[0].codebook.weight.clone()
    error = (model.quantizer(points).z - points).square().mean()
    assert error < 0.02 * points.square().mean()
    assert torch.equal(before, model.quantizer.stages()[0].codebook.weight)


def test_a_causal_network_has_the_same_parameters() -> None:
    usual, causal = variation(), variation(causal=True)
    shapes = [{name: tensor.shape for name, tensor in model.state_dict().items()} for model in (usual, causal)]
    assert shapes[0] == shapes[1]
    causal.load_state_dict(usual.state_dict())
    audio = torch.randn(2, 1, 64)
    assert not torch.equal(causal(audio)["audio"], usual(audio)["audio"])


@pytest.mark.parametrize("rates", [(2, 4), (3, 5)])
@torch.no_grad()
def test_a_causal_network_does_not_look_ahead(rates: tuple[int, ...]) -> None:
    config = DACConfig(encoder_dim=4, encoder_rates=rates, decoder_dim=16, decoder_rates=rates[::-1], causal=True)
    model = DAC(config).double().eval()
    hop = model.hop_length
    audio = torch.randn(1, 1, 20 * hop, dtype=torch.float64)
    later = audio.clone()
    later[..., 10 * hop :] = 1.0
    z, z_later = model.encoder(audio), model.encoder(later)
    assert z.shape[-1] == 20
    assert torch.allclose(z[..., :10], z_later[..., :10], rtol=0, atol=1e-15)
    assert not torch.allclose(z[..., 10], z_later[..., 10], rtol=0, atol=1e-15)
    y, y_later = model.decoder(z), model.decoder(torch.cat((z[..., :10], z[..., 10:] + 1.0), -1))
    assert y.shape == audio.shape  # Also with odd strides.
    assert torch.allclose(y[..., : 10 * hop], y_later[..., : 10 * hop], rtol=0, atol=1e-15)
    assert not torch.allclose(y[..., 10 * hop], y_later[..., 10 * hop], rtol=0, atol=1e-15)


def test_a_causal_network_learns() -> None:
    model = lively(variation(causal=True).config, torch.float32).train()
    found = model(noise(2, 1, 64, dtype=torch.float32))
    (found["audio"].square().mean() + found["vq/commitment_loss"] + found["vq/codebook_loss"]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-6, name


def test_a_causal_decoder_needs_its_padding() -> None:
    model = variation(causal=True)
    with pytest.raises(ValueError, match="causal"):
        model.decoder.without_padding()


@pytest.mark.parametrize(
    "wrong",
    [{"activation": "tanh"}, {"lookup": "nearest"}, {"codebook_learning": "moving_average"}, {"causal": "yes"}],
)
def test_unknown_variations(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        variation(**wrong)
