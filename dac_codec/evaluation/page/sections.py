"""The parts of the page that need no script, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, TypeVar

from dac_codec.evaluation.clips import POOLED
from dac_codec.evaluation.figures import code_steps, marker, rate_distortion
from dac_codec.evaluation.metrics import Metric
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.statistics import Estimate
from dac_codec.evaluation.summary import Difference, Mean
from dac_codec.evaluation.tables import CODEBOOK_HEADINGS, codebook_cells

Row = TypeVar("Row", Mean, Difference)


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
        for domain, group, _ in _by_domain(panels, ()):
            if picture := rate_distortion(group, metric, order, panels):
                figures.append(f"<figure><figcaption>{escape(domain)}</figcaption>{picture}</figure>")
        if figures:
            unit = f" ({escape(metric.unit)})" if metric.unit else ""
            rows.append(f"<h3>{escape(metric.label)}{unit} <small>{_direction(metric)}</small></h3>")
            rows.append(f'<div class="plots">{"".join(figures)}</div>')
    return "".join(rows)


def means_tables(means: Sequence[Mean], metrics: Sequence[Metric]) -> str:
    """A table for each domain."""
    heads = ("codec", "setting", "clips", "kbit/s on disk", "without headers", "encodes", "decodes")
    tables = []
    for domain, group, measured in _by_domain(means, metrics):
        most = max(group, key=lambda mean: mean.clips)
        table = _table(heads, [_mean_row(mean, measured) for mean in group], measured)
        tables.append(_details(f"{domain}: {most.clips} clips, {most.sources} sources", table))
    return "".join(tables)


def differences_tables(differences: Sequence[Difference], metrics: Sequence[Metric]) -> str:
    """A table for each domain."""
    heads = ("codec", "kbit/s on disk", "against", "kbit/s on disk")
    tables = [
        _details(domain, _table(heads, [_difference_row(one, measured) for one in group], measured))
        for domain, group, measured in _by_domain(differences, metrics)
    ]
    return "".join(tables) or "<p>There are none.</p>"


def codebooks(means: Sequence[Mean]) -> str:
    """Entropy and use of codebooks, over all clips."""
    heads = ("codec", *CODEBOOK_HEADINGS, "frames")
    rows = []
    for mean in means:
        if mean.domain == means[-1].domain and mean.codebooks is not None:
            cells = "".join(f"<td>{cell}</td>" for cell in (*codebook_cells(mean.codebooks), mean.codebooks.frames))
            rows.append(f'<tr><th scope="row">{escape(mean.codec)} {escape(mean.setting)}</th>{cells}</tr>')
    return _table(heads, rows) if rows else "<p>No codec here has codebooks.</p>"


def codes_over_time(clips: Sequence[str], results: Sequence[Result], order: Sequence[str]) -> str:
    """Plots of the number of codes per frame of these clips, for codecs and settings that vary it; "" without any."""
    counted = [(one, n_codes) for one in results if one.clip in clips and (n_codes := one.n_codes()) is not None]
    varied = {(one.codec, one.setting) for one, n_codes in counted if (n_codes < one.n_codebooks).any()}
    parts = []
    for clip in clips:
        figures = [
            f"<figure><figcaption>{escape(one.codec)} {escape(one.setting)}: {n_codes.mean():.2f} codes per frame"
            f"</figcaption>{code_steps(n_codes, one.n_codebooks, one.seconds, order.index(one.codec))}</figure>"
            for one, n_codes in counted
            if one.clip == clip and (one.codec, one.setting) in varied
        ]
        if figures:
            parts.append(_details(clip, f'<div class="plots wide">{"".join(figures)}</div>'))
    return f"<h3>Codes per frame over time</h3>{''.join(parts)}" if parts else ""


def methods(facts: dict[str, Any]) -> str:
    """How each codec was run, where the measures are defined, and what is missing."""
    codecs = "".join(f"<dt>{escape(one['name'])}</dt><dd>{_marked(one['about'])}</dd>" for one in facts["codecs"])
    metrics = "".join(f"<dt>{escape(one['label'])}</dt><dd>{escape(one['source'])}</dd>" for one in facts["metrics"])
    missing = "".join(f"<li>{_marked(line)}</li>" for line in [*facts["left_out"], *facts["failures"]])
    return f"<h3>Codecs</h3><dl>{codecs}</dl><h3>Measures</h3><dl>{metrics}</dl>" + (
        f"<h3>Left out</h3><ul>{missing}</ul>" if missing else ""
    )


def _by_domain(rows: Sequence[Row], metrics: Sequence[Metric]) -> Iterator[tuple[str, list[Row], list[Metric]]]:
    """Each domain with its rows, and the metrics that any of these has."""
    for domain in dict.fromkeys(row.domain for row in rows):
        group = [row for row in rows if row.domain == domain]
        yield domain, group, [metric for metric in metrics if any(metric.name in row.measures for row in group)]


def _mean_row(mean: Mean, metrics: Sequence[Metric]) -> str:
    speeds = [f"<td>{'' if one is None else f'{one:.1f}x'}</td>" for one in (mean.encode_speed, mean.decode_speed)]
    cells = [_cell(mean.measures.get(metric.name), worst=mean.worst.get(metric.name)) for metric in metrics]
    return (
        f'<tr><th scope="row">{escape(mean.codec)}</th><td>{escape(mean.setting)}</td><td>{mean.clips}</td>'
        f"{_cell(mean.kbps)}<td>{mean.payload_kbps:.2f}</td>{''.join(speeds)}{''.join(cells)}</tr>"
    )


def _difference_row(one: Difference, metrics: Sequence[Metric]) -> str:
    cells = [_cell(one.measures.get(metric.name), one.verdicts.get(metric.name, ""), signed=True) for metric in metrics]
    return (
        f'<tr><th scope="row">{escape(one.codec)} {escape(one.setting)}</th><td>{one.kbps:.2f}</td>'
        f"<td>{escape(one.other)} {escape(one.other_setting)}</td><td>{one.other_kbps:.2f}</td>{''.join(cells)}</tr>"
    )


def _cell(estimate: Estimate | None, kind: str = "", signed: bool = False, worst: float | None = None) -> str:
    if estimate is None:
        return "<td></td>"
    plus = "+" if signed else ""
    low, high = estimate.low, estimate.high
    interval = "" if low is None or high is None else f"<small>{low:{plus}.3f} to {high:{plus}.3f}</small>"
    notes = [kind, "" if worst is None else f"worst 10%: {worst:.3f}"]
    below = "".join(f"<small>{note}</small>" for note in notes if note)
    return f'<td class="{kind}">{estimate.mean:{plus}.3f}{interval}{below}</td>'


def _table(heads: Sequence[str], rows: Sequence[str], metrics: Sequence[Metric] = ()) -> str:
    titles = [*heads, *(f"{escape(metric.label)} <small>{_arrow(metric)}</small>" for metric in metrics)]
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _details(title: str, content: str) -> str:
    return f"<details open><summary>{escape(title)}</summary>{content}</details>"


def _direction(metric: Metric) -> str:
    return "higher is better" if metric.higher_is_better else "lower is better"


def _arrow(metric: Metric) -> str:
    return f'<abbr title="{_direction(metric)}">{"↑" if metric.higher_is_better else "↓"}</abbr>'


def _marked(text: str) -> str:
    """HTML of a text, with what is in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
