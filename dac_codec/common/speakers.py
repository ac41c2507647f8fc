"""Positions of speakers: the channel mask of a wav file (Microsoft, WAVEFORMATEXTENSIBLE).

Each set bit of a mask is a position. Channels are in the order of the bits, from the lowest to the highest.
"""

from __future__ import annotations

POSITIONS = (
    *("FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC"),
    *("SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR"),
)
"""Name of each bit, from the lowest on: front, back, side, top; left, right, center; LFE is the subwoofer."""

STANDARD_MASKS = {1: 0x4, 2: 0x3, 3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F}
"""The mask that FLAC (RFC 9639, section 9.1.3), Vorbis and Opus assume, by the number of channels."""

_NAMES = {
    0x4: "mono",
    0x3: "stereo",
    0xB: "2.1",
    0x7: "3.0",
    0x107: "4.0",
    0x33: "quad",
    0x603: "quad (side)",
    0x37: "5.0",
    0x607: "5.0 (side)",
    0x3F: "5.1",
    0x60F: "5.1 (side)",
    0x70F: "6.1",
    0x63F: "7.1",
}


def positions(mask: int) -> list[str]:
    """Names of the positions in a mask, in the order of the channels."""
    return [POSITIONS[bit] if bit < len(POSITIONS) else f"bit {bit}" for bit in range(32) if mask >> bit & 1]


def describe_mask(mask: int) -> str:
    """A mask in words.

    >>> describe_mask(0x3F), describe_mask(0x10B)
    ('5.1: FL FR FC LFE BL BR', 'FL FR LFE BC')
    """
    names = " ".join(positions(mask))
    return f"{_NAMES[mask]}: {names}" if mask in _NAMES else names


def useful_mask(mask: int | None, channels: int) -> int | None:
    """`mask`, or None where it says nothing: not one position for each channel, or plain mono or stereo."""
    if mask is None or mask.bit_count() != channels or (channels <= 2 and mask == STANDARD_MASKS[channels]):
        return None
    return mask
