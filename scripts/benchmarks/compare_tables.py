"""The tables and the plot of compare.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from report import save, table


def markdown(report: dict[str, Any]) -> str:
    """Return the content of report.json as Markdown."""
    return "\n".join(_sections(report))


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the speed of each row with its quartiles, as SVG: one column per network, one line per batch size."""
    networks = report["networks"]
    batches = sorted({row["batch"] for network in networks.values() for row in network["speed"]})
    n_rows = max((len(network["speed"]) for network in networks.values()), default=1)
    figure = Figure(figsize=(8 * len(networks), 1 + 0.4 * n_rows))
    axes = figure.subplots(len(batches) or 1, len(networks), squeeze=False)
    for column, (name, network) in enumerate(networks.items()):
        for line, batch in enumerate(batches):
            rows = [row for row in network["speed"] if row["batch"] == batch]
            axis, length = axes[line][column], batch * report["seconds"]
            for offset, operation in ((-0.2, "encode"), (0.2, "decode")):
                found = [row[operation] for row in rows]
                speeds = [one["real_time"] for one in found]
                below = [one["real_time"] - length / one["quartiles"][1] for one in found]
                above = [length / one["quartiles"][0] - one["real_time"] for one in found]
                errors = [[max(0.0, error) for error in side] for side in (below, above)]
                axis.barh([index + offset for index in range(len(rows))], speeds, 0.4, xerr=errors, label=operation)
            axis.set(title=f"{name}, batch {batch}", xlabel="times real time", xscale="log")
            axis.set_yticks(range(len(rows)), [row["title"] for row in rows])
            axis.invert_yaxis()
            axis.grid(axis="x", alpha=0.3)
            axis.legend()
    save(figure, path)


def _sections(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    ours, others = machine["ours"], machine["others"]
    device = machine["processor"] if ours["device"] == "cpu" else ours["device"]
    peaks = ", ".join(f"{peak:.0f} GFLOP/s in {kind}" for kind, peak in report["peak_gflops"].items())
    yield f"{device}, {ours['threads']} threads; torch {ours['torch']}, the others {others['torch']}."
    yield f"{report['seconds']:g} s of audio, medians of {report['rounds']} rounds, quartiles in brackets."
    yield f"Matrix products reach {peaks}."
    yield from (f"\n{sentence}" for sentence in report["left_out"])
    for name, network in report["networks"].items():
        cost = network["gflop_per_second"]
        yield f"\n## {name}, {'random weights' if network['random_weights'] else 'its own weights'}\n"
        yield f"A second of audio costs {cost['encode']:.2f} GFLOP to encode and {cost['decode']:.2f} to decode."
        for batch in sorted({row["batch"] for row in network["speed"]}):
            yield f"\n### Speed, batch {batch}\n"
            rows = [row for row in network["speed"] if row["batch"] == batch]
            yield _speed(rows, batch * report["seconds"])
        if network["command_line"]:
            yield "\n### Command line, start included\n"
            yield _command_line(network["command_line"])
        if network["accuracy"]:
            yield "\n### Difference from the reference\n"
            yield f"The largest sample of the reference is {network['accuracy'][0]['largest_sample']:.2g}.\n"
            yield _accuracy(network["accuracy"])


def _speed(rows: list[dict[str, Any]], length: float) -> str:
    head = ["codec", "arithmetic"]
    for operation in ("encode", "decode"):
        head += [f"{operation}: x real time", "to the reference", "GFLOP/s", "of the peak"]
    lines = []
    for row in rows:
        cells = [row["title"], row["arithmetic"]]
        for operation in ("encode", "decode"):
            found = row[operation]
            low, high = (length / seconds for seconds in reversed(found["quartiles"]))
            cells += [f"{found['real_time']:.3g} ({low:.3g} to {high:.3g})", _ratio(found)]
            cells += [f"{found['gflops']:.0f}", f"{found['share_of_peak']:.0%}"] if "gflops" in found else ["", ""]
        lines.append(cells)
    return table(head, lines, n_left=2)


def _command_line(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        cells = [row["title"]]
        for operation in ("compress", "decompress"):
            low, high = row[operation]["quartiles"]
            cells += [f"{row[operation]['median']:.2f} ({low:.2f} to {high:.2f})", _ratio(row[operation])]
        lines.append(cells)
    ratio = "to the reference"
    return table(["command", "compress: seconds", ratio, "decompress: seconds", ratio], lines)


def _accuracy(rows: list[dict[str, Any]]) -> str:
    head = ["mode", "equal codes", "same codes: largest difference", "mel distance", "own codes: mel distance"]
    lines = (
        (
            row["title"],
            f"{row['equal_codes']:.2%}",
            f"{row['largest_difference']:.1e}",
            f"{row['mel_distance_same_codes']:.4f}",
            f"{row['mel_distance_own_codes']:.4f}",
        )
        for row in rows
    )
    return table(head, lines)


def _ratio(found: dict[str, Any]) -> str:
    return "" if found["ratio"] is None else f"{found['ratio']:.2f}x"
