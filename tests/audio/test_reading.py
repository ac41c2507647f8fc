"""dac_codec.audio.reading: sound files, whole and in blocks."""

from __future__ import annotations

import contextlib
import io
import sys
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dac_codec import audio
from dac_codec.audio import decoders, samples
from dac_codec.common.errors import AudioError
from tests.audio.sounds import RATE, needs_mp3, noise, tones, write_damaged


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.wav", b"", r"empty \(0 bytes\)"),
        ("text.wav", b"this is no sound at all\n" * 20, "not a sound file"),
        ("stub.wav", b"RIFF\x24\x00\x00\x00WAVEfmt ", "not a sound file"),
        ("samples.raw", bytes(1000), "headerless"),
    ],
)
def test_files_that_are_not_sound_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write_damaged(tmp_path / name, content)
    with pytest.raises(AudioError, match=message) as caught:
        audio.read(path)
    assert str(path) in str(caught.value)


def test_a_damaged_file_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of these headers make libsndfile seek to before the beginning, which must not print a traceback."""
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


@pytest.mark.parametrize("source", [None, b"/tmp/sound.wav", 3])
def test_invalid_sources_are_named(source: Any) -> None:
    message = f"a {type(source).__name__} can't be read, expected a path .* or a binary stream"
    with pytest.raises(AudioError, match=message):
        audio.read(source)
    with pytest.raises(AudioError, match=message):
        audio.Reader.raw(source, 8000, 1)


def test_closed_streams_are_named(tmp_path: Path) -> None:
    closed = io.BytesIO(b"RIFF")
    closed.close()
    with (tmp_path / "sound.wav").open("wb+") as file:
        pass
    for stream in (closed, file):
        with pytest.raises(AudioError, match="the stream is closed"):
            audio.read(stream)
        with pytest.raises(AudioError, match="the stream is closed"):
            audio.Reader.raw(stream, 8000, 1)
    live = io.BytesIO(bytes(2**20))
    blocks = iter(audio.Reader.raw(live, 8000, 1))
    next(blocks)
    live.close()
    with pytest.raises(AudioError, match="can't be read"):
        next(blocks)


def test_a_part_of_a_sample_is_said() -> None:
    with pytest.warns(UserWarning, match="an incomplete sample at the end is left out"):
        blocks = list(audio.Reader.raw(io.BytesIO(bytes(4003)), 8000, 2))
    assert sum(block.shape[1] for block in blocks) == 1000


def test_streams_are_named_in_messages(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^<stream>: empty"):
        audio.read(io.BytesIO())
    with pytest.raises(AudioError, match=r"^standard input: empty"):
        audio.read(io.BytesIO(), name="standard input")
    text = write_damaged(tmp_path / "a.txt", b"text").open(encoding="utf-8")
    with text, pytest.raises(AudioError, match="binary mode"):
        audio.read(text)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*cut short")
def test_truncated_wav_yields_the_samples_present(tmp_path: Path) -> None:
    sound = tones(1.0)
    audio.write(tmp_path / "whole.wav", sound, RATE)
    content = (tmp_path / "whole.wav").read_bytes()
    loaded, _ = audio.read(write_damaged(tmp_path / "cut.wav", content[: 44 + 4 * 1000 + 2]))
    assert loaded.shape == (2, 1000)
    np.testing.assert_allclose(loaded, sound[:, :1000], atol=2**-15)


@pytest.mark.parametrize("block_frames", [1000, 2**17])
def test_truncated_flac_yields_every_sample_before_the_cut(
    tmp_path: Path, block_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = tones(4.0) + noise(4 * RATE, 2, 0.01)
    audio.write(tmp_path / "whole.flac", sound, RATE)
    content = (tmp_path / "whole.flac").read_bytes()
    monkeypatch.setattr(samples, "BLOCK_VALUES", 2 * block_frames)
    with pytest.warns(UserWarning, match="cut short"):
        loaded, _ = audio.read(write_damaged(tmp_path / "cut.flac", content[: len(content) // 2]))
    assert 1.8 * RATE < loaded.shape[1] < 2.2 * RATE
    np.testing.assert_allclose(loaded, sound[:, : loaded.shape[1]], atol=2**-15)


@needs_mp3
def test_truncated_mp3_yields_the_samples_present(tmp_path: Path) -> None:
    audio.write(tmp_path / "whole.mp3", tones(4.0), RATE)
    content = (tmp_path / "whole.mp3").read_bytes()
    with pytest.warns(UserWarning, match="of 192000 declared"):
        loaded, _ = audio.read(write_damaged(tmp_path / "cut.mp3", content[: len(content) // 2]))
    assert RATE < loaded.shape[1] < 3 * RATE
    np.testing.assert_allclose(loaded[:, 1200:40000], tones(4.0)[:, 1200:40000], atol=0.05)


@needs_mp3
def test_mp3_without_a_declared_length_is_read_whole_or_reported(tmp_path: Path) -> None:
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
    reported = any("bytes of the mp3 follow" in str(warning.message) for warning in caught)
    assert reported == (loaded.shape[1] < busy_then_quiet.shape[1])


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_declared_length_allocates_nothing(tmp_path: Path, kind: str) -> None:
    sound = tones(1.0)
    audio.write(tmp_path / f"original.{kind}", sound, RATE)
    content = bytearray((tmp_path / f"original.{kind}").read_bytes())
    if kind == "wav":
        content[40:44] = (0xFFFFFFF0).to_bytes(4, "little")  # size of the data chunk: 4 GiB
    else:
        content[21] |= 0x0F  # total samples in STREAMINFO, 36 bits: 2**36 - 1
        content[22:26] = b"\xff" * 4
    path = write_damaged(tmp_path / f"changed.{kind}", bytes(content))
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded, _ = audio.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded.shape == sound.shape
    assert peak < 2**24
    np.testing.assert_allclose(loaded, sound, atol=2**-15)


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

    monkeypatch.setattr(decoders.io, "FileIO", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        audio.read(path)


@pytest.mark.parametrize("fmt", ["wav", "flac", "ogg", pytest.param("mp3", marks=needs_mp3)])
def test_an_excerpt_is_a_part_of_the_whole(tmp_path: Path, fmt: str) -> None:
    path = tmp_path / f"a.{fmt}"
    audio.write(path, tones(4.0), RATE)
    whole, _ = audio.read(path)
    with audio.Reader(path) as file:
        assert (file.complete_length(), file.sample_rate, file.channels) == (4 * RATE, RATE, 2)
        part = file.excerpt(2 * RATE, RATE)
        assert file.excerpt(4 * RATE - 10, RATE).shape == (2, 10)
        assert file.excerpt(4 * RATE, RATE).shape == (2, 0)
    # A decoder that starts inside an mp3 lacks the bit reservoir of its first frame.
    begin = 2000 if fmt == "mp3" else 0
    np.testing.assert_allclose(part[:, begin:], whole[:, 2 * RATE + begin : 3 * RATE], atol=1e-6)


def test_errors_of_files_that_are_not_sound_are_one_line(tmp_path: Path) -> None:
    for name, content, message in (
        ("empty.wav", b"", "."),
        ("text.flac", b"this is no sound at all\n" * 20, "."),
        ("samples.RAW", bytes(1000), "headerless"),
    ):
        path = write_damaged(tmp_path / name, content)
        with pytest.raises(AudioError, match=message) as caught:
            audio.Reader(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
