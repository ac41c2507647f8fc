"""dac_codec.audio.writing: sound files, whole and in blocks."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dac_codec import audio
from dac_codec.audio import libsndfile, samples, wav, writing
from dac_codec.common.errors import AudioError
from tests.audio.sounds import RATE, Pipe, names, needs_mp3, needs_opus, noise, tones


@pytest.mark.parametrize(
    ("extension", "subtype", "tolerance"),
    [
        ("wav", None, 2**-15),
        ("wav", "PCM_24", 2**-23),
        ("wav", "FLOAT", 0.0),
        ("WAV", None, 2**-15),
        ("flac", None, 2**-15),
        ("flac", "PCM_24", 2**-23),
        ("aiff", None, 2**-15),
        ("au", None, 2**-15),
        ("caf", None, 2**-15),
        ("w64", None, 2**-15),
        ("rf64", None, 2**-15),
        ("ogg", None, 0.05),
        pytest.param("opus", None, 0.05, marks=needs_opus),
        pytest.param("mp3", None, 0.05, marks=needs_mp3),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip(tmp_path: Path, extension: str, subtype: str | None, tolerance: float, channels: int) -> None:
    path = tmp_path / f"sound.{extension}"
    sound = tones(1.0, channels)
    audio.write(path, sound, RATE, subtype=subtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, sample_rate = audio.read(path)
    assert sample_rate == RATE
    assert loaded.dtype == np.float32
    assert loaded.flags.c_contiguous
    assert loaded.shape == sound.shape
    inner = slice(1200, -1200) if tolerance > 0.01 else slice(None)  # lossy codecs err more at the ends
    np.testing.assert_allclose(loaded[:, inner], sound[:, inner], atol=tolerance)
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", pytest.param("mp3", marks=needs_mp3)])
def test_reading_in_blocks_equals_soundfile(tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"sound.{extension}"
    soundfile.write(path, tones(0.5).T, RATE)
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    monkeypatch.setattr(samples, "BLOCK_VALUES", 2 * 1000)  # 24 blocks
    np.testing.assert_array_equal(audio.read(path)[0], expected)


def test_writing_in_short_blocks_is_seamless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tones(0.1)
    monkeypatch.setattr(samples, "BLOCK_VALUES", 2 * 700)
    audio.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0].T, sound)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", pytest.param("mp3", marks=needs_mp3)])
def test_streams_that_are_not_seekable(extension: str) -> None:
    sink = Pipe()
    audio.write(sink, tones(0.5), RATE, fmt=extension)  # type: ignore[arg-type]
    loaded, sample_rate = audio.read(Pipe(sink.outgoing.getvalue()))  # type: ignore[arg-type]
    assert sample_rate == RATE
    assert loaded.shape == (2, RATE // 2)
    np.testing.assert_allclose(loaded[:, 1200:-1200], tones(0.5)[:, 1200:-1200], atol=0.05)


def test_streams_are_wav_by_default_and_stay_open() -> None:
    stream = io.BytesIO()
    audio.write(stream, tones(0.1), RATE)
    assert stream.getvalue()[:4] == b"RIFF"
    stream.seek(0)
    assert audio.read(stream)[0].shape == (2, RATE // 10)
    assert not stream.closed


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipes_are_read_and_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    writer = threading.Thread(target=audio.write, args=(path, tones(0.1), RATE))
    writer.start()
    loaded, _ = audio.read(path)
    writer.join()
    np.testing.assert_allclose(loaded, tones(0.1), atol=2**-15)
    assert path.is_fifo()


def test_integer_pcm_is_clipped(tmp_path: Path) -> None:
    samples = np.array([[1.0, -1.0, 1.5, -7.0, 0.99999, 0.5]], np.float32)
    for extension in ("wav", "flac", "aiff", "au", "caf", "w64", "rf64"):
        path = tmp_path / f"loud.{extension}"
        audio.write(path, samples, RATE)
        stored = soundfile.read(path, dtype="int16")[0]
        assert stored.tolist() == [32767, -32768, 32767, -32768, 32767, 16384]
    audio.write(tmp_path / "float.wav", samples, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "float.wav")[0], samples)


def test_wav_beyond_its_limit_becomes_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tones(0.1)
    monkeypatch.setattr(wav, "LIMIT_BYTES", 2 * sound.size)
    audio.write(tmp_path / "just.wav", sound, RATE)
    audio.write(tmp_path / "over.wav", np.pad(sound, ((0, 0), (0, 1))), RATE)
    audio.write(tmp_path / "deep.wav", sound, RATE, subtype="PCM_24")
    heads = [(tmp_path / name).read_bytes()[:4] for name in ("just.wav", "over.wav", "deep.wav")]
    assert heads == [b"RIFF", b"RF64", b"RF64"]
    assert audio.read(tmp_path / "over.wav")[0].shape == (2, sound.shape[1] + 1)
    with pytest.raises(AudioError, match="4 GiB"):
        audio.write(tmp_path / "over.aiff", np.pad(sound, ((0, 0), (0, 1))), RATE)


def test_limit_of_wav_is_four_gib() -> None:
    layout = wav.Layout(RATE, 1, "PCM_16")
    assert wav.header(layout, 2**31 - 2**15)[:4] == b"RIFF"
    assert wav.header(layout, 2**31)[:4] == b"RF64"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_failure_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")

    def fail_after_one_block(sound: audio.Audio) -> Iterator[audio.Audio]:
        yield sound[:, :100]
        assert len(names(tmp_path)) == 2  # the temporary file is there, beside the target
        raise error

    monkeypatch.setattr(writing, "blocks", fail_after_one_block)
    expected = AudioError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        audio.write(path, tones(0.1), RATE)
    assert names(tmp_path) == ["a.wav"]
    assert path.read_bytes() == b"old"


def test_a_failed_rename_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(AudioError, match=r"folder\.wav: can't be written \(Is a directory"):
        audio.write(tmp_path / "folder.wav", tones(0.1), RATE)
    assert names(tmp_path) == ["folder.wav"]
    assert names(tmp_path / "folder.wav") == []


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "extension",
    ["wav", "flac", "ogg", "caf", pytest.param("opus", marks=needs_opus), pytest.param("mp3", marks=needs_mp3)],
)
def test_file_size_limit_is_reported(tmp_path: Path, extension: str, part: float) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sound = noise(RATE // 20, 1)  # wav: less than the buffer of a Python file
    path = tmp_path / f"a.{extension}"
    audio.write(path, sound, RATE)
    old = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(0, round(part * len(old)) - 10), hard))
    try:
        with pytest.raises(AudioError, match=rf"a\.{extension}: can't be written \(File too large\).* disk space"):
            audio.write(path, sound, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == old


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("extension", ["flac", "ogg"])
def test_an_interrupt_within_libsndfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, in_memory: bool
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(libsndfile, "write_all", interrupt)
    sink = Pipe()
    with pytest.raises(KeyboardInterrupt):
        audio.write(sink if in_memory else tmp_path / "a", noise(RATE), RATE, extension)  # type: ignore[arg-type]
    assert names(tmp_path) == []
    assert sink.outgoing.getvalue() == b""


def test_an_error_while_cleaning_up_is_not_the_one_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", fail)
    with (
        pytest.raises(AudioError, match="4 samples were announced, more"),
        audio.Writer(tmp_path / "a.wav", RATE, 1, 4) as writer,
    ):
        writer.write(noise(5))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_device_is_reported() -> None:
    with pytest.raises(AudioError, match=r"/dev/full: can't be written \(No space left on device\)"):
        audio.write("/dev/full", tones(1.0), RATE, fmt="wav")
    assert not Path("/dev/full").is_file()


def test_invalid_targets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tones(0.01)
    with pytest.raises(AudioError, match="No such file or directory"):
        audio.write(tmp_path / "missing" / "a.wav", sound, RATE)
    with pytest.raises(AudioError, match=r"file format 'docx', expected one of .*flac.*wav"):
        audio.write(tmp_path / "a.docx", sound, RATE)
    with pytest.raises(AudioError, match="no file extension"):
        audio.write(tmp_path / "a", sound, RATE)
    with pytest.raises(AudioError, match=r"FLAC has no sample format 'FLOAT', expected one of .*PCM_24"):
        audio.write(tmp_path / "a.flac", sound, RATE, subtype="float")
    with pytest.raises(AudioError, match=r"9 channels .* FLAC"):
        audio.write(tmp_path / "a.flac", noise(100, 9), RATE)
    with pytest.raises(AudioError, match="NaN"):
        audio.write(tmp_path / "a.wav", np.full((1, 4), np.nan), RATE)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(AudioError, match=r"a\.wav: can't be written \(Permission denied\)"):
        audio.write(tmp_path / "a.wav", sound, RATE)
    assert names(tmp_path) == []


def test_broken_pipe_error_is_not_converted() -> None:
    class Gone(Pipe):
        def write(self, content: Any) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        audio.write(Gone(), tones(0.01), RATE)  # type: ignore[arg-type]


def test_links_and_long_names_are_kept(tmp_path: Path) -> None:
    (tmp_path / "real.wav").write_bytes(b"old")
    (tmp_path / "link.wav").symlink_to("real.wav")
    audio.write(tmp_path / "link.wav", tones(0.01), RATE)
    assert (tmp_path / "link.wav").is_symlink()
    assert audio.read(tmp_path / "real.wav")[0].shape == (2, RATE // 100)
    long = tmp_path / ("n" * 251 + ".wav")
    audio.write(long, tones(0.01), RATE)
    assert long.is_file()
