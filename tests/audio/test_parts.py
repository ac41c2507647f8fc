"""Sound files that are joined, cut short, or have wrong sizes or tags: all sound is read, or it is said what is not."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dac_codec import audio
from dac_codec.audio import mpeg
from dac_codec.common.errors import AudioError
from tests.audio.sounds import RATE, Pipe, needs_mp3, needs_opus, noise, tones

OGG = ["ogg", pytest.param("opus", marks=needs_opus)]
SIZED = ["wav", "aiff", "au", "caf", "w64", "rf64"]
ID3 = b"ID3\x04\0\0" + bytes([0, 0, 8, 0]) + bytes(1024)


def encoded(fmt: str, sound: audio.Audio, rate: int = RATE, subtype: str | None = None) -> bytes:
    stream = io.BytesIO()
    audio.write(stream, sound, rate, fmt, subtype)
    return stream.getvalue()


def read(content: bytes, path: Path | None = None) -> tuple[audio.Audio, str]:
    """The waveform and what is missing from it, from a file, or from a pipe if there is no path."""
    if path is not None:
        path.write_bytes(content)
    with audio.Reader(Pipe(content) if path is None else path, warn=False) as reader:  # type: ignore[arg-type]
        blocks = list(reader)
    return np.concatenate(blocks, axis=1), reader.missing


@pytest.fixture(params=["file", "pipe"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where a sound is read from; None for a pipe."""
    return tmp_path / "sound" if request.param == "file" else None


# Joined files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", OGG)
def test_joined_ogg_streams_are_read_as_one(path: Path | None, fmt: str, tmp_path: Path) -> None:
    first, second = encoded(fmt, tones(1.0)), encoded(fmt, tones(0.5)[::-1])
    parts = [read(part)[0] for part in (first, second, first)]
    joined, missing = read(first + second + first, path)
    assert missing == ""
    np.testing.assert_array_equal(joined, np.concatenate(parts, axis=1))
    if path is not None:
        with audio.Reader(path) as reader:
            assert reader.complete_length() == joined.shape[1]
            part = reader.excerpt(RATE - 1000, RATE)
        np.testing.assert_allclose(part, joined[:, RATE - 1000 : 2 * RATE - 1000], atol=1e-3)


@pytest.mark.parametrize(("channels", "rate"), [(1, RATE), (2, 24000)])
def test_a_joined_ogg_stream_of_another_layout_is_reported(path: Path | None, channels: int, rate: int) -> None:
    first, second = encoded("ogg", tones(1.0)), encoded("ogg", tones(1.0, channels, rate), rate)
    sound, missing = read(first + second, path)
    assert sound.shape == (2, RATE)
    assert f"at {rate} Hz follow, which is not read" in missing
    if path is not None:
        with audio.Reader(path) as reader, pytest.raises(AudioError, match="follow, which is not read"):
            reader.complete_length()


@pytest.mark.parametrize("fmt", ["wav", "flac", "aiff", "au", "w64", "rf64"])
def test_other_joined_files_are_reported(path: Path | None, fmt: str) -> None:
    content = encoded(fmt, tones(0.5))
    for tail, expected in ((content, "another sound file follows"), (b"", "")):
        sound, missing = read(content + tail, path)
        np.testing.assert_allclose(sound, tones(0.5), atol=2**-15)
        assert expected in missing
        assert bool(missing) == bool(tail)


@needs_mp3
def test_joined_mp3_files_are_read_as_one(path: Path | None) -> None:
    first, second = encoded("mp3", tones(1.0)), encoded("mp3", tones(2.0))
    picture = b"ID3\x04\0\0" + bytes([0, 2, 0, 0]) + bytes(2**15)  # longer than mpg123 searches for a frame
    for between in (b"", picture, b"TAG" + bytes(125), b"TAG" + bytes(125) + picture):
        sound, missing = read(first + between + second, path)
        assert missing == ""
        assert 3 * RATE <= sound.shape[1] < 3.1 * RATE
        np.testing.assert_allclose(np.abs(sound[:, -RATE:-2000]).max(1), 0.5, atol=0.05)
    sound, missing = read(first + encoded("mp3", tones(1.0, 1, 24000), 24000), path)
    assert abs(sound.shape[1] - RATE) < 2400
    assert "1 channel at 24000 Hz follow, which is not read" in missing


# Length of an mp3 ----------------------------------------------------------------------------------------------------


def bare_mp3(sound: audio.Audio, mode: str) -> bytes:
    """An mp3 without the frame that gives its length."""
    stream = io.BytesIO()
    with soundfile.SoundFile(
        stream, "w", RATE, len(sound), format="MP3", bitrate_mode=mode, compression_level=0.5
    ) as file:
        file.write(sound.T)
    content = stream.getvalue()
    frames = mpeg.find_frames(stream)
    assert frames is not None
    assert frames.tag is not None
    return content[frames.tag.stop :]


def busy_then_quiet() -> audio.Audio:
    """A sound whose first frame is much larger than the rest: 10 s."""
    return np.concatenate([noise(2 * RATE, level=0.3), noise(8 * RATE, level=1e-3)], axis=1)


