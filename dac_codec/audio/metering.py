"""How loud a sound is, whole or block by block, and the gain that brings it to a loudness."""

from __future__ import annotations

import copy
import math
from array import array
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dac_codec.audio.samples import Audio, block_length, blocks, check, check_rate
from dac_codec.errors import AudioError

SILENCE_LUFS = -70.0
"""The absolute gate of BS.1770-4: nothing is measured as quieter than this."""

_HOPS_PER_BLOCK = 4  # gating blocks of 0.4 s, every 0.1 s
_SHORTEST_HOPS = 5  # what is shorter than 0.5 s is padded


def loudness(audio: npt.ArrayLike, sample_rate: int) -> float:
    """Measure the integrated loudness (ITU-R BS.1770-4: K-weighting, gates at -70 LUFS and 10 LU below the average).

    Details that the standard leaves open are those of the reference implementation of the codec, descript-audiotools:
    less than 0.5 s is padded with zeros to 0.5 s, a last block that is cut short counts as if zeros followed it, and
    nothing measures below -70 LUFS. Its channel weights apply as well: 1 for the first three channels, 1.41 (surround)
    for the fourth and fifth. Of more than five channels the order is unknown, and all weigh 1.

    A stage of the K-weighting whose corner lies at or above half the sample rate is left out: the shelf (1.5 kHz) at
    3 kHz and below, and also the high-pass (38 Hz) at 76 Hz and below.

    Args:
        audio: [C, T] or [T].
        sample_rate: Hz.

    Returns:
        LUFS, -70 or more.

    Raises:
        AudioError: samples that `check` refuses.
    """
    waveform = check(audio, sample_rate)
    meter = LoudnessMeter(sample_rate, waveform.shape[0])
    for block in blocks(waveform, block_length(waveform.shape[0])):
        meter.push(block)
    return meter.loudness()


class LoudnessMeter:
    """Measures the loudness of a sound that comes in blocks, as `loudness` does; see there for the details.

    What is kept is one number for each 0.1 s: 0.3 MB for an hour.

    Args:
        sample_rate: Hz.
        channels: number of channels.

    Attributes:
        peak: the highest absolute sample so far.
        n_samples: samples per channel so far.

    Raises:
        AudioError: no usable sample rate.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        check_rate(sample_rate, "loudness")
        self.peak = 0.0
        self.n_samples = 0
        self._hop = max(1, int(sample_rate) // 10)
        self._weights = np.array([1.0, 1.0, 1.0, 1.41, 1.41])[:channels] if channels <= 5 else np.ones(channels)
        self._sections = _k_weighting(int(sample_rate))
        self._state = np.zeros((len(self._sections), channels, 2))
        self._energy = array("d")  # of each full hop, weighted and summed over the channels
        self._begun = 0.0  # the same of the hop that is not full yet

    def push(self, block: Audio) -> None:
        """Take the next samples [C, t]."""
        for part in blocks(block, block_length(block.shape[0])):
            self.peak = max(self.peak, float(part.max()), -float(part.min()))
            power, self._state = self._filter(part)
            # Fill the hop that was begun, then cut the rest into hops.
            offset = self.n_samples % self._hop
            edges = np.arange(-offset, part.shape[1], self._hop).clip(0)
            sums = self._weights @ np.add.reduceat(power, edges, axis=1)
            sums[0] += self._begun
            self.n_samples += part.shape[1]
            whole = self.n_samples % self._hop == 0
            self._energy.extend(sums if whole else sums[:-1])
            self._begun = 0.0 if whole else float(sums[-1])

    def loudness(self) -> float:
        """Return the integrated loudness of what has come so far in LUFS, -70 or more; more may come after."""
        if self.n_samples < _SHORTEST_HOPS * self._hop:
            padded = copy.copy(self)
            padded._energy = self._energy[:]  # all else is replaced by a push, not changed
            padded.push(np.zeros((len(self._weights), _SHORTEST_HOPS * self._hop - self.n_samples), np.float32))
            return padded.loudness()
        energy = np.array([*self._energy, self._begun] if self.n_samples % self._hop else self._energy)
        windows = np.lib.stride_tricks.sliding_window_view(energy, _HOPS_PER_BLOCK)
        power = windows.mean(axis=1) / self._hop
        power = power[power > 10 ** ((SILENCE_LUFS + 0.691) / 10)]
        if power.size == 0:
            return SILENCE_LUFS
        power = power[power > 0.1 * power.mean()]
        return max(SILENCE_LUFS, -0.691 + 10 * math.log10(power.mean()))

    def _filter(self, block: Audio) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the power of the K-weighted `block` [C, t] at each sample [C, t], and the filter's new state."""
        from scipy.signal import sosfilt  # takes longer to import than everything else here together

        filtered, state = sosfilt(self._sections, block.astype(np.float64), zi=self._state)
        return np.square(filtered, out=filtered), state


