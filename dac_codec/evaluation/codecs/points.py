"""Reference points: the original, the low anchor of listening tests, noise and silence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.evaluation.codecs.interface import Codec, Coded, Setting

ABOUT = {
    "original": "the clip itself, as from a perfect codec",
    "anchor": "the clip below 3.5 kHz, the low anchor of ITU-R BS.1534",
    "noise": "white noise as loud as the clip",
    "silence": "silence",
}


@dataclass(frozen=True)
class Point(Codec):
    """A reference point, by its name in `ABOUT`; it costs no bits."""

    @property
    def about(self) -> str:
        return ABOUT[self.name]

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
    and 50 dB at 4.5 kHz. This linear-phase filter has 80 dB at 4 kHz.
    """
    low_pass = audio.LowPass(sample_rate, len(original), 3500.0)
    return np.concatenate([low_pass.push(original), low_pass.flush()], axis=1)