@needs_mp3
def test_an_mp3_of_variable_bit_rate_is_read_to_its_end(path: Path | None) -> None:
    content = bare_mp3(busy_then_quiet(), "VARIABLE")
    assert soundfile.SoundFile(io.BytesIO(content)).frames < 6 * RATE  # libsndfile's estimate
    sound, missing = read(content, path)
    assert missing == ""
    assert 10 * RATE <= sound.shape[1] < 10.1 * RATE
    assert np.sqrt(np.mean(sound[:, 9 * RATE : 10 * RATE] ** 2)) == pytest.approx(1e-3, rel=0.3)
    if path is not None:
        with audio.Reader(path) as reader:
            assert reader.complete_length() == sound.shape[1]
            part = reader.excerpt(9 * RATE, RATE // 2)
        np.testing.assert_allclose(part[:, 2000:], sound[:, 9 * RATE + 2000 : 9 * RATE + RATE // 2], atol=1e-5)


@needs_mp3
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("tag", ["none", "ID3v1", "APEv2", "both", "zeros"])
def test_whole_mp3_files_raise_no_alarm(path: Path | None, mode: str, tag: str) -> None:
    body = bytes(20_000)
    fields = struct.pack("<III", 2000, len(body) + 32, 1)
    ape = b"APETAGEX" + fields + b"\0\0\0\xa0" + bytes(8) + body + b"APETAGEX" + fields + b"\0\0\0\x80" + bytes(8)
    id3 = b"TAG" + bytes(125)
    tail = {"none": b"", "ID3v1": id3, "APEv2": ape, "both": ape + id3, "zeros": bytes(50_000)}[tag]
    sound, missing = read(bare_mp3(tones(2.0), mode) + tail, path)
    assert missing == ""
    assert 2 * RATE <= sound.shape[1] < 2.1 * RATE


@needs_mp3
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_ends_inside_a_frame_is_reported(path: Path | None, mode: str) -> None:
    content = bare_mp3(noise(4 * RATE), mode)
    sound, missing = read(content[: len(content) // 2 - 50], path)
    assert 1.5 * RATE < sound.shape[1] < 2.5 * RATE
    assert "its last frame is incomplete" in missing


@needs_mp3
def test_damage_inside_an_mp3_is_reported(path: Path | None) -> None:
    content = bytearray(bare_mp3(noise(2 * RATE), "CONSTANT"))
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    sound, missing = read(bytes(content), path)
    assert 1.5 * RATE < sound.shape[1] < 2 * RATE
    assert "bytes between its frames are damaged" in missing


# Files that are cut short --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [*SIZED, "flac"])
@pytest.mark.parametrize("n_bytes", [33_333, 40_000])
def test_a_file_that_is_cut_short_is_reported(path: Path | None, fmt: str, n_bytes: int) -> None:
    original = tones(0.5) + noise(RATE // 2, 2, 0.01)
    sound, missing = read(encoded(fmt, original)[:n_bytes], path)
    np.testing.assert_allclose(sound, original[:, : sound.shape[1]], atol=2**-15)
    assert sound.shape[1] > 7_000
    assert f"read {sound.shape[1]} of 24000 declared samples" in missing
    assert f"{(24000 - sound.shape[1]) / RATE:.2f} s are missing" in missing
    if path is not None and fmt != "flac":  # only decoding shows where a flac file ends
        with audio.Reader(path) as reader, pytest.raises(AudioError, match="cut short"):
            reader.complete_length()


@pytest.mark.parametrize(
    ("fmt", "subtype"), [("WAV", "IMA_ADPCM"), ("WAV", "ULAW"), ("AIFF", "PCM_S8"), ("NIST", None)]
)
def test_other_encodings_that_are_cut_short_are_reported(path: Path | None, fmt: str, subtype: str | None) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, tones(1.0, 1)[0], RATE, format=fmt, subtype=subtype)
    content = stream.getvalue()
    sound, missing = read(content[: len(content) // 2], path)
    assert 0.4 * RATE < sound.shape[1] < 0.6 * RATE
    assert "declared samples" in missing
    assert read(content, path)[1] == ""


@pytest.mark.parametrize("fmt", ["AVR", "MAT4", "MAT5", "MPC2K", "SDS", "VOC", "WVE"])
def test_old_formats_that_are_cut_short_are_reported(path: Path | None, fmt: str) -> None:
    stream = io.BytesIO()
    soundfile.write(stream, tones(1.0, 1)[0], 8000 if fmt == "WVE" else RATE, format=fmt)
    content = stream.getvalue()
    for size in (len(content) // 2, len(content) - 200):
        assert "the header declares more samples than are there" in read(content[:size], path)[1]
    assert read(content, path)[1] == ""


@pytest.mark.parametrize("fmt", OGG)
def test_an_ogg_file_that_is_cut_short_is_reported(path: Path | None, fmt: str) -> None:
    content = encoded(fmt, noise(4 * RATE, 2))
    last_page = content.rindex(b"OggS")
    for size in (len(content) // 2, last_page + 28, last_page + 40, len(content) - 1):
        sound, missing = read(content[:size], path)
        assert sound.shape[1] < 4 * RATE
        assert "its last Ogg page is incomplete" in missing
    assert read(content, path)[1] == ""
    assert read(content + bytes(1000), path)[1] == ""


@pytest.mark.parametrize("fmt", OGG)
def test_an_ogg_file_without_a_page_that_is_marked_as_the_last_gives_a_warning(tmp_path: Path, fmt: str) -> None:
    content = encoded(fmt, noise(4 * RATE, 2))
    (tmp_path / "a.ogg").write_bytes(content[: content.rindex(b"OggS")])
    with pytest.warns(UserWarning, match="no Ogg page is marked as the last: the end may be missing"):
        audio.read(tmp_path / "a.ogg")


def test_what_is_missing_is_a_warning_by_default(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded("wav", tones(1.0))[:50_000])
    with pytest.warns(UserWarning, match=r"a\.wav: cut short, .*of 48000 declared samples, 0\.74 s are missing"):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [0x7FFFF000, 0x7FFFFFFF, 0x80000000 - 44, 0xFFFFFFFF, 0xFFFFFFFF - 44])
def test_sizes_of_live_writers_are_no_alarm(path: Path | None, size: int) -> None:
    content = bytearray(encoded("wav", tones(0.5)))
    content[40:44] = struct.pack("<I", size)
    sound, missing = read(bytes(content), path)
    assert (sound.shape, missing) == ((2, RATE // 2), "")


# A size of 0 ---------------------------------------------------------------------------------------------------------


def with_size(fmt: str, content: bytes, size: int) -> bytes:
    """The file with the sizes that a program writes first, and replaces when it ends."""
    changed = bytearray(content)
    data = content.index({"aiff": b"SSND", "au": b".snd"}.get(fmt, b"data"))
    if fmt == "rf64":
        changed[20:44] = bytes(24)
    elif fmt == "au":
        changed[8:12] = struct.pack(">i", size)
    elif fmt == "caf":
        changed[data + 4 : data + 12] = struct.pack(">q", size)
    elif fmt == "w64":
        changed[data + 16 : data + 24] = struct.pack("<q", size)
    else:
        order = ">" if fmt == "aiff" else "<"
        changed[4:8] = changed[data + 4 : data + 8] = struct.pack(f"{order}i", size)
    return bytes(changed)


@pytest.mark.parametrize("fmt", SIZED)
@pytest.mark.filterwarnings("ignore:.*the header gives 0")
def test_a_size_of_0_means_up_to_the_end(path: Path | None, fmt: str) -> None:
    content = encoded(fmt, tones(0.5))
    for size in (0, -1):
        sound, missing = read(with_size(fmt, content, size), path)
        assert missing == ""
        np.testing.assert_allclose(sound, tones(0.5), atol=2**-15)


def test_a_size_of_0_is_a_warning_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "crashed.wav").write_bytes(with_size("wav", encoded("wav", tones(0.5)), 0))
    with pytest.warns(UserWarning, match=r"crashed\.wav: the header gives 0 as the size of the samples"):
        assert audio.read(tmp_path / "crashed.wav")[0].shape == (2, RATE // 2)


def test_a_file_without_samples_has_none(tmp_path: Path) -> None:
    header = encoded("wav", tones(0.5))[:40] + bytes(4)
    empty = header[:4] + struct.pack("<I", 36 + 12) + header[8:] + b"LIST\x04\0\0\0abcd"
    for content in (header, empty):
        with pytest.raises(AudioError, match="holds no samples"):
            read(content, tmp_path / "a.wav")


def test_a_live_wav_beyond_4_gib_is_read_to_its_end(tmp_path: Path) -> None:
    """A sparse file of 5 GiB whose header gives -1; only its end is decoded."""
    path = tmp_path / "long.wav"
    n_samples = 5 * 2**30 // 4
    with path.open("wb") as file:
        file.write(with_size("wav", encoded("wav", tones(0.01)), -1)[:44])
        file.truncate(44 + 4 * n_samples)
        file.seek(-4 * 480, io.SEEK_END)
        file.write(encoded("wav", tones(0.01))[44:])
    with audio.Reader(path) as reader:
        assert reader.complete_length() == n_samples
        np.testing.assert_allclose(reader.excerpt(n_samples - 480, 480), tones(0.01), atol=2**-15)


# Tags before the header ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [*SIZED, "flac", "ogg", pytest.param("mp3", marks=needs_mp3)])
def test_tags_before_the_header_cost_no_samples(path: Path | None, fmt: str) -> None:
    content = encoded(fmt, tones(0.5))
    plain, _ = read(content)
    for tags in (ID3, ID3 + ID3):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tagged, missing = read(tags + content, path)
        assert missing == ""
        np.testing.assert_array_equal(tagged, plain)


def test_a_cut_file_behind_a_tag_is_reported(path: Path | None) -> None:
    sound, missing = read(ID3 + encoded("wav", tones(0.5))[:20_044], path)
    assert sound.shape == (2, 5000)
    assert "read 5000 of 24000" in missing
