"""Mel spectrograms by librosa and Matplotlib, and plots as SVG that the page's style sheet colours."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from dac_codec.audio import Audio
from dac_codec.common import spectral
from dac_codec.common.errors import DacError
from dac_codec.common.files import atomic_write
from dac_codec.evaluation.metrics import Metric
from dac_codec.evaluation.summary import Mean

Axis: TypeAlias = Callable[[float], float]

STRIP_LEFT, STRIP_WIDTH = 0.085, 0.905
"""Where the time axis begins in a picture of `spectrogram_strips`, and its length, as shares of the width."""

_SPECTROGRAM_WINDOW, _SPECTROGRAM_MELS = 2048, 128
_LOWEST_DB, _HIGHEST_DB = -90.0, 20.0

_WIDTH, _HEIGHT = 320, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 34

_STEPS_WIDTH, _STEPS_HEIGHT = 1180, 130

_MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.6L4.4 3.4H-4.4z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.6L4.4 -3.4H-4.4z",
    "M-4.5 -1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",
)
"""Paths of the codecs' markers, which differ by shape as well as by colour."""


def no_spectrograms() -> str | None:
    """A line that says what spectrograms need, if it is not installed."""
    if find_spec("librosa") and find_spec("matplotlib"):
        return None
    return "spectrograms are left out, they need librosa and matplotlib: pip install 'dac_codec[evaluate]'"


def spectrograms(clips: Mapping[str, tuple[Audio, Audio]], sample_rate: int, path: Path) -> None:
    """Draw mel spectrograms of clips side by side, to a PNG or JPEG file: the original above what was decoded.

    Args:
        clips: by title, the two signals [1, T].
        sample_rate: of all, in Hz.
        path: of the file, whose suffix gives the format.

    Raises:
        DacError: librosa or Matplotlib is not installed.
        ValueError: Matplotlib does not know the format.
        OSError: the file can't be written.
    """
    figure = _figure(10 if len(clips) == 1 else 5 * len(clips), 7)
    columns = figure.subplots(2, len(clips), sharex="col", sharey=True, squeeze=False).T
    for axes, (title, pair) in zip(columns, clips.items(), strict=True):
        for axis, clip, name in zip(axes, pair, ("original", "decoded"), strict=True):
            _draw(_mel_level(clip, sample_rate), sample_rate, axis)
            axis.set(title=f"{title}, {name}", xlabel="s" if axis is axes[1] else None)
            axis.set_ylabel("Hz" if axes is columns[0] else None)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=80)


def spectrogram_strips(clips: Sequence[Audio], sample_rate: int) -> list[bytes]:
    """Mel spectrograms of signals [1, T] of one length, as JPEG files of 960 x 200 pixels.

    The axes are drawn once for all of them, which takes most of the time. Raises a DacError if librosa or Matplotlib is
    not installed.
    """
    figure = _figure(9.6, 2.0)
    from PIL import Image

    axis = figure.add_axes((STRIP_LEFT, 0.14, STRIP_WIDTH, 0.82))
    levels = [_mel_level(clip, sample_rate) for clip in clips]
    mesh = _draw(levels[0], sample_rate, axis)
    axis.set(xlabel=None, ylabel="Hz")
    figure.canvas.draw()
    pictures = []
    for level in levels:
        mesh.set_array(level)
        axis.draw_artist(mesh)
        stream = io.BytesIO()
        Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB").save(stream, "jpeg", quality=85)
        pictures.append(stream.getvalue())
    return pictures


def _figure(width: float, height: float) -> Any:
    """A figure of this size in inches, with 100 pixels per inch, that is drawn without a window."""
    if (line := no_spectrograms()) is not None:
        raise DacError(line)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure(figsize=(width, height), dpi=100)).figure


def _mel_level(clip: Audio, sample_rate: int) -> np.ndarray:
    """Log-mel spectrogram [128, frames] of a signal [1, T], in dB."""
    magnitude = spectral.Spectra(torch.from_numpy(np.ascontiguousarray(clip))[None]).magnitude(_SPECTROGRAM_WINDOW)
    filters = spectral.mel_filters(sample_rate, _SPECTROGRAM_WINDOW, _SPECTROGRAM_MELS)
    return np.asarray(20 * (filters @ magnitude[0]).clamp(min=1e-5).log10())


