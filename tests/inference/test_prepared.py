"""A prepared model gives the same results."""

from __future__ import annotations

import copy
import gc
import time
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import inference, pretrained
from dac_codec.common import spectral
from dac_codec.common.spectral import Spectra
from dac_codec.inference import (
    PreparedDAC,
    StreamingDecoder,
    StreamingEncoder,
    layers,
    network,
    prepare,
    prepare_cached,
    prepared,
)
from dac_codec.model import DAC, DACConfig
from tests.conftest import GOLDEN, golden_model
from tests.inference.networks import TINY, lively, noise, pieces, run

RATES = [(2, 3), (3, 5), (4,), (5, 2, 3)]
MODELS = [
    lively(replace(TINY, encoder_rates=rates, decoder_rates=rates[::-1], latent_dim=None, causal=causal))
    for rates in RATES
    for causal in (False, True)
]
MODELS.append(lively(replace(TINY, decoder_rates=(3, 1, 2))))


@given(st.sampled_from(MODELS), st.integers(1, 400), st.integers(1, 3), st.sampled_from([None, 1, 2]))
@settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_it_equals_the_model(model: DAC, n_samples: int, batch: int, n_quantizers: int | None) -> None:
    prepared = prepare(model)
    assert prepared.dtype == torch.float64
    audio = noise(batch, 1, n_samples)
    expected, found = model(audio, n_quantizers=n_quantizers), prepared(audio, n_quantizers=n_quantizers)
    assert torch.equal(found["codes"], expected["codes"])
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-10), name
    assert torch.allclose(prepared.decode_codes(found["codes"]), model.decode_codes(found["codes"]), atol=1e-10)


@pytest.mark.parametrize("name", ["44khz", "24khz"])
@torch.no_grad()
def test_golden_values(name: str) -> None:
    golden = np.load(GOLDEN / f"dac_{name}_tiny_io.npz")
    prepared = prepare(golden_model(name), exact=True)
    audio = torch.from_numpy(golden["audio"])
    encoded = prepared.encode(audio)
    assert np.array_equal(encoded.codes, golden["codes"])
    assert np.allclose(encoded.latents, golden["latents"], atol=1e-4 * np.abs(golden["latents"]).max())
    assert float(encoded.commitment_loss) == pytest.approx(float(golden["commitment_loss"]), rel=1e-4)
    n_reference = golden["decoded"].shape[-1]
    decoded = prepared.decode(torch.from_numpy(golden["z"]))[..., :n_reference]
    assert np.allclose(decoded, golden["decoded"], atol=1e-4)
    assert np.allclose(prepared.decode_codes(encoded.codes)[..., :n_reference], golden["decoded"], atol=1e-4)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5).filter(any), st.sampled_from(MODELS))
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_streams_equal_the_whole(sizes: list[int], model: DAC) -> None:
    prepared = prepare(model)
    audio = noise(2, 1, 1000)
    encoder, decoder = StreamingEncoder(prepared, batch_size=2), StreamingDecoder(prepared, 2)
    codes = run(encoder.push, encoder.flush, pieces(audio, sizes))
    assert torch.equal(codes, model.encode(audio).codes)
    audio = run(decoder.push, decoder.flush, pieces(codes, sizes))
    assert torch.allclose(audio, model.decode_codes(codes), atol=1e-10)


@torch.no_grad()
def test_sizes_of_blocks_and_tiles_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[2]
    audio = noise(2, 1, 3000)
    expected = model(audio)
    monkeypatch.setattr(layers, "_TILE_BYTES", 1)
    monkeypatch.setattr(layers, "_MIN_TILE", 4)
    monkeypatch.setattr(network, "block_samples", lambda device: 300)
    found = prepare(model)(audio)
    assert torch.equal(found["codes"], expected["codes"])
    assert torch.allclose(found["audio"], expected["audio"], atol=1e-10)


