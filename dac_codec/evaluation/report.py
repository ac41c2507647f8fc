"""A whole evaluation: clips, codecs, measures, and a report with tables, plots, spectrograms and players."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dac_codec
from dac_codec.codec import write_bytes
from dac_codec.common.errors import DacError
from dac_codec.evaluation import figures, summary, tables
from dac_codec.evaluation.clips import find_clips, held_out_notes
from dac_codec.evaluation.codecs import make_codecs
from dac_codec.evaluation.codecs.ours import load
from dac_codec.evaluation.metrics import Metric, usable_metrics
from dac_codec.evaluation.page import page
from dac_codec.evaluation.run import played_clips, run
from dac_codec.evaluation.summary import Difference, Mean
from dac_codec.pretrained import DEFAULT_MODEL

_METRIC_FACTS = ("name", "label", "unit", "higher_is_better", "source", "domain")


@dataclass(frozen=True)
class Report:
    """Results of an evaluation, whose folder has index.html, report.md, report.json and clips.csv.

    Attributes:
        table: means as Markdown.
        page: path of index.html.
        failures: a line for each sound that was left out, and for each clip, codec and setting that failed.
    """

    table: str
    page: Path
    failures: list[str]


def evaluate(
    data: Path,
    output: Path,
    codecs: Sequence[str] = ("ours",),
    bitrates: Sequence[float] = (2.0, 4.0, 6.0, 8.0),
    model: str = DEFAULT_MODEL,
    split: str = "test",
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Report:
    """Measure codecs on sounds, at the sample rate of our model.

    Results of earlier runs are reused from the output folder's `cache`, if all that they depend on is unchanged.

    Args:
        data: a manifest, a folder of sounds, or a sound file.
        output: folder for the report, created if it does not exist.
        codecs: from `codecs.NAMES`; the others are compared with the first.
        bitrates: in kbit/s; each codec uses its nearest settings.
        model: name, folder or file of our codec's model.
        split: split of a manifest.
        device: "auto", "cpu" or "cuda", for our codec.
        workers: number of processes; None: one per CPU.
        progress: show a progress bar (on a terminal).
        say: called with a line for each codec, measure or picture that is left out.

    Raises:
        DacError: no sound, no bitrate, an unknown codec, a model that can't be loaded, or a folder that can't be
            written.
    """
    if not bitrates:
        raise DacError("no bitrates: give one or more")
    load.cache_clear()  # the weights in a folder may have changed since the last evaluation
    made, missing = make_codecs(codecs, model, device)
    metrics, unmeasured = usable_metrics()
    left_out = [*missing, *unmeasured, *filter(None, [figures.no_spectrograms()])]
    for line in left_out:
        say(line)
    sample_rate = load(model, device).sample_rate
    failures: list[str] = []
    clips = find_clips(data, sample_rate, split, failures)
    settings = [(codec, codec.settings(bitrates)) for codec in made]
    cache = output / "cache"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DacError(f"can't create the folder {cache}: {error.strerror}") from error
    outcome = run(clips, sample_rate, settings, metrics, cache, workers, progress)
    if not outcome.results:
        raise DacError(f"nothing could be coded: {outcome.failures[0]}")
    results, failures = outcome.results, failures + outcome.failures
    means = summary.means(results, metrics)
    differences = summary.differences(results, metrics, codecs[0])
    notes = [note] if (note := summary.without_intervals(means)) else []
    if not differences and len(codecs) > 1:
        notes.append(summary.incomparable(results, codecs[0]))
    if data.suffix.lower() == ".csv":
        notes += held_out_notes(data, split)
    facts = {
        "version": dac_codec.__version__,
        "sample_rate": sample_rate,
        "clips": len(clips),
        "bitrates": list(bitrates),
        "codecs": [
            {"name": codec.name, "about": codec.about, "settings": [one.name for one in used]}
            for codec, used in settings
        ],
        "metrics": [{key: getattr(metric, key) for key in _METRIC_FACTS} for metric in metrics],
        "left_out": left_out,
        "failures": failures,
        "notes": notes,
        "summary": summary.verdict_lines(differences, metrics),
    }
    found = {"means": list(map(asdict, means)), "differences": list(map(asdict, differences))}
    played = [clip for clip in played_clips(clips) if any(one.clip == clip.name for one in results)]
    html = page(facts, means, differences, metrics, played, sample_rate, results)
    write_bytes(output / "clips.csv", tables.clips_csv(results, metrics).encode())
    write_bytes(output / "report.md", _markdown(facts, means, differences, metrics).encode())
    write_bytes(output / "report.json", json.dumps({**facts, **found}, indent=1, allow_nan=False).encode())
    write_bytes(output / "index.html", html.encode())
    return Report(tables.means_markdown(means, metrics), output / "index.html", failures)


def _markdown(
    facts: dict[str, Any], means: Sequence[Mean], differences: Sequence[Difference], metrics: Sequence[Metric]
) -> str:
    """The report as Markdown."""
    missing = "\n".join(f"- {line}" for line in [*facts["left_out"], *facts["failures"]])
    parts = [
        "\n".join(f"- {line}" for line in facts["summary"]),
        "Mean over clips, its 95% confidence interval in brackets, and the worst decile in parentheses:",
        tables.means_markdown(means, metrics),
        *facts["notes"],
        tables.differences_markdown(differences, metrics) if differences else "",
        tables.codebooks_markdown(means),
        missing and f"Left out:\n\n{missing}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
