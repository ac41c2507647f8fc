"""The highest frequency of a sound.

Much of what one finds was once an MP3 or a telephone call and ends sharply somewhere. A network fills what is above
with a faint hiss; a decoder that knows where the sound ended takes it out again (`dac_codec.audio.low_pass`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dac_codec.audio.samples import Audio, check_rate

_WINDOW = 2048  # samples
_HOP = 1024
_SECTION = 215  # windows, 5 s at 44.1 kHz
_FAINTEST = 1e-2
"""Root mean square of |STFT| over a section below which there is nothing: that of a sine at -94 dB of full scale."""


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
