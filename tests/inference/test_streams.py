"""Streams equal the whole signal, for any chunks."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dac_codec import inference
from dac_codec.inference import StreamingDecoder, StreamingEncoder, convolution
from dac_codec.inference.convolution import RowConv
from dac_codec.model import DAC
from tests.conftest import golden_model
from tests.inference.networks import TINY, lively, noise, pieces, run, shape_of

RATES = [(2, 3), (3, 5), (4,), (5, 2, 3)]
NETWORKS = {
    (rates, causal): lively(
        replace(TINY, encoder_rates=rates, decoder_rates=rates[::-1], latent_dim=None, causal=causal)
    )
    for rates in RATES
    for causal in (False, True)
}
NETWORKS[(3, 1, 2), False] = lively(replace(TINY, decoder_rates=(3, 1, 2)))

networks = st.sampled_from(list(NETWORKS.values()))
sizes = st.lists(st.integers(0, 100), min_size=1, max_size=6).filter(any)


def encode_in_chunks(model: DAC, audio: Tensor, sizes: list[int], n_quantizers: int | None = None) -> Tensor:
    stream = StreamingEncoder(model, n_quantizers, audio.shape[0])
    return run(stream.push, stream.flush, pieces(audio, sizes))


def decode_in_chunks(model: DAC, codes: Tensor, sizes: list[int]) -> Tensor:
    stream = StreamingDecoder(model, codes.shape[0])
    return run(stream.push, stream.flush, pieces(codes, sizes))


def saved_and_loaded(state: dict[str, Tensor | int]) -> dict[str, Tensor | int]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Tensor | int] = torch.load(file, weights_only=True)
    return loaded


@given(networks, st.data(), sizes, st.integers(1, 3), st.sampled_from([None, 1, 2, 3]))
@settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_codes_equal_the_whole(
    model: DAC, data: st.DataObject, sizes: list[int], batch_size: int, n_quantizers: int | None
) -> None:
    hop = model.hop_length
    n_samples = data.draw(st.sampled_from([1, hop - 1, hop, hop + 1, 7 * hop]) | st.integers(1, 400))
    audio = noise(batch_size, 1, n_samples)
    whole = model.encode(audio, n_quantizers).codes
    assert torch.equal(encode_in_chunks(model, audio, sizes, n_quantizers), whole)


@given(networks, st.integers(1, 40), sizes, st.integers(1, 3), st.integers(1, 3))
@settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_audio_equals_the_whole(
    model: DAC, n_frames: int, sizes: list[int], batch_size: int, n_quantizers: int
) -> None:
    codes = torch.randint(1024, (batch_size, n_quantizers, n_frames), generator=torch.Generator().manual_seed(0))
    whole = model.decode_codes(codes)
    audio = decode_in_chunks(model, codes, sizes)
    assert audio.shape == whole.shape == (batch_size, 1, n_frames * model.hop_length)
    assert torch.allclose(audio, whole, atol=1e-12)


@given(networks, sizes, st.integers(0, 300))
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_an_interrupted_encoder_goes_on(model: DAC, sizes: list[int], interrupted: int) -> None:
    audio = noise(2, 1, 300)
    before, after = StreamingEncoder(model, batch_size=2), StreamingEncoder(model, batch_size=2)
    parts = [before.push(piece) for piece in pieces(audio[..., :interrupted], sizes)]
    after.load_state_dict(saved_and_loaded(before.state_dict()))
    before.push(noise(2, 1, 50))  # This must not affect the second stream.
    parts.append(run(after.push, after.flush, pieces(audio[..., interrupted:], sizes)))
    assert torch.equal(torch.cat(parts, -1), model.encode(audio).codes)


@given(networks, sizes, st.integers(0, 30))
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_an_interrupted_decoder_goes_on(model: DAC, sizes: list[int], interrupted: int) -> None:
    codes = torch.randint(1024, (2, 3, 30), generator=torch.Generator().manual_seed(0))
    before, after = StreamingDecoder(model, 2), StreamingDecoder(model, 2)
    parts = [before.push(piece) for piece in pieces(codes[..., :interrupted], sizes)]
    after.load_state_dict(saved_and_loaded(before.state_dict()))
    assert after.samples_owed == before.samples_owed
    before.push(codes)
    parts.append(run(after.push, after.flush, pieces(codes[..., interrupted:], sizes)))
    assert torch.allclose(torch.cat(parts, -1), model.decode_codes(codes), atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("preset", ["44khz", "24khz"])
@torch.no_grad()
def test_preset_strides(preset: str, causal: bool) -> None:
    model = lively(shape_of(preset, causal))
    audio = noise(1, 1, 30 * model.hop_length - 11)
    whole = model.encode(audio).codes
    assert torch.equal(encode_in_chunks(model, audio, [512, 1, 7, 3000, 0]), whole)
    assert torch.allclose(decode_in_chunks(model, whole, [1, 0, 2, 7]), model.decode_codes(whole), atol=1e-12)


@pytest.mark.parametrize("name", ["44khz", "24khz"])
@torch.no_grad()
def test_single_precision(name: str) -> None:
    model = golden_model(name)
    exact = golden_model(name).double()
    audio = noise(2, 1, 40 * model.hop_length - 11, dtype=torch.float32)
    whole = model.encode(audio).codes
    codes = encode_in_chunks(model, audio, [700, 1, 9000, 130])
    # Where a code differs, both entries must be equally near within rounding in double precision.
    for item, frame in (codes != whole).any(1).nonzero().tolist():
        book = int((codes != whole)[item, :, frame].nonzero()[0])
        z = exact.quantizer.from_codes(whole[item : item + 1, : book + 1])[0] if book else 0
        residual = exact.encoder(exact.preprocess(audio.double()))[item : item + 1] - z
        latents = exact.quantizer.stages()[book].in_proj(residual)[0, :, frame]
        entries = exact.quantizer.stages()[book].codebook.weight[
            [int(whole[item, book, frame]), int(codes[item, book, frame])]
        ]
        near = torch.cosine_similarity(latents[None], entries)
        assert abs(float(near[0] - near[1])) < 1e-5

    truth, decoded = exact.decode_codes(whole), model.decode_codes(whole)
    streamed = decode_in_chunks(model, whole, [1, 4, 16, 3])
    assert streamed.dtype == torch.float32
    # These two networks magnify rounding errors: the model itself is off by up to 1e-5.
    assert float((decoded - truth).abs().max()) < 1.5e-5
    assert float((streamed - truth).abs().max()) < 3e-5


@torch.no_grad()
def test_half_precision() -> None:
    model = golden_model("44khz").bfloat16()
    audio = noise(1, 1, 10 * model.hop_length, dtype=torch.float32)
    codes = encode_in_chunks(model, audio, [1000])
    assert (codes[:, 0] == model.encode(audio.bfloat16()).codes[:, 0]).float().mean() > 0.8
    decoded = decode_in_chunks(model, codes, [3])
    assert decoded.dtype == torch.bfloat16
    assert float((decoded - model.decode_codes(codes)).abs().max()) < 0.1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("chunks", [[], [0, 0]])
def test_empty_signals(causal: bool, chunks: list[int]) -> None:
    model = NETWORKS[(2, 3), causal]
    encoder, decoder = StreamingEncoder(model, 2, batch_size=3), StreamingDecoder(model, 3)
    for size in chunks:
        assert encoder.push(torch.zeros(3, 1, size)).shape == (3, 2, 0)
        assert decoder.push(torch.zeros(3, 2, size).long()).shape == (3, 1, 0)
    assert encoder.flush().shape == (3, 2, 0)
    assert decoder.flush().shape == (3, 1, 0)


def test_an_ended_stream_needs_a_reset() -> None:
    model = NETWORKS[(3, 5), False]
    audio, codes = noise(1, 1, 100), torch.arange(7).expand(1, 3, 7)
    encoder, decoder = StreamingEncoder(model), StreamingDecoder(model)
    for stream, signal in ((encoder, audio), (decoder, codes)):
        first = torch.cat([stream.push(signal), stream.flush()], -1)
        for call in (lambda: stream.push(signal), stream.flush):  # noqa: B023
            with pytest.raises(ValueError, match=r"ended.*reset\(\)"):
                call()
        restored = type(stream)(model)
        restored.load_state_dict(stream.state_dict())
        with pytest.raises(ValueError, match="ended"):
            restored.flush()
        stream.reset()
        assert torch.equal(torch.cat([stream.push(signal), stream.flush()], -1), first)


def test_streams_of_one_model_do_not_mix() -> None:
    model = NETWORKS[(5, 2, 3), False]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    signals = [noise(1, 1, 500, seed=seed) for seed in range(3)]
    streams = [StreamingEncoder(model) for _ in signals]
    parts: list[list[Tensor]] = [[], [], []]
    for start in range(0, 500, 70):
        for stream, signal, part in zip(streams, signals, parts, strict=True):
            part.append(stream.push(signal[..., start : start + 70]))
    for stream, signal, part in zip(streams, signals, parts, strict=True):
        part.append(stream.flush())
        assert torch.equal(torch.cat(part, -1), model.encode(signal).codes)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in after)
    assert before.keys() == after.keys()


def test_training_mode_has_no_effect() -> None:
    model = lively(TINY).train()
    audio = noise(2, 1, 100)
    codes = encode_in_chunks(model, audio, [30])
    assert model.training
    assert torch.equal(codes, model.eval().encode(audio).codes)
    assert not codes.requires_grad


def test_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions over single frames compute as many outputs as over the whole signal."""
    monkeypatch.setattr(convolution, "_NARROW", 0)  # One sample per row, so that no output is computed in advance.
    model = lively(TINY)
    outputs = 0
    call = RowConv.__call__

    def counting(conv: RowConv, x: Tensor) -> Tensor:
        nonlocal outputs
        y = call(conv, x)
        outputs += y.shape[1]
        return y

    monkeypatch.setattr(RowConv, "__call__", counting)
    audio = noise(1, 1, 30 * model.hop_length)
    encode_in_chunks(model, audio, [1 << 20])
    whole, outputs = outputs, 0
    encode_in_chunks(model, audio, [model.hop_length])
    assert outputs == whole > 0


