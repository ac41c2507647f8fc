"""Results as CSV and as Markdown tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from dac_codec.evaluation.metrics import Metric
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.summary import Codebooks, Difference, Mean


def clips_csv(results: Sequence[Result], metrics: Sequence[Metric]) -> str:
    """A row for each clip, codec and setting; an undefined measure is an empty field."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [metric.name for metric in metrics]
    columns = ("clip", "domain", "seconds", "codec", "setting", "bytes", "kbps", "payload_kbps")
    writer.writerow([*columns, "encode_speed", "decode_speed", *names])
    for one in results:
        fixed = (one.clip, one.domain, one.seconds, one.codec, one.setting, one.n_bytes, one.kbps, one.payload_kbps)
        speeds = [one.seconds / spent if spent else None for spent in (one.encode_seconds, one.decode_seconds)]
        writer.writerow([*fixed, *speeds, *(one.measures.get(name) for name in names)])
    return stream.getvalue()


def means_markdown(means: Sequence[Mean], metrics: Sequence[Metric]) -> str:
    """Means by domain, codec and setting, with 95% confidence intervals and worst deciles."""
    headings = [f"{metric.label}{f' ({metric.unit})' if metric.unit else ''}" for metric in metrics]
    lines = [
        _row("domain", "clips", "codec", "setting", "kbit/s on disk", *headings),
        "|---|---:|---|---|---:|" + "---:|" * len(metrics),
    ]
    for mean in means:
        values = [
            f"{mean.measures[metric.name]} ({mean.worst[metric.name]:.3f})" if metric.name in mean.measures else ""
            for metric in metrics
        ]
        fixed = (mean.domain, str(mean.clips), mean.codec, mean.setting, f"{mean.kbps.mean:.2f}")
        lines.append(_row(*fixed, *values))
    return "\n".join(lines)


def differences_markdown(differences: Sequence[Difference], metrics: Sequence[Metric]) -> str:
    """The first codec minus each other one at the nearest bitrate; "+" where it is better, "-" where it is worse.

    No sign where that is undecided, or where there is no interval.
    """
    headings = ["domain", "codec", "kbit/s", "against", "kbit/s", *(metric.label for metric in metrics)]
    lines = [_row(*headings), "|---|---|---:|---|---:|" + "---:|" * len(metrics)]
    signs = {"better": " +", "worse": " -", "undecided": "", None: ""}
    for one in differences:
        values = [
            f"{one.measures[metric.name]}{signs[one.verdicts.get(metric.name)]}" if metric.name in one.measures else ""
            for metric in metrics
        ]
        names = [f"{one.codec}, {one.setting}", f"{one.kbps:.2f}", f"{one.other}, {one.other_setting}"]
        lines.append(_row(one.domain, *names, f"{one.other_kbps:.2f}", *values))
    return "\n".join(lines)


def codebooks_markdown(means: Sequence[Mean]) -> str:
    """Entropy and use of codebooks by domain, codec and setting; "" if no codec has codebooks."""
    lines = [
        "| domain | codec | setting | frames | bitrate efficiency | entropy of each codebook, bits | entries used |",
        "|---|---|---|---:|---:|---|---|",
    ]
    for mean in means:
        if mean.codebooks is not None:
            efficiency, *others = codebook_cells(mean.codebooks)
            lines.append(_row(mean.domain, mean.codec, mean.setting, f"{mean.codebooks.frames}", efficiency, *others))
    return "\n".join(lines) if len(lines) > 2 else ""


def codebook_cells(codebooks: Codebooks) -> tuple[str, str, str]:
    """Bitrate efficiency, the entropy of each codebook in bits, and the share of its entries that were used."""
    entropies = " ".join(f"{bits:.2f}" for bits in codebooks.entropy)
    shares = " ".join(f"{100 * share:.0f}%" for share in codebooks.used)
    return f"{100 * codebooks.efficiency:.1f}%", entropies, shares


def _row(*cells: str) -> str:
    """A line of a table, with "|" escaped, which a folder's name may contain."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
