"""dac_codec.audio: sound files on disk, sample rates, loudness."""

from __future__ import annotations

import contextlib
import io
import math
import os
import subprocess
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio
from dac_codec.errors import AudioError

GOLDEN = Path(__file__).parent / "golden"
RATE = 48000

HAS_MP3 = "MP3" in soundfile.available_formats()
HAS_OPUS = "OPUS" in soundfile.available_subtypes("OGG")
needs_mp3 = pytest.mark.skipif(not HAS_MP3, reason="this libsndfile has no mp3")
needs_opus = pytest.mark.skipif(not HAS_OPUS, reason="this libsndfile has no opus")


def tones(seconds: float = 1.0, channels: int = 2, sample_rate: int = RATE) -> audio.Audio:
    """A different sine per channel, [C, T]: swapped, shifted and lost samples all show."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.stack([0.5 * np.sin(2 * np.pi * 220 * (c + 1) * t + c) for c in range(channels)]).astype(np.float32)


def noise(n_samples: int, channels: int = 1, level: float = 0.1, seed: int = 0) -> audio.Audio:
    """White noise [C, T] of a given RMS."""
    return (level * np.random.default_rng(seed).standard_normal((channels, n_samples))).astype(np.float32)


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


class Pipe(io.RawIOBase):
    """A binary stream that can't be sought in, like standard input or output behind a pipe."""

    def __init__(self, content: bytes = b"") -> None:
        self.incoming = io.BytesIO(content)
        self.outgoing = io.BytesIO()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.incoming.readinto(buffer)

    def write(self, content: Any) -> int:
        return self.outgoing.write(content)


# --- check


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_check_returns_contiguous_float32(dtype: type) -> None:
    fortran: np.ndarray = np.asfortranarray(tones(0.01).astype(dtype))
    checked = audio.check(fortran, RATE)
    assert checked.dtype == np.float32
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, fortran.astype(np.float32))


def test_check_adds_the_channel_of_a_vector_and_copies_nothing() -> None:
    vector = tones(0.01, channels=1)[0]
    checked = audio.check(vector, np.int64(RATE))
    assert checked.shape == (1, len(vector))
    assert np.shares_memory(checked, vector)


@pytest.mark.parametrize(
    ("samples", "sample_rate", "message"),
    [
        (np.zeros((1, 4), np.int16), RATE, r"int16.*divide"),
        (np.zeros((1, 4), bool), RATE, "bool"),
        (np.zeros((1, 4), np.complex64), RATE, "complex64"),
        (np.zeros((1, 1, 4), np.float32), RATE, r"shape is \[1, 1, 4\]"),
        (np.float32(0.0), RATE, r"shape is \[\]"),
        (np.zeros((2, 0), np.float32), RATE, "at least one"),
        (np.zeros((0, 2), np.float32), RATE, "at least one"),
        (np.zeros((RATE, 2), np.float32), RATE, "transpose"),
        (np.full((1, 4), 1e300), RATE, "4 of 4 samples"),
        (np.zeros((1, 4), np.float32), 0, "sample rate is 0"),
        (np.zeros((1, 4), np.float32), -8000, "sample rate is -8000"),
        (np.zeros((1, 4), np.float32), 44100.0, r"sample rate is 44100\.0"),
        (np.zeros((1, 4), np.float32), True, "sample rate is True"),
    ],
)
def test_check_refuses(samples: Any, sample_rate: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        audio.check(samples, sample_rate, name="take 7")
    assert str(caught.value).startswith("take 7: ")


def test_check_counts_and_locates_what_is_not_finite() -> None:
    samples = tones(1.0)
    samples[1, RATE // 4] = np.nan
    samples[0, RATE // 2 : RATE // 2 + 3] = [np.inf, -np.inf, np.nan]
    with pytest.raises(AudioError, match=rf"4 of {samples.size} samples .* first at 0\.250 s"):
        audio.check(samples, RATE)


# --- read and write


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
def test_files_of_others_are_read_alike_whole_and_in_blocks(
    tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"sound.{extension}"
    soundfile.write(path, tones(0.5).T, RATE)
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 2 * 1000)  # 24 blocks
    np.testing.assert_array_equal(audio.read(path)[0], expected)


def test_block_writing_joins_seamlessly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tones(0.1)
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 2 * 700)
    audio.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0].T, sound)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", pytest.param("mp3", marks=needs_mp3)])
