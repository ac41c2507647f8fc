"""Sample rate conversion: soxr for a whole waveform or in blocks, and the reference implementation's own filter."""

from __future__ import annotations

import math

import numpy as np
import soxr

from dac_codec.audio.dsp import windowed_sinc
from dac_codec.audio.samples import Audio, blocks, check_rate
from dac_codec.common.errors import AudioError

_MAX_RATIO = 1000  # beyond it, a sample rate is a mistake and the output would not fit in memory
_MAX_PHASES = 2**18  # seconds of computing; the rates in use take some hundreds


def resample(audio: Audio, from_rate: int, to_rate: int, n_samples: int | None = None) -> Audio:
    """Change the sample rate of `audio` [C, T] with soxr (HQ: linear phase, no delay, 20-bit precision).

    The rates are in Hz. `n_samples` is the length to trim or zero-pad the output to; by default it is
    ceil(T * to_rate / from_rate).

    Returns:
        [C, n_samples] float32; `audio` itself where nothing changes.

    Raises:
        AudioError: rates that are not positive integers or are more than a factor of 1000 apart, or a negative length.
    """
    resampler = Resampler(from_rate, to_rate, audio.shape[0])
    if n_samples is not None and n_samples < 0:
        raise AudioError(f"resample: {n_samples} samples requested, expected 0 or more")
    if from_rate == to_rate and n_samples in (None, audio.shape[1]):
        return audio
    output = np.concatenate([*map(resampler.push, blocks(audio)), resampler.flush()], axis=1)
    if n_samples is None:
        return output
    return np.pad(output[:, :n_samples], ((0, 0), (0, max(0, n_samples - output.shape[1]))))


class Resampler:
    """Changes the sample rate of a sound that is pushed in blocks; the joined output equals that of `resample`.

    The division into blocks does not change a bit of the output. It lags behind the input by the reach of soxr's
    filter, some milliseconds; where the rates are equal, there is no lag.

        push   |<--- block --->|<--- block --->|<- block ->|
        output |<-- ready -->|<--- ready --->|<-- ready ->|<-- flush: zeros are assumed after the end -->|
                              ^ lag: the filter's reach

    Rates and errors are those of `resample`.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int) -> None:
        self._from_rate, self._to_rate = _check_rates(from_rate, to_rate)
        self._channels = channels
        self._n_pushed = self._n_output = 0
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(self._from_rate, self._to_rate, channels, "float32", "HQ")

    def push(self, block: Audio) -> Audio:
        """Take a block [C, t]; return the output that is complete [C, u], u >= 0."""
        self._n_pushed += block.shape[1]
        output = block if self._stream is None else self._resampled(block)
        self._n_output += output.shape[1]
        return output

    def flush(self) -> Audio:
        """End the sound; return the rest of the output [C, u]."""
        missing = -(-self._n_pushed * self._to_rate // self._from_rate) - self._n_output
        output = np.zeros((self._channels, missing), np.float32)
        if missing:
            # soxr rounds the length. A few more of the zeros that it assumes after the end make up for it.
            tail = np.zeros((self._channels, -(-self._from_rate // self._to_rate) + 1), np.float32)
            rest = self._resampled(tail, last=True)[:, :missing]
            output[:, : rest.shape[1]] = rest
        return output

    def _resampled(self, block: Audio, last: bool = False) -> Audio:
        assert self._stream is not None
        resampled: Audio = self._stream.resample_chunk(np.ascontiguousarray(block.T, np.float32), last).T
        return resampled


def resample_windowed_sinc(audio: Audio, from_rate: int, to_rate: int) -> Audio:
    """Change the sample rate of `audio` [C, T], T > 0, with the same numbers as the codec's reference implementation.

    For what must agree with the reference; `resample` has a flatter and wider pass band. The formula is that of
    `julius.resample_frac` with its defaults (https://github.com/adefossez/julius), which descript-audiotools calls:

        y(t) = sum over k of x[k] h(k / from_rate - t),  h(t) = sinc(2 f t) cos^2(pi f t / zeros), scaled to a sum of 1

    with a cut-off f at 0.945 of the lower Nyquist frequency, and zeros = 24 zero crossings on either side of the sinc.
    The first and last sample are repeated beyond the ends.

    Returns:
        [C, floor(T * to_rate / from_rate)] float32; `audio` itself where the rates are equal.

    Raises:
        AudioError: the errors of `check_windowed_sinc`, or no samples.
    """
    zeros, rolloff = 24, 0.945
    old, new = check_windowed_sinc(from_rate, to_rate)
    if old == new:
        return audio
    if audio.shape[1] == 0:
        raise AudioError("resample: no samples, expected at least one")
    cutoff = min(old, new) * rolloff  # zero crossings of the sinc per `old` input samples
    width = math.ceil(zeros * old / cutoff)  # reach of the window, in input samples on either side
    taps = np.arange(-width, width + 1)

    output = np.empty((audio.shape[0], audio.shape[1] * new // old), np.float32)
    padded = np.pad(audio, ((0, 0), (width, width + 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=1)  # [C, T + 1, taps], a view
    # Output n lies at input sample n * old / new. Every `new`-th output has the same phase and filter, and its input
    # advances by `old` samples (here from 3 to 2, phases 0 and 1):
    #     input    0     1     2     3     4     5     6
    #     output   0        1        2        3        4
    #     phase    0        1        0        1        0
    for phase in range(min(new, output.shape[1])):
        start = phase * old // new
        # In float32 and in this order, as the reference; exact positions would change the output by 1e-5.
        t = ((start + taps).astype(np.float32) / np.float32(old) + np.float32(-phase / new)) * np.float32(cutoff)
        t = np.clip(t, -zeros, zeros)
        kernel = windowed_sinc(t, np.cos(np.pi * t / zeros / 2) ** 2)
        n_outputs = -(-(output.shape[1] - phase) // new)
        output[:, phase::new] = windows[:, start::old][:, :n_outputs] @ kernel
    return output


def check_windowed_sinc(from_rate: int, to_rate: int) -> tuple[int, int]:
    """The two rates of `resample_windowed_sinc`, which takes a filter for each phase of the output, in lowest terms.

    Raises:
        AudioError: rates that are not positive integers, are more than a factor of 1000 apart, or take more than 2^18
            filters.
    """
    from_rate, to_rate = _check_rates(from_rate, to_rate)
    divisor = math.gcd(from_rate, to_rate)
    if from_rate != to_rate and to_rate // divisor > _MAX_PHASES:
        raise AudioError(
            f"resample: from {from_rate} Hz to {to_rate} Hz takes {to_rate // divisor} filters, expected at most "
            f"{_MAX_PHASES}; check the sample rate that the file declares"
        )
    return from_rate // divisor, to_rate // divisor


def _check_rates(from_rate: int, to_rate: int) -> tuple[int, int]:
    """Return both rates as int; raise an AudioError unless they are positive and within a factor of 1000."""
    from_rate, to_rate = check_rate(from_rate, "resample"), check_rate(to_rate, "resample")
    if max(from_rate, to_rate) > _MAX_RATIO * min(from_rate, to_rate):
        raise AudioError(
            f"resample: from {from_rate} Hz to {to_rate} Hz, expected rates within a factor of "
            f"{_MAX_RATIO}; check the sample rate that the file declares"
        )
    return from_rate, to_rate
