"""Loudness of a sound, whole or in blocks, and the gain that brings it to a target."""

from __future__ import annotations

import copy
import math
from array import array
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dac_codec.audio.samples import Audio, blocks, check, check_rate
from dac_codec.common.errors import AudioError

SILENCE_LUFS = -70.0
"""The absolute gate of BS.1770-4, and the lowest loudness that is measured."""

_HOPS_PER_BLOCK = 4  # gating blocks of 0.4 s, every 0.1 s
_SHORTEST_HOPS = 5  # sounds shorter than 0.5 s are padded
_FILTER_STEP = 128  # samples
_STEPS_AT_ONCE = 16  # OpenBLAS computes larger products in several threads, which keep a core busy for 0.1 s afterwards
_SHELF_HZ, _SHELF_DB = 1500.0, 4.0
_HIGH_PASS_HZ = 38.0

_Float64: TypeAlias = npt.NDArray[np.float64]


def loudness(audio: npt.ArrayLike, sample_rate: int) -> float:
    """Measure the integrated loudness of `audio` [C, T] or [T] in LUFS, -70 or more.

    ITU-R BS.1770-4: K-weighting, and gates at -70 LUFS and 10 LU below the average. Details that the standard leaves
    open are those of the reference implementation of the codec, descript-audiotools: sounds shorter than 0.5 s are
    zero-padded to 0.5 s, an incomplete last block counts as if zeros followed, and -70 LUFS is the lowest value. So are
    the channel weights: 1 for the first three channels, 1.41 (surround) for the fourth and fifth. The order of more
    than five channels is unknown, and all weigh 1.

    A filter of the K-weighting whose corner is at or above half the sample rate is left out: the shelf (1.5 kHz) at 3
    kHz and below, the high-pass (38 Hz) at 76 Hz and below.

    Raises:
        AudioError: samples or a sample rate that `check` refuses.
    """
    waveform = check(audio, sample_rate)
    meter = LoudnessMeter(sample_rate, waveform.shape[0])
    meter.push(waveform)
    return meter.loudness()


class LoudnessMeter:
    """Measures the loudness of a sound that is pushed in blocks, as `loudness` does.

    One number is kept for each 0.1 s: 0.3 MB per hour. `peak` is the highest absolute sample so far, `n_samples` the
    number of samples per channel.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        sample_rate = check_rate(sample_rate, "loudness")
        self.peak: float = 0.0
        self.n_samples: int = 0
        self._hop = max(1, sample_rate // 10)
        self._weights = np.array([1.0, 1.0, 1.0, 1.41, 1.41])[:channels] if channels <= 5 else np.ones(channels)
        self._filter = _k_weighting_filter(sample_rate)
        self._state = np.zeros((channels, self._filter.input.shape[1]))
        self._energy = array("d")  # of each complete hop, weighted and summed over the channels
        self._partial = 0.0  # the same of the incomplete hop

    def push(self, block: Audio) -> None:
        """Take the next samples [C, t]."""
        for part in blocks(block):
            self.peak = max(self.peak, float(part.max()), -float(part.min()))
            power, self._state = self._power(part)
            # Complete the partial hop, then cut the rest into hops.
            offset = self.n_samples % self._hop
            edges = np.arange(-offset, part.shape[1], self._hop).clip(0)
            sums = self._weights @ np.add.reduceat(power, edges, axis=1)
            sums[0] += self._partial
            self.n_samples += part.shape[1]
            whole = self.n_samples % self._hop == 0
            self._energy.extend(sums if whole else sums[:-1])
            self._partial = 0.0 if whole else float(sums[-1])

    def loudness(self) -> float:
        """Return the integrated loudness so far, in LUFS, -70 or more. More blocks may follow.

        A gating block j of 0.4 s has the power P_j = sum over channels of weight * mean square, and the loudness
        -0.691 + 10 log10 P_j. The result is that of the mean power over the blocks that pass both gates.
        """
        if self.n_samples < _SHORTEST_HOPS * self._hop:
            padded = copy.copy(self)
            padded._energy = self._energy[:]  # the only attribute that a push modifies in place
            padded.push(np.zeros((len(self._weights), _SHORTEST_HOPS * self._hop - self.n_samples), np.float32))
            return padded.loudness()
        energy = np.array([*self._energy, self._partial] if self.n_samples % self._hop else self._energy)
        power = np.lib.stride_tricks.sliding_window_view(energy, _HOPS_PER_BLOCK).mean(axis=1) / self._hop
        power = power[power > 10 ** ((SILENCE_LUFS + 0.691) / 10)]
        if power.size == 0:
            return SILENCE_LUFS
        power = power[power > 0.1 * power.mean()]
        return max(SILENCE_LUFS, -0.691 + 10 * math.log10(power.mean()))

    def _power(self, block: Audio) -> tuple[_Float64, _Float64]:
        """Return the power of the K-weighted `block` [C, t] at each sample [C, t], and the filter's new state."""
        n_whole = block.shape[1] // _FILTER_STEP * _FILTER_STEP
        begin, state = self._filter.apply(block[:, :n_whole].astype(np.float64), self._state, _FILTER_STEP)
        end, state = self._filter.apply(block[:, n_whole:].astype(np.float64), state, block.shape[1] - n_whole)
        weighted = np.concatenate((begin, end), axis=1)
        return np.square(weighted, out=weighted), state


