"""Round trips through a file in memory, and the files of descript-audio-codec."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio, bitstream, codec, pretrained
from dac_codec.codec import DacFile, compress, decompress
from dac_codec.codec.models import network_errors
from dac_codec.common.errors import AudioError, BitstreamError, DacError, ModelMismatchError
from dac_codec.common.files import atomic_write
from dac_codec.model import DAC
from dac_codec.model.decoder import Decoder
from tests.audio.sounds import low_passed
from tests.conftest import GOLDEN, golden_model

LEGACY = sorted(GOLDEN.glob("legacy_*.dac"))


@pytest.fixture(scope="module")
def model() -> DAC:
    return golden_model("44khz")


def noise(channels: int, n_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, n_samples))).astype(np.float32)


@settings(max_examples=12, deadline=None)
@given(
    channels=st.integers(1, 3),
    n_samples=st.one_of(st.sampled_from([1, 2, 511, 512, 513]), st.integers(1, 9000)),
    rate=st.sampled_from([8000, 22050, 44100, 48000, 96000]),
)
def test_length_rate_and_channels_are_kept(channels: int, n_samples: int, rate: int) -> None:
    model = golden_model("44khz")
    file = compress((noise(channels, n_samples), rate), model)
    again = DacFile.from_bytes(file.to_bytes())
    assert again.header == file.header
    assert torch.equal(again.codes, file.codes)
    waveform, sample_rate = decompress(again, model)
    assert waveform.shape == (channels, n_samples)
    assert waveform.dtype == torch.float32
    assert sample_rate == rate
    assert bool(torch.isfinite(waveform).all())


def test_the_codes_are_the_models(model: DAC) -> None:
    golden = np.load(GOLDEN / "dac_44khz_tiny_io.npz")
    quiet = golden["audio"][0]
    file = compress((quiet, 44100), model, constant=True)
    scaled = torch.from_numpy(quiet)[None] * 10 ** (file.header.gain_db / 20)
    with torch.no_grad():
        assert torch.equal(file.codes, model.encode(scaled).codes)
        expected = model.decode_codes(file.codes)[0, :, : quiet.shape[-1]] * 10 ** (-file.header.gain_db / 20)
    # Blocks round sums in another order, and this network magnifies that: the whole is no nearer to the truth.
    assert torch.allclose(decompress(file, model)[0], expected, atol=1e-5)


def test_the_properties_of_a_file(model: DAC, tmp_path: Path) -> None:
    file = compress((noise(2, 44100), 44100), model, n_quantizers=5, constant=True)
    assert file.codes.shape == (2, 5, 87)
    assert (file.channels, file.sample_rate, file.n_samples, file.duration) == (2, 44100, 44100, 1.0)
    assert file.bitrate == pytest.approx(2 * 5 * 10 * 44100 / 512)
    assert file.model_id.startswith("unnamed@")
    file.save(tmp_path / "a.dac")
    assert torch.equal(DacFile.load(tmp_path / "a.dac").codes, file.codes)
    with (tmp_path / "a.dac").open("rb") as stream:
        assert DacFile.load(stream).header == file.header
    assert [path.name for path in tmp_path.iterdir()] == ["a.dac"]


def test_sources_of_every_kind(model: DAC, tmp_path: Path) -> None:
    wave = noise(1, 5000)
    soundfile.write(tmp_path / "a.wav", wave.T, 44100, subtype="FLOAT")
    expected = compress((wave, 44100), model).codes
    data = (tmp_path / "a.wav").read_bytes()
    for source in (tmp_path / "a.wav", str(tmp_path / "a.wav"), io.BytesIO(data), (torch.from_numpy(wave), 44100)):
        assert torch.equal(compress(source, model).codes, expected)
    assert torch.equal(compress((wave[0], 44100), model).codes, expected)


def level_above(waveform: torch.Tensor, rate: int, frequency: float) -> float:
    """Level of the spectrum above a frequency relative to the whole, in dB."""
    spectrum = torch.fft.rfft(waveform * torch.hann_window(waveform.shape[-1])).abs().square().sum(0)
    first = int(frequency / rate * waveform.shape[-1])
    return float(10 * torch.log10(spectrum[first:].sum() / spectrum.sum()))


@pytest.mark.parametrize("rate", [44100, 48000])
def test_the_bandwidth_is_kept(model: DAC, rate: int, tmp_path: Path) -> None:
    wave = low_passed(noise(2, rate), 5000, rate)
    file = compress((wave, rate), model)
    assert file.header.bandwidth is not None
    assert 5000 <= file.header.bandwidth <= 5600
    limited, _ = decompress(file, model)
    unlimited, _ = decompress(replace(file, header=replace(file.header, bandwidth=None)), model)
    assert level_above(limited, rate, file.header.bandwidth + 600) < -60 < -30 < level_above(unlimited, rate, 6500)
    expected = low_passed(unlimited.numpy(), file.header.bandwidth, rate)
    inside = slice(1000, -1000)  # the last frame exceeds the end
    assert np.abs(limited.numpy() - expected)[:, inside].max() < 1e-2 * np.abs(expected).max()
    soundfile.write(tmp_path / "dull.wav", wave.T, rate, subtype="FLOAT")
    codec.compress_stream(tmp_path / "dull.wav", tmp_path / "dull.dac", model)
    assert (tmp_path / "dull.dac").read_bytes() == file.to_bytes()
    part, _ = decompress(tmp_path / "dull.dac", model, start=0.3, duration=0.2)
    first = round(0.3 * rate)
    whole = limited[:, first : first + part.shape[1]]
    assert torch.allclose(part, whole, atol=2e-5 + 1e-5 * float(whole.abs().max()))


def test_no_bandwidth_is_stored_for_full_band_noise_or_silence(model: DAC) -> None:
    assert compress((noise(1, 20000), 44100), model).header.bandwidth is None
    assert compress((noise(1, 20000), 16000), model).header.bandwidth is None  # the sample rate says it
    assert compress((np.zeros((1, 20000), np.float32), 44100), model).header.bandwidth is None


def test_the_gain_of_silence_is_zero(model: DAC) -> None:
    file = compress((np.zeros((1, 30000), np.float32), 44100), model)
    assert file.header.gain_db == 0.0


def test_bitrate_chooses_the_codebooks(model: DAC) -> None:
    assert compress((noise(1, 600), 44100), model, bitrate=2000, constant=True).codes.shape[1] == 2
    assert compress((noise(1, 600), 44100), model, bitrate=1e9, constant=True).codes.shape[1] == 9
    assert compress((noise(1, 600), 44100), model, n_quantizers=np.int64(2)).codes.shape[1] == 2  # type: ignore[arg-type]
    for wish in (
        {"bitrate": 100},
        {"n_quantizers": 0},
        {"n_quantizers": 10},
        {"n_quantizers": 2.5},
        {"n_quantizers": True},
        {"bitrate": 2000, "n_quantizers": 2, "constant": True},
    ):
        with pytest.raises(DacError, match=r"bit/s|n_quantizers"):
            compress((noise(1, 600), 44100), model, **wish)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_audio_that_is_not_finite(model: DAC, value: float) -> None:
    wave = noise(1, 600)
    wave[0, 5] = value
    with pytest.raises(AudioError):
        compress((wave, 44100), model)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_audio_whose_gain_no_file_can_hold(model: DAC) -> None:
    with pytest.raises(AudioError, match=r"a gain of -7.. dB, expected -700 to 700 dB"):
        compress((1e38 * noise(1, 44100), 44100), model)


def test_audio_too_loud_to_be_resampled(model: DAC) -> None:
    loud = 1e37 * np.sin(np.arange(48000, dtype=np.float32)[None])
    with pytest.raises(AudioError, match="exceeds the range of float32 after resampling"):
        compress((loud, 48000), model)


def test_a_length_that_the_header_leaves_open(model: DAC) -> None:
    """It is exact, where a product of floats is one sample short."""
    file = compress((noise(1, 600), 44100), model, n_quantizers=1, constant=True)
    header = replace(file.header, sample_rate=88200, model_sample_rate=16000, hop_length=480, n_samples=None)
    codes = torch.zeros(1, 1, 1, dtype=torch.int64).expand(1, 1, 802499)
    assert DacFile(header, codes).n_samples == 802499 * 480 * 88200 // 16000


def test_other_weights_are_refused_by_name(model: DAC) -> None:
    file = compress((noise(1, 600), 44100), model)
    other = golden_model("24khz")
    with pytest.raises(ModelMismatchError) as raised:
        decompress(file, other)
    assert file.model_id in str(raised.value)
    assert pretrained.fingerprint(other)[:8].hex() in str(raised.value)
    with pytest.raises(ModelMismatchError, match="neither bundled nor published"):
        decompress(file)
    named_like_a_path = replace(file, header=replace(file.header, model_name="/etc/passwd"))
    with pytest.raises(ModelMismatchError, match="neither bundled nor published"):
        decompress(named_like_a_path)


def test_errors_name_the_file(tmp_path: Path) -> None:
    bad = tmp_path / "bad.dac"
    bad.write_bytes(b"nonsense")
    with pytest.raises(BitstreamError, match=r"bad\.dac"):
        decompress(bad)
    with pytest.raises(DacError, match=r"none\.dac"):
        decompress(tmp_path / "none.dac")
    with pytest.raises(DacError, match="no-such-folder"):
        codec.write_bytes(tmp_path / "no-such-folder" / "a.dac", b"")


@pytest.mark.parametrize("path", LEGACY, ids=lambda path: path.stem)
def test_legacy_files_decode_as_in_the_reference(path: Path) -> None:
    model = golden_model("44khz" if "44khz" in path.name else "24khz")
    expected = np.load(path.with_suffix(".npz"))["decoded"][0]
    waveform, rate = decompress(path, model)
    assert rate == int(np.load(path.with_suffix(".npz"))["sample_rate"])
    assert waveform.shape == expected.shape
    assert np.abs(waveform.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


def test_legacy_files_use_the_prepared_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for files of overlapping windows."""

    def unwanted(*arguments: object) -> None:
        raise AssertionError

    model = golden_model("44khz")
    monkeypatch.setattr(Decoder, "forward", unwanted)
    decompress(GOLDEN / "legacy_44khz_mono_48k_nq4.dac", model)
    with pytest.raises(AssertionError):
        decompress(GOLDEN / "legacy_44khz_mono_chunked.dac", model)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("path", [path for path in LEGACY if "44khz" in path.name], ids=lambda path: path.stem)