def _draw(level: np.ndarray, sample_rate: int, axis: Any) -> Any:
    from librosa.display import specshow

    scale: dict[str, Any] = {"sr": sample_rate, "hop_length": _SPECTROGRAM_WINDOW // 4}
    colours: dict[str, Any] = {"vmin": _LOWEST_DB, "vmax": _HIGHEST_DB, "cmap": "magma"}
    return specshow(level, x_axis="time", y_axis="mel", ax=axis, **scale, **colours)


def marker(index: int) -> str:
    """The SVG path of the marker of the codec with this number."""
    return _MARKERS[index % len(_MARKERS)]


def rate_distortion(means: Sequence[Mean], metric: Metric, order: Sequence[str], panels: Sequence[Mean] = ()) -> str:
    """Plot a metric against the bitrate on disk, with confidence intervals, as SVG; "" if there is nothing to plot.

    Args:
        means: of one domain.
        metric: what to plot.
        order: names of the codecs, which give them their colours and markers; what costs no bits is not plotted.
        panels: means of all domains whose plots share their axes with this one.
    """
    points, scale = (
        [mean for mean in some if metric.name in mean.measures and mean.kbps.mean]
        for some in (means, [*means, *panels])
    )
    if not points:
        return ""
    values = [value for mean in scale for value in mean.measures[metric.name][:3] if value is not None]
    rates = [mean.kbps.mean for mean in scale]
    ticks_y = _ticks(min(values), max(values))
    ticks_x = _ticks(0.0, max(rates))
    x = _axis(ticks_x[0], max(ticks_x[-1], max(rates)), _LEFT, _WIDTH - _RIGHT)
    y = _axis(min(ticks_y[0], *values), max(ticks_y[-1], *values), _HEIGHT - _BOTTOM, _TOP)
    label = escape("; ".join(_point_text(mean, metric) for mean in points))
    parts = _grid(_WIDTH, _HEIGHT, label, "kbit/s on disk", ticks_x, x, ticks_y, y)
    for index, codec in enumerate(order):
        parts += _series(index, [mean for mean in points if mean.codec == codec], metric, x, y)
    return "".join([*parts, "</svg>"])


def code_steps(n_codes: np.ndarray, n_codebooks: int, seconds: float, index: int) -> str:
    """Plot the number of codes per frame over time, as SVG.

    Args:
        n_codes: of each frame [F], which divide the clip evenly.
        n_codebooks: the most that a frame can have.
        seconds: length of the clip.
        index: number of the codec, which gives it its colour.
    """
    ticks_y = _ticks(0.0, n_codebooks)
    x = _axis(0.0, seconds, _LEFT, _STEPS_WIDTH - _RIGHT)
    y = _axis(0.0, ticks_y[-1], _STEPS_HEIGHT - _BOTTOM, _TOP)
    label = f"codes per frame: {n_codes.mean():.2f} on average, {n_codes.min()} to {n_codes.max()}"
    ticks_x = [tick for tick in _ticks(0.0, seconds) if tick <= seconds]
    parts = _grid(_STEPS_WIDTH, _STEPS_HEIGHT, label, "s", ticks_x, x, ticks_y, y)
    edges = np.flatnonzero(np.diff(n_codes, prepend=-1, append=-1))
    points = [
        f"{x(seconds * frame / len(n_codes)):.1f},{y(n_codes[first]):.1f}"
        for first, last in itertools.pairwise(edges)
        for frame in (first, last)
    ]
    return "".join([*parts, f'<g class="series c{index % 8}"><polyline points="{" ".join(points)}"/></g></svg>'])


def _grid(
    width: int, height: int, label: str, unit: str, ticks_x: list[float], x: Axis, ticks_y: list[float], y: Axis
) -> list[str]:
    """The beginning of a plot: ticks, horizontal lines, and the unit of the horizontal axis."""
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">']
    for tick in ticks_y:
        place = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{place}" dy=".32em" text-anchor="end">{tick:g}</text>')
    below = height - _BOTTOM + 15
    for tick in ticks_x:
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{below}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + width - _RIGHT) / 2
    return [*parts, f'<text class="tick" x="{middle:.0f}" y="{height - 4}" text-anchor="middle">{unit}</text>']


def _axis(low: float, high: float, start: float, end: float) -> Axis:
    """Maps values to places: `low` to `start`, `high` to `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _series(index: int, group: Sequence[Mean], metric: Metric, x: Axis, y: Axis) -> list[str]:
    """The line, the intervals and the markers of one codec."""
    parts = [f'<g class="series c{index % 8}">']
    places = []
    for mean in sorted(group, key=lambda mean: mean.kbps.mean):
        value, low, high = mean.measures[metric.name][:3]
        place, height = f"{x(mean.kbps.mean):.1f}", f"{y(value):.1f}"
        places.append(f"{place},{height}")
        if low is not None and high is not None:
            parts.append(f'<line x1="{place}" x2="{place}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>')
        parts.append(
            f'<g class="point" transform="translate({place} {height})"><circle class="hit" r="11"/>'
            f'<path d="{marker(index)}"/><title>{escape(_point_text(mean, metric))}</title></g>'
        )
    parts.insert(1, f'<polyline points="{" ".join(places)}"/>')
    return [*parts, "</g>"]


def _point_text(mean: Mean, metric: Metric) -> str:
    """The numbers of a point."""
    estimate = mean.measures[metric.name]
    value = f"{estimate} {metric.unit}".rstrip()
    clips = f"{estimate.clips} clip{'s' if estimate.clips != 1 else ''}"
    return f"{mean.codec} {mean.setting}: {value} at {mean.kbps.mean:.2f} kbit/s, {clips}"


def _ticks(low: float, high: float) -> list[float]:
    """Four to six round numbers that enclose `low` and `high`.

    >>> _ticks(0.0, 8.2)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * 0.8)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]
