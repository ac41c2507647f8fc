"""Choice of band levels from audio and what is decoded from its codes: analysis by synthesis. See `levels`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dac_codec import inference
from dac_codec.audio import Audio
from dac_codec.bitstream import Header
from dac_codec.bitstream.levels import Levels, first_counts
from dac_codec.codec.levels import band_edges, bark_share, root_hann
from dac_codec.model import DAC

_MEMORY = 128
"""Windows over which the mean squared error is taken: 6 s at 44.1 kHz."""

_FLOOR = 4e-5
"""Amplitude of white noise, -88 dB of full scale, below which levels count as equal."""

_SHORT_WINDOWS = 4

_AT_ONCE = 8
"""Windows whose spectra are computed together, and stay in the cache."""

_SEGMENT = 128
"""Windows of a segment of a file. Its levels are chosen as if there were none before it, so that several segments are
processed side by side, in fewer calls of NumPy: while Python runs them, the networks' threads may have to wait."""

_SEGMENTS_AT_ONCE = 4
"""Segments of a file whose levels are chosen side by side."""

Floats = npt.NDArray[np.float64]

NextBlock = Callable[[], Tensor | None]
"""Returns the next block of the network's input [C, 1, t]; None if there is none yet, or no more."""

Blocks = Generator[tuple[Tensor, Levels | None], None, None]
"""Blocks of codes [C, N, f], and the band levels [C, bands, w] that come with them if the file has any."""


class Costs(NamedTuple):
    """What a level costs, in dB.

    Attributes:
        bit: cost of a bit.
        noise: cost of raising the squared error by its mean.
    """

    bit: float
    noise: float


COSTS = Costs(bit=0.02, noise=8.0)
"""At the default quality and below, and with constant codes."""


def with_levels(
    model: DAC,
    header: Header,
    codes: Iterable[Tensor],
    original: Callable[[], NextBlock],
    costs: Costs = COSTS,
    n_networks: int = 1,
) -> Blocks:
    """Decode codes as they come, and choose the levels of the windows that are complete, if the file has levels.

    Args:
        model: the model that decodes them.
        header: of the file.
        codes: of a whole sound, [C, N, f] in blocks.
        original: called once the first codes are chosen, which may read the audio until then; returns the network's
            input, at least as far as the codes are decoded.
        costs: of the levels.
        n_networks: networks that run at once: two if the encoder that makes the codes does.

    Yields:
        Each block of codes, and the levels [C, bands, w] of the next w windows; at last no codes, and the other levels.
        Without levels, each block of codes and None.
    """
    if header.levels is None:
        yield from ((block, None) for block in codes)
        return
    analyzer = LevelAnalyzer(header, costs)
    n_missing = 0  # decoded samples whose original has not been taken
    next_block: NextBlock | None = None
    nothing = torch.zeros(header.channels, header.n_codebooks, 0, dtype=torch.int64)
    n_frames = 0 if header.n_samples is None else header.expected_frames(header.n_samples)
    in_threads = inference.uses_threads(model, n_frames, header.channels)
    # bfloat16 changes a few levels in a hundred, and no measure of the sound (docs/notes/2026-11-band-levels.md).
    decoder = inference.prepare_cached(model).approximate
    for block, decoded in inference.decode_each(decoder, codes, in_threads, n_networks):
        next_block = next_block or original()
        n_missing += decoded.shape[-1]
        taken = [np.zeros((header.channels, 0), np.float32)]
        while n_missing > 0 and (samples := next_block()) is not None:
            taken.append(samples[:, 0].numpy())
            n_missing -= samples.shape[-1]
        levels = analyzer.push(np.concatenate(taken, 1), decoded[:, 0].float().cpu().numpy())
        yield nothing if block is None else block, levels
    yield nothing, analyzer.flush()