def test_legacy_files_under_autocast(path: Path, model: DAC) -> None:
    expected = decompress(path, model)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(decompress(path, model)[0], expected)


def test_a_loaded_model_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a GPU, which is simulated, unless it is requested; a model that is loaded by name moves there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = golden_model("44khz")
    file = compress((noise(1, 600), 44100), model)
    decompress(file, model)
    assert codec.load_model(model).device.type == model.device.type == "cpu"
    assert next(codec.load_model(model, "cpu:0").parameters()).data_ptr() == next(model.parameters()).data_ptr()
    assert codec.load_model(model.to("meta")).device.type == "meta"
    moved: list[torch.device] = []

    def to(model: DAC, device: torch.device) -> DAC:
        moved.append(torch.device(device))
        return model

    monkeypatch.setattr(DAC, "to", to)
    codec.load_model(golden_model("44khz"), "cuda")
    monkeypatch.setattr(pretrained, "load", lambda name, progress: golden_model("44khz"))
    codec.load_model("any")
    codec.load_model("any", "cpu")
    assert [device.type for device in moved] == ["cuda", "cuda"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", "not enough memory"),
        ("CUDA error: out of memory\nCUDA kernel errors might be reported later", "not enough memory"),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.", "not enough memory"),
        (
            "CUDA error: no kernel image is available for execution on the device\nSearch for it in the manual",
            r"^the GPU can't compute this \(CUDA error: no kernel image .* the device\): use the device cpu instead$",
        ),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "the GPU can't compute this"),
    ],
)
def test_device_errors_become_one_sentence(message: str, expected: str) -> None:
    kinds = [RuntimeError, getattr(torch, "AcceleratorError", RuntimeError)]
    for kind in kinds:
        error = kind(message)
        with pytest.raises(DacError, match=expected) as raised, network_errors():
            raise error
        assert "\n" not in str(raised.value)
        assert raised.value.__cause__ is error
    with pytest.raises(RuntimeError, match="a bug"), network_errors():
        raise RuntimeError("a bug")


