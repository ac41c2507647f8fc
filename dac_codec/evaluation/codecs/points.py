"""Reference points: the original, the low anchor of listening tests, noise and silence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.evaluation.codecs.interface import Coded, Setting

ABOUT = {
    "original": "the clip itself, as from a perfect codec",
    "anchor": "the clip below 3.5 kHz, the low anchor of ITU-R BS.1534",
    "noise": "white noise as loud as the clip",
    "silence": "silence",
}


@dataclass(frozen=True)
class Point:
    """A reference point, by its name in `ABOUT`; it costs no bits."""

    name: str

    @property
    def about(self) -> str:
        return ABOUT[self.name]

    @property
    def fingerprint(self) -> str:
        return self.name

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        return [Setting()]

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        if self.name == "anchor":
            decoded = anchor(clip, sample_rate)
        elif self.name == "noise":
            decoded = noise(clip, sample_rate, np.random.default_rng(0))
        elif self.name == "silence":
            decoded = np.zeros_like(clip)
        else:
            decoded = clip
        return Coded(decoded, n_bytes=0, payload_bytes=0, encode_seconds=0.0, decode_seconds=0.0)


def noise(original: np.ndarray, sample_rate: int, random: np.random.Generator) -> np.ndarray:
    """White noise as long and as loud (BS.1770) as the original [C, T]."""
    white = random.standard_normal(original.shape).astype(np.float32)
    return audio.apply_gain(white, audio.loudness(original, sample_rate) - audio.loudness(white, sample_rate))


def anchor(original: np.ndarray, sample_rate: int) -> np.ndarray:
    """The original [C, T] low-passed at 3.5 kHz, the low anchor of a listening test.

    ITU-R BS.1534-3, section 5.1, requires at most 0.1 dB of ripple up to 3.5 kHz, and an attenuation of 25 dB at 4 kHz
    and 50 dB at 4.5 kHz. This linear-phase filter has 60 dB at 4 kHz.
    """
    if sample_rate <= 8000:
        return original
    # Kaiser window and its length (Oppenheim & Schafer, "Discrete-Time Signal Processing", section 7.5).
    attenuation, width, cutoff = 60.0, 500.0 / sample_rate, 3750.0 / sample_rate
    reach = math.ceil((attenuation - 7.95) / (2.285 * 2 * math.pi * width) / 2)
    positions = np.arange(-reach, reach + 1)
    taps = audio.windowed_sinc(2 * cutoff * positions, np.kaiser(len(positions), 0.1102 * (attenuation - 8.7)))
    n_fast = 1 << (original.shape[-1] + 2 * reach).bit_length()
    filtered = np.fft.irfft(np.fft.rfft(original, n_fast) * np.fft.rfft(taps, n_fast), n_fast)
    return filtered[..., reach : reach + original.shape[-1]].astype(np.float32)
