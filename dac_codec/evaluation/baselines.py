"""What any codec has to beat, and what listeners are given to compare with."""

from __future__ import annotations

import math

import numpy as np

from dac_codec import audio as sound


def silence(original: np.ndarray) -> np.ndarray:
    """Nothing at all, as long as the original [C, T]."""
    return np.zeros_like(original)


def noise(original: np.ndarray, sample_rate: int, random: np.random.Generator) -> np.ndarray:
    """White noise as long and as loud (BS.1770) as the original [C, T]."""
    white = random.standard_normal(original.shape).astype(np.float32)
    return sound.apply_gain(white, sound.loudness(original, sample_rate) - sound.loudness(white, sample_rate))


def anchor(original: np.ndarray, sample_rate: int) -> np.ndarray:
    """The original [C, T] below 3.5 kHz: the low anchor of a listening test.

    ITU-R BS.1534-3, section 5.1, asks for no more than 0.1 dB of ripple up to 3.5 kHz, 25 dB of attenuation at 4 kHz
    and 50 dB at 4.5 kHz; this filter has 60 dB at 4 kHz, and linear phase.
    """
    if sample_rate <= 8000:
        return original
    # Kaiser's window, and how long it has to be (Oppenheim & Schafer, "Discrete-Time Signal Processing", section 7.5).
    attenuation, width, cutoff = 60.0, 500.0 / sample_rate, 3750.0 / sample_rate
    reach = math.ceil((attenuation - 7.95) / (2.285 * 2 * math.pi * width) / 2)
    places = np.arange(-reach, reach + 1)
    taps = sound.windowed_sinc(2 * cutoff * places, np.kaiser(len(places), 0.1102 * (attenuation - 8.7)))
    n_fast = 1 << (original.shape[-1] + 2 * reach).bit_length()
    filtered = np.fft.irfft(np.fft.rfft(original, n_fast) * np.fft.rfft(taps, n_fast), n_fast)
    return filtered[..., reach : reach + original.shape[-1]].astype(np.float32)
