"""An evaluation from beginning to end: clips, codecs, measures, and a report that can be read, looked at and heard."""

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
from dac_codec.evaluation.clips import find_clips
from dac_codec.evaluation.codecs import Codec, Setting, make_codecs
from dac_codec.evaluation.codecs.ours import load
from dac_codec.evaluation.metrics import Metric, usable_metrics
from dac_codec.evaluation.page import page
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.run import played_clips, run
from dac_codec.pretrained import DEFAULT_MODEL


@dataclass(frozen=True)
class Report:
    """What an evaluation found, and left in its folder: index.html, report.md, report.json and clips.csv.

    Attributes:
        table: means as Markdown.
        page: the page to open.
        results: of every clip, codec and setting.
        failures: a line for everything that could not be coded.
    """

    table: str
    page: Path
    results: list[Result]
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

    What was done before is taken from the output folder's `cache`, unless anything that it depends on has changed.

    Args:
        data: a manifest, a folder of sounds, or a sound file.
        output: folder for the report; made if it is missing.
        codecs: of `codecs.NAMES`; the others are compared with the first.
        bitrates: in kbit/s, for which each codec takes what comes nearest.
        model: a name, a folder or a file, for our codec.
        split: of a manifest, the files to take.
        device: "auto", "cpu" or "cuda", for our codec.
        workers: processes; None: one for each CPU.
        progress: whether to show a progress bar (on a terminal).
        say: takes a line about each codec and measure that is left out.

    Raises:
        DacError: there is no sound, no bitrate, an unknown codec, a model that can't be loaded, or a folder that can't
            be written.
    """
    if not bitrates:
        raise DacError("no bitrates to measure at: give one or more")
    load.cache_clear()  # there may be other weights in a folder than at the last evaluation
    made, missing = make_codecs(codecs, model, device)
    metrics, unmeasured = usable_metrics()
    left_out = [*missing, *unmeasured, *filter(None, [figures.no_spectrograms()])]
    for line in left_out:
        say(line)
    sample_rate = load(model, device).sample_rate
    clips = find_clips(data, sample_rate, split)
    settings = [(codec, codec.settings(bitrates)) for codec in made]
    cache = output / "cache"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DacError(f"can't make the folder {cache}: {error.strerror}") from error
    outcome = run(clips, sample_rate, settings, metrics, cache, workers, progress)
    if not outcome.results:
        raise DacError(f"nothing could be coded: {outcome.failures[0]}")
    means = summary.means(outcome.results, metrics)
    differences = summary.differences(outcome.results, metrics, codecs[0])
    notes = [note] if (note := summary.without_intervals(means)) else []
    if not differences and len(codecs) > 1:
        notes.append(summary.incomparable(outcome.results, codecs[0]))
    table = tables.means_markdown(means, metrics)
    compared = tables.differences_markdown(differences, metrics) if differences else ""
    facts = _facts(sample_rate, len(clips), settings, metrics, left_out, outcome.failures)
    found = {"notes": notes, "means": list(map(asdict, means)), "differences": list(map(asdict, differences))}
    played = [clip for clip in played_clips(clips) if any(one.clip == clip.name for one in outcome.results)]
    html = page({**facts, "notes": notes}, means, differences, metrics, played, sample_rate, outcome.results)
    lacking = "\n".join(f"- {line}" for line in [*left_out, *outcome.failures])
    parts = [table, *notes, compared, tables.codebooks_markdown(means), lacking and f"Left out:\n\n{lacking}"]
    write_bytes(output / "clips.csv", tables.clips_csv(outcome.results, metrics).encode())
    write_bytes(output / "report.md", ("\n\n".join(part for part in parts if part) + "\n").encode())
    write_bytes(output / "report.json", json.dumps({**facts, **found}, indent=1, allow_nan=False).encode())
    write_bytes(output / "index.html", html.encode())
    return Report(table, output / "index.html", outcome.results, outcome.failures)


def _facts(
    sample_rate: int,
    n_clips: int,
    codecs: Sequence[tuple[Codec, Sequence[Setting]]],
    metrics: Sequence[Metric],
    left_out: Sequence[str],
    failures: Sequence[str],
) -> dict[str, Any]:
    """What was measured, and how."""
    keys = ("name", "label", "unit", "higher_is_better", "source", "domain")
    return {
        "version": dac_codec.__version__,
        "sample_rate": sample_rate,
        "clips": n_clips,
        "codecs": [
            {"name": codec.name, "about": codec.about, "settings": [one.name for one in settings]}
            for codec, settings in codecs
        ],
        "metrics": [{key: getattr(metric, key) for key in keys} for metric in metrics],
        "left_out": list(left_out),
        "failures": list(failures),
    }
