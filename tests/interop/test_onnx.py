"""ONNX graphs in onnxruntime, beside the model and its streams."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dac_codec import CheckpointError, DacError, StreamingDecoder, StreamingEncoder, interop, pretrained
from dac_codec.evaluation.demo import clip_at
from dac_codec.inference import decoder_look_ahead, encoder_look_ahead
from dac_codec.interop import onnx as interop_onnx
from dac_codec.model import DAC, DACConfig
from dac_codec.model.layers import convolutions
from tests.cli.shell import run
from tests.conftest import GOLDEN, golden_model
from tests.inference.networks import TINY, lively, shape_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

MODELS: dict[str, Callable[[], DAC]] = {
    "mini": lambda: DAC.from_pretrained(pretrained.DEFAULT_MODEL),  # looks up by distance
    "24khz": lambda: golden_model("24khz"),  # odd strides
    "causal": lambda: calm(shape_of("24khz", causal=True)),
}
OPERATORS = {
    *("Add", "And", "ArgMax", "Cast", "Clip", "Concat", "Conv", "ConvTranspose", "DequantizeLinear", "Div", "Gather"),
    *("GreaterOrEqual", "Identity", "Less", "MatMul", "Max", "Mod", "Mul", "Neg", "Pad", "Range", "ReduceSum", "Relu"),
    *("Shape", "Sin", "Slice", "Sqrt", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where"),
}


def calm(config: DACConfig) -> DAC:
    """A network with random weights that does not amplify rounding."""
    model = lively(config, torch.float32)
    with torch.no_grad():
        for conv in convolutions(model.decoder):
            conv.weight = 0.7 * conv.weight
    return model


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DAC, Path]:
    model = MODELS[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    interop.export_onnx(model, folder)
    return model, folder


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def noise(*shape: int) -> Tensor:
    return 0.2 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def assert_equal_up_to_ties(model: DAC, audio: Tensor, found: Tensor, expected: Tensor) -> None:
    """Codes are equal, but where two entries are equally near within rounding, and behind that in the same frame."""
    assert found.shape == expected.shape
    differs = (found != expected).cumsum(1)
    assert differs[:, -1].bool().float().mean() < 0.05
    double = lively(model.config)
    double.load_state_dict(model.state_dict())
    residual = double.encoder(double.preprocess(audio))
    for index, stage in enumerate(double.quantizer.stages()):
        points = stage.inputs(residual)
        one, other = (stage.entries(codes[:, index]) for codes in (found, expected))
        distances = []
        for entries in (one, other):
            if stage.lookup == "cosine":
                distances.append(-torch.cosine_similarity(points, entries, 1))
            else:
                distances.append((points - entries).square().sum(1) / points.square().sum(1))
        first = (differs[:, index] == 1) & (found[:, index] != expected[:, index])
        assert ((distances[0] - distances[1]).abs()[first] < 1e-5).all()
        residual = residual - stage.outputs(other)


@torch.no_grad()
def test_whole_signals(exported: tuple[DAC, Path]) -> None:
    """Of any batch size and length, also one sample and no multiple of the hop."""
    model, folder = exported
    encoder, decoder = session(folder / "encoder_model.onnx"), session(folder / "decoder_model.onnx")
    assert [value.name for value in encoder.get_inputs() + encoder.get_outputs()] == ["input_values", "audio_codes"]
    assert [value.name for value in decoder.get_inputs() + decoder.get_outputs()] == ["audio_codes", "audio_values"]
    for batch, n_samples in ((1, 1), (1, model.hop_length), (3, 7 * model.hop_length - 5)):
        audio = noise(batch, 1, n_samples)
        expected = model.encode(audio).codes
        (found,) = encoder.run(None, {"input_values": audio.numpy()})
        assert found.dtype == np.int64
        assert_equal_up_to_ties(model, audio, torch.from_numpy(found), expected)
        fewer = expected.clone()
        fewer[:, 1:, ::2] = -1
        for codes in (expected, expected[:, :1], fewer, torch.full_like(expected, -1)):
            (decoded,) = decoder.run(None, {"audio_codes": codes.numpy()})
            torch.testing.assert_close(torch.from_numpy(decoded), model.decode_codes(codes), **tolerance(model))


def tolerance(model: DAC) -> dict[str, float]:
    """1e-5; more for random weights, which amplify rounding."""
    return {"atol": 1e-5 if model.name == pretrained.DEFAULT_MODEL else 1e-4, "rtol": 0.0}


class Step:
    """A graph for chunks, with its state."""

    def __init__(self, folder: Path, part: str, batch: int) -> None:
        self.session = session(folder / f"{part}.onnx")
        self.delay = json.loads((folder / "config.json").read_text())["dac_codec"][part]["delay"]
        states = {value.name: value for value in self.session.get_inputs() if value.name.startswith("past.")}
        self.state = {name: np.zeros([batch, *value.shape[1:]], np.float32) for name, value in states.items()}
        self.state["past.position"] = np.zeros(1, np.int64)

    def __call__(self, chunk: np.ndarray, n_frames: int) -> np.ndarray:
        values = {self.session.get_inputs()[0].name: chunk, "n_frames": np.array([n_frames]), **self.state}
        outputs = dict(
            zip([value.name for value in self.session.get_outputs()], self.session.run(None, values), strict=True)
        )
        self.state = {name: outputs[name.replace("past", "present")] for name in self.state}
        found: np.ndarray = next(iter(outputs.values()))
        return found


def chunks(signal: Tensor, size: int, delay: int, filler: float) -> Iterator[tuple[np.ndarray, bool]]:
    """A signal in chunks, and what follows it until all outputs are there, each with whether it has ended."""
    n_given = signal.shape[-1]
    n_all = -(-(n_given + delay) // size) * size
    padded = torch.nn.functional.pad(signal, (0, n_all - n_given), value=filler)
    for start in range(0, n_all, size):
        yield padded[..., start : start + size].numpy(), start + size >= n_given


@torch.no_grad()
@pytest.mark.parametrize(("batch", "n_frames", "size"), [(1, 12, 1), (2, 7, 3)])
def test_steps_equal_the_stream(exported: tuple[DAC, Path], batch: int, n_frames: int, size: int) -> None:
    model, folder = exported
    hop, unknown = model.hop_length, 2**40
    audio = noise(batch, 1, n_frames * hop)
    stream = StreamingEncoder(model, batch_size=batch)
    expected = torch.cat([stream.push(audio), stream.flush()], 2)
    step = Step(folder, "encoder_step", batch)
    found = [
        step(chunk, n_frames if ended else unknown) for chunk, ended in chunks(audio, size * hop, step.delay * hop, 0.5)
    ]
    codes = torch.from_numpy(np.concatenate(found, 2)[..., step.delay :][..., :n_frames])
    assert_equal_up_to_ties(model, audio, codes, expected)

    decoding = StreamingDecoder(model, batch_size=batch)
    played = torch.cat([decoding.push(expected), decoding.flush()], 2)
    step = Step(folder, "decoder_step", batch)
    late = -(-step.delay // hop)
    found = [step(chunk, n_frames if ended else unknown) for chunk, ended in chunks(expected, size, late, 1)]
    samples = torch.from_numpy(np.concatenate(found, 2)[..., step.delay :][..., : n_frames * hop])
    torch.testing.assert_close(samples, played, **tolerance(model))


@torch.no_grad()
@pytest.mark.parametrize("name", ["24khz", "44khz"])
def test_golden_codes(name: str, tmp_path: Path) -> None:
    """The codes of all golden files decode as in Python, and those of the reference's tensors as in the reference."""
    model = golden_model(name)
    interop.export_onnx(model, tmp_path)
    decoder = session(tmp_path / "decoder_model.onnx")
    files = sorted(GOLDEN.glob(f"legacy_{name}_*.npz"))
    assert len(files) == 3
    for path in files:
        with np.load(path) as fields:
            codes = fields["codes"].astype(np.int64)  # [C, N, F]
        (decoded,) = decoder.run(None, {"audio_codes": codes})
        expected = model.decode_codes(torch.from_numpy(codes))
        torch.testing.assert_close(torch.from_numpy(decoded), expected, atol=1e-4, rtol=0.0)
    with np.load(GOLDEN / f"dac_{name}_tiny_io.npz") as golden:
        (decoded,) = decoder.run(None, {"audio_codes": golden["codes"].astype(np.int64)})
        expected = golden["decoded"]  # fewer samples where a stride is odd
        np.testing.assert_allclose(decoded[..., : expected.shape[-1]], expected, atol=1e-4, rtol=0.0)


