"""Codecs behind one interface: ours, other codecs, and reference points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dac_codec.common.errors import DacError
from dac_codec.evaluation.codecs.commands import MP3, OPUS, VORBIS
from dac_codec.evaluation.codecs.interface import Codec, Coded, MissingCodecError, Setting
from dac_codec.evaluation.codecs.networks import Encodec, Snac
from dac_codec.evaluation.codecs.ours import Ours, published
from dac_codec.evaluation.codecs.points import ABOUT, Point

__all__ = ["NAMES", "Codec", "Coded", "MissingCodecError", "Setting", "make_codecs"]

_FIXED: tuple[Codec, ...] = (
    *(OPUS, MP3, VORBIS, Encodec("encodec24", 24), Encodec("encodec48", 48), Snac("snac")),
    *(Point(name) for name in ABOUT),
)

_OURS: dict[str, tuple[int, Literal["codebooks", "bitrate", "quality"]]] = {
    "ours": (0, "codebooks"),
    "ours-search": (1, "codebooks"),
    "ours-search-2": (2, "codebooks"),
    "ours-default": (1, "quality"),
    "ours-variable": (1, "bitrate"),
    "ours-variable-2": (2, "bitrate"),
}
"""Effort, and what the settings are."""

NAMES = (*_OURS, "dac", *(codec.name for codec in _FIXED))
"""All codecs: our model, the reference's published weights, other codecs, and reference points."""


def make_codecs(names: Sequence[str], model: str, device: str) -> tuple[list[Codec], list[str]]:
    """The codecs of these names, and a line for each that is not installed.

    The model is that of "ours" and its variants, the device that of all models of this package. Raises a DacError if a
    name is unknown, or the model can't be loaded.
    """
    codecs: list[Codec] = []
    missing = []
    for name in dict.fromkeys(names):
        if name not in NAMES:
            raise DacError(f"no codec is called {name!r}, expected one of {', '.join(NAMES)}")
        try:
            codecs.append(_make(name, model, device))
        except MissingCodecError as error:
            missing.append(f"{name} is left out, {error}")
    if not codecs:
        raise DacError(f"none of the codecs can be used here: {'; '.join(missing)}")
    return codecs, missing


def _make(name: str, model: str, device: str) -> Codec:
    if name in _OURS:
        return Ours(name, model, device, *_OURS[name])
    if name == "dac":
        return published(device)
    codec = next(one for one in _FIXED if one.name == name)
    codec.check()
    return codec
