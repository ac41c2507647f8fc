"""Band levels: gains per frequency band and window that bring decoded audio closer to the original.

The encoder decodes its own codes, chooses the gains (`level_analysis`) and sends them in steps; the decoder applies
them to the network's output (`LevelFilter`). Window j is a periodic square-root Hann window of 2 H samples, the length
of 2 `hop` frames:

    window j - 1  |<------ 2 H ------>|
    window j               |<------ 2 H ------>|              centred on the sample j H
    samples       |<- H -> |<- H ->   |                       the second H samples are in both windows

    output = input + sum over windows of window * IFFT((gain - 1) * FFT(window * input))

which is the input filtered by the gains, cross-faded from window to window, since the squared windows sum to 1. Where
all levels are 0, the output is the input, bit for bit. LEVELS.md is the specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dac_codec.audio import Audio
from dac_codec.bitstream import Header, LevelParameters
from dac_codec.bitstream.levels import Levels

Floats = npt.NDArray[np.float64]

TOP = 16000
"""Highest upper edge of the bands in Hz."""

BANDS = 40
"""Number of bands up to `TOP`; proportionally fewer for sounds of lower bandwidth."""

HOP_SECONDS = 0.046
"""Time from one window to the next, in whole frames as near to it as possible."""

_CORNER = 1960  # Hz, of the Bark scale


def level_parameters(sample_rate: int, hop_length: int, bandwidth: int | None) -> LevelParameters:
    """The parameters of the encoder for a model and a sound's bandwidth in Hz: bands of one width up to it."""
    top = min(TOP, sample_rate // 2, bandwidth or TOP)
    hop = min(64, max(1, round(HOP_SECONDS * sample_rate / hop_length)))
    return LevelParameters(hop, bands=max(1, min(round(BANDS * bark_share(top)), 16 * hop)), top=top)


def bark_share(frequency: int) -> float:
    """The part of the Bark scale up to `TOP` that is below a frequency in Hz."""
    return frequency * (_CORNER + TOP) / ((_CORNER + frequency) * TOP)


def band_edges(parameters: LevelParameters, sample_rate: int, size: int, parts: int = 1) -> npt.NDArray[np.int64]:
    """Bins of a real FFT of `size` samples at which bands begin, and the number of bins [bands * parts + 1].

    Frequency f is at z = f / (1960 + f) of the Bark scale, but for constants (Traunmueller, "Analytical expressions for
    the tonotopic sensory scale", 1990). It is in band floor(bands * z(f) / z(top)), or in the last one if that is more.
    `parts` are equal parts of each band, which have edges too.
    """
    n_bands = parameters.bands * parts
    bins = np.arange(size // 2 + 1, dtype=object) * sample_rate  # exact integers
    bands = bins * (_CORNER + parameters.top) * n_bands // ((bins + _CORNER * size) * parameters.top)
    edges = np.searchsorted(np.minimum(bands, n_bands - 1).astype(np.int64), np.arange(n_bands + 1))
    return edges.astype(np.int64)


def root_hann(size: int) -> Floats:
    """Periodic square-root Hann window [size]."""
    return np.sin(np.pi * np.arange(size) / size)


class LevelFilter:
    """Applies band levels to decoded audio that is pushed in blocks.

    The division into blocks does not change a bit of the output. An output needs at most 2 H - 1 later samples of
    input. Windows without levels have gain 1, except that the window beyond the last one has the levels of that. The
    audio starts at the frame `first_frame`.
    """

    def __init__(self, header: Header, first_frame: int = 0) -> None:
        assert header.levels is not None
        self._parameters = header.levels
        self._hop = header.levels.hop * header.hop_length
        self._window = root_hann(2 * self._hop)
        edges = band_edges(header.levels, header.model_sample_rate, 2 * self._hop)
        self._band = np.repeat(np.arange(header.levels.bands), np.diff(edges))
        self._levels: dict[int, Levels] = {}
        self._previous: Levels | None = None
        start = first_frame * header.hop_length
        self._index = start // self._hop  # of the next window
        self._skip = start - (self._index - 1) * self._hop  # samples of its beginning that are not part of the audio
        self._pending = np.zeros((header.channels, self._skip), np.float32)  # from the beginning of the next window on
        self._change = np.zeros((header.channels, self._hop))  # to the first half of the next window, by the one before

    def add(self, first_frame: int, levels: Levels) -> None:
        """Set the levels [C, bands, w] of the windows that are centred on frames from `first_frame` on."""
        first = self._parameters.n_windows(first_frame)
        self._levels.update((first + index, levels[..., index]) for index in range(levels.shape[-1]))

    def blocks(self, audio: Iterable[Audio]) -> Iterator[Audio]:
        """Filter whole audio, in blocks [C, t]. The levels of a block's frames are set when it is taken."""
        yield from map(self.push, audio)
        yield self.flush()

    def push(self, block: Audio) -> Audio:
        """Take a block [C, t]; return the output that is complete [C, u], u >= 0. The levels of its frames are set."""
        self._pending = np.concatenate((self._pending, block), axis=1)
        outputs = [self._pending[:, :0]]
        while self._pending.shape[1] >= 2 * self._hop:
            outputs.append(self._next_half(self._levels.pop(self._index, None)))
        return np.concatenate(outputs, axis=1)

    def flush(self) -> Audio:
        """End the audio; return the rest of the output [C, u]."""
        n_samples = self._pending.shape[1] - self._skip
        n_windows = self._index - 1 + -(-self._pending.shape[1] // self._hop)  # of the whole audio
        self._pending = np.pad(self._pending, ((0, 0), (0, 2 * self._hop)))
        outputs = [self._pending[:, :0]]
        while self._index <= n_windows:
            held = self._previous if self._index == n_windows else None
            outputs.append(self._next_half(self._levels.pop(self._index, held)))
        return np.concatenate(outputs, axis=1)[:, :n_samples]

    def _next_half(self, levels: Levels | None) -> Audio:
        """Filter with the next window, and return the samples that no later window changes [C, u]."""
        hop = self._hop
        change = np.zeros((len(self._pending), 2 * hop))
        if levels is not None and levels.any():
            gains = 10.0 ** (self._parameters.step_db / 20 * levels) - 1
            spectrum = np.fft.rfft(self._pending[:, : 2 * hop] * self._window)
            change = np.fft.irfft(spectrum * gains[:, self._band], 2 * hop) * self._window
        output = (self._pending[:, :hop] + (self._change + change[:, :hop])).astype(np.float32)
        output, self._skip = output[:, min(hop, self._skip) :], max(0, self._skip - hop)
        self._previous, self._change, self._pending = levels, change[:, hop:], self._pending[:, hop:]
        self._index += 1
        return output
