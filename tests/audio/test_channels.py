"""The order of channels in each format, and the positions of the speakers."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dac_codec import audio
from dac_codec.common.errors import AudioError
from dac_codec.common.speakers import STANDARD_MASKS, describe_mask
from tests.audio.sounds import RATE, Pipe, needs_opus

OGG = ["ogg", pytest.param("opus", marks=needs_opus)]
FREQUENCIES = {"FL": 300, "FR": 500, "FC": 700, "LFE": 60, "BL": 1100, "BR": 1300, "BC": 1500, "SL": 1700, "SR": 1900}
WAV_SPEAKERS = {
    3: "FL FR FC",
    4: "FL FR BL BR",
    5: "FL FR FC BL BR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}
VORBIS_SPEAKERS = {
    3: "FL FC FR",
    4: "FL FR BL BR",
    5: "FL FC FR BL BR",
    6: "FL FC FR BL BR LFE",
    7: "FL FC FR SL SR BC LFE",
    8: "FL FC FR SL SR BL BR LFE",
}


def speakers(names: str) -> audio.Audio:
    """One second with a sine of its own for each speaker [C, T]; the LFE's is low."""
    t = np.arange(RATE) / RATE
    return np.stack([0.3 * np.sin(2 * np.pi * FREQUENCIES[name] * t) for name in names.split()]).astype(np.float32)


def heard(sound: audio.Audio) -> str:
    """The speakers whose sines are in the channels [C, T]."""
    inner = sound[:, RATE // 4 : 3 * RATE // 4]
    peaks = np.abs(np.fft.rfft(inner)).argmax(1) * RATE / inner.shape[1]
    return " ".join(min(FREQUENCIES, key=lambda name: abs(FREQUENCIES[name] - peak)) for peak in peaks)


def written(fmt: str, sound: audio.Audio, mask: int | None = None) -> bytes:
    stream = io.BytesIO()
    with audio.Writer(stream, RATE, len(sound), sound.shape[1], fmt, channel_mask=mask) as writer:
        writer.write(sound)
    return stream.getvalue()


def read(content: bytes) -> tuple[audio.Audio, int | None]:
    with audio.Reader(io.BytesIO(content)) as reader:
        return np.concatenate(list(reader), axis=1), reader.channel_mask


@pytest.mark.parametrize("fmt", OGG)
@pytest.mark.parametrize("channels", WAV_SPEAKERS)
def test_ogg_files_are_written_in_the_order_of_vorbis(fmt: str, channels: int) -> None:
    content = written(fmt, speakers(WAV_SPEAKERS[channels]))
    stored, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    assert heard(stored.T) == VORBIS_SPEAKERS[channels]


@pytest.mark.parametrize("fmt", OGG)
@pytest.mark.parametrize("channels", WAV_SPEAKERS)
def test_ogg_files_are_read_in_the_order_of_wav(fmt: str, channels: int) -> None:
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", RATE, channels, {"ogg": "VORBIS", "opus": "OPUS"}[fmt], format="OGG") as file:
        for part in np.split(speakers(VORBIS_SPEAKERS[channels]).T, 10):
            file.write(part)
    sound, mask = read(stream.getvalue())
    assert heard(sound) == WAV_SPEAKERS[channels]
    assert mask == STANDARD_MASKS[channels]
    with audio.Reader(io.BytesIO(stream.getvalue())) as reader:
        assert heard(reader.excerpt(0, RATE)) == WAV_SPEAKERS[channels]


@pytest.mark.parametrize("fmt", ["wav", "rf64", "caf", "aiff", "flac", *OGG])
@pytest.mark.parametrize("channels", [3, 4, 5, 6])
def test_positions_are_kept(fmt: str, channels: int) -> None:
    sound, mask = read(written(fmt, speakers(WAV_SPEAKERS[channels]), STANDARD_MASKS[channels]))
    assert mask == STANDARD_MASKS[channels]
    assert heard(sound) == WAV_SPEAKERS[channels]


@pytest.mark.parametrize("mask", [0xB, 0x603, 0x60F, 0x70F, 0x63F, 0x8, 0x600])
def test_a_wav_file_keeps_any_positions(tmp_path: Path, mask: int) -> None:
    content = written("wav", np.zeros((mask.bit_count(), 100), np.float32), mask)
    tag, size, stored = struct.unpack_from("<H18xHxxI", content, 20)[0], *struct.unpack_from("<H2xI", content, 36)
    assert (tag, size, stored) == (0xFFFE, 22, mask)
    assert read(content)[1] == mask
    with audio.Reader(Pipe(content)) as reader:  # type: ignore[arg-type]
        assert reader.channel_mask == mask
    with audio.Writer(tmp_path / "a.wav", RATE, mask.bit_count(), channel_mask=mask) as writer:
        writer.write(np.zeros((mask.bit_count(), 100), np.float32))
    with audio.Reader(tmp_path / "a.wav") as reader:
        assert reader.channel_mask == mask


def test_more_than_two_channels_without_positions_are_extensible() -> None:
    content = written("wav", np.zeros((4, 100), np.float32))
    assert content[20:22] == b"\xfe\xff"
    assert content[40:44] == bytes(4)
    assert read(content)[1] is None
    for channels in (1, 2):  # as before: plain, without a mask
        assert written("wav", np.zeros((channels, 100), np.float32), STANDARD_MASKS[channels])[20:22] == b"\x01\0"


def test_positions_that_a_format_does_not_have_are_refused(tmp_path: Path) -> None:
    for fmt in ("flac", "ogg"):
        with pytest.raises(AudioError, match=r"FL FR LFE, and 3 channels in (FLAC|OGG) are FL FR FC; write wav"):
            audio.Writer(tmp_path / f"a.{fmt}", RATE, 3, channel_mask=0xB)
        assert read(written(fmt, speakers("FL FR FC LFE SL SR"), 0x60F))[1] == 0x3F  # at the sides as at the back


def test_positions_in_the_comments_of_a_flac_file_are_read() -> None:
    content = written("flac", np.zeros((3, 1000), np.float32))
    comment = b"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0xb"
    body = struct.pack("<II", 0, 1) + struct.pack("<I", len(comment)) + comment
    block = b"\x04" + len(body).to_bytes(3, "big") + body
    assert read(content)[1] == 0x7
    assert read(content[:42] + block + content[42:])[1] == 0xB


def test_channels_of_a_caf_file_in_another_order_are_sorted() -> None:
    """The layout MPEG 5.1 B of Core Audio: FL FR BL BR FC LFE."""
    content = bytearray(written("caf", speakers("FL FR BL BR FC LFE"), 0x3F))
    at = content.index(b"chan") + 12
    content[at : at + 4] = (122 << 16 | 6).to_bytes(4, "big")
    sound, mask = read(bytes(content))
    assert heard(sound) == WAV_SPEAKERS[6]
    assert mask == 0x3F


def test_masks_in_words() -> None:
    assert describe_mask(0x3F) == "5.1: FL FR FC LFE BL BR"
    assert describe_mask(0x80000001) == "FL bit 31"