def test_delays_are_the_look_ahead(exported: tuple[DAC, Path]) -> None:
    model, folder = exported
    encoder, decoder = Step(folder, "encoder_step", 1), Step(folder, "decoder_step", 1)
    assert encoder.delay * model.hop_length - encoder_look_ahead(model) in range(model.hop_length)
    assert decoder.delay == decoder_look_ahead(model)


def test_operators_are_standard(exported: tuple[DAC, Path]) -> None:
    """No operators of a runtime, so that browsers run the graphs."""
    for name in interop.graph_files():
        graph = onnx.load(exported[1] / name)
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 17)]
        assert {node.op_type for node in graph.graph.node} <= OPERATORS


def test_the_configuration(exported: tuple[DAC, Path]) -> None:
    model, folder = exported
    content = json.loads((folder / "config.json").read_text())
    assert (content["model_type"], content["sampling_rate"]) == ("dac", model.sample_rate)
    own = content["dac_codec"]
    assert own["fingerprint"] == pretrained.fingerprint(model).hex()
    assert (own["sample_rate"], own["hop_length"]) == (model.sample_rate, model.hop_length)
    assert {file.name for file in folder.iterdir()} == {
        *interop.graph_files(),
        "config.json",
        "preprocessor_config.json",
    }


@pytest.mark.parametrize("config", [shape_of("44khz"), TINY], ids=["usual", "uneven"])
@torch.no_grad()
def test_every_opset_gives_the_same(tmp_path: Path, config: Any) -> None:
    model = lively(config, torch.float32)
    audio = noise(1, 1, 20 * model.hop_length)
    results = []
    for opset in (13, 18, 21):
        interop.export_onnx(model, tmp_path, opset=opset)
        results += session(tmp_path / "encoder_model.onnx").run(None, {"input_values": audio.numpy()})
        assert Step(tmp_path, "decoder_step", 1)(results[-1], 20).shape == (1, 1, audio.shape[-1])
    assert all(np.array_equal(one, results[0]) for one in results)
    with pytest.raises(ValueError, match="opset must be between 13 and 21"):
        interop.export_onnx(model, tmp_path, opset=12)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "relu"},
        {"codebook_learning": "moving_average", "lookup": "euclidean", "codebook_dim": 8},
        {"quantizer": "grouped", "groups": 2, "n_codebooks": 4},
    ],
)
@torch.no_grad()
def test_other_networks(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = calm(DACConfig.from_dict({**shape_of("44khz").to_dict(), **changes}))
    interop.export_onnx(model, tmp_path)
    audio = noise(2, 1, 5000)
    (codes,) = session(tmp_path / "encoder_model.onnx").run(None, {"input_values": audio.numpy()})
    assert_equal_up_to_ties(model, audio, torch.from_numpy(codes), model.encode(audio).codes)
    (decoded,) = session(tmp_path / "decoder_model.onnx").run(None, {"audio_codes": codes})
    expected = model.decode_codes(torch.from_numpy(codes))
    torch.testing.assert_close(torch.from_numpy(decoded), expected, **tolerance(model))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": "fsq", "codebook_dim": 1, "quantizer_dropout": 0.0}, "'fsq' can't be exported as ONNX; torch"),
        ({"quantizer": "additive"}, "'additive' can't be exported as ONNX$"),
    ],
)
def test_quantizers_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    config = {**shape_of("44khz").to_dict(), "lookup": "euclidean", **changes}
    with pytest.raises(CheckpointError, match=message):
        interop.export_onnx(DAC(DACConfig.from_dict(config)), tmp_path)


