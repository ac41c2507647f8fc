"""Changes of an excerpt between file and network: pure functions of float32 arrays [C, T].

Randomness comes from the numpy Generator that is passed in.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
from scipy import fft
from torchaudio.functional import fftconvolve

from dac_codec.audio import SILENCE_LUFS, Audio, apply_gain, loudness

Channel: TypeAlias = Literal["mix", "random"]

TARGET_LUFS = -16.0  # as in the reference's training configuration
_FADE = 1024  # samples over which the mirrored ends of a waveform fade out before its phases are rotated


def to_mono(audio: Audio, channel: Channel, random: np.random.Generator) -> Audio:
    """One channel [1, T] of audio [C, T]: the mean of all, or a random one."""
    if channel == "random":
        chosen = int(random.integers(len(audio)))
        return np.ascontiguousarray(audio[chosen : chosen + 1])
    mean: Audio = audio.mean(0, keepdims=True)
    return mean


def normalize_loudness(audio: Audio, sample_rate: int, target_lufs: float = TARGET_LUFS) -> tuple[Audio, float]:
    """Scale audio [C, T] to a loudness (ITU-R BS.1770-4), beyond full scale if need be.

    The order is that of the reference's training configuration: first the loudness (VolumeNorm), then the peak
    (RescaleAudio, here `limit_peak`). Audio of -70 LUFS, the lowest value, is silence and is returned unchanged.

    Returns:
        The scaled audio, and its loudness before, in LUFS.
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
    """Rotate the phase of every frequency of audio [C, T] by an angle in radians, which is hardly audible.

    The result is x cos(angle) - H(x) sin(angle), where H is the Hilbert transform. An angle of 0 returns the input, pi
    its negative.
    """
    return _filtered(audio, lambda n_fft: np.complex64(cmath.exp(1j * angle)))


def _filtered(audio: Audio, response: Callable[[int], np.complex64 | Audio]) -> Audio:
    """Multiply the spectrum of audio [C, T] by a response, called with the length of the FFT.

    A step at an end would become a high peak; so the waveform is extended beyond its ends:

        fade-in, mirrored  |  audio  |  mirrored, fade-out
    """
    n_samples = audio.shape[-1]
    extended = np.pad(audio, ((0, 0), (_FADE, _FADE)), mode="reflect")
    fade = np.sin(np.linspace(0, math.pi / 2, _FADE, endpoint=False, dtype=np.float32)) ** 2
    extended[:, :_FADE] *= fade
    extended[:, -_FADE:] *= fade[::-1]
    n_fft = fft.next_fast_len(extended.shape[-1], real=True)
    spectrum = fft.rfft(extended, n_fft) * response(n_fft)
    return np.ascontiguousarray(fft.irfft(spectrum, n_fft)[:, _FADE : _FADE + n_samples])


def low_pass(audio: Audio, cutoff: float, width: float) -> Audio:
    """Low-pass filter audio [C, T] with a linear-phase FIR filter, aligned in time.

    `cutoff` is the middle of the transition and `width` its width, as shares of the sample rate. The filter is a sinc
    under a Kaiser window with beta = 8: 80 dB of attenuation, and a transition of 5 / (length of the filter). The
    waveform is mirrored at its ends.
    """
    n_samples, half = audio.shape[-1], math.ceil(2.5 / width)
    times = torch.arange(-half, half + 1)
    window = torch.kaiser_window(2 * half + 1, periodic=False, beta=8.0)
    kernel = 2 * cutoff * torch.sinc(2 * cutoff * times) * window
    after = fft.next_fast_len(n_samples + 4 * half, real=True) - n_samples - 3 * half  # >= half, for a fast FFT
    extended = torch.from_numpy(np.pad(audio, ((0, 0), (half, after)), mode="reflect"))
    filtered: Audio = fftconvolve(extended, kernel[None], mode="valid")[:, :n_samples].contiguous().numpy()
    return filtered


def tilt(audio: Audio, sample_rate: int, slope: float) -> Audio:
    """Amplify audio [C, T] by `slope` dB for each octave above 1 kHz, and attenuate it below; constant below 100 Hz."""

    def gains(n_fft: int) -> Audio:
        octaves = np.log2(np.maximum(fft.rfftfreq(n_fft, 1 / sample_rate), 100.0) / 1000.0)
        found: Audio = np.power(10.0, slope / 20.0 * octaves).astype(np.float32)
        return found

    return _filtered(audio, gains)


def reverberate(audio: Audio, sample_rate: int, decay: float, level: float, random: np.random.Generator) -> Audio:
    """Add the echoes of a room to audio [C, T].

    The room's response is a single sample, and noise that falls by 60 dB in `decay` seconds and whose energy is `level`
    dB above that sample's.
    """
    times = np.arange(1, max(1, round(decay * sample_rate)) + 1) / (decay * sample_rate)
    response = random.standard_normal(len(times)) * 10.0 ** (-3.0 * times)
    response *= 10.0 ** (level / 20.0) / np.linalg.norm(response)
    echoes = fftconvolve(torch.from_numpy(audio), torch.from_numpy(response.astype(np.float32))[None])
    heard: Audio = audio + echoes[:, : audio.shape[-1]].numpy()
    return heard


def clip(audio: Audio, amount: float) -> Audio:
    """Clip audio [C, T] at `amount` dB below its peak."""
    limit = np.abs(audio).max() * np.float32(10.0 ** (-amount / 20.0))
    return np.clip(audio, -limit, limit)


def silence_part(audio: Audio, random: np.random.Generator) -> Audio:
    """Replace a random part at the beginning or end of audio [C, T] by digital silence: 1 to T samples."""
    n_samples = audio.shape[-1]
    n_silent = int(random.integers(1, n_samples + 1))
    silenced: Audio = audio.copy()
    silenced[:, slice(n_silent) if random.random() < 0.5 else slice(n_samples - n_silent, None)] = 0.0
    return silenced