def test_streams_share_the_weights() -> None:
    prepared = prepare(golden_model("44khz"))
    one, other = StreamingDecoder(prepared), StreamingDecoder(prepared)

    def convs(layer: layers.Layer) -> list[object]:
        found: list[object] = [layer.conv] if isinstance(layer, layers.Convolution) else []
        return found + [conv for child in layer.children.values() for conv in convs(child)]

    first, second = (convs(stream._network.layers) for stream in (one, other))
    assert len(first) > 10
    assert all(a is b for a, b in zip(first, second, strict=True))


def test_other_attributes_equal_the_models(tmp_path: Path) -> None:
    model = golden_model("44khz").train()
    prepared = prepare(model)
    assert model.training
    assert not prepared.training
    assert pretrained.fingerprint(prepared) == pretrained.fingerprint(model)
    assert (prepared.config, prepared.name, prepared.device) == (model.config, model.name, model.device)
    for mine, theirs in zip(prepared.parameters(), model.parameters(), strict=True):
        assert mine.data_ptr() == theirs.data_ptr()
    prepared.save_pretrained(tmp_path / "saved")
    assert type(DAC.from_pretrained(tmp_path / "saved")) is DAC


@torch.no_grad()
def test_moved_weights_take_effect() -> None:
    model = lively(TINY)
    prepared = prepare(model, dtype="float32")
    audio = noise(1, 1, 100, dtype=torch.float32)
    prepared.encode(audio)
    with torch.no_grad():
        model.quantizer.stages()[0].codebook.weight.neg_()
    prepared.to("cpu")
    assert torch.equal(prepared.encode(audio).codes, prepare(model, dtype="float32").encode(audio).codes)


KINDS = [
    TINY,
    replace(TINY, activation="relu", lookup="euclidean"),
    replace(TINY, codebook_learning="moving_average", lookup="euclidean", codebook_dim=6),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", KINDS, ids=["snake", "relu", "moving average"])
@torch.no_grad()
def test_later_changes_of_weights_have_no_effect(config: DACConfig, dtype: torch.dtype) -> None:
    model = lively(config, dtype)
    prepared = prepare(model)
    audio = noise(1, 1, 300, dtype=dtype)
    before = prepared(audio)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.mul_(-1.5).add_(0.1)
    for name, value in prepared(audio).items():
        assert torch.equal(value, before[name]), name


@torch.no_grad()
def test_loaded_weights_take_effect() -> None:
    model, other = lively(TINY), lively(TINY)
    for parameter in other.parameters():
        parameter.mul_(-1.1)
    audio = noise(1, 1, 300)
    before = model(audio)["audio"]
    prepared = prepare(model)
    prepared(audio)
    prepared.load_state_dict(other.state_dict())
    assert pretrained.fingerprint(prepared) == pretrained.fingerprint(other)
    assert torch.allclose(prepared(audio)["audio"], other(audio)["audio"], atol=1e-10)
    assert torch.equal(model(audio)["audio"], before)
    with pytest.raises(RuntimeError, match="Missing key"):
        prepared.load_state_dict({"decoder.model.0.bias": model.decoder.model[0].bias}, strict=True)
    assert torch.allclose(prepared(audio)["audio"], prepare(prepared)(audio)["audio"], atol=1e-10)


@torch.no_grad()
def test_model_and_prepared_model_move_independently() -> None:
    model = lively(TINY, torch.float32)
    exact, near = prepare(model, exact=True), prepare(model, dtype="bfloat16")
    audio = noise(1, 1, 300)
    exact.encode(audio)
    for each in (exact, near):
        each.double()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (exact.dtype, near.dtype) == (torch.float64, torch.bfloat16)
    z, expected = exact.encode(audio).z, copy.deepcopy(model).double().encode(audio).z
    assert torch.allclose(z, expected, atol=1e-12)
    exact = prepare(model, exact=True)
    model.double()
    assert exact.encode(audio).z.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.no_grad()
def test_output_types_equal_the_models(dtype: torch.dtype) -> None:
    model = lively(TINY).to(dtype)
    audio = noise(1, 1, 300).to(dtype)
    found, expected = prepare(model)(audio), model(audio)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
    assert torch.allclose(found["z"], model.quantizer.from_codes(found["codes"])[0], atol=0.1)


def test_threads_share_the_prepared_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def slowly(kind: Any) -> Callable[..., Any]:
        def make(*arguments: Any) -> Any:
            made.append(kind.__name__)
            time.sleep(0.05)
            return kind(*arguments)

        return make

    monkeypatch.setattr(prepared, "Network", slowly(prepared.Network))
    monkeypatch.setattr(prepared, "FoldedQuantizer", slowly(prepared.FoldedQuantizer))
    model = prepare(golden_model("44khz"))

    def parts(_: int) -> tuple[object, ...]:
        return model.encoder_network, model.folded_quantizer, model.decoder_network

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(parts, range(8)))
    assert sorted(made) == ["FoldedQuantizer", "Network", "Network"]
    assert len(set(found)) == 1


