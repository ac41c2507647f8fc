"""Points of reference: what is no codec, and shows what the measures make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dac_codec.audio import Audio
from dac_codec.evaluation import baselines
from dac_codec.evaluation.codecs.interface import Coded, Setting

ABOUT = {
    "original": "the clip itself: what a perfect codec gives",
    "anchor": "the clip below 3.5 kHz, the low anchor of ITU-R BS.1534",
    "noise": "white noise as loud as the clip",
    "silence": "nothing",
}


@dataclass(frozen=True)
class Point:
    """One of `ABOUT`; it costs no bits."""

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
            decoded = baselines.anchor(clip, sample_rate)
        elif self.name == "noise":
            decoded = baselines.noise(clip, sample_rate, np.random.default_rng(0))
        elif self.name == "silence":
            decoded = baselines.silence(clip)
        else:
            decoded = clip
        return Coded(decoded, n_bytes=0, payload_bytes=0, encode_seconds=0.0, decode_seconds=0.0)