def test_precisions(tmp_path: Path) -> None:
    """The bundled model, beside its values on the bundled clip."""
    model = MODELS["mini"]()
    clip = clip_at(model.sample_rate)[0][: model.sample_rate]
    found = {precision: interop.export_onnx(model, tmp_path, precision, clip=clip) for precision in ("fp16", "int8")}
    assert {file.name for file in tmp_path.glob("*.onnx")} == {
        *interop.graph_files("fp16"),
        *interop.graph_files("int8"),
    }
    sizes = [(tmp_path / f"decoder_model_{precision}.onnx").stat().st_size for precision in ("fp16", "int8")]
    assert sizes[0] < 3.3e6
    assert sizes[1] < 1.9e6
    for precision, codes, audio, increase in (("fp16", 0.98, 1e-3, 0.01), ("int8", 0.9, 1e-2, 0.05)):
        agreement = found[precision]
        assert agreement.codes > codes
        assert agreement.audio < audio
        assert agreement.exported_mel_distance - agreement.mel_distance < increase


def test_a_large_mel_distance_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(shape_of("44khz"), torch.float32)
    clip = noise(8000).numpy()
    monkeypatch.setattr(interop_onnx, "MAX_MEL_INCREASE", -1.0)
    with pytest.raises(CheckpointError, match="in int8 the mel distance to the original grows from"):
        interop.export_onnx(model, tmp_path / "folder", "int8", clip=clip)
    assert not (tmp_path / "folder").exists()
    with pytest.raises(CheckpointError, match="only written after a comparison"):
        interop.export_onnx(model, tmp_path / "folder", "int8")
    assert interop.export_onnx(model, tmp_path / "folder", "int8", accept=True) is None
    assert len(list((tmp_path / "folder").iterdir())) == 6


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(
    ("precision", "value", "whose"), [("int8", torch.nan, "model"), ("fp16", 1e5, "graphs in fp16")]
)
def test_output_that_is_not_finite_is_refused(tmp_path: Path, precision: Any, value: float, whose: str) -> None:
    model = MODELS["mini"]()
    with torch.no_grad():
        next(convolutions(model.decoder)).bias.fill_(value)
    with pytest.raises(CheckpointError, match=f"^the output of the {whose} for the clip is not finite$"):
        interop.export_onnx(model, tmp_path / "folder", precision, clip=noise(8000).numpy())
    assert not (tmp_path / "folder").exists()