class LevelAnalyzer:
    """Chooses the levels of audio whose original and decoded form are pushed in blocks.

    The levels of a window minimize the sum over its bands, given the levels of the window before in its segment, of

        share of the band * mean |level of the original - level of the decoded with the gain|, in dB
        + cost of noise * change of the squared error by the gain / mean squared error of a window so far
        + cost of a bit * bits that the entropy coder takes at its first counts.

    The levels in the first term are those of halves of the band in four short windows within the window, so that a
    gain pays only where it suits most of them. The second term attenuates what is mostly coding noise, as a Wiener
    filter does, and prevents gains that raise it. A band's share is that of the Bark scale.
    """

    def __init__(self, header: Header, costs: Costs = COSTS) -> None:
        assert header.levels is not None
        parameters, rate, channels = header.levels, header.model_sample_rate, header.channels
        self._bands = parameters.bands
        self._hop = hop = parameters.hop * header.hop_length
        self._window, self._short_window = root_hann(2 * hop), root_hann(hop) ** 2
        # Nothing above the bandwidth counts: the decoder's low-pass removes it.
        limit = min(header.bandwidth or rate, rate)
        self._edges = np.minimum(band_edges(parameters, rate, 2 * hop), limit * 2 * hop // rate + 1)
        self._halves = np.minimum(band_edges(parameters, rate, hop, 2), limit * hop // rate + 1)
        self._n_bins = np.diff(self._halves)
        self._share = bark_share(parameters.top) / parameters.bands
        # Mean magnitude of white noise of that amplitude in a short window.
        self._floor = _FLOOR * np.sqrt(np.pi / 4 * (self._short_window**2).sum())
        n_levels = parameters.highest - parameters.lowest + 1
        steps = (np.arange(n_levels) - parameters.lowest) % n_levels + parameters.lowest  # of each symbol
        self._steps = steps.astype(np.int8)
        self._step_db = parameters.step_db * steps
        self._gains = 10 ** (self._step_db / 20)
        counts = first_counts(parameters.lowest, parameters.highest)
        self._noise_cost = costs.noise
        self._bit_costs = -costs.bit * np.log2(counts / counts.sum(-1, keepdims=True))
        self._original = self._decoded = np.zeros((channels, hop), np.float32)  # from the beginning of a window on
        self._is_live = header.n_samples is None
        self._symbols = np.zeros((channels, parameters.bands), np.int64)  # of the window before, in a live stream
        self._costs = np.zeros((channels, 0, parameters.bands, n_levels))  # of the windows without levels yet
        self._error = np.zeros(channels)
        self._n_windows = 0

    def push(self, original: Audio, decoded: Audio) -> Levels:
        """Take blocks [C, t] of any lengths; return the levels [C, bands, w] of the next windows.

        A live stream gets those of all complete windows, a file those of several segments at a time.
        """
        self._analyze(original, decoded)
        n_windows = self._costs.shape[1]
        return self._next_levels(n_windows if self._is_live else n_windows - n_windows % (_SEGMENT * _SEGMENTS_AT_ONCE))

    def flush(self) -> Levels:
        """End the audio; return the levels [C, bands, w] of the other windows. The decoded audio may be longer."""
        n_windows = self._costs.shape[1] + -(-(self._decoded.shape[1] - self._hop) // self._hop)
        zeros = np.zeros((len(self._decoded), 2 * self._hop), np.float32)
        missing = max(0, self._decoded.shape[1] - self._original.shape[1])
        self._original = np.pad(self._original, ((0, 0), (0, missing)))
        self._analyze(zeros, zeros)
        return self._next_levels(n_windows)

    def _analyze(self, original: Audio, decoded: Audio) -> None:
        """Compute the costs of the windows that are complete."""
        self._original = np.concatenate((self._original, original), axis=1)
        self._decoded = np.concatenate((self._decoded, decoded), axis=1)
        n_windows = max(0, min(self._original.shape[1], self._decoded.shape[1]) // self._hop - 1)
        costs = [self._costs]
        for start in range(0, n_windows, _AT_ONCE):
            last = min(_AT_ONCE, n_windows - start) * self._hop
            signals = np.stack((self._original[:, : last + self._hop], self._decoded[:, : last + self._hop]))
            costs.append(self._noise_cost * self._error_changes(signals) + self._share * self._distances(signals))
            self._original, self._decoded = self._original[:, last:], self._decoded[:, last:]
        self._costs = np.concatenate(costs, 1)

    def _next_levels(self, n_windows: int) -> Levels:
        """The levels [C, bands, w] of the next windows."""
        if not n_windows:
            return np.zeros((*self._symbols.shape, 0), np.int8)
        costs, self._costs = np.split(self._costs, [n_windows], 1)
        size = n_windows if self._is_live else _SEGMENT
        n_segments = -(-n_windows // size)
        padded = np.pad(costs, ((0, 0), (0, n_segments * size - n_windows), (0, 0), (0, 0)))
        segments = padded.reshape(len(costs) * n_segments, size, *costs.shape[2:])
        levels = np.empty(segments.shape[:3], np.int8)
        symbols = self._symbols if self._is_live else np.zeros((len(segments), self._bands), np.int64)
        for window in range(size):
            symbols = self._cheapest(segments[:, window], symbols)
            levels[:, window] = self._steps[symbols]
        if self._is_live:
            self._symbols = symbols
        joined: Levels = levels.reshape(len(costs), n_segments * size, self._bands)[:, :n_windows].swapaxes(1, 2)
        return joined

    def _windows(self, signals: Audio, size: int) -> Audio:
        """Views [..., w, size] of signals [..., t], a hop apart."""
        return np.lib.stride_tricks.sliding_window_view(signals, size, -1)[..., :: self._hop, :]

    def _error_changes(self, signals: Audio) -> Floats:
        """Change of the squared error by each symbol's gain [C, w, bands, K], divided by the mean error of a window.

        `signals` are the original and the decoded [2, C, t].
        """
        original, decoded = np.fft.rfft(self._windows(signals, 2 * self._hop) * self._window)
        errors = _sums(np.abs(original - decoded) ** 2, self._edges).sum(-1)
        power = _sums(np.abs(decoded) ** 2, self._edges)[..., None]
        common = _sums((original * decoded.conj()).real, self._edges)[..., None]
        means = np.empty_like(errors)
        for window in range(errors.shape[1]):
            self._n_windows += 1
            self._error += (errors[:, window] - self._error) / min(self._n_windows, _MEMORY)
            means[:, window] = self._error
        change = (self._gains**2 - 1) * power - 2 * (self._gains - 1) * common
        relative: Floats = change / np.maximum(means, np.finfo(np.float32).tiny)[..., None, None]
        return relative

    def _distances(self, signals: Audio) -> Floats:
        """Mean distance in dB [C, w, bands, K] from the original to the decoded with each symbol's gain."""
        last = signals.shape[-1] - 2 * self._hop
        starts = (2 * np.arange(_SHORT_WINDOWS) + 1) * self._hop // (2 * _SHORT_WINDOWS)
        short = np.stack([self._windows(signals[..., at : at + last + self._hop], self._hop) for at in starts], -2)
        means = _sums(np.abs(np.fft.rfft(short * self._short_window)), self._halves) / np.maximum(self._n_bins, 1)
        original, decoded = 20 * np.log10(np.maximum(means, self._floor))
        difference = original - decoded  # [C, w, short windows, halves]
        distances = np.abs(difference[..., None] - self._step_db).sum(2) * (self._n_bins > 0)[:, None]
        n_parts = _SHORT_WINDOWS * (self._n_bins > 0).reshape(-1, 2).sum(1)
        total: Floats = (distances[:, :, ::2] + distances[:, :, 1::2]) / np.maximum(n_parts, 1)[:, None]
        return total

    def _cheapest(self, costs: Floats, before: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The symbols [n, bands] with the least sum of costs [n, bands, K] and costs of their bits.

        `before` [n, bands] are the symbols of the windows before. The Viterbi algorithm runs from band to band.
        """
        bits = self._bit_costs[before.T]  # [bands, n, symbol of the band below, symbol]
        total = costs[:, 0] + bits[0, :, 0]
        sums = np.empty(bits[1:].shape)
        for found, own_bits, own_costs in zip(sums, bits[1:], costs.swapaxes(0, 1)[1:], strict=True):
            np.add(total[:, :, None], own_bits, out=found)
            total = np.minimum.reduce(found, axis=1)
            total += own_costs
        rows = np.arange(len(costs))
        path = [total.argmin(1)]
        for origin in sums.argmin(2)[::-1]:
            path.append(origin[rows, path[-1]])
        return np.stack(path[::-1], 1)


def _sums(values: Floats, edges: npt.NDArray[np.int64]) -> Floats:
    """Sums [..., n] of values [..., bins] between n + 1 edges."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1))
    np.cumsum(values, -1, out=sums[..., 1:])
    return np.diff(sums[..., edges])
