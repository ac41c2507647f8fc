"""The parts of the page that need no script, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from dac_codec.evaluation.clips import POOLED
from dac_codec.evaluation.figures import marker, rate_distortion
from dac_codec.evaluation.metrics import Metric
from dac_codec.evaluation.statistics import Estimate
from dac_codec.evaluation.summary import Difference, Mean
from dac_codec.evaluation.tables import codebook_cells


def verdicts(lines: Sequence[str]) -> str:
    """The summary: where the first codec is better or worse, and by how much."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else "<p>There are no differences with confidence intervals.</p>"


def legend(coded: Sequence[str], order: Sequence[str]) -> str:
    """The codecs' names with their markers."""
    items = [
        f'<li class="series c{order.index(name) % 8}"><svg viewBox="-7 -7 14 14" aria-hidden="true">'
        f'<path d="{marker(order.index(name))}"/></svg>{escape(name)}</li>'
        for name in coded
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def plots(means: Sequence[Mean], metrics: Sequence[Metric], order: Sequence[str]) -> str:
    """A row of plots for each metric, one for each domain, all with the same axes."""
    rows = []
    for metric in metrics:
        figures = []
        panels = [mean for mean in means if metric.domain is None or mean.domain != POOLED]
        for domain in _domains(panels):
            picture = rate_distortion([mean for mean in panels if mean.domain == domain], metric, order, panels)
            if picture:
                figures.append(f"<figure><figcaption>{escape(domain)}</figcaption>{picture}</figure>")
        if figures:
            unit = f" ({escape(metric.unit)})" if metric.unit else ""
            rows.append(f"<h3>{escape(metric.label)}{unit} <small>{_direction(metric)}</small></h3>")
            rows.append(f'<div class="plots">{"".join(figures)}</div>')
    return "".join(rows)


def means_tables(means: Sequence[Mean], metrics: Sequence[Metric]) -> str:
    """A table for each domain."""
    tables = []
    for domain in _domains(means):
        group = [mean for mean in means if mean.domain == domain]
        taken = [metric for metric in metrics if any(metric.name in mean.measures for mean in group)]
        heads = ("codec", "setting", "clips", "kbit/s on disk", "without headers", "encodes", "decodes")
        rows = "".join(_mean_row(mean, taken) for mean in group)
        most = max(group, key=lambda mean: mean.clips)
        tables.append(_details(f"{domain}: {most.clips} clips, {most.sources} sources", _head(heads, taken), rows))
    return "".join(tables)


def differences_tables(differences: Sequence[Difference], metrics: Sequence[Metric]) -> str:
    """A table for each domain."""
    if not differences:
        return "<p>There are none.</p>"
    tables = []
    for domain in _domains(differences):
        group = [one for one in differences if one.domain == domain]
        taken = [metric for metric in metrics if any(metric.name in one.measures for one in group)]
        rows = []
        for one in group:
            cells = [
                _cell(one.measures.get(metric.name), one.verdicts.get(metric.name, ""), signed=True) for metric in taken
            ]
            rows.append(
                f'<tr><th scope="row">{escape(one.codec)} {escape(one.setting)}</th><td>{one.kbps:.2f}</td>'
                f"<td>{escape(one.other)} {escape(one.other_setting)}</td><td>{one.other_kbps:.2f}</td>"
                f"{''.join(cells)}</tr>"
            )
        head = _head(("codec", "kbit/s on disk", "against", "kbit/s on disk"), taken)
        tables.append(_details(domain, head, "".join(rows)))
    return "".join(tables)


def codebooks(means: Sequence[Mean]) -> str:
    """Entropy and use of codebooks, over all clips."""
    last = _domains(means)[-1]
    rows = []
    for mean in means:
        if mean.domain == last and mean.codebooks is not None:
            cells = "".join(f"<td>{cell}</td>" for cell in (*codebook_cells(mean.codebooks), mean.codebooks.frames))
            rows.append(f'<tr><th scope="row">{escape(mean.codec)} {escape(mean.setting)}</th>{cells}</tr>')
    if not rows:
        return "<p>No codec here has codebooks.</p>"
    heads = ("codec", "bitrate efficiency", "entropy of each codebook, bits", "entries used", "frames")
    return _table(_head(heads), "".join(rows))


def methods(facts: dict[str, Any]) -> str:
    """How each codec was run, where the measures are defined, and what is missing."""
    codecs = "".join(f"<dt>{escape(one['name'])}</dt><dd>{_marked(one['about'])}</dd>" for one in facts["codecs"])
    metrics = "".join(f"<dt>{escape(one['label'])}</dt><dd>{escape(one['source'])}</dd>" for one in facts["metrics"])
    missing = "".join(f"<li>{_marked(line)}</li>" for line in [*facts["left_out"], *facts["failures"]])
    return f"<h3>Codecs</h3><dl>{codecs}</dl><h3>Measures</h3><dl>{metrics}</dl>" + (
        f"<h3>Left out</h3><ul>{missing}</ul>" if missing else ""
    )


def _domains(rows: Sequence[Mean] | Sequence[Difference]) -> list[str]:
    return list(dict.fromkeys(row.domain for row in rows))


def _mean_row(mean: Mean, metrics: Sequence[Metric]) -> str:
    speeds = [f"<td>{'' if one is None else f'{one:.1f}x'}</td>" for one in (mean.encode_speed, mean.decode_speed)]
    cells = [_cell(mean.measures.get(metric.name), worst=mean.worst.get(metric.name)) for metric in metrics]
    return (
        f'<tr><th scope="row">{escape(mean.codec)}</th><td>{escape(mean.setting)}</td><td>{mean.clips}</td>'
        f"{_cell(mean.kbps)}<td>{mean.payload_kbps:.2f}</td>{''.join(speeds)}{''.join(cells)}</tr>"
    )


def _cell(estimate: Estimate | None, kind: str = "", signed: bool = False, worst: float | None = None) -> str:
    if estimate is None:
        return "<td></td>"
    plus = "+" if signed else ""
    low, high = estimate.low, estimate.high
    interval = "" if low is None or high is None else f"<small>{low:{plus}.3f} to {high:{plus}.3f}</small>"
    notes = [kind] * bool(kind) + ([] if worst is None else [f"worst 10%: {worst:.3f}"])
    below = "".join(f"<small>{note}</small>" for note in notes)
    return f'<td class="{kind}">{estimate.mean:{plus}.3f}{interval}{below}</td>'


def _head(names: Sequence[str], metrics: Sequence[Metric] = ()) -> str:
    titles = [*names, *(f"{escape(metric.label)} <small>{_arrow(metric)}</small>" for metric in metrics)]
    return "".join(f'<th scope="col">{title}</th>' for title in titles)


def _table(head: str, rows: str) -> str:
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _details(title: str, head: str, rows: str) -> str:
    return f"<details open><summary>{escape(title)}</summary>{_table(head, rows)}</details>"


def _direction(metric: Metric) -> str:
    return "higher is better" if metric.higher_is_better else "lower is better"


def _arrow(metric: Metric) -> str:
    return f'<abbr title="{_direction(metric)}">{"↑" if metric.higher_is_better else "↓"}</abbr>'


def _marked(text: str) -> str:
    """HTML of a text, with what is in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