def test_without_librosa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mel distances need it: only int8 is refused."""
    monkeypatch.setitem(sys.modules, "librosa", None)
    model, clip = calm(shape_of("44khz")), noise(8000).numpy()
    agreement = interop.export_onnx(model, tmp_path, clip=clip)
    assert agreement is not None
    assert agreement.mel_distance is None
    assert str(agreement).startswith("100.00% of the codes are equal, audio of the same codes to ")
    with pytest.raises(CheckpointError, match="pip install librosa"):
        interop.export_onnx(model, tmp_path, "int8", clip=clip)


def test_the_examples_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interop.export_onnx(MODELS["mini"](), tmp_path / "exported")
    page = (
        (Path(__file__).parents[2] / "docs/interop.md")
        .read_text(encoding="utf-8")
        .partition("## ONNX")[2]
        .partition("## torch.export")[0]
    )
    monkeypatch.chdir(tmp_path)
    variables: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        exec(block, variables)
    assert variables["streamed"].shape == variables["decoded"].shape == (1, 1, 87 * 512)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained.save(lively(shape_of("44khz"), torch.float32), tmp_path / "model")
    arguments = ["export", str(tmp_path / "model"), "-o", str(tmp_path / "out")]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "% of the codes are equal" in result.output
    assert (tmp_path / "out" / "decoder_step.onnx").exists()
    again = run(*arguments)
    assert again.exit_code == 1
    assert "exists; use --force" in again.output
    assert run(*arguments, "--force", "--quiet").output == ""
    assert run(*arguments, "--format", "torch-export", "--precision", "int8").exit_code == 2

    monkeypatch.setattr(interop_onnx, "MAX_MEL_INCREASE", -1.0)
    refused = run(*arguments, "--precision", "int8")
    assert refused.exit_code == 1
    assert "in int8 the mel distance to the original grows" in refused.output
    assert not (tmp_path / "out" / "decoder_model_int8.onnx").exists()
    assert run(*arguments, "--precision", "int8", "--force").exit_code == 0
    assert (tmp_path / "out" / "decoder_model_int8.onnx").exists()


def test_a_missing_package_has_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(interop, "onnx_graph", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "dac_codec.interop.onnx_graph", raising=False)
    with pytest.raises(DacError, match=r"onnx is not installed: pip install 'dac_codec\[onnx\]'"):
        interop.export_onnx(lively(TINY, torch.float32), tmp_path)
