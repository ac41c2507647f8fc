"""Models in the layouts of transformers and descript-audio-codec: the same bits both ways, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from dac_codec import DAC, PRESETS, CheckpointError, DACConfig, interop, pretrained
from dac_codec.interop import convert_model, save_reference, save_transformers
from dac_codec.model.config import OURS_ONLY
from dac_codec.pretrained import fingerprint, transformers_layout
from tests.cli.shell import run
from tests.conftest import golden_model

CONFIG = DACConfig(
    encoder_dim=4,
    encoder_rates=(2, 5),
    decoder_dim=16,
    decoder_rates=(5, 2),
    n_codebooks=3,
    codebook_size=16,
    codebook_dim=4,
    quantizer_dropout=0.25,
    sample_rate=16000,
)
UNEVEN = dataclasses.replace(CONFIG, encoder_rates=(2, 3, 4), latent_dim=20, decoder_rates=(6, 4), sample_rate=44100)


def random_model(config: DACConfig = CONFIG) -> DAC:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DAC(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that the network computes with, by layer."""
    kinds = (nn.Conv1d, nn.ConvTranspose1d, nn.Embedding)
    found = {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, kinds)}
    return found | {name: value for name, value in model.named_parameters() if name.endswith(("alpha", "bias"))}


def assert_equal_weights(ours: DAC, other: DAC) -> None:
    expected, found = weights(ours), weights(other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("config", [CONFIG, UNEVEN], ids=["usual", "uneven"])
def test_every_bit_comes_back(tmp_path: Path, config: DACConfig) -> None:
    model = random_model(config)
    save_transformers(model, tmp_path / "theirs")
    back = DAC.from_pretrained(tmp_path / "theirs")
    assert (back.config, back.name) == (config, "theirs")
    assert_equal_weights(model, back)
    save_transformers(back, tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    convert_model(tmp_path / "theirs", tmp_path / "ours", "ours")
    ours = DAC.from_pretrained(tmp_path / "ours")
    assert_equal_weights(model, ours)
    assert fingerprint(ours) == fingerprint(back)


def test_a_model_without_weight_norm_keeps_every_bit(tmp_path: Path) -> None:
    merged = random_model()
    for layer in merged.modules():
        if nn.utils.parametrize.is_parametrized(layer):
            nn.utils.parametrize.remove_parametrizations(layer, "weight")
    merged.save_pretrained(tmp_path / "ours")
    assert_equal_weights(merged, DAC.from_pretrained(tmp_path / "ours"))


@pytest.mark.parametrize(
    ("kind", "suffix"), [("weight_g", ".weight_g"), ("parametrizations", ".parametrizations.weight.original0")]
)
def test_factors_keep_the_fingerprint(tmp_path: Path, kind: Any, suffix: str) -> None:
    model = random_model()
    save_transformers(model, tmp_path, kind)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert f"decoder.block.0.res_unit1.conv2{suffix}" in tensors
    assert fingerprint(DAC.from_pretrained(tmp_path)) == fingerprint(model)


def test_a_sparse_configuration(tmp_path: Path) -> None:
    """Transformers 4 leaves out of config.json what has its default."""
    content = {"model_type": "dac", "downsampling_ratios": [2, 4, 5, 8], "n_codebooks": 12, "torch_dtype": "float32"}
    expected = dataclasses.replace(PRESETS["16khz"], quantizer_dropout=0.0)
    assert DACConfig.from_dict(transformers_layout.parse(content, tmp_path)) == expected


def test_the_reference_layout(tmp_path: Path) -> None:
    """A golden checkpoint of the reference implementation has the same tensors and metadata after a round trip."""
    model = golden_model("44khz")
    save_transformers(model, tmp_path / "theirs", "weight_g")
    convert_model(tmp_path / "theirs", tmp_path / "weights.pth", "reference")
    golden = torch.load(Path(__file__).parents[1] / "golden" / "dac_44khz_tiny.pth", weights_only=True)
    found = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert found["state_dict"].keys() == golden["state_dict"].keys()
    assert all(torch.equal(found["state_dict"][name], golden["state_dict"][name]) for name in golden["state_dict"])
    assert DACConfig.from_dict(found["metadata"]["kwargs"]) == DACConfig.from_dict(golden["metadata"]["kwargs"])
    assert not set(OURS_ONLY) & found["metadata"]["kwargs"].keys()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"lookup": "euclidean"}, "lookup 'euclidean'"),
        ({"activation": "relu"}, "activation 'relu'"),
        ({"causal": True}, "causal True"),
        ({"quantizer": "grouped", "groups": 2, "n_codebooks": 4}, "quantizer 'grouped', groups 2"),
        ({"quantizer": "additive", "lookup": "euclidean"}, "lookup 'euclidean', quantizer 'additive'"),
        ({"codebook_sizes": (16, 8, 4)}, "codebook_sizes .16, 8, 4."),
        (
            {"codebook_learning": "moving_average", "lookup": "euclidean", "codebook_dim": 16},
            "lookup 'euclidean', codebook_learning 'moving_average'",
        ),
    ],
)
def test_what_others_lack_is_refused_by_name(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    model = DAC(dataclasses.replace(CONFIG, **change))
    with pytest.raises(CheckpointError, match=named):
        save_transformers(model, tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=named):
        save_reference(model, tmp_path / "weights.pth")
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="transformers can't express this model: it has no lookup 'euclidean'"):
        convert_model(pretrained.DEFAULT_MODEL, tmp_path / "theirs", "transformers")