@pytest.mark.parametrize("shape", [(1, 10), (1, 2, 10), (2, 1, 10)])
def test_wrong_chunks(shape: tuple[int, ...]) -> None:
    model = NETWORKS[(4,), False]
    with pytest.raises(ValueError, match=r"a chunk must be \[1, 1, t\], not \["):
        StreamingEncoder(model).push(torch.zeros(shape))


def test_integer_samples_are_refused() -> None:
    stream = StreamingEncoder(NETWORKS[(4,), False])
    with pytest.raises(ValueError, match=r"torch\.int16, .* \(32768 for 16 bit\)"):
        stream.push(torch.zeros(1, 1, 50, dtype=torch.int16))
    assert stream.flush().shape[-1] == 0
    for encode in (inference.encode, lambda model, audio: inference.encode_frames_batch(model, [audio])):
        with pytest.raises(ValueError, match=r"torch\.int16"):
            encode(NETWORKS[(4,), False], torch.zeros(1, 1, 50, dtype=torch.int16))


def test_codes_of_any_integer_type() -> None:
    model = NETWORKS[(4,), False]
    codes = torch.arange(12).view(1, 3, 4)
    expected = inference.decode(model, codes)
    for dtype in (torch.uint8, torch.uint16, torch.int32):
        assert torch.equal(inference.decode(model, codes.to(dtype)), expected)
        assert torch.allclose(inference.decode_batch(model, [codes.to(dtype)])[0], expected, atol=1e-12)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(2, 3, 4).long(), r"codes must be \[1, n, f\]"),
        (torch.zeros(1, 4).long(), r"codes must be \[1, n, f\]"),
        (torch.zeros(1, 4, 4).long(), r"1\.\.3"),
        (torch.full((1, 3, 4), 1024), "1023"),
        (torch.zeros(1, 3, 4), "integers"),
    ],
)
def test_wrong_codes_are_refused(codes: Tensor, message: str) -> None:
    stream = StreamingDecoder(NETWORKS[(4,), False])
    with pytest.raises(ValueError, match=message):
        stream.push(codes)
    assert stream.samples_owed == 0


