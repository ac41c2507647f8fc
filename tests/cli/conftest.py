"""Fixtures of the command line's tests."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from dac_codec import audio, bitstream, codec, pretrained
from dac_codec.cli import running
from dac_codec.codec import DacFile, batches
from dac_codec.model import DAC
from tests.cli.shell import noise, raw_noise
from tests.conftest import GOLDEN


@pytest.fixture(scope="session")
def tiny() -> DAC:
    return pretrained.load(GOLDEN / "dac_44khz_tiny.pth")


@pytest.fixture(scope="session")
def model(tiny: DAC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of 44.1 kHz, 9 codebooks of 1024, and a hop of 512."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pretrained.save(tiny, folder, name="tiny")
    return folder


@pytest.fixture(scope="session")
def compressed(model: Path) -> DacFile:
    """40 frames of stereo at 44.1 kHz."""
    return codec.compress((noise(40 * 512 - 100, 2).T, 44100), model, device="cpu", constant=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; nothing is downloaded."""
    monkeypatch.setenv("DAC_CODEC_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test on the CPU, also in child processes, so that nothing moves `tiny`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def instant(tiny: DAC, compressed: DacFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the network, for tests of the files around it."""

    def compress_stream(source: Any, target: Path, *args: object, **options: object) -> codec.Compressed:
        codec.write_bytes(target, compressed.to_bytes())
        return codec.Compressed(compressed.header, compressed.n_samples, len(compressed.to_bytes()))

    monkeypatch.setattr(pretrained, "load", lambda *args, **options: tiny)
    monkeypatch.setattr(codec, "compress_stream", compress_stream)


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are processed one after the other."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.fixture
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files of equal size are processed at once."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(running, "available_cores", lambda: 3)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs on batches of short files."""
    monkeypatch.setattr(batches, "uses_batches", lambda device: True)


@pytest.fixture(scope="session")
def live(tiny: DAC, model: Path) -> bytes:
    """Two seconds of mono from a pipe, in chunks of 4 frames."""
    sound = audio.Reader.raw(io.BytesIO(raw_noise(2)), 44100, 1)
    target = io.BytesIO()
    codec.compress_stream(sound, target, pretrained.load(str(model)), 2, chunk_frames=4)
    return target.getvalue()


@pytest.fixture
def cut(compressed: DacFile) -> Path:
    """Five chunks of 8 frames, truncated within the fourth."""
    stream = io.BytesIO()
    with bitstream.Writer(stream, compressed.header, chunk_frames=8) as writer:
        writer.write(compressed.codes.numpy())
    Path("cut.dac").write_bytes(stream.getvalue()[: -len(stream.getvalue()) // 3])
    return Path("cut.dac")
