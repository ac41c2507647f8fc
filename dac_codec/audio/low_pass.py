"""A filter that leaves nothing of a sound above a frequency."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dac_codec.audio.samples import Audio, check_rate
from dac_codec.common.errors import AudioError

_TRANSITION_HZ = 500.0
_STOP_BAND_DB = 80.0
_TRANSFORM = 8192  # samples


class LowPass:
    """Takes what is above a frequency from a sound that comes in blocks.

    A linear-phase filter, aligned in time: below the frequency nothing changes, 500 Hz above it 80 dB are gone (Kaiser
    window; Oppenheim & Schafer, *Discrete-Time Signal Processing*, section 7.5.3). Beyond its ends the sound is taken
    for silent. How it is dealt out in blocks doesn't change a bit of the result.

    Args:
        sample_rate: Hz.
        channels: number of channels.
        bandwidth: Hz, positive. Where there are not 500 Hz above it, or for None, nothing is filtered.

    Raises:
        AudioError: no usable sample rate or bandwidth.
    """

    def __init__(self, sample_rate: int, channels: int, bandwidth: float | None) -> None:
        check_rate(sample_rate, "low-pass")
        if bandwidth is not None and not bandwidth > 0:
            raise AudioError(f"low-pass: the bandwidth is {bandwidth} Hz, expected a positive number")
        self._reach = low_pass_reach(sample_rate)
        self._step = _TRANSFORM - 2 * self._reach
        self._response: npt.NDArray[np.complex64] | None = None
        if bandwidth is not None and leaves_room(sample_rate, bandwidth):
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