@pytest.mark.parametrize("n_quantizers", [0, 4, 2.5, True])
def test_wrong_n_quantizers(n_quantizers: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 3"):
        StreamingEncoder(NETWORKS[(4,), False], n_quantizers)


def test_wrong_batch_sizes() -> None:
    for kind in (StreamingEncoder, StreamingDecoder):
        with pytest.raises(ValueError, match="at least 1, not 0"):
            kind(NETWORKS[(4,), False], batch_size=0)


def test_the_state_of_another_stream_is_refused() -> None:
    model = NETWORKS[(2, 3), False]
    stream = StreamingEncoder(model)
    stream.push(noise(1, 1, 33))
    before = stream.state_dict()
    strangers = [
        StreamingEncoder(model, batch_size=2).state_dict(),
        StreamingEncoder(NETWORKS[(5, 2, 3), False]).state_dict(),
        StreamingEncoder(lively(TINY, torch.float32)).state_dict(),
        StreamingDecoder(model).state_dict(),
        {**before, "n_taken": torch.zeros(2)},
        {**before, "layers.0.context": 3},
    ]
    for state in strangers:
        with pytest.raises(ValueError, match="another kind of stream"):
            stream.load_state_dict(state)
    assert all(value is before[name] or value == before[name] for name, value in stream.state_dict().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@torch.no_grad()
def test_on_a_gpu() -> None:
    model = golden_model("24khz").double().cuda()
    audio = noise(2, 1, 40 * model.hop_length - 11)
    codes = encode_in_chunks(model, audio, [700, 1, 9000])
    assert codes.is_cuda
    assert torch.equal(codes, model.encode(audio.cuda()).codes)
    assert torch.allclose(decode_in_chunks(model, codes.cpu(), [3]), model.decode_codes(codes), atol=1e-12)