@lru_cache(maxsize=16)
def _k_weighting(sample_rate: int) -> npt.NDArray[np.float64]:
    """The second-order sections [sections, 6] of the K-weighting that exist at this sample rate."""
    from pyloudnorm import IIRfilter

    stages = [(4.0, 1 / math.sqrt(2), 1500.0, "high_shelf"), (0.0, 0.5, 38.0, "high_pass")]
    sections = []
    for gain_db, quality, corner, kind in stages:
        if sample_rate > 2 * corner:
            stage = IIRfilter(gain_db, quality, corner, sample_rate, kind)
            sections.append([*stage.b, *stage.a])
    passes_everything = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    return np.array(sections or [passes_everything])


def normalize(audio: npt.ArrayLike, sample_rate: int, target_lufs: float = -16.0) -> tuple[Audio, float]:
    """Scale to a loudness, but never beyond full scale.

    As in the reference, the gain to the target comes first and is then lowered until no sample exceeds 1.0; here one
    gain holds for all channels, so that the stereo image stays. Silence (-70 LUFS) is not raised.

    Args:
        audio: [C, T] or [T].
        sample_rate: Hz.
        target_lufs: LUFS.

    Returns:
        The scaled audio [C, T], and its gain in dB, which float32 holds exactly. `apply_gain` with the negative gain
        gives the input back.

    Raises:
        AudioError: samples that `check` refuses, or a target that is not finite.
    """
    waveform = check(audio, sample_rate)
    meter = LoudnessMeter(sample_rate, waveform.shape[0])
    meter.push(waveform)
    gain = gain_to(target_lufs, meter.loudness(), meter.peak)
    return apply_gain(waveform, gain), gain


def gain_to(target_lufs: float, measured_lufs: float, peak: float) -> float:
    """Return the gain in dB that brings a sound to a loudness, but never beyond full scale; float32 holds it exactly.

    Args:
        target_lufs: LUFS.
        measured_lufs: the sound's loudness in LUFS. Silence (-70 LUFS) is not raised.
        peak: the sound's highest absolute sample, full scale 1.0.

    Raises:
        AudioError: a target that is not finite.
    """
    if not math.isfinite(target_lufs):
        raise AudioError(f"normalize: the target is {target_lufs} LUFS, expected a finite number")
    gain = 0.0 if measured_lufs <= SILENCE_LUFS else target_lufs - measured_lufs
    if peak > 0.0:
        gain = min(gain, -20 * math.log10(peak))
    stored = np.float32(gain)
    if np.float32(peak * 10 ** (float(stored) / 20)) > 1.0:  # rounded up, past full scale
        stored = np.nextafter(stored, np.float32(-np.inf))
    return float(stored)


def apply_gain(audio: Audio, gain_db: float) -> Audio:
    """Scale `audio` [C, T] by a gain in dB; returns a new array."""
    output = np.empty_like(audio)
    np.multiply(audio, 10 ** (gain_db / 20), out=output, dtype=np.float64, casting="same_kind")
    return output
