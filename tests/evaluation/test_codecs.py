"""Codecs: the output has the clip's length and is aligned with it, and more bits make it better."""

from __future__ import annotations

import pickle
import shutil
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dac_codec import audio, pretrained
from dac_codec.codec.rate import DEFAULT_QUALITY
from dac_codec.common.errors import DacError
from dac_codec.evaluation import metrics
from dac_codec.evaluation.codecs import NAMES, Coded, Setting, make_codecs
from dac_codec.evaluation.codecs.commands import MP3, OPUS, VORBIS, CommandCodec, ogg_payload
from dac_codec.evaluation.codecs.interface import nearest
from dac_codec.evaluation.codecs.networks import Encodec, Snac
from dac_codec.evaluation.codecs.points import anchor as low_anchor
from tests.conftest import golden_model
from tests.evaluation.sounds import RATE, speech_like


def lag(decoded: np.ndarray, original: np.ndarray) -> int:
    """Delay in samples, by the peak of the cross-correlation."""
    size = 2 * decoded.shape[-1]
    product = np.fft.rfft(decoded[0], size) * np.conj(np.fft.rfft(original[0], size))
    peak = int(np.argmax(np.fft.irfft(product)))
    return peak - size if peak > size // 2 else peak


@pytest.fixture
def model(tmp_path: Path) -> str:
    pretrained.save(golden_model("44khz"), tmp_path / "model")
    return str(tmp_path / "model")


def test_ours_goes_through_the_file_format(model: str) -> None:
    (codec,), missing = make_codecs(["ours"], model, "cpu")
    assert missing == []
    n_codebooks, lowest = golden_model("44khz").n_codebooks, golden_model("44khz").config.bitrate(1) / 1000
    settings = codec.settings([0.01, 2.2 * lowest, 1000.0])
    assert [setting.value for setting in settings] == [1, 2, n_codebooks]
    assert [setting.name for setting in settings[:2]] == ["1 codebook", "2 codebooks"]
    clip = speech_like(1.0)
    coded = pickle.loads(pickle.dumps(codec)).code(clip, RATE, settings[-1])
    assert coded.decoded.shape == clip.shape
    assert coded.codes is not None
    assert coded.payload_bytes == coded.codes.size * np.log2(coded.codebook_size) / 8
    assert coded.payload_bytes < coded.n_bytes < coded.payload_bytes + 100


def test_ours_at_a_mean_bitrate() -> None:
    codecs, _ = make_codecs(["ours-variable", "ours-default", "ours-search"], "dac-mini-44khz", "cpu")
    variable, default, constant = codecs
    settings = variable.settings([0.5, 4.0, 2.0, 4.0])
    assert [(setting.name, setting.value) for setting in settings] == [("2 kbit/s", 2.0), ("4 kbit/s", 4.0)]
    clip = speech_like(3.0)
    coded = variable.code(clip, RATE, settings[1])
    assert 8 * coded.n_bytes / 3.0 == pytest.approx(4000, rel=0.01)
    assert coded.decoded.shape == clip.shape
    assert coded.codes is not None
    n_codes = (coded.codes >= 0).sum(1)
    assert n_codes[0] == coded.codes.shape[1] > n_codes[-1]
    assert len(coded.code_bits) == len(n_codes) == 9
    assert 0.6 * 8 * coded.n_bytes < sum(coded.code_bits) < 8 * coded.n_bytes
    assert default.settings([1.0, 2.0]) == [Setting(f"quality {DEFAULT_QUALITY:g}", DEFAULT_QUALITY)]
    assert default.code(clip, RATE, Setting("", 5.0)).n_bytes > default.code(clip, RATE, Setting("", 1.0)).n_bytes
    assert constant.settings([4.0])[0].name == "5 codebooks"
    assert "effort 1, entropy coded" in variable.about
    assert len({codec.fingerprint for codec in codecs}) == 3