def test_streams_that_cannot_seek(extension: str) -> None:
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


def test_integer_pcm_clips_and_never_wraps(tmp_path: Path) -> None:
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
    monkeypatch.setattr(audio, "_WAV_LIMIT_BYTES", 2 * sound.size)
    audio.write(tmp_path / "just.wav", sound, RATE)
    audio.write(tmp_path / "over.wav", np.pad(sound, ((0, 0), (0, 1))), RATE)
    audio.write(tmp_path / "deep.wav", sound, RATE, subtype="PCM_24")
    heads = [(tmp_path / name).read_bytes()[:4] for name in ("just.wav", "over.wav", "deep.wav")]
    assert heads == [b"RIFF", b"RF64", b"RF64"]
    assert audio.read(tmp_path / "over.wav")[0].shape == (2, sound.shape[1] + 1)
    with pytest.raises(AudioError, match="4 GiB"):
        audio.write(tmp_path / "over.aiff", np.pad(sound, ((0, 0), (0, 1))), RATE)


def test_the_real_limit_is_four_gib() -> None:
    assert audio._file_format("wav", None, 2**31 - 2**15, "a")[0] == "WAV"
    assert audio._file_format("wav", None, 2**31, "a")[0] == "RF64"


# --- what can't be read


def write_damaged(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", r"empty \(0 bytes\)"),
        ("text.wav", b"this is no sound at all\n" * 20, "not a sound file"),
        ("stub.wav", b"RIFF\x24\x00\x00\x00WAVEfmt ", "not a sound file"),
        ("samples.raw", bytes(1000), "headerless"),
    ],
)
def test_files_that_are_not_sound(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write_damaged(tmp_path / name, content)
    with pytest.raises(AudioError, match=message) as caught:
        audio.read(path)
    assert str(path) in str(caught.value)


def test_a_damaged_file_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of these headers send libsndfile to before the beginning, which must not print a traceback."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    stream = io.BytesIO()
    audio.write(stream, noise(2000, 2), RATE, fmt="aiff")
    for seed in range(50):
        generator = np.random.default_rng(seed)
        content = bytearray(stream.getvalue())
        for position in generator.integers(0, 64, 3):
            content[position] = generator.integers(256)
        with warnings.catch_warnings(), contextlib.suppress(AudioError):
            warnings.simplefilter("ignore")
            audio.read(write_damaged(tmp_path / "a.wav", bytes(content)))
    assert unraisable == []
    assert capfd.readouterr().err == ""


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"nowhere\.wav: no such file"):
        audio.read(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="a folder"):
        audio.read(tmp_path)
    with pytest.raises(AudioError, match="can't be opened"):
        audio.read("null\0byte.wav")


def test_reading_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(io, "FileIO", refuse)
    with pytest.raises(AudioError, match=r"secret\.wav: no permission"):
        audio.read("secret.wav")