def test_codebook_sizes(tmp_path: Path) -> None:
    model = DAC(dataclasses.replace(CONFIG, codebook_size=12))
    with pytest.raises(CheckpointError, match="codebook_size 12"):
        save_transformers(model, tmp_path / "theirs")
    save_reference(model, tmp_path / "weights.pth")
    assert fingerprint(DAC.from_pretrained(tmp_path / "weights.pth")) == fingerprint(model)


def test_unknown_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weight_norm must be"):
        save_transformers(random_model(), tmp_path, "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="to must be"):
        convert_model(pretrained.DEFAULT_MODEL, tmp_path, "onnx")  # type: ignore[arg-type]


def changed(folder: Path, **fields: object) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def test_other_folders_are_refused(tmp_path: Path) -> None:
    save_transformers(random_model(), tmp_path)
    with pytest.raises(CheckpointError, match="model_type 'encodec', expected 'dac'"):
        DAC.from_pretrained(changed(tmp_path, model_type="encodec"))
    with pytest.raises(CheckpointError, match="encoder_rates must be integers"):
        DAC.from_pretrained(changed(tmp_path, model_type="dac", downsampling_ratios="2"))
    rates = {"downsampling_ratios": [2] * 900, "upsampling_ratios": [2] * 900}
    with pytest.raises(CheckpointError, match="too few for its configuration"):
        DAC.from_pretrained(changed(tmp_path, **rates, decoder_hidden_size=2**900))
    rates = {"downsampling_ratios": [2, 5], "upsampling_ratios": [2, 5]}
    with pytest.raises(CheckpointError, match="has the shape"):
        DAC.from_pretrained(changed(tmp_path, **rates, decoder_hidden_size=16))


def test_loss_weights_are_not_dropped_silently(tmp_path: Path) -> None:
    save_transformers(random_model(), tmp_path)
    with pytest.warns(UserWarning, match="commitment_loss_weight is not kept"):
        DAC.from_pretrained(changed(tmp_path, commitment_loss_weight=1.0))


@pytest.mark.parametrize("second", ["encoder.block.0.weight", "encoder.conv1.weight_g"])
def test_a_tensor_twice_is_refused(tmp_path: Path, second: str) -> None:
    save_transformers(random_model(), tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors[second] = tensors["encoder.conv1.weight"].clone()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the same tensor twice|does not have: encoder\.block\.0\.weight_g"):
        DAC.from_pretrained(tmp_path)


def test_half_precision_weights(tmp_path: Path) -> None:
    model = random_model()
    save_transformers(model, tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    halves = {name: tensor.half() for name, tensor in tensors.items()}
    safetensors.torch.save_file(halves, tmp_path / "model.safetensors")
    found = DAC.from_pretrained(tmp_path).encoder.block[0].weight
    assert torch.equal(found, halves["encoder.conv1.weight"].float())


def test_the_command(tmp_path: Path) -> None:
    model = random_model()
    pretrained.save(model, tmp_path / "ours")
    (tmp_path / "ours" / "context.safetensors").write_bytes(b"")
    arguments = ["convert-model", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "transformers"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "without context.safetensors" in result.output
    assert_equal_weights(model, DAC.from_pretrained(tmp_path / "theirs"))

    again = run(*arguments)
    assert again.exit_code == 1
    assert "exists; use --force" in again.output
    assert run(*arguments, "--force", "--quiet").exit_code == 0

    assert run(*arguments[:-1], "ours", "--weight-norm", "weight_g").exit_code == 2
    refused = run("convert-model", pretrained.DEFAULT_MODEL, str(tmp_path / "none"), "--to", "reference")
    assert refused.exit_code == 1
    assert "descript-audio-codec can't express this model" in refused.output
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("config", [CONFIG, UNEVEN], ids=["usual", "uneven"])
def test_the_real_transformers(tmp_path: Path, config: DACConfig) -> None:
    """Codes equal and audio to 1e-5, also where T is no multiple of the hop: both pad the same input."""
    transformers = pytest.importorskip("transformers")
    model = random_model(config)
    interop.save_transformers(model, tmp_path / "theirs")
    theirs = transformers.DacModel.from_pretrained(tmp_path / "theirs").eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "theirs")
    audio = 0.3 * torch.randn(37 * config.hop_length - 3, generator=torch.Generator().manual_seed(1))
    inputs = extractor(raw_audio=audio.numpy(), sampling_rate=config.sample_rate, return_tensors="pt")["input_values"]
    with torch.no_grad():
        encoded, found = model.encode(audio[None, None]), theirs.encode(inputs)
        assert torch.equal(encoded.codes, found.audio_codes)
        decoded, expected = model.decode_codes(encoded.codes), theirs.decode(audio_codes=encoded.codes).audio_values
        # transformers returns a few samples less where a stride is odd.
        torch.testing.assert_close(decoded[:, 0, : expected.shape[-1]], expected, atol=1e-5, rtol=0)
        unpadded = model.quantizer(model.encoder(audio[None, None])).codes
        assert torch.equal(unpadded, theirs.encode(audio[None, None]).audio_codes)

    theirs.save_pretrained(tmp_path / "saved")
    assert_equal_weights(model, DAC.from_pretrained(tmp_path / "saved"))
    theirs.apply_weight_norm()
    theirs.save_pretrained(tmp_path / "normed")
    back = weights(DAC.from_pretrained(tmp_path / "normed"))
    names = transformers_layout.module_names(config)
    for name, layer in theirs.named_modules():
        ours = next((key for key, value in names.items() if value == name), name)
        if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d)):
            assert torch.equal(layer.weight, back[ours])


@torch.no_grad()
@pytest.mark.parametrize("name", ["24khz", "44khz"])
def test_the_real_reference(tmp_path: Path, name: str) -> None:
    """Codes equal and audio to 1e-5, also where T is no multiple of the hop."""
    reference = pytest.importorskip("dac")
    model = golden_model(name)
    save_reference(model, tmp_path / "weights.pth")
    theirs = reference.DAC.load(tmp_path / "weights.pth").eval()
    for n_samples in (20 * model.hop_length, 20001):
        audio = 0.2 * torch.randn(2, 1, n_samples, generator=torch.Generator().manual_seed(0))
        encoded = model.encode(audio)
        z, codes, *_ = theirs.encode(theirs.preprocess(audio, model.sample_rate))
        assert torch.equal(encoded.codes, codes)
        expected = theirs.decode(z)  # a few samples less where a stride is odd
        decoded = model.decode_codes(codes)[..., : expected.shape[-1]]
        torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=0)
        assert torch.equal(model.quantizer(model.encoder(audio)).codes, theirs.encode(audio)[1])  # unpadded


def test_a_model_of_transformers_gives_its_codes_here(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DacConfig(
        encoder_hidden_size=4, downsampling_ratios=[2, 4], decoder_hidden_size=16, codebook_size=32, codebook_dim=4
    )
    theirs = transformers.DacModel(config).eval()
    theirs.save_pretrained(tmp_path)
    model = DAC.from_pretrained(tmp_path)
    audio = torch.randn(2, 1, 80)
    with torch.no_grad():
        found = theirs(audio)
        encoded = model.encode(audio)
        assert torch.equal(encoded.codes, found.audio_codes)
        torch.testing.assert_close(model.decode(encoded.z)[:, 0], found.audio_values, atol=1e-5, rtol=0)
