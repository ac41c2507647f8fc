"""Draw how good a model was after so many steps of training, and where the line through that leads.

    python scripts/extrapolate.py 13350=reports/a 24000=reports/b --bar mel_distance=1.2 si_sdr=6 --output curve.svg

takes folders that `dac-codec evaluate` has written, each with the number of steps that its weights had seen, and of
each report what our codec reaches with most codebooks, over all clips. For each measure that has a bar it fits a
straight line to the logarithm of the steps, and prints what one doubling of the steps brings, and when the bar is met
if that goes on. Nothing says that it does: a network of a given size levels out, and a better recipe starts another
line.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dac_codec.errors import DacError, exit_status
from dac_codec.files import replacing


@dataclass(frozen=True)
class Line:
    """A measure after n steps: `start + gain * log2(n)`."""

    start: float
    gain: float

    def __call__(self, steps: float) -> float:
        return self.start + self.gain * math.log2(steps)

    def steps_to(self, bar: float) -> float:
        """Where it meets a value; infinity if that is nowhere."""
        exponent = (bar - self.start) / self.gain if self.gain else math.inf
        return 2.0**exponent if abs(exponent) < 1000 else math.inf


def fit(points: Mapping[int, float]) -> Line:
    """The line with the least squares of deviations; through both of two points."""
    gain, start = np.polyfit(np.log2(list(points)), list(points.values()), 1)
    return Line(float(start), float(gain))


@dataclass(frozen=True)
class Report:
    """What our codec reaches with most codebooks, as the mean of all clips.

    Attributes:
        values: by measure.
        rising: measures of which more is better.
    """

    values: dict[str, float]
    rising: frozenset[str]


def read_report(folder: Path) -> Report:
    """The report in a folder.

    Raises:
        DacError: there is no report, or none of our codec.
    """
    path = folder / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for row in report["means"] if (row["domain"], row["codec"]) == ("all", "ours")]
        measures = max(rows, key=lambda row: row["payload_kbps"])["measures"]
        rising = frozenset(metric["name"] for metric in report["metrics"] if metric["higher_is_better"])
        return Report({name: value[0] for name, value in measures.items() if value is not None}, rising)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DacError(f"can't read the report {path}: {error!r}") from error


def table(points: Mapping[str, Mapping[int, float]], bars: Mapping[str, float], rising: frozenset[str]) -> str:
    """Markdown: for each measure its values, what a doubling brings, and the steps to its bar."""
    steps = sorted(next(iter(points.values())))
    lines = [
        f"| measure | {' | '.join(f'{n:,} steps' for n in steps)} | for each doubling | bar | met after |",
        f"|---|{'---:|' * (len(steps) + 3)}",
    ]
    for name, values in points.items():
        line = fit(values)
        last, bar, needed = values[steps[-1]], bars[name], line.steps_to(bars[name])
        if last >= bar if name in rising else last <= bar:
            met = "met"
        else:
            met = f"{needed:.2g} steps" if steps[-1] < needed < math.inf else "never"
        cells = " | ".join(f"{values[n]:.3f}" for n in steps)
        lines.append(f"| {name} | {cells} | {line.gain:+.3f} | {bar:g} | {met} |")
    return "\n".join(lines)


def draw(points: Mapping[str, Mapping[int, float]], bars: Mapping[str, float], path: Path) -> None:
    """Values, lines and bars, a picture for each measure side by side."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(4 * len(points), 3.2), layout="constrained")
    for axis, (name, values) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        line = fit(values)
        needed = line.steps_to(bars[name])
        far = min(max(2 * max(values), needed), 1e4 * max(values))
        ends = (min(values), far)
        axis.semilogx(ends, [line(n) for n in ends], "--", color="0.6", label="if that goes on")
        axis.semilogx(list(values), list(values.values()), "o-", label="measured")
        axis.axhline(bars[name], color="tab:red", linewidth=1, label="bar")
        axis.set(title=name.replace("_", " "), xlabel="steps, logarithmic")
        ticks = (min(values), max(values), far)
        axis.set_xticks(ticks, [f"{n / 1000:.0f}k" if n < 1e6 else f"{n:.0e}" for n in ticks])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "svg")


def _report(text: str) -> tuple[int, Path]:
    steps, _, folder = text.partition("=")
    return int(steps), Path(folder)


def _bar(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    return name, float(value)


def main() -> int:
    """Fit, print and draw. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=_report, metavar="STEPS=FOLDER", help="at least two")
    parser.add_argument("--bar", nargs="+", type=_bar, metavar="MEASURE=VALUE", required=True)
    parser.add_argument("--output", type=Path, metavar="FILE", help="a picture, .svg or .png")
    arguments = parser.parse_args()
    bars = dict(arguments.bar)
    found = {steps: read_report(folder) for steps, folder in sorted(arguments.reports)}
    if len(found) < len(arguments.reports):
        raise DacError("two reports are of the same number of steps")
    if len(found) < 2 or min(found) < 1:
        raise DacError("a line takes reports of two numbers of steps, from 1 on")
    for name in bars:
        if missing := [steps for steps, report in found.items() if name not in report.values]:
            has = ", ".join(found[missing[0]].values)
            raise DacError(f"the report of step {missing[0]} has no {name}; it has {has}")
    points = {name: {steps: report.values[name] for steps, report in found.items()} for name in bars}
    if arguments.output is not None:
        draw(points, bars, arguments.output)
    print(table(points, bars, next(iter(found.values())).rising))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, (ValueError,)))  # ValueError: what Matplotlib says of an unknown ending
