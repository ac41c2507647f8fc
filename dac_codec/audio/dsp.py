"""Windowed-sinc filters, and the bandwidth of a sound.

Recordings that were once an MP3 or a telephone call end sharply at some frequency. The network fills the band above it
with faint hiss. The encoder measures the bandwidth (`BandwidthMeter`), and the decoder removes the hiss (`LowPass`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dac_codec.audio.samples import Audio, check_rate
from dac_codec.common.errors import AudioError

_TRANSITION_HZ = 500.0
_STOP_BAND_DB = 80.0
_TRANSFORM = 8192  # samples

_WINDOW = 2048  # samples
_HOP = 1024
_SECTION = 8  # windows, 0.2 s at 44.1 kHz
_SMOOTHED = 9  # bins, 0.2 kHz at 44.1 kHz
_FAINTEST_DB = -52.0
"""Lowest mean level of |STFT| in a section that counts as content: that of a sine at -106 dB of full scale."""
_FLOOR_DB = -100.0
"""Level of silence: the floor of the STFT distance (`dac_codec.common.spectral`)."""


def windowed_sinc(
    positions: npt.NDArray[np.floating], window: npt.NDArray[np.floating], amplitude: float = 1.0
) -> npt.NDArray[np.floating]:
    """Design a low-pass FIR filter of unit gain at 0 Hz: `amplitude` * sinc(`positions`) * `window`, scaled to sum 1.

    Source: Oppenheim & Schafer, *Discrete-Time Signal Processing*, section 7.5.

    Args:
        positions: of the taps [n], in zero crossings of the sinc: (twice) cut-off frequency times time.
        window: at the same positions [n].
        amplitude: of the sinc before scaling. It only affects the rounding, on which decoded bytes depend.
    """
    taps = amplitude * np.sinc(positions) * window
    scaled: npt.NDArray[np.floating] = taps / taps.sum()
    return scaled


class LowPass:
    """Removes the frequencies above a limit from a sound that is pushed in blocks.

    A linear-phase filter without delay: unchanged below the limit, 80 dB attenuation from 500 Hz above it on
    (Kaiser window; Oppenheim & Schafer, section 7.5.3). Zeros are assumed beyond both ends. The division into blocks
    does not change a bit of the output.

    Filtering is by overlap-save, in transforms of 8192 samples, each `step` later than the one before. With a reach R
    of the filter on either side (`low_pass_reach`), the circular convolution leaves the middle of each intact:

        transform 1  |<- R ->|<---- step ---->|<- R ->|
        transform 2                   |<- R ->|<---- step ---->|<- R ->|
        output               |<---- step ---->|<---- step ---->| ...

    The first transform begins with R zeros, so that its output begins with the sound's first sample.

    Args:
        sample_rate: Hz.
        channels: number of channels.
        bandwidth: Hz, positive. None, or less than 500 Hz below half the sample rate: nothing is filtered.

    Raises:
        AudioError: an invalid sample rate or bandwidth.
    """

    def __init__(self, sample_rate: int, channels: int, bandwidth: float | None) -> None:
        sample_rate = check_rate(sample_rate, "low-pass")
        if bandwidth is not None and not bandwidth > 0:
            raise AudioError(f"low-pass: the bandwidth is {bandwidth} Hz, expected a positive number")
        self._reach = low_pass_reach(sample_rate)
        self._step = _TRANSFORM - 2 * self._reach
        self._response: npt.NDArray[np.complex64] | None = None
        if bandwidth is not None and leaves_room(sample_rate, bandwidth):
            cutoff = 2 * (bandwidth + _TRANSITION_HZ / 2) / sample_rate  # as a share of half the sample rate
            window = np.kaiser(2 * self._reach + 1, 0.1102 * (_STOP_BAND_DB - 8.7))
            taps = windowed_sinc(cutoff * np.arange(-self._reach, self._reach + 1), window, cutoff)
            self._response = np.fft.rfft(taps, _TRANSFORM).astype(np.complex64)
        self._pending = np.zeros((channels, self._reach), np.float32)  # begins R before the next output
        self._n_pushed = self._n_output = 0

    def push(self, block: Audio) -> Audio:
        """Take a block [C, t]; return the output that is complete [C, u], u >= 0."""
        if self._response is None:
            return block
        self._n_pushed += block.shape[1]
        self._pending = np.concatenate((self._pending, block), axis=1)
        parts = [self._pending[:, :0]]
        while self._pending.shape[1] >= _TRANSFORM:
            spectrum = np.fft.rfft(self._pending[:, :_TRANSFORM]) * self._response
            filtered = np.fft.irfft(spectrum, _TRANSFORM)[:, 2 * self._reach :]  # the intact part; it is delayed by R
            parts.append(filtered.astype(np.float32))
            self._pending = self._pending[:, self._step :]
        output = np.concatenate(parts, axis=1)
        self._n_output += output.shape[1]
        return output

    def flush(self) -> Audio:
        """End the sound; return the rest of the output [C, u]."""
        missing = self._n_pushed - self._n_output
        zeros = np.zeros((self._pending.shape[0], 2 * _TRANSFORM), np.float32)  # enough for all pending samples
        return self.push(zeros)[:, :missing]


def low_pass_reach(sample_rate: int) -> int:
    """Samples on either side that an output of `LowPass` depends on (Kaiser's estimate, at most 2048)."""
    n_taps = (_STOP_BAND_DB - 7.95) / (14.36 * _TRANSITION_HZ / sample_rate)
    return min(_TRANSFORM // 4, int(np.ceil(n_taps / 2)))


def leaves_room(sample_rate: int, bandwidth: float) -> bool:
    """Whether `LowPass` has a stop band below half the sample rate, and so removes anything."""
    return bandwidth + _TRANSITION_HZ <= sample_rate / 2


class BandwidthMeter:
    """Measures the highest frequency of a sound that is pushed in blocks.

    A frequency counts if, in any section of 8 windows (0.2 s; 2048 samples each, Hann, 50% overlap) of any channel, the
    mean level in dB over the windows and the 9 nearest bins is at least that of a sine at -106 dB of full scale. So a
    single cymbal in a long piece counts; a click, and the noise of 16-bit rounding at gains below 15 dB, do not.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._sample_rate = check_rate(sample_rate, "bandwidth")
        self._window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
        self._pending = np.zeros((channels, 0), np.float32)  # from the first window of the next section on
        self._highest = np.full(_WINDOW // 2 + 1, -np.inf)  # dB, of each bin in any section

    def push(self, block: Audio) -> None:
        """Take the next block [C, t]."""
        samples = np.concatenate((self._pending, block), axis=1)
        step = _SECTION * _HOP
        length = step + _WINDOW - _HOP
        while samples.shape[1] >= length:
            self._highest = np.maximum(self._highest, self._level(samples[:, :length]))
            samples = samples[:, step:]
        self._pending = samples

    def bandwidth(self, gain_db: float) -> float | None:
        """The upper edge in Hz of the highest frequency that counts, after a gain.

        An incomplete section at the end counts as one, unless it is shorter than a window. None for silence, and for a
        sound shorter than a window, of which nothing is known.
        """
        highest = self._highest
        if self._pending.shape[1] >= _WINDOW:
            highest = np.maximum(highest, self._level(self._pending))
        smoothed = np.convolve(np.pad(highest, _SMOOTHED // 2, mode="edge"), np.ones(_SMOOTHED) / _SMOOTHED, "valid")
        (found,) = np.nonzero(smoothed > max(_FAINTEST_DB - gain_db, _FLOOR_DB + 1))
        return None if len(found) == 0 else min(found[-1] + 1.0, _WINDOW / 2) * self._sample_rate / _WINDOW

    def _level(self, samples: Audio) -> npt.NDArray[np.float64]:
        """The mean level in dB [bins] over the windows in samples [C, t], of the channel in which it is higher."""
        windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW, axis=1)[:, ::_HOP]
        spectrum = np.fft.rfft(windows * self._window)
        power = np.maximum(spectrum.real**2 + spectrum.imag**2, 10 ** (_FLOOR_DB / 10))
        level: npt.NDArray[np.float64] = 10 * np.log10(power).mean(1, dtype=np.float64).max(0)
        return level
