"""Rate-distortion plots as SVG, to stand in a page whose style sheet gives the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dac_codec.evaluation.metrics import Metric
from dac_codec.evaluation.summary import Mean

_WIDTH, _HEIGHT = 320, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 34

_MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.6L4.4 3.4H-4.4z",
    "M0 -5L5 0L0 5L-5 0z",
    "M0 4.6L4.4 -3.4H-4.4z",
    "M-4.5 -1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",
)
"""Codecs are told apart by shape as well as by colour."""


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def marker(index: int) -> str:
    """The path of the marker of the codec with this number."""
    return _MARKERS[index % len(_MARKERS)]


def rate_distortion(means: Sequence[Mean], metric: Metric, order: Sequence[str]) -> str:
    """A plot of a metric against the bitrate on disk, with confidence intervals; "" where there is nothing to plot.

    Args:
        means: of one domain.
        metric: what to plot.
        order: names of the codecs, by which they get their colours and markers; what costs no bits is not plotted.
    """
    groups = [
        (index, [mean for mean in means if mean.codec == codec and metric.name in mean.measures and mean.kbps.mean])
        for index, codec in enumerate(order)
    ]
    points = [mean for _, group in groups for mean in group]
    if not points:
        return ""
    values = [value for mean in points for value in mean.measures[metric.name][:3] if value is not None]
    rates = [mean.kbps.mean or 0.0 for mean in points]
    ticks_y = _ticks(min(values), max(values))
    ticks_x = _ticks(0.0, max(rates))
    x = _Axis(ticks_x[0], max(ticks_x[-1], max(rates)), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(min(ticks_y[0], *values), max(ticks_y[-1], *values), _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_spoken(points, metric)}">']
    for tick in ticks_y:
        height = f"{y.at(tick):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height}" y2="{height}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{height}" dy=".32em" text-anchor="end">{tick:g}</text>')
    for tick in ticks_x:
        place = f"{x.at(tick):.1f}"
        parts.append(
            f'<text class="tick" x="{place}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle:.0f}" y="{_HEIGHT - 4}" text-anchor="middle">kbit/s on disk</text>')
    for index, group in groups:
        parts += _series(index, group, metric, x, y)
    return "".join([*parts, "</svg>"])


def _series(index: int, group: Sequence[Mean], metric: Metric, x: _Axis, y: _Axis) -> list[str]:
    """The line, the intervals and the markers of one codec."""
    parts = [f'<g class="series c{index % 8}">']
    places = []
    for mean in sorted(group, key=lambda mean: mean.kbps.mean or 0.0):
        value, low, high = mean.measures[metric.name][:3]
        place, height = f"{x.at(mean.kbps.mean or 0.0):.1f}", f"{y.at(value or 0.0):.1f}"
        places.append(f"{place},{height}")
        if low is not None and high is not None:
            parts.append(f'<line x1="{place}" x2="{place}" y1="{y.at(low):.1f}" y2="{y.at(high):.1f}"/>')
        parts.append(
            f'<g class="point" transform="translate({place} {height})"><circle class="hit" r="11"/>'
            f'<path d="{marker(index)}"/><title>{escape(said(mean, metric))}</title></g>'
        )
    parts.insert(1, f'<polyline points="{" ".join(places)}"/>')
    return [*parts, "</g>"]


def said(mean: Mean, metric: Metric) -> str:
    """A point of a plot in words."""
    value, low, high, clips = mean.measures[metric.name][:4]
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    unit = f" {metric.unit}" if metric.unit else ""
    return (
        f"{mean.codec} {mean.setting}: {value or 0.0:.3f}{interval}{unit} at {mean.kbps.mean or 0.0:.2f} kbit/s, "
        f"{clips} clip{'s' if clips != 1 else ''}"
    )


def _spoken(points: Sequence[Mean], metric: Metric) -> str:
    return escape("; ".join(said(mean, metric) for mean in points), quote=True)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` or below to `high` or above, some four to six of them.

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