@torch.no_grad()
def test_a_copy_is_independent() -> None:
    model = prepare(golden_model("44khz"), exact=True)
    audio = noise(1, 1, 600, dtype=torch.float32)
    codes = model.encode(audio).codes
    twin = copy.deepcopy(model)
    assert torch.equal(twin.encode(audio).codes, codes)
    for parameter in twin.parameters():
        parameter.neg_()
    twin.to("cpu")
    assert not torch.equal(twin.encode(audio).codes, codes)
    model.to("cpu")
    assert torch.equal(model.encode(audio).codes, codes)


@pytest.mark.parametrize(
    ("here", "wanted", "expected"),
    [
        ("cuda:0", "cuda", True),
        ("cuda:1", "cuda", True),
        ("cuda:1", "cuda:1", True),
        ("cuda:1", "cuda:0", False),
        ("cpu", "cpu:0", True),
        ("cpu", "cuda", False),
        ("cuda:0", "cpu", False),
    ],
)
def test_is_on(here: str, wanted: str, expected: bool) -> None:
    model: Any = SimpleNamespace(device=torch.device(here))
    assert prepared.is_on(model, wanted) is expected
    assert prepared.is_on(model, torch.device(wanted)) is expected


def test_a_model_on_the_device_is_not_copied() -> None:
    model = golden_model("44khz")
    for device in (None, "cpu", "cpu:0"):
        assert next(prepare(model, device).parameters()).data_ptr() == next(model.parameters()).data_ptr()


@torch.no_grad()
def test_bfloat16_is_close() -> None:
    """The bound in the documentation, with the bundled model on real audio."""
    import soundfile

    sound, rate = soundfile.read(Path(inference.__file__).parents[1] / "evaluation" / "demo.flac", dtype="float32")
    model = DAC.from_pretrained(pretrained.DEFAULT_MODEL)
    assert rate == model.sample_rate
    audio = torch.from_numpy(sound if sound.ndim == 1 else sound[:, 0])[None, None]
    exact, near = prepare(model, exact=True), prepare(model, dtype="bfloat16")
    codes = exact.encode(audio).codes
    equal = near.encode(audio).codes == codes
    assert equal[:, 0].float().mean() > 0.9
    assert equal.float().mean() > 0.5
    decoded, expected = near.decode_codes(codes), exact.decode_codes(codes)
    assert not torch.equal(decoded, expected)
    assert decoded.dtype == torch.float32
    distance = spectral.mel_distance(rate)(Spectra(decoded), Spectra(expected))
    assert float(distance) < 0.1
    assert float(spectral.si_sdr(decoded, expected).mean()) > 40


def test_auto_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    model = golden_model("44khz")
    for answer in (True, False):
        monkeypatch.setattr(inference.prepared, "_has_bfloat16", lambda device, answer=answer: answer)
        assert prepare(model).dtype == (torch.bfloat16 if answer else torch.float32)
        assert prepare(model, exact=True).dtype == torch.float32
        assert prepare(model, dtype="bfloat16").dtype == torch.bfloat16
        exact = prepare(model, exact=True)
        assert exact.approximate.dtype == (torch.bfloat16 if answer else torch.float32)
        assert exact.approximate is exact.approximate
        assert exact.approximate.approximate is exact.approximate
    monkeypatch.undo()
    assert not inference.prepared._has_bfloat16(torch.device("cuda"))


