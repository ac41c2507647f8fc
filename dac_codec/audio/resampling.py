"""Other sample rates: soxr for a whole waveform or block by block, and the reference's own filter."""

from __future__ import annotations

import math

import numpy as np
import soxr

from dac_codec.audio.samples import Audio, block_length, blocks, check_rate
from dac_codec.common.errors import AudioError

_MAX_RATIO = 1000  # beyond it, a sample rate is a mistake and the output would not fit in memory


def resample(audio: Audio, from_rate: int, to_rate: int, n_samples: int | None = None) -> Audio:
    """Change the sample rate with soxr (HQ: linear phase, aligned in time, 20-bit precision).

    Args:
        audio: [C, T].
        from_rate: Hz.
        to_rate: Hz.
        n_samples: length to trim or zero-pad the output to; by default ceil(T * to_rate / from_rate).

    Returns:
        [C, n_samples] float32; `audio` itself where nothing changes.

    Raises:
        AudioError: rates that are not positive integers or are more than a factor of 1000 apart, or a negative length.
    """
    resampler = Resampler(from_rate, to_rate, audio.shape[0], n_samples)
    length = audio.shape[1]
    if from_rate == to_rate and n_samples in (None, length):
        return audio
    wanted = -(-length * to_rate // from_rate) if n_samples is None else n_samples
    output = np.empty((audio.shape[0], wanted), np.float32)
    done = 0
    for block in blocks(audio, block_length(audio.shape[0])):
        part = resampler.push(block)
        output[:, done : done + part.shape[1]] = part
        done += part.shape[1]
    output[:, done:] = resampler.flush()
    return output


class Resampler:
    """Changes the sample rate of a sound that comes in blocks; the blocks that it gives join to what `resample` gives.

    How the sound is dealt out in blocks doesn't change a bit of the result. What comes out lags behind what went in by
    the reach of the filter, some milliseconds; where the rates are equal, nothing lags.

    Args:
        from_rate: Hz.
        to_rate: Hz.
        channels: number of channels.
        n_samples: length to trim or zero-pad the whole output to; by default ceil(T * to_rate / from_rate).

    Raises:
        AudioError: rates that are not positive integers or are more than a factor of 1000 apart, or a negative length.
    """

    def __init__(self, from_rate: int, to_rate: int, channels: int, n_samples: int | None = None) -> None:
        self._from_rate, self._to_rate = _check_rates(from_rate, to_rate)
        if n_samples is not None and n_samples < 0:
            raise AudioError(f"resample: {n_samples} samples asked for, expected none or more")
        self._channels = channels
        self._n_samples = n_samples
        self._n_pushed = self._n_given = 0
        self._stream = None
        if from_rate != to_rate:
            self._stream = soxr.ResampleStream(self._from_rate, self._to_rate, channels, "float32", "HQ")

    def push(self, block: Audio) -> Audio:
        """Take a block [C, t]; return what it makes possible [C, u], perhaps nothing."""
        self._n_pushed += block.shape[1]
        output = block if self._stream is None else self._resampled(block)
        if self._n_samples is not None:
            output = output[:, : self._n_samples - self._n_given]
        self._n_given += output.shape[1]
        return output

    def flush(self, n_samples: int | None = None) -> Audio:
        """End the sound; return the rest of it [C, u].

        Args:
            n_samples: length to trim or zero-pad the whole output to, where it is known only now.

        Raises:
            AudioError: more than `n_samples` have been given already.
        """
        natural = -(-self._n_pushed * self._to_rate // self._from_rate)
        if n_samples is None:
            n_samples = natural if self._n_samples is None else self._n_samples
        if n_samples < self._n_given:
            raise AudioError(f"resample: {n_samples} samples asked for, and {self._n_given} were given already")
        output = np.zeros((self._channels, n_samples - self._n_given), np.float32)
        if self._stream is not None and natural > self._n_given:
            # soxr rounds the length. A few zeros after the end, which it assumes there anyway, make it long enough.
            tail = np.zeros((self._channels, -(-self._from_rate // self._to_rate) + 1), np.float32)
            rest = self._resampled(tail, last=True)[:, : min(natural, n_samples) - self._n_given]
            output[:, : rest.shape[1]] = rest
        return output

    def _resampled(self, block: Audio, last: bool = False) -> Audio:
        assert self._stream is not None
        resampled: Audio = self._stream.resample_chunk(np.ascontiguousarray(block.T, np.float32), last).T
        return resampled


def resample_windowed_sinc(audio: Audio, from_rate: int, to_rate: int) -> Audio:
    """Change the sample rate as the reference implementation of the codec does, number for number.

    Only what must agree with the reference wants it; `resample` has a flatter and wider pass band. The formula is that
    of `julius.resample_frac` with its defaults (https://github.com/adefossez/julius), which descript-audiotools calls:
    the output at time t is the sum over k of x[k] h(k / from_rate - t), where h is a sinc with its cut-off at 0.945 of
    the lower Nyquist frequency under a squared cosine that ends at its 24th zero, scaled to a sum of 1. The first and
    the last sample go on beyond the ends.

    Args:
        audio: [C, T], at least one sample.
        from_rate: Hz.
        to_rate: Hz.

    Returns:
        [C, floor(T * to_rate / from_rate)] float32; `audio` itself where the rates are equal.

    Raises:
        AudioError: rates that are not positive integers or are more than a factor of 1000 apart, or no samples.
    """
    zeros, rolloff = 24, 0.945
    from_rate, to_rate = _check_rates(from_rate, to_rate)
    if from_rate == to_rate:
        return audio
    n_channels, length = audio.shape
    if length == 0:
        raise AudioError("resample: no samples, expected at least one")
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    cutoff = min(old, new) * rolloff  # zeros of the sinc per `old` input samples
    width = math.ceil(zeros * old / cutoff)  # input samples on either side that the window reaches
    taps = np.arange(-width, width + 1)

    output = np.empty((n_channels, length * new // old), np.float32)
    padded = np.pad(audio, ((0, 0), (width, width + 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=1)  # [C, T + 1, taps], a view
    # Output n is at input sample n * old / new. Every `new` of them share a kernel, and are `old` input samples apart.
    for phase in range(min(new, output.shape[1])):
        start = phase * old // new
        # The reference computes the position in float32, in this order; exact positions would part from it by 1e-5.
        t = ((start + taps).astype(np.float32) / np.float32(old) + np.float32(-phase / new)) * np.float32(cutoff)
        t = np.clip(t, -zeros, zeros)
        kernel = np.sinc(t) * np.cos(np.pi * t / zeros / 2) ** 2
        kernel /= kernel.sum()
        n_outputs = -(-(output.shape[1] - phase) // new)
        output[:, phase::new] = windows[:, start::old][:, :n_outputs] @ kernel
    return output


def _check_rates(from_rate: int, to_rate: int) -> tuple[int, int]:
    """Return both rates as int; raise an AudioError unless they are positive and within a sensible factor."""
    check_rate(from_rate, "resample")
    check_rate(to_rate, "resample")
    if max(from_rate, to_rate) > _MAX_RATIO * min(from_rate, to_rate):
        raise AudioError(
            f"resample: from {from_rate} Hz to {to_rate} Hz, expected rates within a factor of "
            f"{_MAX_RATIO}; check the sample rate that the file declares"
        )
    return int(from_rate), int(to_rate)
