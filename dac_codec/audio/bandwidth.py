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
_SECTION = 8  # windows, 0.2 s at 44.1 kHz
_SMOOTHED = 9  # frequencies, 0.2 kHz
_FAINTEST_DB = -52.0
"""Level of |STFT|, on average over a section, below which there is nothing: that of a sine at -106 dB of full scale."""
_FLOOR_DB = -100.0
"""What is below this is silence: the floor of the STFT distance (`dac_codec.common.spectral`)."""


class BandwidthMeter:
    """Finds the highest frequency of a sound that comes in blocks.

    A frequency counts as there if, in any 0.2 s (8 windows of 2048 samples, Hann, half of each shared with the next)
    and any channel, its level is that of a sine at -106 dB of full scale, on average over the levels in dB of these
    windows and of the 9 frequencies around it. So a cymbal in a long piece counts, and neither a click nor the noise
    that rounding to 16 bits makes, if the gain is below 15 dB.

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
        self._waiting = np.zeros((channels, 0), np.float32)  # from the first window of the next section on
        self._highest = np.full(_WINDOW // 2 + 1, -np.inf)  # dB

    def push(self, block: Audio) -> None:
        """Take the next block [C, t]."""
        samples = np.concatenate((self._waiting, block), axis=1)
        step = _SECTION * _HOP
        while samples.shape[1] >= step + _WINDOW - _HOP:
            self._highest = np.maximum(self._highest, self._level(samples[:, : step + _WINDOW - _HOP]))
            samples = samples[:, step:]
        self._waiting = samples

    def bandwidth(self, gain_db: float) -> float | None:
        """The upper edge, in Hz, of the highest frequency that is there when the sound has been given a gain.

        What is left at the end and makes no whole section is one of its own. Less than a window of it doesn't count.

        Returns:
            None for silence, and for what is shorter than a window: nothing is known then.
        """
        highest = self._highest
        if self._waiting.shape[1] >= _WINDOW:
            highest = np.maximum(highest, self._level(self._waiting))
        smoothed = np.convolve(np.pad(highest, _SMOOTHED // 2, mode="edge"), np.ones(_SMOOTHED) / _SMOOTHED, "valid")
        (found,) = np.nonzero(smoothed > max(_FAINTEST_DB - gain_db, _FLOOR_DB + 1))
        return None if len(found) == 0 else min(found[-1] + 1.0, _WINDOW / 2) * self._sample_rate / _WINDOW

    def _level(self, samples: Audio) -> npt.NDArray[np.float64]:
        """The mean level in dB [bins] of the windows in samples [C, t], of the channel that has more of it."""
        windows = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW, axis=1)[:, ::_HOP]
        spectrum = np.fft.rfft(windows * self._window)
        power = np.maximum(spectrum.real**2 + spectrum.imag**2, 10 ** (_FLOOR_DB / 10))
        level: npt.NDArray[np.float64] = 10 * np.log10(power).mean(1, dtype=np.float64).max(0)
        return level
