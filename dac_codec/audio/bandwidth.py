"""The highest frequency of a sound, and a filter that leaves nothing above it.

Much of what one finds was once an MP3 or a telephone call and ends sharply somewhere. A network fills what is above
with a faint hiss; a decoder that knows where the sound ended takes it out again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dac_codec.audio.samples import Audio, check_rate
from dac_codec.errors import AudioError

_WINDOW = 2048  # samples
_HOP = 1024
_SECTION = 215  # windows, 5 s at 44.1 kHz
_FAINTEST = 1e-2
"""Root mean square of |STFT| over a section below which there is nothing: that of a sine at -94 dB of full scale."""

_TRANSITION_HZ = 500.0
_STOP_BAND_DB = 80.0
_TRANSFORM = 8192  # samples


class BandwidthMeter:
    """Finds the highest frequency of a sound that comes in blocks.

    A frequency counts as there if, in any 5 s and any channel, a Hann window of 2048 samples finds as much of it as of
    a sine at -94 dB of full scale, on average over their power. So a single cymbal in a long piece counts, and rounding
    to 16 bits doesn't.

    Args:
        sample_rate: Hz.
        channels: number of channels.

    Raises:
        AudioError: no usable sample rate.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        check_rate(sample_rate, "bandwidth")
        self._sample_rate = int(sample_rate)
        self._window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
        self._end = np.zeros((channels, 0), np.float32)  # of the sound so far: the last window, and what follows it
        self._n_covered = 0  # samples of `_end` that windows have covered
        self._power = np.zeros((channels, _WINDOW // 2 + 1))
        self._n_windows = 0
        self._highest = np.zeros(_WINDOW // 2 + 1)

    def push(self, block: Audio) -> None:
        """Take the next block [C, t]."""
        samples = np.concatenate((self._end, block), axis=1)
        first = 0  # of the next window
        if self._n_covered:
            first = self._n_covered + _HOP - _WINDOW
        while first + _WINDOW <= samples.shape[1]:
            self._count(self._power_of(samples[:, first : first + _WINDOW]))
            self._n_covered = first + _WINDOW
            first += _HOP
        n_done = max(0, self._n_covered - _WINDOW)
        self._end = samples[:, n_done:]
        self._n_covered -= n_done

    def bandwidth(self, gain_db: float) -> float | None:
        """The upper edge, in Hz, of the highest frequency that is there when the sound has been given a gain.

        Returns:
            None for silence, and for what is shorter than a window: nothing is known then.
        """
        power, n_windows = self._power, self._n_windows
        if 0 < self._n_covered < self._end.shape[1]:  # what the windows have not reached yet
            power, n_windows = power + self._power_of(self._end[:, -_WINDOW:]), n_windows + 1
        highest = np.maximum(self._highest, power.max(0) / max(1, n_windows))
        (found,) = np.nonzero(highest * 10 ** (min(gain_db, 300.0) / 10) > _FAINTEST**2)
        return None if len(found) == 0 else min(found[-1] + 1.0, _WINDOW / 2) * self._sample_rate / _WINDOW

    def _power_of(self, samples: Audio) -> npt.NDArray[np.float64]:
        """The power spectrum [C, bins] of a window [C, _WINDOW]."""
        spectrum = np.fft.rfft(samples * self._window).astype(np.complex128)
        power: npt.NDArray[np.float64] = spectrum.real**2 + spectrum.imag**2
        return power

    def _count(self, power: npt.NDArray[np.float64]) -> None:
        self._power += power
        self._n_windows += 1
        if self._n_windows == _SECTION:
            self._highest = np.maximum(self._highest, self._power.max(0) / _SECTION)
            self._power[:] = 0.0
            self._n_windows = 0


class LowPass:
    """Takes what is above a frequency from a sound that comes in blocks.

    A linear-phase filter, aligned in time: below the frequency nothing changes, 500 Hz above it 80 dB are gone (Kaiser
    window; Oppenheim & Schafer, *Discrete-Time Signal Processing*, section 7.5.3). Beyond its ends the sound is taken
    for silent. How it is dealt out in blocks doesn't change a bit of the result.

    Args:
        sample_rate: Hz.
        channels: number of channels.
        bandwidth: Hz, positive. Where there are not 500 Hz above it, nothing is filtered.

    Raises:
        AudioError: no usable sample rate or bandwidth.
    """

    def __init__(self, sample_rate: int, channels: int, bandwidth: float) -> None:
        check_rate(sample_rate, "low-pass")
        if not bandwidth > 0:
            raise AudioError(f"low-pass: the bandwidth is {bandwidth} Hz, expected a positive number")
        self._reach = low_pass_reach(sample_rate)
        self._step = _TRANSFORM - 2 * self._reach
        self._response: npt.NDArray[np.complex64] | None = None
        if leaves_room(sample_rate, bandwidth):
            taps = _taps(int(sample_rate), bandwidth, self._reach)
            self._response = np.fft.rfft(taps, _TRANSFORM).astype(np.complex64)
        self._waiting = np.zeros((channels, self._reach), np.float32)  # silence before the first sample
        self._n_pushed = self._n_given = 0

    def push(self, block: Audio) -> Audio:
        """Take a block [C, t]; return what it makes possible [C, u], perhaps nothing."""
        if self._response is None:
            return block
        self._n_pushed += block.shape[1]
        self._waiting = np.concatenate((self._waiting, block), axis=1)
        parts = [self._waiting[:, :0]]
        while self._waiting.shape[1] >= _TRANSFORM:
            parts.append(self._filtered(self._waiting[:, :_TRANSFORM]))
            self._waiting = self._waiting[:, self._step :]
        output = np.concatenate(parts, axis=1)
        self._n_given += output.shape[1]
        return output

    def flush(self) -> Audio:
        """End the sound; return the rest of it [C, u]."""
        missing = self._n_pushed - self._n_given
        if missing == 0:
            return self._waiting[:, :0]
        filled = np.pad(self._waiting, ((0, 0), (0, _TRANSFORM)))
        parts = [self._filtered(filled[:, :_TRANSFORM])]
        if missing > self._step:
            parts.append(self._filtered(filled[:, self._step : self._step + _TRANSFORM]))
        self._n_given = self._n_pushed
        return np.concatenate(parts, axis=1)[:, :missing]

    def _filtered(self, samples: Audio) -> Audio:
        """The middle [C, _step] of samples [C, _TRANSFORM], filtered (overlap-save)."""
        assert self._response is not None
        spectrum = np.fft.rfft(samples) * self._response
        filtered: npt.NDArray[np.float32] = np.fft.irfft(spectrum, _TRANSFORM).astype(np.float32)
        return filtered[:, 2 * self._reach :]


def low_pass_reach(sample_rate: int) -> int:
    """Samples to either side that a sample of `LowPass` depends on."""
    taps = (_STOP_BAND_DB - 7.95) / (14.36 * _TRANSITION_HZ / sample_rate)
    return min(_TRANSFORM // 4, int(np.ceil(taps / 2)))


def leaves_room(sample_rate: int, bandwidth: float) -> bool:
    """Whether `LowPass` would take anything away."""
    return bandwidth + _TRANSITION_HZ <= sample_rate / 2


def _taps(sample_rate: int, bandwidth: float, reach: int) -> npt.NDArray[np.float64]:
    """The filter's response to an impulse [2 * reach + 1]."""
    corner = 2 * (bandwidth + _TRANSITION_HZ / 2) / sample_rate
    window = np.kaiser(2 * reach + 1, 0.1102 * (_STOP_BAND_DB - 8.7))
    taps: npt.NDArray[np.float64] = corner * np.sinc(corner * np.arange(-reach, reach + 1)) * window
    taps /= taps.sum()
    return taps
