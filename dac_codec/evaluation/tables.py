"""Results as CSV and as Markdown tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence

from dac_codec.evaluation.metrics import Metric
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.summary import Codebooks, Difference, Mean

CODEBOOK_HEADINGS = (
    "codes per frame",
    "bitrate efficiency",
    "entropy of each codebook, bits",
    "bits spent per code",
    "entries used",
)


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
    rows = []
    for mean in means:
        values = [
            f"{mean.measures[metric.name]} ({mean.worst[metric.name]:.3f})" if metric.name in mean.measures else ""
            for metric in metrics
        ]
        rows.append([mean.domain, str(mean.clips), mean.codec, mean.setting, f"{mean.kbps.mean:.2f}", *values])
    return _table(["domain", "clips", "codec", "setting", "kbit/s on disk", *headings], {0, 2, 3}, rows)


def differences_markdown(differences: Sequence[Difference], metrics: Sequence[Metric]) -> str:
    """The first codec minus each other one at the nearest bitrate; "+" where it is better, "-" where it is worse.

    No sign where that is undecided, or where there is no interval.
    """
    signs = {"better": " +", "worse": " -", "undecided": "", None: ""}
    rows = []
    for one in differences:
        values = [
            f"{one.measures[metric.name]}{signs[one.verdicts.get(metric.name)]}" if metric.name in one.measures else ""
            for metric in metrics
        ]
        names = [f"{one.codec}, {one.setting}", f"{one.kbps:.2f}", f"{one.other}, {one.other_setting}"]
        rows.append([one.domain, *names, f"{one.other_kbps:.2f}", *values])
    headings = ["domain", "codec", "kbit/s", "against", "kbit/s", *(metric.label for metric in metrics)]
    return _table(headings, {0, 1, 3}, rows)


def codebooks_markdown(means: Sequence[Mean]) -> str:
    """Entropy and use of codebooks by domain, codec and setting; "" if no codec has codebooks."""
    rows = [
        [mean.domain, mean.codec, mean.setting, str(mean.codebooks.frames), *codebook_cells(mean.codebooks)]
        for mean in means
        if mean.codebooks is not None
    ]
    headings = ["domain", "codec", "setting", "frames", *CODEBOOK_HEADINGS]
    return _table(headings, {0, 1, 2, 6, 7, 8}, rows) if rows else ""


def codebook_cells(codebooks: Codebooks) -> tuple[str, ...]:
    """The cells below `CODEBOOK_HEADINGS`."""
    bits = " ".join("-" if one is None else f"{one:.2f}" for one in codebooks.bits)
    entropies = " ".join(f"{bits:.2f}" for bits in codebooks.entropy)
    shares = " ".join(f"{100 * share:.0f}%" for share in codebooks.used)
    return f"{codebooks.codes_per_frame:.2f}", f"{100 * codebooks.efficiency:.1f}%", entropies, bits, shares


def _table(headings: Sequence[str], texts: Collection[int], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are aligned to the right, but for `texts`; "|" in a folder's name is escaped."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    heading, *lines = [f"| {' | '.join(row)} |" for row in escaped]
    alignment = "".join("---|" if column in texts else "---:|" for column in range(len(headings)))
    return "\n".join([heading, f"|{alignment}", *lines])