def test_fingerprints_include_device_and_torch_version(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (ours,), _ = make_codecs(["ours"], model, "cpu")
    (auto,), _ = make_codecs(["ours"], model, "auto")
    networks = (ours, Encodec("encodec24", 24), Snac("snac"))
    monkeypatch.setattr("dac_codec.evaluation.codecs.networks.version", lambda name: "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert auto.fingerprint == ours.fingerprint
    before = [codec.fingerprint for codec in networks]
    monkeypatch.setattr(torch, "__version__", "next")
    assert not set(before) & {codec.fingerprint for codec in networks}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    assert auto.fingerprint != ours.fingerprint
    assert "a GPU" in auto.fingerprint


@pytest.mark.parametrize("codec", [OPUS, MP3, VORBIS], ids=lambda codec: codec.name)
def test_commands(codec: CommandCodec) -> None:
    if shutil.which(codec.encode[0]) is None:
        pytest.skip(f"needs {codec.package}")
    assert pickle.loads(pickle.dumps(codec)) == codec
    clip = speech_like(2.0)
    settings = codec.settings([2.0, 4.0, 32.0])
    assert [setting.value for setting in settings] == [codec.lowest, 32.0]
    results: list[Coded] = [codec.code(clip, RATE, setting) for setting in settings]
    for coded in results:
        assert coded.decoded.shape == clip.shape
        assert coded.decoded.dtype == np.float32
        assert 0 < coded.payload_bytes <= coded.n_bytes
        # The encoder's own low-pass filter may shift a sound by a sample or two.
        assert abs(lag(coded.decoded, clip)) <= 3
    assert results[0].n_bytes < results[1].n_bytes
    distances = [metrics.mel_distance(coded.decoded, clip, RATE) for coded in results]
    assert distances[1] < distances[0]


def test_commands_use_the_nearest_settings_once() -> None:
    asked = [2.0, 8.0, 8.4, 24.5, 300.0, 600.0]
    assert [one.value for one in OPUS.settings(asked)] == [6.0, 8.0, 8.4, 24.5, 256.0]
    assert [one.name for one in MP3.settings(asked)] == [f"{kbps} kbit/s" for kbps in (8, 24, 300, 310)]
    assert [one.value for one in VORBIS.settings(asked)] == [8.0, 8.4, 24.5, 240.0]


def test_the_error_of_a_failed_command() -> None:
    broken = CommandCodec("broken", "none", ".x", ("sh", "-c", "echo no luck >&2; exit 3"), ("true",), 1, 9)
    with pytest.raises(DacError, match="exit code 3: no luck"):
        broken.code(speech_like(0.1), RATE, Setting("1 kbit/s", 1))
    idle = CommandCodec("idle", "none", ".x", ("true",), ("true",), 1, 9)
    with pytest.raises(DacError, match="idle: no output for a clip at 1 kbit/s"):
        idle.code(speech_like(0.1), RATE, Setting("1 kbit/s", 1))


def test_missing_codecs_are_left_out_with_a_line(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DAC_CODEC_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    codecs, missing = make_codecs(NAMES, model, "cpu")
    ours = ["ours", "ours-search", "ours-search-2", "ours-default", "ours-variable", "ours-variable-2"]
    assert [codec.name for codec in codecs] == [*ours, "original", "anchor", "noise", "silence"]
    assert [line.split()[0] for line in missing] == ["dac", "opus", "mp3", "vorbis", "encodec24", "encodec48", "snac"]
    assert "apt install opus-tools" in missing[1]
    with pytest.raises(DacError, match=r"'flac'.*ours"):
        make_codecs(["flac"], model, "cpu")
    with pytest.raises(DacError, match="none of the codecs"):
        make_codecs(["opus"], model, "cpu")


def test_reference_points() -> None:
    clip = speech_like(1.0)
    codecs, _ = make_codecs(["original", "anchor", "noise", "silence"], "none", "cpu")
    original, anchor, noise, silence = (codec.code(clip, RATE, Setting()).decoded for codec in codecs)
    assert (original == clip).all()
    assert not silence.any()
    assert audio.loudness(noise, RATE) == pytest.approx(audio.loudness(clip, RATE), abs=0.01)
    assert anchor.shape == clip.shape
    assert lag(anchor, clip) == 0


def test_the_anchor_meets_bs_1534() -> None:
    impulse = np.zeros((1, RATE), np.float32)
    impulse[0, RATE // 2] = 1
    response = 20 * np.log10(np.abs(np.fft.rfft(low_anchor(impulse, RATE)[0])) + 1e-9)
    assert np.abs(response[:3500]).max() < 0.1
    assert response[4000] < -25
    assert response[4500:].max() < -50


@given(st.lists(st.floats(0.1, 100), min_size=1), st.lists(st.floats(0.1, 100), min_size=1, unique=True))
def test_nearest(wished: list[float], possible: list[float]) -> None:
    chosen = nearest(wished, possible)
    assert chosen == sorted(set(chosen))
    for wish in wished:
        assert min(abs(possible[i] - wish) for i in chosen) == min(abs(one - wish) for one in possible)


@given(st.lists(st.binary(max_size=700), min_size=1, max_size=8), st.integers(1, 5))
def test_the_payload_of_an_ogg_file(packets: list[bytes], page_segments: int) -> None:
    segments = [part for packet in packets for part in _segments(packet)]
    pages = b""
    for start in range(0, len(segments), page_segments):
        table = segments[start : start + page_segments]
        pages += b"OggS" + bytes(22) + struct.pack("B", len(table)) + bytes(map(len, table)) + b"".join(table)
    assert ogg_payload(pages, n_headers=1) == sum(map(len, packets[1:]))
    with pytest.raises(DacError, match="Ogg page"):
        ogg_payload(b"x" + pages, n_headers=1)


def _segments(packet: bytes) -> list[bytes]:
    """The segments of a packet (RFC 3533): the last one is shorter than 255 bytes."""
    return [packet[start : start + 255] for start in range(0, len(packet) + 1, 255)]


class _Network:
    """The interface of an EnCodec model, without the network."""

    target_bandwidths = (1.5, 3.0, 6.0)
    sample_rate, channels = 24000, 1
    quantizer = type("Quantizer", (), {"bins": 1024})

    def set_target_bandwidth(self, kbps: float) -> None:
        self.kbps = kbps

    def encode(self, waveform: torch.Tensor) -> list[tuple[torch.Tensor, None]]:
        self.waveform = waveform
        n_codebooks = int(self.kbps / 0.75)
        return [(torch.zeros(1, n_codebooks, -(-waveform.shape[-1] // 320), dtype=torch.int64), None)]

    def decode(self, frames: list[tuple[torch.Tensor, None]]) -> torch.Tensor:
        return torch.nn.functional.pad(self.waveform, (0, 17))


def test_encodec_gets_its_own_sample_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("encodec.compress")
    package.compress = lambda model, waveform, use_lm: bytes(100)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "encodec.compress", package)
    monkeypatch.setattr("dac_codec.evaluation.codecs.networks._encodec", lambda khz: _Network())
    codec = Encodec("encodec24", 24)
    settings = codec.settings([2.0, 2.2, 8.0])
    assert [setting.value for setting in settings] == [1.5, 6.0]
    clip = speech_like(1.0)
    coded = codec.code(clip, RATE, settings[1])
    assert coded.n_bytes == 100
    assert coded.payload_bytes == 75 * 8 * 10 / 8
    assert coded.decoded.shape == clip.shape
    assert lag(coded.decoded, clip) == 0
