"""The interface of codecs."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from dac_codec.audio import Audio
from dac_codec.codec.models import best_device
from dac_codec.common.errors import DacError

T = TypeVar("T")


class MissingCodecError(DacError):
    """A codec that is not installed; the message says how to install it."""


@dataclass(frozen=True)
class Setting:
    """One way to use a codec.

    Attributes:
        name: for people, such as "6 kbit/s" or "7 codebooks"; "" for a codec with a single setting.
        value: the codec's parameter, such as a bitrate or a number of codebooks.
    """

    name: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Coded:
    """An encoded and decoded clip.

    Attributes:
        decoded: [1, T], with the length and sample rate of the clip.
        n_bytes: size of the file.
        payload_bytes: size without headers, framing and checksums.
        encode_seconds, decode_seconds: elapsed time.
        codes: [N, F], -1 where a frame has no code: it has its first ones, at least one; None for codecs without
            codebooks of one frame rate.
        codebook_size: entries of each codebook.
        code_bits: bits of the codes of each codebook in the file [N], if they are entropy coded; otherwise empty.
    """

    decoded: Audio
    n_bytes: int
    payload_bytes: float
    encode_seconds: float
    decode_seconds: float
    codes: np.ndarray | None = None
    codebook_size: int = 0
    code_bits: Sequence[float] = ()


@dataclass(frozen=True)
class Codec(ABC):
    """A codec, by its `name` in tables. It can be pickled, since it is used in other processes."""

    name: str

    @property
    @abstractmethod
    def about(self) -> str:
        """What it is and how it is run, for people."""

    @property
    def fingerprint(self) -> str:
        """Changes when its output or speed may change, for other reasons than the version of this package."""
        return f"{self.name} {self.about}"

    def check(self) -> None:  # noqa: B027, most codecs need nothing
        """Raise a MissingCodecError if the codec is not installed."""

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        """The nearest settings to the bitrates in kbit/s, without duplicates, the lowest first."""
        return [Setting()]

    @abstractmethod
    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        """Encode and decode a clip [1, T]. Raises a DacError if the codec fails."""


def computed_by(device: str) -> str:
    """What results and speed of a network on a device depend on besides its weights, for a fingerprint."""
    chosen = best_device() if device == "auto" else torch.device(device)
    name = f" {torch.cuda.get_device_name(chosen)}" if chosen.type == "cuda" and torch.cuda.is_available() else ""
    return f"{chosen}{name}, torch {torch.__version__}, 1 thread"


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its elapsed time in seconds."""
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def nearest(wished: Sequence[float], possible: Sequence[float]) -> list[int]:
    """Indices of the possible bitrates nearest to the wished ones, sorted and without duplicates."""
    return sorted({min(range(len(possible)), key=lambda i: abs(possible[i] - wish)) for wish in wished})