def test_exact_with_another_type() -> None:
    with pytest.raises(ValueError, match="own type"):
        prepare(golden_model("44khz"), dtype="bfloat16", exact=True)


@pytest.mark.parametrize("dtype", ["bf16", "float16", torch.bfloat16], ids=str)
def test_unknown_types(dtype: Any) -> None:
    with pytest.raises(ValueError, match="dtype must be one of 'auto', 'float32', 'bfloat16', not "):
        prepare(golden_model("44khz"), dtype=dtype)


@pytest.mark.parametrize("n_quantizers", [0, 99, 2.5, True])
def test_wrong_n_quantizers(n_quantizers: int) -> None:
    with pytest.raises(ValueError, match="between 1 and"):
        prepare(golden_model("44khz")).encode(torch.zeros(1, 1, 100), n_quantizers)


def test_compilation_is_for_cpus() -> None:
    """A warning, on request only; the meta device stands for a GPU."""
    model = golden_model("44khz").to("meta")
    with pytest.warns(UserWarning, match="activations are not compiled: that is for CPUs"):
        prepare(model, compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(model, dtype="bfloat16")


def test_a_prepared_model_is_kept_until_the_model_changes() -> None:
    model = lively(TINY, torch.float32)
    first = prepare_cached(model)
    assert prepare_cached(first) is first
    assert prepare_cached(model) is first
    assert prepare_cached(model, exact=False) is not first
    assert first.dtype == torch.float32
    changes: list[Callable[[], Any]] = [
        lambda: model.quantizer.stages()[0].codebook.weight.data.neg_(),  # Leaves PyTorch's version counter.
        lambda: model.load_state_dict({name: 2 * tensor for name, tensor in model.state_dict().items()}),
        lambda: model.double(),
        lambda: setattr(model, "name", "renamed"),
    ]
    audio = noise(1, 1, 100)
    for change in changes:
        before = prepare_cached(model)
        with torch.no_grad():
            change()
        after = prepare_cached(model)
        assert after is not before
        assert after.name == model.name
        assert torch.equal(inference.encode(model, audio), prepare(model, exact=True).encode(audio).codes)
        assert prepare_cached(model) is after


def test_training_steps_take_effect() -> None:
    model = lively(TINY, torch.float32)
    audio = noise(1, 1, 100, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        model(audio)["audio"].square().mean().backward()
        optimizer.step()
        codes = inference.encode(model, audio)
        assert torch.equal(codes, prepare(model, exact=True).encode(audio).codes)


def test_a_kept_model_is_freed_with_the_model() -> None:
    model = lively(TINY)
    kept = weakref.ref(prepare_cached(model))
    del model
    gc.collect()
    assert kept() is None


def test_parts_prepared_in_inference_mode_serve_outside_of_it() -> None:
    model = lively(TINY, torch.float32)
    audio = noise(1, 1, 300, dtype=torch.float32)
    with torch.inference_mode():
        codes = inference.encode(model, audio)
        decoded = inference.decode(model, codes)
    assert torch.equal(inference.encode(model, audio), codes)
    assert torch.equal(inference.decode(model, codes), decoded)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_on_a_gpu() -> None:
    model = golden_model("44khz")
    audio = noise(2, 1, 20_000, dtype=torch.float32)
    codes = model.encode(audio).codes
    assert type(prepare(model, "cuda")) is PreparedDAC
    exact = prepare(model, "cuda", exact=True)
    assert model.device.type == "cpu"
    assert (exact.encode(audio.cuda()).codes.cpu() == codes).float().mean() > 0.999
    assert torch.allclose(exact.decode_codes(codes.cuda()).cpu(), model.decode_codes(codes), atol=1e-4)
    assert exact.approximate is not exact
    near = prepare(model, "cuda").decode_codes(codes.cuda()).cpu()
    assert torch.allclose(near, model.decode_codes(codes), atol=0.05)