def test_weights_are_hashed_once_for_all_files(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[DAC] = []
    module = import_module("dac_codec.pretrained.fingerprint")
    digest = module._digest

    def counting(shape: bytes, model: DAC) -> bytes:
        hashed.append(model)
        return digest(shape, model)

    mine = golden_model("44khz")
    monkeypatch.setattr(module, "_digest", counting)
    for seed in range(3):
        file = compress((noise(1, 600, seed), 44100), mine)
        decompress(file, mine)
    assert len(hashed) == 1


@pytest.mark.parametrize("channels", [1, 2])
def test_conversion_to_the_legacy_format_keeps_the_sound(model: DAC, channels: int) -> None:
    wave = noise(channels, 30000) * np.array([[1.0], [0.3]], np.float32)[:channels]
    file = compress((wave, 44100), model, constant=True)
    legacy = bitstream.read_legacy(bitstream.write_legacy(codec.to_legacy(file, model)))
    ours, theirs = decompress(file, model)[0], decompress(legacy, model)[0]
    assert torch.allclose(ours, theirs, atol=1e-4 * float(ours.abs().max()))


def test_conversion_to_the_legacy_format_says_that_positions_are_dropped(model: DAC) -> None:
    file = compress((noise(3, 2000), 44100), model, constant=True)
    with pytest.warns(UserWarning, match="has no channel positions: FL FR LFE are dropped") as found:
        codec.to_legacy(replace(file, header=replace(file.header, channel_mask=0xB)), model)
    assert [warning.filename for warning in found] == [__file__]


def test_conversion_from_the_legacy_format_keeps_the_sound(model: DAC) -> None:
    legacy = bitstream.read_legacy((GOLDEN / "legacy_44khz_mono_48k_nq4.dac").read_bytes())
    file = DacFile.from_bytes(codec.from_legacy(legacy, model).to_bytes())
    at_model_rate = replace(legacy, sample_rate=44100, original_length=40000)
    ours = decompress(codec.from_legacy(at_model_rate, model), model)[0]
    theirs = decompress(at_model_rate, model)[0]
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert file.n_samples == legacy.original_length
    chunked = bitstream.read_legacy((GOLDEN / "legacy_44khz_mono_chunked.dac").read_bytes())
    with pytest.raises(BitstreamError, match="overlapping windows"):
        codec.from_legacy(chunked, model)


def test_inconsistent_legacy_files(model: DAC) -> None:
    legacy = bitstream.read_legacy((GOLDEN / "legacy_44khz_mono_48k_nq4.dac").read_bytes())
    with pytest.raises(BitstreamError, match="claims"):
        decompress(replace(legacy, original_length=10**15), model)
    with pytest.raises(ModelMismatchError, match="codebooks"):
        decompress(replace(legacy, codes=np.full((1, 4, 95), 60000, np.uint16)), model)
    with pytest.raises(ModelMismatchError, match="pass the model"):
        decompress(legacy)
    with pytest.raises(BitstreamError, match=r"gain of 1e\+30 dB"):
        decompress(replace(legacy, input_db=(1e30,)), model)
    chunked = bitstream.read_legacy((GOLDEN / "legacy_44khz_mono_chunked.dac").read_bytes())
    assert decompress(chunked, model)[0].shape[-1] == chunked.original_length
    for n_frames, n_last in ((5, 5), (chunked.chunk_length + 1, 1)):
        length = min(n_frames, chunked.chunk_length)
        cut = replace(chunked, codes=chunked.codes[..., :n_frames], chunk_length=length, original_length=1000)
        with pytest.raises(
            BitstreamError, match=rf"a window of {n_last} frames, expected at least \d+ without padding"
        ):
            decompress(cut, model)


def test_inconsistent_files(model: DAC) -> None:
    file = compress((noise(1, 5000), 44100), model)
    assert decompress(file, model)[0].shape == (1, 5000)
    for changes, kind, message in (
        ({"gain_db": -1e30}, BitstreamError, r"gain of -1e\+30 dB"),
        (
            {"hop_length": 44100},
            ModelMismatchError,
            "44100 Hz and 44100 samples per frame for the model unnamed, expected 44100 Hz and 512",
        ),
        ({"model_sample_rate": 44101}, ModelMismatchError, "44101 Hz and 512 samples"),
    ):
        with pytest.raises(kind, match=message):
            decompress(replace(file, header=replace(file.header, **changes)), model)
    for codes, message in (
        (file.codes.float(), "must be integers"),
        (file.codes + 2**32, "must be in"),
        (file.codes[:, :1], "must have shape"),
        (file.codes[0], "must have shape"),
    ):
        with pytest.raises(BitstreamError, match=message):
            decompress(replace(file, codes=codes), model)
    with pytest.raises(BitstreamError, match="5000 samples per channel at 44100 Hz take 10 frames, found 5"):
        decompress(replace(file, codes=file.codes[..., :5]), model)
    crowd = DacFile(replace(file.header, channels=1025), file.codes.expand(1025, -1, -1))
    with pytest.raises(BitstreamError, match="1025 channels, expected at most 1024"):
        decompress(crowd, model)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_named_pipe_is_written_and_stays_one(model: DAC, tmp_path: Path) -> None:
    file = compress((noise(1, 5000), 44100), model)
    pipe = tmp_path / "pipe.dac"
    os.mkfifo(pipe)
    for write in (file.save, lambda path: codec.compress_stream((tmp_path / "a.wav").open("rb"), path, model)):
        audio.write(tmp_path / "a.wav", noise(1, 5000), 44100)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(pipe.read_bytes)
            write(pipe)
            assert torch.equal(DacFile.from_bytes(reading.result(timeout=60)).codes, file.codes)
        assert pipe.is_fifo()
    with pytest.raises(OSError, match="exists and is not a file"), atomic_write(pipe):
        pass
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "pipe.dac"]
