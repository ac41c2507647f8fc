"""Order of the channels: that of a wav file everywhere inside, and that of the format in a file."""

from __future__ import annotations

import re
import struct

import soundfile

from dac_codec.audio.containers import CHUNK_LIMIT, chunks
from dac_codec.audio.ogg import VORBIS_ORDER
from dac_codec.audio.samples import Audio
from dac_codec.common.errors import AudioError
from dac_codec.common.speakers import STANDARD_MASKS, positions, useful_mask
from dac_codec.common.streams import SeekableStream, read_at

_GET_CHANNEL_MAP, _SET_CHANNEL_MAP = 0x1100, 0x1101  # libsndfile's SFC_GET_CHANNEL_MAP_INFO, SFC_SET_CHANNEL_MAP_INFO

_BIT_OF = {1: 2, 2: 0, 3: 1, 4: 2, 5: 0, 6: 1, 7: 2, 8: 8, 9: 4, 10: 5, 11: 3, 12: 6, 13: 7, 14: 9, 15: 10, 16: 11}
_BIT_OF |= {17: 12, 18: 14, 19: 13, 20: 15, 21: 17, 22: 16}
"""Bit of a channel mask for each of libsndfile's speaker positions (SF_CHANNEL_MAP_MONO is 1)."""

_POSITION_OF = {_BIT_OF[position]: position for position in (2, 3, 4, *range(8, 23))}

_AIFF_LAYOUTS = {
    113 << 16 | 3: [0, 1, 2],
    108 << 16 | 4: [0, 1, 4, 5],
    117 << 16 | 5: [0, 1, 2, 4, 5],
    121 << 16 | 6: [0, 1, 2, 3, 4, 5],
    125 << 16 | 7: [0, 1, 2, 3, 9, 10, 8],
    126 << 16 | 8: [0, 1, 2, 3, 4, 5, 6, 7],
    128 << 16 | 8: [0, 1, 2, 3, 9, 10, 4, 5],
}
"""Bit of each channel for layout tags of Core Audio (CoreAudioTypes.h): MPEG 3.0 A, quad, MPEG 5.0 A, 5.1 A, ..."""

_BITMAP = 1 << 16  # kAudioChannelLayoutTag_UseChannelBitmap, whose bits are those of a mask
_FLAC_COMMENTS = 4
_FLAC_MASK = re.compile(rb"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x([0-9A-F]{1,8})", re.IGNORECASE)

_SIDE_TO_BACK = {0x603: 0x33, 0x607: 0x37, 0x60F: 0x3F}
"""Masks with speakers at the sides that stand for those with the same ones at the back."""


def read_channels(
    file: soundfile.SoundFile, content: SeekableStream, vorbis_order: bool
) -> tuple[int | None, tuple[int, ...] | None]:
    """The channel mask of an open file (None: unknown), and for each channel its place in the file (None: the same).

    `content` is the file's content once more.
    """
    n = file.channels
    if vorbis_order:
        order = VORBIS_ORDER.get(n)
        return useful_mask(STANDARD_MASKS.get(n), n), order and tuple(sorted(range(n), key=order.__getitem__))
    if file.format == "FLAC":
        return useful_mask(_flac_mask(content) or STANDARD_MASKS.get(n), n), None
    bits = _aiff_bits(content) if file.format == "AIFF" else _mapped_bits(file)
    if len(bits) != n or len(set(bits)) < n or -1 in bits:
        return None, None
    order = tuple(sorted(range(n), key=bits.__getitem__))
    return useful_mask(sum(1 << bit for bit in bits), n), None if order == tuple(range(n)) else order


def _mapped_bits(file: soundfile.SoundFile) -> list[int]:
    """The bit of each channel in a mask, as far as libsndfile knows it; -1: it has none."""
    numbers = soundfile._ffi.new("int[]", file.channels)
    if not soundfile._snd.sf_command(file._file, _GET_CHANNEL_MAP, numbers, soundfile._ffi.sizeof(numbers)):
        return []
    return [_BIT_OF.get(number, -1) for number in numbers]


def _aiff_bits(content: SeekableStream) -> list[int]:
    """The same for aiff, whose channel layout libsndfile leaves uninitialized if it precedes the chunk COMM."""
    for _, _, chunk in chunks(content, 0, ">"):
        if chunk[:4] == b"CHAN" and len(chunk) >= 16:
            tag, bitmap = struct.unpack_from(">II", chunk, 8)
            return [bit for bit in range(32) if bitmap >> bit & 1] if tag == _BITMAP else _AIFF_LAYOUTS.get(tag, [])
    return []


def _flac_mask(content: SeekableStream) -> int | None:
    """The mask in the comments of a flac file, where its speakers are not the standard ones."""
    position = 4
    for _ in range(CHUNK_LIMIT):
        head = read_at(content, position, 4)
        if len(head) < 4:
            break
        size = int.from_bytes(head[1:], "big")
        position += 4
        if head[0] & 0x7F == _FLAC_COMMENTS and (found := _FLAC_MASK.search(read_at(content, position, size))):
            return int(found[1], 16)
        if head[0] & 0x80:
            break
        position += size
    return None


def to_vorbis_order(audio: Audio) -> Audio:
    """Put the channels [C, T] of a wav file into the order of Vorbis."""
    order = VORBIS_ORDER.get(len(audio))
    return audio if order is None else audio[list(order)]


def write_mask(file: soundfile.SoundFile, mask: int) -> None:
    """Store a channel mask in a file that is being written, if its format has room for it."""
    numbers = soundfile._ffi.new("int[]", [_POSITION_OF[bit] for bit in range(18) if mask >> bit & 1])
    soundfile._snd.sf_command(file._file, _SET_CHANNEL_MAP, numbers, soundfile._ffi.sizeof(numbers))


def check_standard(mask: int | None, channels: int, container: str, name: str) -> None:
    """Raise an AudioError if a format whose speaker positions follow from the number of channels has others."""
    standard = STANDARD_MASKS.get(channels)
    if mask is None or channels <= 2 or standard is None or _SIDE_TO_BACK.get(mask, mask) == standard:
        return
    raise AudioError(
        f"{name}: the channels are {' '.join(positions(mask))}, and {channels} channels in {container} are "
        f"{' '.join(positions(standard))}; write wav"
    )
