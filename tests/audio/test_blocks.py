"""dac_codec.audio in blocks: live sound, pipes, and equality with the whole."""

from __future__ import annotations

import io
import itertools
import os
import struct
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import audio
from dac_codec.audio import pcm, samples, wav
from dac_codec.common.errors import AudioError
from tests.audio.sounds import RATE, Pipe, names, noise, tones, write_damaged

SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
EDGES = np.array([[1.0, -1.0, 1.5, -7.0, 0.99999, -1e-9, 1e-9, 1 - 2**-24, 0.5, -0.5]], np.float32)


def dealt(sound: audio.Audio, cuts: list[int]) -> list[audio.Audio]:
    """`sound` in blocks that end at `cuts`, some of them empty."""
    return np.split(sound, sorted(min(cut, sound.shape[1]) for cut in cuts), axis=1)


# --- reading


def wav_bytes(sound: audio.Audio, subtype: str, extensible: bool = False) -> bytes:
    """A wav file written by libsndfile."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound.T, RATE, subtype, format="WAVEX" if extensible else "WAV")
    return buffer.getvalue()


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("subtype", SUBTYPES)
def test_wav_from_a_pipe_equals_libsndfile(subtype: str, extensible: bool) -> None:
    sound = np.concatenate([noise(1000, 3, 0.5), np.repeat(EDGES, 3, axis=0)], axis=1)
    content = wav_bytes(sound, subtype, extensible)
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0].T
    with audio.Reader(Pipe(content)) as reader:  # type: ignore[arg-type]
        assert (reader.sample_rate, reader.channels, reader.n_samples) == (RATE, 3, None)
        assert not reader.rewindable
        np.testing.assert_array_equal(np.concatenate(list(reader), axis=1), expected)
        with pytest.raises(AudioError, match="a pipe is read once"):
            reader.rewind()
    with audio.Reader(io.BytesIO(content)) as reader:
        assert reader.n_samples == sound.shape[1]


@pytest.mark.filterwarnings("ignore:.*an incomplete sample")
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_wav_of_unknown_length_ends_with_the_pipe(size: int) -> None:
    content = bytearray(wav_bytes(tones(0.1), "PCM_16"))
    content[40:44] = size.to_bytes(4, "little")
    loaded, _ = audio.read(Pipe(bytes(content) + b"\x01"))  # type: ignore[arg-type]
    np.testing.assert_allclose(loaded, tones(0.1), atol=2**-15)


def test_other_wav_chunks_are_skipped() -> None:
    content = wav_bytes(tones(0.1), "PCM_16")
    extra = b"JUNK" + struct.pack("<I", 5) + b"abcde\x00"
    loaded, _ = audio.read(Pipe(content[:12] + extra + content[12:36] + extra + content[36:] + extra))  # type: ignore[arg-type]
    np.testing.assert_array_equal(loaded, audio.read(io.BytesIO(content))[0])
    assert loaded.shape == (2, RATE // 10)


@pytest.mark.parametrize("chunk", [b"JUNK" + bytes(4), b"LIST" + struct.pack("<I", 2**31)])
def test_wav_with_a_late_format_chunk_is_refused(chunk: bytes) -> None:
    content = b"RIFF\xff\xff\xff\xffWAVE" + chunk * 2**17 + wav_bytes(tones(0.1), "PCM_16")[12:]
    with pytest.raises(AudioError, match="more than 1 MiB precedes the wav's format"):
        audio.read(Pipe(content))  # type: ignore[arg-type]


def test_wav_chunks_are_read_in_linear_time() -> None:
    content = wav_bytes(tones(0.1), "PCM_16")
    seconds = []
    for size in (2**17, 2**19):
        began = time.process_time()
        audio.read(Pipe(content[:12] + (b"JUNK" + bytes(4)) * (size // 8) + content[12:]))  # type: ignore[arg-type]
        seconds.append(time.process_time() - began)
    assert seconds[1] < 8 * seconds[0] + 0.1


def test_rf64_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wav, "LIMIT_BYTES", 0)
    sink = Pipe()
    audio.write(sink, tones(0.1), RATE)  # type: ignore[arg-type]
    content = sink.outgoing.getvalue()
    assert content[:4] == b"RF64"
    assert soundfile.info(io.BytesIO(content)).frames == RATE // 10
    loaded, _ = audio.read(Pipe(content + b"LIST\x02\x00\x00\x00ab"))  # type: ignore[arg-type]
    np.testing.assert_allclose(loaded, tones(0.1), atol=2**-15)
    assert loaded.shape == (2, RATE // 10)


@pytest.mark.parametrize("cut", [0, 3, 11, 12, 30, 36, 40, 44])
def test_wav_truncated_in_its_header(cut: int) -> None:
    with pytest.raises(AudioError):
        audio.read(Pipe(wav_bytes(tones(0.1), "PCM_16")[:cut]))  # type: ignore[arg-type]


@given(st.binary(max_size=80), st.integers(0, 44))
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_damaged_wav_on_a_pipe_yields_samples_or_an_error(garbage: bytes, kept: int) -> None:
    try:
        loaded, _ = audio.read(Pipe(wav_bytes(tones(0.01), "PCM_16")[:kept] + garbage))  # type: ignore[arg-type]
    except AudioError:
        return
    assert loaded.size <= 80


def test_live_sound_is_yielded_as_it_arrives() -> None:
    read_end, write_end = os.pipe()
    sent = wav_bytes(tones(0.1), "PCM_16")
    with open(read_end, "rb") as receiver, open(write_end, "wb", buffering=0) as sender:  # noqa: PTH123
        sender.write(sent[: 44 + 4 * 100 + 3])  # the header, 100 samples of each channel, and a part of one
        with audio.Reader(receiver) as reader:
            blocks = iter(reader)
            assert next(blocks).shape == (2, 100)
            sender.write(sent[44 + 4 * 100 + 3 : 44 + 4 * 150])
            assert next(blocks).shape == (2, 50)


@pytest.mark.parametrize(("encoding", "subtype"), audio.RAW_ENCODINGS.items())
def test_raw(encoding: str, subtype: str) -> None:
    sound = np.clip(noise(500, 2, 0.3), -1, 1)
    data = pcm.encode(sound, subtype)
    with audio.Reader.raw(Pipe(data), RATE, 2, encoding) as reader:  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.concatenate(list(reader), axis=1), pcm.decode(data, subtype, 2))
        assert reader.n_samples is None
    np.testing.assert_allclose(pcm.decode(data, subtype, 2), sound, atol=2**-15)


@pytest.mark.parametrize(
    ("sample_rate", "channels", "encoding", "message"),
    [(0, 1, "s16le", "rate is 0"), (RATE, 0, "s16le", "0 channels"), (RATE, 1, "mp3", "expected one of s16le")],
)
def test_raw_refuses_invalid_arguments(sample_rate: int, channels: int, encoding: str, message: str) -> None:
    with pytest.raises(AudioError, match=f"^standard input: .*{message}"):
        audio.Reader.raw(io.BytesIO(), sample_rate, channels, encoding, name="standard input")


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
def test_rewinding(tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "BLOCK_VALUES", 2 * 1000)
    path = tmp_path / f"a.{extension}"
    audio.write(path, tones(0.2), RATE)
    expected, _ = audio.read(path)
    stream = io.BytesIO(b"junk" + path.read_bytes())
    stream.seek(4)
    for source in (path, stream, Pipe(path.read_bytes()) if extension != "wav" else path):
        with audio.Reader(source) as reader:  # type: ignore[arg-type]
            assert reader.rewindable
            assert len(list(itertools.islice(reader, 3))) == 3
            reader.rewind()
            np.testing.assert_array_equal(np.concatenate(list(reader), axis=1), expected)
            reader.rewind()
            np.testing.assert_array_equal(np.concatenate(list(reader), axis=1), expected)
    assert not stream.closed


def test_rewinding_a_changed_file_is_an_error(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", tones(0.1), RATE)
    with audio.Reader(tmp_path / "a.wav") as reader:
        list(reader)
        (tmp_path / "a.wav").write_bytes(wav_bytes(tones(0.1, 1), "PCM_16"))
        with pytest.raises(AudioError, match="changed while it was read"):
            reader.rewind()


def test_nan_is_located_in_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "BLOCK_VALUES", 10_000)
    sound = tones(1.0, 1)
    sound[0, 36000] = np.nan
    soundfile.write(tmp_path / "a.wav", sound.T, RATE, subtype="FLOAT")
    with audio.Reader(tmp_path / "a.wav") as reader, pytest.raises(AudioError, match=r"first at 0\.750 s"):
        list(reader)


def test_flac_without_a_declared_length(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    audio.write(tmp_path / "a.flac", tones(0.2), RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # total samples in STREAMINFO, 36 bits
    content[22:26] = bytes(4)
    with audio.Reader(write_damaged(tmp_path / "a.flac", bytes(content))) as reader:
        assert reader.n_samples is None
        assert sum(block.shape[1] for block in reader) == RATE // 5
    assert len(recwarn) == 0


def test_errors_of_streams_are_reported() -> None:
    class Failing(Pipe):
        def readinto(self, buffer: Any) -> int:
            raise OSError(5, "Input/output error")

    class Waiting(Pipe):
        def read(self, size: int = -1) -> Any:
            return None

    class Seekable(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 1000:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(AudioError, match="Input/output error"):
        audio.read(Failing())  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="expected a blocking one"):
        audio.read(Waiting())  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="Input/output error"):
        audio.read(Seekable(wav_bytes(tones(1.0), "PCM_16")))


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    for seconds in (30, 60):
        audio.write(tmp_path / f"{seconds}.wav", np.zeros((2, seconds * RATE), np.float32), RATE)
    peaks = []
    for seconds in (30, 60):
        with (tmp_path / f"{seconds}.wav").open("rb", buffering=0) as file:
            for source in (tmp_path / f"{seconds}.wav", Pipe(file.read())):
                tracemalloc.start()
                with (
                    audio.Reader(source) as reader,  # type: ignore[arg-type]
                    audio.Writer(tmp_path / "copy.wav", reader.sample_rate, reader.channels) as writer,
                ):
                    for block in reader:
                        writer.write(block)
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    assert max(peaks) < 2**23 + min(peaks)
    assert max(peaks) < 30 * RATE * 8


# --- writing


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("extension", ["wav", "flac", "aiff", "ogg"])
def test_writing_in_blocks_equals_writing_at_once(tmp_path: Path, extension: str, known: bool) -> None:
    sound = tones(0.3)
    audio.write(tmp_path / f"whole.{extension}", sound, RATE)
    path = tmp_path / f"blocks.{extension}"
    with audio.Writer(path, RATE, 2, sound.shape[1] if known else None) as writer:
        for block in dealt(sound, [1, 1000, 7777]):
            writer.write(block)
        assert not path.exists()
    # libvorbis encodes the samples of the first write as the beginning.
    tolerance = 0.05 if extension == "ogg" else 0.0
    whole, _ = audio.read(tmp_path / f"whole.{extension}")
    np.testing.assert_allclose(audio.read(path)[0], whole, atol=tolerance, rtol=0)
    assert soundfile.info(path).frames == sound.shape[1]
    if known and extension == "wav":
        assert path.read_bytes() == (tmp_path / "whole.wav").read_bytes()


@pytest.mark.parametrize("subtype", SUBTYPES)
def test_written_wav_equals_libsndfile(tmp_path: Path, subtype: str) -> None:
    sound = np.concatenate([noise(1001, 1, 0.5), EDGES], axis=1)
    audio.write(tmp_path / "a.wav", sound, RATE, subtype=subtype)
    soundfile.write(tmp_path / "b.wav", sound.T, RATE, subtype)
    assert soundfile.info(tmp_path / "a.wav").subtype == subtype
    np.testing.assert_array_equal(
        soundfile.read(tmp_path / "a.wav", dtype="float64")[0], soundfile.read(tmp_path / "b.wav", dtype="float64")[0]
    )
    if subtype not in ("FLOAT", "DOUBLE"):
        assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_wav_of_unknown_length_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = tones(0.1)
    for limit, magic in ((2 * sound.size, b"RIFF"), (2 * sound.size - 1, b"RF64")):
        monkeypatch.setattr(wav, "LIMIT_BYTES", limit)
        with audio.Writer(tmp_path / "a.wav", RATE, 2) as writer:
            for block in dealt(sound, [100]):
                writer.write(block)
        assert (tmp_path / "a.wav").read_bytes()[:4] == magic
        assert soundfile.info(tmp_path / "a.wav").frames == sound.shape[1]
        np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], sound, atol=2**-15)
    for name, subtype in (("a.aiff", None), ("b.wav", "ULAW")):
        monkeypatch.setattr(wav, "LIMIT_BYTES", sound.size - 1)
        with pytest.raises(AudioError, match="4 GiB"), audio.Writer(tmp_path / name, RATE, 2, None, None, subtype) as w:
            w.write(sound)
    assert names(tmp_path) == ["a.wav"]


def test_stream_receives_each_block_immediately() -> None:
    sink = Pipe()
    with audio.Writer(sink, RATE, 1) as writer:  # type: ignore[arg-type]
        sizes = [len(sink.outgoing.getvalue())]
        for _ in range(3):
            writer.write(noise(99))
            sizes.append(len(sink.outgoing.getvalue()))
    assert sizes == [44, 242, 440, 638]
    content = sink.outgoing.getvalue()
    assert content[4:8] == content[40:44] == b"\xff" * 4
    assert audio.read(Pipe(content))[0].shape == (1, 297)  # type: ignore[arg-type]
    assert soundfile.info(io.BytesIO(content)).frames == 297


def test_stream_of_known_length_has_exact_sizes() -> None:
    sink = Pipe()
    with audio.Writer(sink, RATE, 1, 3, subtype="PCM_24") as writer:  # type: ignore[arg-type]
        writer.write(noise(2))
        writer.write(noise(1))
    content = sink.outgoing.getvalue()
    assert int.from_bytes(content[4:8], "little") == len(content) - 8 == 36 + 9 + 1
    assert int.from_bytes(content[40:44], "little") == 9


def test_raw_to_a_stream() -> None:
    sink = Pipe()
    with audio.Writer(sink, RATE, 2, fmt="raw") as writer:  # type: ignore[arg-type]
        writer.write(tones(0.1))
    assert sink.outgoing.getvalue() == wav_bytes(tones(0.1), "PCM_16")[44:]


def test_partial_writes_are_completed() -> None:
    class Slow(Pipe):
        def write(self, content: Any) -> int:
            return super().write(bytes(content[:100]))

    sink = Slow()
    audio.write(sink, tones(0.1), RATE)  # type: ignore[arg-type]
    assert sink.outgoing.getvalue() == wav_bytes(tones(0.1), "PCM_16")


def test_writer_refuses_invalid_input(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for n_samples, lengths, message in ((100, [60, 41], "more were written"), (100, [60], "60 were written")):
        with pytest.raises(AudioError, match=message), audio.Writer(path, RATE, 2, n_samples) as writer:
            _ = [writer.write(noise(length, 2)) for length in lengths]
    with pytest.raises(AudioError, match="1 channels, expected 2"), audio.Writer(path, RATE, 2) as writer:
        writer.write(noise(10))
    with pytest.raises(AudioError, match="0 channels"):
        audio.Writer(path, RATE, 0)
    with pytest.raises(AudioError, match="file format 'raw'"):
        audio.Writer(tmp_path / "a.raw", RATE, 1)
    with pytest.raises(KeyboardInterrupt), audio.Writer(path, RATE, 2) as writer:
        raise KeyboardInterrupt
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_live_sound_through_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    received: list[audio.Audio] = []

    def receive() -> None:
        with audio.Reader(path) as reader:
            received.extend(reader)

    receiver = threading.Thread(target=receive)
    receiver.start()
    with audio.Writer(path, RATE, 2) as writer:
        for block in dealt(tones(0.1), [1000, 2000]):
            writer.write(block)
    receiver.join()
    np.testing.assert_allclose(np.concatenate(received, axis=1), tones(0.1), atol=2**-15)


# --- resampling and loudness

CUTS = st.lists(st.integers(0, 6000), max_size=6)


@given(st.integers(1, 6000), CUTS, st.sampled_from([8000, 44100, 48000]), st.sampled_from([16000, 44100, 48000]))
@settings(max_examples=40, deadline=None)
def test_resampling_in_blocks_equals_resampling_at_once(
    length: int, cuts: list[int], from_rate: int, to_rate: int
) -> None:
    sound = noise(length, 2)
    resampler = audio.Resampler(from_rate, to_rate, 2)
    blocks = [resampler.push(block) for block in dealt(sound, cuts)]
    joined = np.concatenate([*blocks, resampler.flush()], axis=1)
    np.testing.assert_array_equal(joined, audio.resample(sound, from_rate, to_rate))


@given(st.integers(1, 3000), st.integers(0, 4000), st.sampled_from([44100, 48000]))
@settings(max_examples=40, deadline=None)
def test_resampling_trims_and_pads(length: int, n_samples: int, to_rate: int) -> None:
    sound = noise(length, 1)
    natural = audio.resample(sound, 44100, to_rate)
    expected = np.pad(natural, ((0, 0), (0, max(0, n_samples - natural.shape[1]))))[:, :n_samples]
    np.testing.assert_array_equal(audio.resample(sound, 44100, to_rate, n_samples), expected)


@given(st.integers(1, 60_000), st.lists(st.integers(0, 60_000), max_size=8), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_loudness_in_blocks(length: int, cuts: list[int], channels: int) -> None:
    sound = noise(length, channels) * np.linspace(0.05, 1, length, dtype=np.float32)
    meter = audio.LoudnessMeter(RATE, channels)
    assert meter.loudness() == audio.SILENCE_LUFS
    for block in dealt(sound, cuts):
        meter.push(block)
        meter.loudness()  # asking changes nothing
    assert meter.n_samples == length
    assert meter.peak == np.abs(sound).max()
    assert meter.loudness() == pytest.approx(audio.loudness(sound, RATE), abs=1e-9)


def test_running_loudness_is_that_of_the_blocks_so_far() -> None:
    sound = np.concatenate([noise(2 * RATE, 1, 0.01), noise(2 * RATE, 1, 0.3)], axis=1)
    meter = audio.LoudnessMeter(RATE, 1)
    for start in range(0, 4 * RATE, RATE):
        meter.push(sound[:, start : start + RATE])
        assert meter.loudness() == pytest.approx(audio.loudness(sound[:, : start + RATE], RATE), abs=1e-9)
