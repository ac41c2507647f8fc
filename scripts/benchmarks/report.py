"""What scripts/benchmarks/compare.py makes of its figures: the tables of docs/speed.md, and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_STAGES = ("convolutions", "activations", "quantizer", "rest")


def tables(report: dict[str, Any]) -> str:
    """A report as Markdown.

    Args:
        report: what report.json says.
    """
    return "\n".join(_lines(report))


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw how fast each row is, with its quartiles, as an SVG file: networks from left to right, batches downwards."""
    networks = report["networks"]
    batches = sorted({row["batch"] for network in networks.values() for row in network["speed"]})
    tallest = max((len(network["speed"]) for network in networks.values()), default=1)
    figure = Figure(figsize=(8 * len(networks), 1 + 0.4 * tallest))
    axes = figure.subplots(len(batches) or 1, len(networks), squeeze=False)
    for column, (name, network) in enumerate(networks.items()):
        for line, batch in enumerate(batches):
            rows = [row for row in network["speed"] if row["batch"] == batch]
            axis = axes[line][column]
            for offset, operation in ((-0.2, "encode"), (0.2, "decode")):
                found = [row[operation] for row in rows]
                length = batch * report["seconds"]
                speeds = [one["real_time"] for one in found]
                below = [max(0.0, one["real_time"] - length / one["quartiles"][1]) for one in found]
                above = [max(0.0, length / one["quartiles"][0] - one["real_time"]) for one in found]
                places = [index + offset for index in range(len(rows))]
                axis.barh(places, speeds, 0.4, xerr=(below, above), label=operation)
            axis.set(title=f"{name}, batch {batch}", xlabel="times as fast as real time", xscale="log")
            axis.set_yticks(range(len(rows)), [row["title"] for row in rows])
            axis.invert_yaxis()
            axis.grid(axis="x", alpha=0.3)
            axis.legend()
    figure.tight_layout()
    figure.savefig(path, format="svg")


def _lines(report: dict[str, Any]) -> Iterator[str]:
    machine, peaks = report["machine"], report["peak_gflops"]
    ours, others = machine["ours"], machine["others"]
    device = machine["processor"] if ours["device"] == "cpu" else ours["device"]
    yield f"{device}, {ours['threads']} threads; torch {ours['torch']}, the others {others['torch']}."
    yield f"{report['seconds']:g} s of sound, medians of {report['rounds']} rounds, quartiles in brackets."
    yield "Matrix products reach " + ", ".join(f"{peak:.0f} GFLOP/s in {kind}" for kind, peak in peaks.items()) + "."
    yield from (f"\n{sentence}" for sentence in report["left_out"])
    for name, network in report["networks"].items():
        weights = "random weights" if network["random_weights"] else "its own weights"
        cost = network["gflop_per_second"]
        yield f"\n## {name}, {weights}\n"
        yield f"A second of sound costs {cost['encode']:.2f} GFLOP to encode and {cost['decode']:.2f} to decode."
        for batch in sorted({row["batch"] for row in network["speed"]}):
            yield f"\n### Speed, batch {batch}\n"
            yield from _speed([row for row in network["speed"] if row["batch"] == batch], batch * report["seconds"])
        if network["command_line"]:
            yield "\n### Command line, start included\n"
            yield from _command_line(network["command_line"])
        if network["accuracy"]:
            yield "\n### Against the reference's output\n"
            yield from _accuracy(network["accuracy"])
        if network["stages"]:
            yield "\n### What the time is spent on\n"
            yield from _stages(network["stages"])


def _speed(rows: list[dict[str, Any]], length: float) -> Iterator[str]:
    head = "{0}: x real time | to the reference | GFLOP/s | of the peak"
    yield f"| | arithmetic | {head.format('encode')} | {head.format('decode')} |"
    yield "|---|---|" + "---:|" * 8
    for row in rows:
        cells = [row["title"], row["arithmetic"]]
        for operation in ("encode", "decode"):
            found = row[operation]
            low, high = (length / seconds for seconds in reversed(found["quartiles"]))
            cells += [f"{found['real_time']:.3g} ({low:.3g} to {high:.3g})", _ratio(found)]
            cells += [f"{found['gflops']:.0f}", f"{found['share_of_peak']:.0%}"] if "gflops" in found else ["", ""]
        yield f"| {' | '.join(cells)} |"


def _command_line(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| | compress: seconds | to the reference | decompress: seconds | to the reference |"
    yield "|---|---:|---:|---:|---:|"
    for row in rows:
        cells = [row["title"]]
        for operation in ("compress", "decompress"):
            found = row[operation]
            low, high = found["quartiles"]
            cells += [f"{found['seconds']:.2f} ({low:.2f} to {high:.2f})", _ratio(found)]
        yield f"| {' | '.join(cells)} |"


def _accuracy(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"Its largest sample is {rows[0]['largest_sample']:.2g}.\n"
    yield "| | equal codes | same codes: largest difference | mel distance | own codes: mel distance |"
    yield "|---|---:|---:|---:|---:|"
    for row in rows:
        yield (
            f"| {row['title']} | {row['equal_codes']:.2%} | {row['largest_difference']:.1e} | "
            f"{row['mel_distance_same_codes']:.4f} | {row['mel_distance_own_codes']:.4f} |"
        )


def _stages(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"| | | {' | '.join(_STAGES)} | convolutions: GFLOP/s | of the peak |"
    yield "|---|---|" + "---:|" * (len(_STAGES) + 2)
    for row in rows:
        total = sum(row["seconds"].values())
        shares = " | ".join(f"{row['seconds'][stage] / total:.0%}" for stage in _STAGES)
        yield (f"| {row['title']} | {row['operation']} | {shares} | {row['gflops']:.0f} | {row['share_of_peak']:.0%} |")


def _ratio(found: dict[str, Any]) -> str:
    return "" if found["ratio"] is None else f"{found['ratio']:.2f}x"
