"""What happens to an excerpt between the file and the network. Pure functions on float32 arrays [C, T].

Randomness comes from the numpy Generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from scipy import fft

from dac_codec.audio import SILENCE_LUFS, Audio, apply_gain, loudness

Channel: TypeAlias = Literal["mix", "random"]

_FADE = 1024  # samples over which a waveform's mirrored ends fade out before it is filtered


def to_mono(samples: Audio, channel: Channel, random: np.random.Generator) -> Audio:
    """One channel [1, T] of samples [C, T]: the mean of all, or one of them, each as often as the others."""
    if channel == "random":
        chosen = int(random.integers(len(samples)))
        return np.ascontiguousarray(samples[chosen : chosen + 1])
    mean: Audio = samples.mean(0, keepdims=True)
    return mean


def normalize_loudness(audio: Audio, sample_rate: int, target_lufs: float = -16.0) -> tuple[Audio, float]:
    """Scale audio [C, T] to a loudness (ITU-R BS.1770-4), beyond full scale if need be.

    The order is that of the reference's training configuration: loudness first (VolumeNorm), then the peak
    (RescaleAudio, here `limit_peak`). What measures -70 LUFS, the least there is, is silence and stays as it is.

    Returns:
        The scaled audio, and the loudness before, in LUFS.
    """
    measured = loudness(audio, sample_rate)
    if measured <= SILENCE_LUFS:
        return audio, measured
    return apply_gain(audio, target_lufs - measured), measured


def limit_peak(audio: Audio, peak: float = 1.0) -> Audio:
    """Scale audio [C, T] down so that no sample exceeds `peak`; the audio itself where none does."""
    top = max(float(audio.max()), -float(audio.min()))
    if top <= peak:
        return audio
    limited: Audio = audio / np.float32(top) * np.float32(peak)  # in this order, rounding can't exceed the peak
    return limited


def rotate_phase(audio: Audio, angle: float) -> Audio:
    """Move the phase of every frequency in audio [C, T] by the same angle, in radians.

    That is x cos(angle) - H(x) sin(angle), where x + i H(x) is the analytic signal and H the Hilbert transform: hearing
    hardly notices, but no sample stays what it was. An angle of 0 gives the input back, pi its negative.

    An end where the waveform isn't zero is a step, from which the Hilbert transform would make a high peak; `_filter`
    leaves none.
    """
    return _filter(audio, lambda frequencies: np.complex64(complex(math.cos(angle), math.sin(angle))))


def low_pass(audio: Audio, cutoff: float, width: float) -> Audio:
    """Take from audio [C, T] all above a cutoff; frequencies are shares of the sample rate, 0.5 the highest there is.

    The response falls from 1 to 0 along a cosine around the cutoff, over `width` in all, and leaves phases as they are.
    """

    def response(frequencies: Audio) -> Audio:
        places = np.clip((frequencies - cutoff) / width, -0.5, 0.5)
        return np.asarray(0.5 - 0.5 * np.sin(np.pi * places), np.float32)

    return _filter(audio, response)


def _filter(audio: Audio, response: Callable[[Audio], Audio | np.complex64]) -> Audio:
    """Audio [C, T] with each frequency multiplied by a response to it, without what a step at either end would make.

    The response is asked once, for all frequencies as shares of the sample rate. The waveform goes on beyond its ends,
    mirrored and faded out, while it is transformed.
    """
    n_samples = audio.shape[-1]
    extended = np.pad(audio, ((0, 0), (_FADE, _FADE)), mode="reflect")
    fade = np.sin(np.linspace(0, math.pi / 2, _FADE, endpoint=False, dtype=np.float32)) ** 2
    extended[:, :_FADE] *= fade
    extended[:, -_FADE:] *= fade[::-1]
    n_fast = fft.next_fast_len(extended.shape[-1], real=True)
    spectrum = fft.rfft(extended, n_fast) * response(fft.rfftfreq(n_fast))
    filtered: Audio = np.ascontiguousarray(fft.irfft(spectrum, n_fast)[:, _FADE : _FADE + n_samples])
    return filtered


def silence_part(audio: Audio, random: np.random.Generator) -> Audio:
    """Replace a random part of audio [C, T], at the beginning or at the end, by digital silence; returns a new array.

    The part is anything from one sample to all of them.
    """
    n_samples = audio.shape[-1]
    n_silent = int(random.integers(1, n_samples + 1))
    silenced: Audio = audio.copy()
    silenced[:, slice(n_silent) if random.random() < 0.5 else slice(n_samples - n_silent, None)] = 0.0
    return silenced
