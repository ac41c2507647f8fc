"""What a codec is to an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from dac_codec.audio import Audio
from dac_codec.codec.models import best_device
from dac_codec.common.errors import DacError


class MissingCodecError(DacError):
    """A codec that can't be used here; the message says how to get it."""


@dataclass(frozen=True)
class Setting:
    """One way to use a codec.

    Attributes:
        name: for people, such as "6 kbit/s" or "7 codebooks"; "" where a codec has one way only.
        value: what the codec makes of it.
    """

    name: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Coded:
    """What became of a clip.

    Attributes:
        decoded: [1, T], as long as the clip and at its rate.
        n_bytes: size of the file.
        payload_bytes: the part of it that says how the clip sounds: no headers, framing and check sums.
        encode_seconds, decode_seconds: time that it took, by the clock.
        codes: [N, F] of the codebooks; None where the codec has none that can be told apart.
        codebook_size: entries of each codebook.
    """

    decoded: Audio
    n_bytes: int
    payload_bytes: float
    encode_seconds: float
    decode_seconds: float
    codes: np.ndarray | None = None
    codebook_size: int = 0


class Codec(Protocol):
    """A codec. It is made in one process and used in others, so it can be pickled.

    Attributes:
        name: in tables.
        about: what it is and how it is run, for people.
        fingerprint: changes where what it makes, or how quickly, may for another reason than this package's version.
    """

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        """For each bitrate in kbit/s, what comes nearest to it; each setting once, the lowest first."""

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        """Encode and decode a clip [1, T].

        Raises:
            DacError: it can't be done.
        """


def computed_by(device: str) -> str:
    """What the results and speeds of a network depend on beside its weights, for a fingerprint.

    Args:
        device: "auto", "cpu" or "cuda".
    """
    chosen = best_device() if device == "auto" else torch.device(device)
    name = f" {torch.cuda.get_device_name(chosen)}" if chosen.type == "cuda" and torch.cuda.is_available() else ""
    return f"{chosen}{name}, torch {torch.__version__}, 1 thread"


def nearest(wished: Sequence[float], possible: Sequence[float]) -> list[int]:
    """Which of the possible bitrates come nearest to the wished ones: indices, each once, in order."""
    return sorted({min(range(len(possible)), key=lambda i: abs(possible[i] - wish)) for wish in wished})