@pytest.mark.parametrize("extension", ["wav", "aiff"])
def test_file_without_samples(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"none.{extension}"
    soundfile.write(path, np.zeros((0, 2)), RATE)
    with pytest.raises(AudioError, match="holds no samples"):
        audio.read(path)


def test_file_with_nan(tmp_path: Path) -> None:
    sound = tones(1.0, 1)
    sound[0, 36000] = np.nan
    sound[0, 40000] = np.inf
    soundfile.write(tmp_path / "nan.wav", sound.T, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"nan\.wav: 2 of 48000 samples .* at 0\.750 s"):
        audio.read(tmp_path / "nan.wav")


def test_streams_are_named_in_messages(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^<stream>: empty"):
        audio.read(io.BytesIO())
    with pytest.raises(AudioError, match=r"^standard input: empty"):
        audio.read(io.BytesIO(), name="standard input")
    text = write_damaged(tmp_path / "a.txt", b"text").open(encoding="utf-8")
    with text, pytest.raises(AudioError, match="binary mode"):
        audio.read(text)  # type: ignore[arg-type]


def test_truncated_wav_gives_what_is_there(tmp_path: Path) -> None:
    sound = tones(1.0)
    audio.write(tmp_path / "whole.wav", sound, RATE)
    content = (tmp_path / "whole.wav").read_bytes()
    loaded, _ = audio.read(write_damaged(tmp_path / "cut.wav", content[: 44 + 4 * 1000 + 2]))
    assert loaded.shape == (2, 1000)
    np.testing.assert_allclose(loaded, sound[:, :1000], atol=2**-15)


@pytest.mark.parametrize("block_frames", [1000, 2**17])
def test_truncated_flac_gives_every_sample_before_the_cut(
    tmp_path: Path, block_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = tones(4.0) + noise(4 * RATE, 2, 0.01)
    audio.write(tmp_path / "whole.flac", sound, RATE)
    content = (tmp_path / "whole.flac").read_bytes()
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 2 * block_frames)
    with pytest.warns(UserWarning, match="cut short"):
        loaded, _ = audio.read(write_damaged(tmp_path / "cut.flac", content[: len(content) // 2]))
    assert 1.8 * RATE < loaded.shape[1] < 2.2 * RATE
    np.testing.assert_allclose(loaded, sound[:, : loaded.shape[1]], atol=2**-15)


@needs_mp3
def test_truncated_mp3_gives_what_is_there(tmp_path: Path) -> None:
    audio.write(tmp_path / "whole.mp3", tones(4.0), RATE)
    content = (tmp_path / "whole.mp3").read_bytes()
    with pytest.warns(UserWarning, match="of 192000 declared"):
        loaded, _ = audio.read(write_damaged(tmp_path / "cut.mp3", content[: len(content) // 2]))
    assert RATE < loaded.shape[1] < 3 * RATE
    np.testing.assert_allclose(loaded[:, 1200:40000], tones(4.0)[:, 1200:40000], atol=0.05)


@needs_mp3
def test_mp3_that_hides_its_length_is_read_whole_or_reported(tmp_path: Path) -> None:
    path = tmp_path / "vbr.mp3"
    busy_then_quiet = np.concatenate([noise(4 * RATE, level=0.3), noise(8 * RATE, level=1e-3)], axis=1)
    with soundfile.SoundFile(path, "w", RATE, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.0) as file:
        file.write(busy_then_quiet.T)
    content = path.read_bytes()
    bit_rates = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]
    first_frame = 144 * 1000 * bit_rates[content[2] >> 4] // RATE
    assert b"Xing" in content[:first_frame]  # the frame that tells the length
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded, _ = audio.read(write_damaged(tmp_path / "bare.mp3", content[first_frame:]))
    reported = any("goes on for" in str(warning.message) for warning in caught)
    assert reported == (loaded.shape[1] < busy_then_quiet.shape[1])


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_lying_header_allocates_nothing(tmp_path: Path, kind: str) -> None:
    sound = tones(1.0)
    audio.write(tmp_path / f"true.{kind}", sound, RATE)
    content = bytearray((tmp_path / f"true.{kind}").read_bytes())
    if kind == "wav":
        content[40:44] = (0xFFFFFFF0).to_bytes(4, "little")  # size of the data chunk: 4 GiB
    else:
        content[21] |= 0x0F  # total samples in STREAMINFO, 36 bits: 2**36 - 1
        content[22:26] = b"\xff" * 4
    path = write_damaged(tmp_path / f"liar.{kind}", bytes(content))
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded, _ = audio.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded.shape == sound.shape
    assert peak < 2**24
    np.testing.assert_allclose(loaded, sound, atol=2**-15)


# --- what can't be written


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")

    def fail_after_one_block(sound: audio.Audio, _: int) -> Iterator[audio.Audio]:
        yield sound[:, :100]
        assert len(names(tmp_path)) == 2  # the temporary file is there, beside the target
        raise error

    monkeypatch.setattr(audio, "_blocks", fail_after_one_block)
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


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
def test_a_file_size_limit_like_a_full_disk(tmp_path: Path, extension: str) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    sound = noise(5 * RATE, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, hard))
    try:
        with pytest.raises(AudioError, match="disk space"):
            audio.write(tmp_path / f"big.{extension}", sound, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_device() -> None:
    with pytest.raises(AudioError, match=r"/dev/full: can't be written \(No space left on device\)"):
        audio.write("/dev/full", tones(1.0), RATE, fmt="wav")
    assert not Path("/dev/full").is_file()


def test_targets_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_broken_pipe_stays_one() -> None:
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


# --- find_audio


def test_find_audio(tmp_path: Path) -> None:
    for name in ("b/2.WAV", "b/10.flac", "a.ogg", "c/d/e.opus", "c/x.mp3", "c/y.aif", "z.m4a", "notes.txt", "s.raw"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for hidden in (".git/a.wav", "b/._2.wav"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "broken.wav").symlink_to("nowhere.wav")
    (tmp_path / "linked.wav").symlink_to("a.ogg")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    (tmp_path / "c" / "d" / "up").symlink_to("..")
    found = [path.relative_to(tmp_path).as_posix() for path in audio.find_audio(tmp_path)]
    assert found == ["a.ogg", "b/10.flac", "b/2.WAV", "c/d/e.opus", "c/x.mp3", "c/y.aif", "linked.wav"]


def test_find_audio_follows_links_to_other_folders(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.wav").touch()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    assert audio.find_audio(tmp_path / "data") == [tmp_path / "data" / "link" / "a.wav"]


def test_find_audio_reports_what_it_cannot_list(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="missing: can't be listed"):
        audio.find_audio(tmp_path / "missing")
    (tmp_path / "a.wav").touch()
    with pytest.raises(AudioError, match=r"a\.wav: can't be listed \(Not a directory\)"):
        audio.find_audio(tmp_path / "a.wav")


# --- resample

RATES = st.sampled_from([8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 192000])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), RATES, RATES, st.one_of(st.none(), st.integers(0, 5000)))
def test_resample_length(length: int, from_rate: int, to_rate: int, n_samples: int | None) -> None:
    sound = noise(length, 2)
    resampled = audio.resample(sound, from_rate, to_rate, n_samples)
    expected = math.ceil(length * to_rate / from_rate) if n_samples is None else n_samples
    assert resampled.shape == (2, expected)
    assert resampled.dtype == np.float32
    assert np.isfinite(resampled).all()


def test_resample_copies_nothing_where_nothing_changes() -> None:
    sound = tones(0.01)
    assert audio.resample(sound, RATE, RATE) is sound
    assert audio.resample(sound, RATE, RATE, sound.shape[1]) is sound
    np.testing.assert_array_equal(audio.resample(sound, RATE, RATE, 3), sound[:, :3])
    longer = audio.resample(sound, RATE, RATE, 500)
    np.testing.assert_array_equal(longer, np.pad(sound, ((0, 0), (0, 20))))


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 48000), (48000, 44100), (8000, 192000), (192000, 16000)])
def test_resample_is_aligned_and_keeps_channels(from_rate: int, to_rate: int) -> None:
    resampled = audio.resample(tones(0.5, 2, from_rate), from_rate, to_rate)
    inner = slice(to_rate // 10, -to_rate // 10)
    np.testing.assert_allclose(resampled[:, inner], tones(0.5, 2, to_rate)[:, inner], atol=1e-4)


def test_resample_pads_only_beyond_the_sound_and_trims_only_its_end() -> None:
    sound = tones(0.1, 2, 44100)
    natural = audio.resample(sound, 44100, RATE)
    np.testing.assert_array_equal(audio.resample(sound, 44100, RATE, 1000), natural[:, :1000])
    longer = audio.resample(sound, 44100, RATE, natural.shape[1] + 7)
    np.testing.assert_array_equal(longer, np.pad(natural, ((0, 0), (0, 7))))


def test_resample_of_one_sample_is_not_silent() -> None:
    one = np.array([[0.5]], np.float32)
    for from_rate, to_rate in ((44100, 48000), (48000, 44100), (192000, 8000), (8000, 192000)):
        assert np.abs(audio.resample(one, from_rate, to_rate)).max() > 0.01


@pytest.mark.parametrize("function", [audio.resample, audio.resample_windowed_sinc])
@pytest.mark.parametrize(("from_rate", "to_rate"), [(0, 44100), (44100, -1), (1, 44100), (44100, 44), (44100.0, 48000)])
def test_resample_refuses_rates(function: Callable[..., Any], from_rate: int, to_rate: int) -> None:
    with pytest.raises(AudioError, match=r"^resample: "):
        function(tones(0.01), from_rate, to_rate)


def test_resample_refuses_lengths() -> None:
    with pytest.raises(AudioError, match="-1 samples"):
        audio.resample(tones(0.01), 44100, RATE, -1)
    assert audio.resample(np.zeros((2, 0), np.float32), 44100, RATE).shape == (2, 0)
    with pytest.raises(AudioError, match="no samples"):
        audio.resample_windowed_sinc(np.zeros((2, 0), np.float32), 44100, RATE)


# Output of julius 0.2.7, julius.resample_frac(x, from_rate, to_rate), for x[n] = 0.5 cos(n * n / 400), n < 300:
# its length, and samples 0, 1, 50, 100 and the last two.
JULIUS = [
    (48000, 44100, 275, [0.499997, 0.499995, 0.217328, -0.1129404, 0.32012, -0.3448621]),
    (16000, 44100, 826, [0.499997, 0.4999982, 0.3401199, -0.4944424, -0.456625, -0.445147]),
    (44100, 24000, 163, [0.4999995, 0.4999821, -0.3152459, -0.4579651, 0.1491862, 0.0878712]),
]


@pytest.mark.parametrize(("from_rate", "to_rate", "length", "expected"), JULIUS)
def test_windowed_sinc_gives_the_numbers_of_the_reference(
    from_rate: int, to_rate: int, length: int, expected: list[float]
) -> None:
    n = np.arange(300)
    chirp = (0.5 * np.cos(n * n / 400)).astype(np.float32)
    resampled = audio.resample_windowed_sinc(np.stack([chirp, -chirp]), from_rate, to_rate)
    assert resampled.shape == (2, length)
    assert resampled.dtype == np.float32
    picked = resampled[:, [0, 1, 50, 100, length - 2, length - 1]]
    np.testing.assert_allclose(picked, [expected, [-value for value in expected]], atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500), st.sampled_from([8000, 16000, 44100, 44101]), st.sampled_from([11025, 16000, 48000]))
def test_windowed_sinc_keeps_a_constant(length: int, from_rate: int, to_rate: int) -> None:
    sound = np.full((2, length), 0.25, np.float32)
    resampled = audio.resample_windowed_sinc(sound, from_rate, to_rate)
    assert resampled.shape == (2, length * to_rate // from_rate)
    np.testing.assert_allclose(resampled, 0.25, atol=1e-6)


# --- loudness


def sine(
    frequency: float, seconds: float, sample_rate: int = RATE, channels: int = 1, level: float = 1.0
) -> audio.Audio:
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.repeat(level * np.sin(2 * np.pi * frequency * t)[None], channels, axis=0).astype(np.float32)


def test_loudness_of_the_reference() -> None:
    golden = np.load(GOLDEN / "discriminator_and_losses.npz")
    assert audio.loudness(golden["real"][0], 44100) == pytest.approx(golden["lufs_x"].item(), abs=1e-3)


@pytest.mark.parametrize("sample_rate", [16000, 44100, 48000, 96000])
def test_loudness_is_calibrated(sample_rate: int) -> None:
    """BS.1770-4: a full-scale sine of 997 Hz in one front channel measures -3.01 LUFS.

    The filters of the reference approximate those of the standard to within 0.1 dB.
    """
    assert audio.loudness(sine(997, 3, sample_rate), sample_rate) == pytest.approx(-3.01, abs=0.1)
    assert audio.loudness(sine(997, 3, sample_rate, level=0.1), sample_rate) == pytest.approx(-23.01, abs=0.1)


def test_loudness_adds_channels_by_weight() -> None:
    one = audio.loudness(sine(997, 2), RATE)
    for channels, weight in ((2, 2.0), (3, 3.0), (4, 4.41), (5, 5.82), (6, 6.0), (8, 8.0)):
        expected = one + 10 * math.log10(weight)
        assert audio.loudness(sine(997, 2, channels=channels), RATE) == pytest.approx(expected, abs=1e-4)
    assert audio.loudness(sine(997, 2)[0], RATE) == one


def test_loudness_does_not_depend_on_the_sample_rate() -> None:
    band = audio.resample(noise(3 * 24000), 24000, 48000)
    at_48k = audio.loudness(band, 48000)
    assert audio.loudness(audio.resample(band, 48000, 44100), 44100) == pytest.approx(at_48k, abs=0.05)


@pytest.mark.parametrize("length", [RATE // 2, 100_000, 123_457])
def test_loudness_agrees_with_pyloudnorm(length: int) -> None:
    """Another implementation: it rounds the number of blocks where the reference pads the last one."""
    import pyloudnorm

    sound = noise(length, 2) * np.linspace(0.01, 1, length, dtype=np.float32)
    theirs = pyloudnorm.Meter(RATE).integrated_loudness(sound.T.astype(np.float64))
    assert audio.loudness(sound, RATE) == pytest.approx(theirs, abs=0.15)


def test_loudness_is_gated() -> None:
    loud = sine(997, 10)
    alone = audio.loudness(loud, RATE)
    silence = np.zeros_like(loud)
    assert audio.loudness(np.concatenate([loud, silence], axis=1), RATE) == pytest.approx(alone, abs=0.1)
    quiet = 0.05 * loud  # 26 dB lower: below the relative gate
    assert audio.loudness(np.concatenate([loud, quiet], axis=1), RATE) == pytest.approx(alone, abs=0.1)
    near = 0.5 * loud  # 6 dB lower: within it
    expected = alone + 10 * math.log10((1 + 0.25) / 2)
    assert audio.loudness(np.concatenate([loud, near], axis=1), RATE) == pytest.approx(expected, abs=0.05)


def test_loudness_leaves_out_what_is_below_the_absolute_gate() -> None:
    faint = sine(997, 5, level=10 ** (-64 / 20))
    alone = audio.loudness(faint, RATE)
    assert alone == pytest.approx(-67.0, abs=0.1)
    fainter = 0.5 * faint  # within the relative gate, but below -70 LUFS
    assert audio.loudness(np.concatenate([faint, fainter], axis=1), RATE) == pytest.approx(alone, abs=0.1)


def test_loudness_of_silence_is_the_floor() -> None:
    assert audio.loudness(np.zeros((2, RATE), np.float32), RATE) == -70.0
    assert audio.loudness(1e-6 * noise(RATE), RATE) == -70.0


def test_loudness_of_the_shortest_sound_counts_the_silence_after_it() -> None:
    assert audio.loudness(np.zeros((1, 1), np.float32), RATE) == -70.0
    tenth, half = sine(997, 0.1), sine(997, 0.5)
    padded = np.pad(tenth, ((0, 0), (0, half.shape[1] - tenth.shape[1])))
    assert audio.loudness(tenth, RATE) == pytest.approx(audio.loudness(padded, RATE), abs=1e-6)
    assert audio.loudness(tenth, RATE) < audio.loudness(half, RATE) - 5


@pytest.mark.parametrize("sample_rate", [1, 10, 19, 76, 1000, 3000, 3001, 8000, 11025, 192000, np.int32(8000)])
def test_loudness_at_any_sample_rate(sample_rate: int) -> None:
    """White noise at -20 dB measures -20.7 LUFS without the weighting, and up to 4 dB more with its shelf."""
    measured = audio.loudness(noise(max(200, 2 * sample_rate)), sample_rate)
    assert -22.5 < measured < -16.0


def test_loudness_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = noise(123_457, 2)
    whole = audio.loudness(sound, RATE)
    monkeypatch.setattr(audio, "_BLOCK_VALUES", 1)  # one hop of 0.1 s at a time
    assert audio.loudness(sound, RATE) == pytest.approx(whole, abs=1e-9)


# --- normalize


@settings(max_examples=25, deadline=None)
@given(st.floats(-50, 20), st.floats(-40, 6), st.integers(1, 3), st.integers(0, 100))
def test_normalize(level_db: float, target: float, channels: int, seed: int) -> None:
    sound = noise(RATE // 2, channels, 10 ** (level_db / 20), seed)
    scaled, gain = audio.normalize(sound, RATE, target)
    assert isinstance(gain, float)
    assert float(np.float32(gain)) == gain
    assert np.abs(scaled).max() <= 1.0
    reached = audio.loudness(scaled, RATE)
    assert reached == pytest.approx(target, abs=1e-3) or (reached < target and np.abs(scaled).max() > 1 - 1e-5)
    restored = audio.apply_gain(scaled, -gain)
    np.testing.assert_allclose(restored, sound, atol=1e-6 * np.abs(sound).max())


def test_normalize_reaches_its_target_where_it_can() -> None:
    scaled, gain = audio.normalize(sine(997, 1, level=0.1), RATE)
    assert audio.loudness(scaled, RATE) == pytest.approx(-16.0, abs=1e-3)
    assert gain == pytest.approx(-16.0 + 23.05, abs=0.05)


def test_normalize_rounds_its_gain_towards_full_scale() -> None:
    sound = sine(997, 1)
    for peak in np.arange(3.0, 5.0, 1 / 16):
        scaled, _ = audio.normalize(sound * np.float32(peak) / np.abs(sound).max(), RATE, 20.0)
        assert 1 - 1e-6 < np.abs(scaled).max() <= 1.0


def test_normalize_keeps_the_balance_of_channels() -> None:
    sound = np.stack([sine(997, 1)[0], sine(997, 1, level=0.25)[0]])
    scaled, _ = audio.normalize(sound, RATE, 10.0)
    np.testing.assert_allclose(scaled[1], scaled[0] / 4, atol=1e-6)


def test_normalize_leaves_silence_and_the_caller_alone() -> None:
    silence = np.zeros((2, 100), np.float32)
    scaled, gain = audio.normalize(silence, RATE)
    assert gain == 0.0
    np.testing.assert_array_equal(scaled, silence)
    sound = noise(RATE)
    before = sound.copy()
    audio.normalize(sound, RATE)
    np.testing.assert_array_equal(sound, before)


@pytest.mark.parametrize("target", [math.nan, math.inf])
def test_normalize_refuses_targets(target: float) -> None:
    with pytest.raises(AudioError, match="finite"):
        audio.normalize(noise(RATE), RATE, target)


# --- start-up


def test_import_is_light() -> None:
    code = "import sys, dac_codec.audio; print(sorted({'torch', 'scipy', 'pyloudnorm'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_ctrl_c_while_libsndfile_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 300_000), 44100)

    class Interrupted(io.FileIO):
        n_reads = 0

        def readinto(self, buffer: Any, /) -> int | None:
            self.n_reads += 1
            if self.n_reads == 3:
                raise KeyboardInterrupt
            return super().readinto(buffer)

    monkeypatch.setattr(audio.io, "FileIO", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        audio.read(path)