@dataclass(frozen=True)
class _BlockFilter:
    """A recursive filter as matrix products over steps of n samples, in NumPy alone: SciPy takes long to import.

    From the state s [S] before a step of n samples x, the output is y = O s + H x, and the next state P s + K x. The
    matrices of a shorter step are parts of those of a longer one. They are kept transposed.
    """

    observation: _Float64  # O [S, n]
    response: _Float64  # H [n, n], a Toeplitz matrix of the impulse response
    decays: _Float64  # P of 0 to n samples [n + 1, S, S]
    input: _Float64  # K [n, S]

    def apply(self, x: _Float64, state: _Float64, step: int) -> tuple[_Float64, _Float64]:
        """Filter x [C, t], a whole number of steps, from a state [C, S]; return the output and the new state."""
        if x.shape[1] == 0:
            return x, state
        carry = _carry(self.decays[step], min(_STEPS_AT_ONCE, x.shape[1] // step))
        outputs = []
        for start in range(0, x.shape[1], _STEPS_AT_ONCE * step):
            steps = x[:, start : start + _STEPS_AT_ONCE * step].reshape(len(x), -1, step)
            added = np.concatenate((state[:, None], steps @ self.input[-step:]), 1)
            n = added[0].size
            states = (added.reshape(len(x), n) @ carry[:n, :n]).reshape(added.shape)
            output = states[:, :-1] @ self.observation[:, :step] + steps @ self.response[:step, :step]
            outputs.append(output.reshape(len(x), -1))
            state = states[:, -1]
        return np.concatenate(outputs, 1), state


def _carry(decay: _Float64, n_steps: int) -> _Float64:
    """The matrix [(n + 1) S, (n + 1) S] that gives n + 1 states, joined, for the first state and what n steps add.

    A state is the sum of all earlier terms, each times a power of `decay` [S, S].
    """
    steps = np.arange(n_steps + 1)
    powers = np.stack([np.linalg.matrix_power(decay, n) for n in steps])
    distances = steps - steps[:, None]
    blocks = powers[np.abs(distances)] * (distances >= 0)[..., None, None]
    carry: _Float64 = blocks.swapaxes(1, 2).reshape([(n_steps + 1) * len(decay)] * 2)
    return carry


@lru_cache(maxsize=16)
def _k_weighting_filter(sample_rate: int) -> _BlockFilter:
    """The K-weighting at a sample rate.

    The second-order sections are cascaded, each with the two state variables of its transposed direct form II:
    state' = state @ decay + x * entry, y = state @ output + x * direct.
    """
    n = _FILTER_STEP
    decay, entry, output, direct = np.zeros((0, 0)), np.zeros(0), np.zeros(0), 1.0
    for b0, b1, b2, _, a1, a2 in _k_weighting(sample_rate):
        size = len(decay)
        section_entry = np.array([b1 - a1 * b0, b2 - a2 * b0])
        cascade = np.zeros((size + 2, size + 2))
        cascade[:size, :size] = decay
        cascade[:size, size:] = np.outer(output, section_entry)
        cascade[size:, size:] = [[-a1, -a2], [1.0, 0.0]]
        decay, entry = cascade, np.concatenate((entry, direct * section_entry))
        output, direct = np.concatenate((b0 * output, [1.0, 0.0])), b0 * direct
    decays = np.stack([np.linalg.matrix_power(decay, power) for power in range(n + 1)])
    impulse = np.array([direct, *(entry @ decays[index] @ output for index in range(n - 1))])
    return _BlockFilter(
        observation=np.stack([decays[index] @ output for index in range(n)], axis=1),
        response=np.stack([np.concatenate((np.zeros(index), impulse[: n - index])) for index in range(n)]),
        decays=decays,
        input=np.stack([entry @ decays[n - 1 - index] for index in range(n)]),
    )


def _k_weighting(sample_rate: int) -> list[list[float]]:
    """The second-order sections (b0, b1, b2, 1, a1, a2) of the K-weighting that exist at a sample rate.

    A high shelf and a high-pass of R. Bristow-Johnson's "Cookbook formulae for audio EQ biquad filter coefficients", as
    in pyloudnorm, which the reference uses.
    """

    def corner(frequency: float, quality: float) -> tuple[float, float]:
        """The cookbook's cos(w0) and alpha = sin(w0) / (2 Q)."""
        angle = 2 * math.pi * frequency / sample_rate
        return math.cos(angle), math.sin(angle) / (2 * quality)

    sections = []
    if sample_rate > 2 * _SHELF_HZ:
        amplitude = 10 ** (_SHELF_DB / 40)
        cosine, alpha = corner(_SHELF_HZ, 1 / math.sqrt(2))
        more, less, width = amplitude + 1, amplitude - 1, 2 * math.sqrt(amplitude) * alpha
        b = [more + less * cosine + width, -2 * (less + more * cosine), more + less * cosine - width]
        a = [more - less * cosine + width, 2 * (less - more * cosine), more - less * cosine - width]
        sections.append(([amplitude * value for value in b], a))
    if sample_rate > 2 * _HIGH_PASS_HZ:
        cosine, alpha = corner(_HIGH_PASS_HZ, 0.5)
        b = [(1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2]
        a = [1 + alpha, -2 * cosine, 1 - alpha]
        sections.append((b, a))
    return [[value / a[0] for value in (*b, *a)] for b, a in sections]


def gain_to(target_lufs: float, measured_lufs: float, peak: float) -> float:
    """Return the gain in dB that brings a sound to a loudness, or its `peak` to full scale (1.0) if that is lower.

    The value is exact in float32. Silence (-70 LUFS) is not amplified.

    Raises:
        AudioError: a target that is not finite.
    """
    if not math.isfinite(target_lufs):
        raise AudioError(f"gain: the target is {target_lufs} LUFS, expected a finite number")
    gain = 0.0 if measured_lufs <= SILENCE_LUFS else target_lufs - measured_lufs
    if peak > 0.0:
        gain = min(gain, -20 * math.log10(peak))
    stored = np.float32(gain)
    if np.float32(peak * 10 ** (float(stored) / 20)) > 1.0:  # rounded up, beyond full scale
        stored = np.nextafter(stored, np.float32(-np.inf))
    return float(stored)


def apply_gain(audio: Audio, gain_db: float) -> Audio:
    """Scale `audio` [C, T] by a gain in dB; returns a new array."""
    output = np.empty_like(audio)
    np.multiply(audio, 10 ** (gain_db / 20), out=output, dtype=np.float64, casting="same_kind")
    return output
