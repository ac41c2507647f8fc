"""A self-contained HTML page: summary, plots, tables, spectrograms, and players for open and blind comparison."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

from dac_codec import audio
from dac_codec.evaluation import figures
from dac_codec.evaluation.clips import POOLED, Clip
from dac_codec.evaluation.codecs.points import anchor
from dac_codec.evaluation.metrics import Metric
from dac_codec.evaluation.page import sections
from dac_codec.evaluation.results import Result, flac
from dac_codec.evaluation.summary import Difference, Mean

HIDDEN_REFERENCE, ANCHOR = "original", "anchor"
"""Versions that ITU-R BS.1534 adds to a blind test."""


def page(
    facts: dict[str, Any],
    means: Sequence[Mean],
    differences: Sequence[Difference],
    metrics: Sequence[Metric],
    clips: Sequence[Clip],
    sample_rate: int,
    results: Sequence[Result],
) -> str:
    """The page, as HTML. It needs no network, and its Content-Security-Policy forbids access to it.

    The facts are those of `report`. The clips can be played; the results have the sound of each of them.
    """
    pictures = figures.no_spectrograms() is None
    order = [codec["name"] for codec in facts["codecs"]]
    coded = [name for name in order if any(mean.codec == name and mean.kbps.mean for mean in means)]
    # With a single domain, the pooled one is the same.
    single = len({mean.domain for mean in means}) == 2
    means = [mean for mean in means if not (single and mean.domain == POOLED)]
    differences = [one for one in differences if not (single and one.domain == POOLED)]
    players = [_player(clip, sample_rate, results, pictures) for clip in clips]
    data = {"clips": players, "axis": [figures.STRIP_LEFT, figures.STRIP_WIDTH]}
    parts = {
        "style": _resource("style.css"),
        "script": _resource("script.js"),
        "facts": escape(
            f"{facts['clips']} clips, {sample_rate / 1000:g} kHz mono, dac_codec {facts['version']}; asked for "
            f"{', '.join(f'{kbps:g}' for kbps in facts['bitrates'])} kbit/s"
        ),
        "notes": "".join(f"<p>{escape(note)}</p>" for note in facts["notes"]),
        "played": _left_out(len(clips), facts["clips"] - len(clips)),
        "verdicts": sections.verdicts(facts["summary"]),
        "legend": sections.legend(coded, order),
        "plots": sections.plots(means, metrics, order),
        "means": sections.means_tables(means, metrics),
        "differences": sections.differences_tables(differences, metrics),
        "codebooks": sections.codebooks(means),
        "codes": sections.codes_over_time([clip.name for clip in clips], results, order),
        "methods": sections.methods(facts),
        "data": json.dumps(data).replace("<", "\\u003c"),  # so that it can't close the script element around it
    }
    text = _resource("page.html")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    return text


def _left_out(n_played: int, left_out: int) -> str:
    """How many clips the page can't play."""
    if not left_out:
        return ""
    return (
        f'<p class="hint">{n_played} of the {n_played + left_out} clips can be played here, spread over the domains; '
        f"the other {left_out} are left out of this section to keep the page small, and count in everything below.</p>"
    )


def _player(clip: Clip, sample_rate: int, results: Sequence[Result], pictures: bool) -> dict[str, Any]:
    """A clip and its decoded versions, for the script of the page."""
    seconds = clip.waveform.shape[-1] / sample_rate
    low = anchor(clip.waveform, sample_rate)
    versions: list[dict[str, Any]] = [
        {"codec": HIDDEN_REFERENCE, "setting": "", "kbps": None, "sound": flac(clip.waveform, sample_rate)},
        {"codec": ANCHOR, "setting": "", "kbps": None, "sound": flac(low, sample_rate)},
    ]
    for one in results:
        if one.clip == clip.name and one.sound is not None and one.codec not in (HIDDEN_REFERENCE, ANCHOR):
            kbps = round(one.kbps, 2) if one.n_bytes else None
            versions.append({"codec": one.codec, "setting": one.setting, "kbps": kbps, "sound": one.sound})
    if pictures:
        waveforms = [audio.read(io.BytesIO(base64.b64decode(one["sound"])), name=clip.name)[0] for one in versions]
        for version, picture in zip(versions, figures.spectrogram_strips(waveforms, sample_rate), strict=True):
            version["picture"] = base64.b64encode(picture).decode()
    return {"name": clip.name, "seconds": seconds, "versions": versions}


def _resource(name: str) -> str:
    return resources.files("dac_codec.evaluation.page").joinpath(name).read_text(encoding="utf-8")
