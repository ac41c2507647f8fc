"""Codecs that are run as commands: Opus, MP3 and Ogg Vorbis, with their best options.

Each gets mono 24-bit PCM and the smallest headers that its options allow. The output is resampled to the clip's rate
and cut to its length.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.common.errors import AudioError, DacError
from dac_codec.evaluation.codecs.interface import Codec, Coded, MissingCodecError, Setting, timed

_VORBIS_RATES = ((32.0, 44100), (16.0, 22050), (12.0, 11025), (8.0, 8000))
"""Lowest bitrates of mono that libvorbis 1.3 accepts, with their sample rates."""

_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class CommandCodec(Codec):
    """An encoder and a decoder that are run as commands.

    Args:
        package: Debian package of the commands.
        suffix: of its files.
        encode: command line of the encoder without the files; {kbps} stands for the bitrate.
        decode: command line of the decoder without the files.
        lowest, highest: bitrates of mono in kbit/s.
        whole: whether only whole kbit/s are possible.
        ogg_headers: number of header packets of its Ogg files; None: not Ogg, all bytes count as payload.
        input_rate: (clip's rate, bitrate) -> sample rate of the encoder's input; None: the clip's.
    """

    package: str
    suffix: str
    encode: tuple[str, ...]
    decode: tuple[str, ...]
    lowest: float
    highest: float
    whole: bool = False
    ogg_headers: int | None = None
    input_rate: Callable[[int, float], int] | None = None

    @property
    def about(self) -> str:
        versions = []
        for command in dict.fromkeys((self.encode[0], self.decode[0])):
            done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S)
            versions.append((done.stdout + done.stderr).strip().splitlines()[0])
        return f"`{' '.join(self.encode)}`, `{' '.join(self.decode)}`; {', '.join(versions)}"

    def check(self) -> None:
        for command in (self.encode[0], self.decode[0]):
            if shutil.which(command) is None:
                raise MissingCodecError(f"the command {command} is not installed: apt install {self.package}")

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        possible = {min(max(self.lowest, wish), self.highest) for wish in bitrates}
        if self.whole:
            possible = {float(round(wish)) for wish in possible}
        return [Setting(f"{kbps:g} kbit/s", kbps) for kbps in sorted(possible)]

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (Path(folder, name) for name in ("in.wav", f"coded{self.suffix}", "out.wav"))
            rate = self.input_rate(sample_rate, setting.value) if self.input_rate else sample_rate
            audio.write(original, audio.resample(clip, sample_rate, rate), rate, subtype="PCM_24")
            encode = [part.format(kbps=f"{setting.value:g}") for part in self.encode]
            to = ["-o"] if self.encode[0] == "oggenc" else []
            _, encode_seconds = timed(lambda: _run([*encode, str(original), *to, str(coded)]))
            _, decode_seconds = timed(lambda: _run([*self.decode, str(coded), *to, str(decoded)]))
            try:
                output, output_rate = audio.read(decoded)
                data = coded.read_bytes()
            except (AudioError, OSError) as error:
                raise DacError(f"{self.name}: no output for a clip at {setting.name} ({error})") from error
        return Coded(
            decoded=audio.resample(output, output_rate, sample_rate, clip.shape[-1]),
            n_bytes=len(data),
            payload_bytes=len(data) if self.ogg_headers is None else ogg_payload(data, self.ogg_headers),
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
        )


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DacError(f"{command[0]} can't be run: {error}") from error
    if done.returncode != 0:
        why = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise DacError(f"{command[0]} failed with exit code {done.returncode}: {why}")


def ogg_payload(data: bytes, n_headers: int) -> int:
    """Bytes of an Ogg file (RFC 3533) without page headers and without the first `n_headers` packets.

    Raises a DacError if they are no Ogg file, or a truncated one.
    """
    position, n_packets, payload = 0, 0, 0
    while position < len(data):
        table = position + 27
        table_end = table + (data[position + 26] if position + 26 < len(data) else 0)
        if data[position : position + 4] != b"OggS" or table_end > len(data):
            raise DacError(f"no Ogg page at byte {position}")
        for size in data[table:table_end]:
            if n_packets >= n_headers:
                payload += size
            n_packets += size < 255  # a packet ends with the first segment that is not full
        position = table_end + sum(data[table:table_end])
    return payload


def _full_band(sample_rate: int, kbps: float) -> int:
    """Opus always works at 48 kHz, and our resampler is better than that of opus-tools."""
    return 48000


def _vorbis_rate(sample_rate: int, kbps: float) -> int:
    return min(sample_rate, next(rate for lowest, rate in _VORBIS_RATES if kbps >= lowest))


_SMALL = ("--discard-comments", "--padding", "0")

# Frames of 60 ms need fewer headers than the default of 20 ms; at low bitrates these take a large share.
OPUS = CommandCodec(
    name="opus",
    package="opus-tools",
    suffix=".opus",
    encode=("opusenc", "--quiet", "--bitrate", "{kbps}", "--comp", "10", "--framesize", "60", *_SMALL),
    decode=("opusdec", "--quiet", "--rate", "48000", "--float"),
    lowest=6.0,
    highest=256.0,
    ogg_headers=2,
    input_rate=_full_band,
)

# lame chooses the best sample rate for a bitrate.
MP3 = CommandCodec(
    name="mp3",
    package="lame",
    suffix=".mp3",
    encode=("lame", "--quiet", "-m", "m", "--abr", "{kbps}", "-q", "0"),
    decode=("lame", "--quiet", "--decode"),
    lowest=8.0,
    highest=310.0,
    whole=True,
)

# The payload lacks the codebooks in the header, 3 to 4 kB, which matter little in longer files.
VORBIS = CommandCodec(
    name="vorbis",
    package="vorbis-tools",
    suffix=".ogg",
    encode=("oggenc", "--quiet", "--bitrate", "{kbps}", "--discard-comments"),
    decode=("oggdec", "--quiet", "--bits", "16"),
    lowest=_VORBIS_RATES[-1][0],
    highest=240.0,
    ogg_headers=3,
    input_rate=_vorbis_rate,
)
