"""The model card of a repository on the Hugging Face Hub."""

from __future__ import annotations

import json
import os
from typing import Any

from dac_codec.common.errors import CheckpointError
from dac_codec.common.files import expanded
from dac_codec.model import DAC
from dac_codec.pretrained.fingerprint import fingerprint

LIBRARY = "dac_codec"  # in cards, with which the Hub tags their models
_TAGS = ["audio", "audio-codec", "neural-codec", "dac"]
_TASK = "audio-to-audio"

_TEMPLATE = """\
# {name}

A neural audio codec: a {kind} of the Descript Audio Codec ([arXiv 2306.06546](https://arxiv.org/abs/2306.06546)) for
the Python package dac_codec.

| | |
|---|---|
| sample rate | {config.sample_rate} Hz |
| frames | {config.frame_rate:.1f} per second, {config.hop_length} samples each |
| codebooks | {config.n_codebooks} of {config.codebook_size} entries |
| bitrate of a channel | up to {kbps:.2f} kbit/s |
| parameters | {millions:.1f} million |
| fingerprint | `{fingerprint}` |

## Use

```sh
pip install 'dac_codec[hub]'
dac-codec compress song.wav --model {repository}
dac-codec decompress song.dac --model {repository}
```

```python
from dac_codec import DAC

model = DAC.from_pretrained("{repository}")
codes = model.encode(audio).codes  # [B, 1, T] at {config.sample_rate} Hz -> [B, {config.n_codebooks}, F]
decoded = model.decode_codes(codes)
```
{evaluation}"""


def card(model: DAC, repository: str, license: str | None = None, report: str | os.PathLike[str] | None = None) -> str:
    """A model card: metadata (library, licence, tags, results) and a page with the model's figures and its use.

    The arguments are those of `hub.push`; the results are those of the report's first codec. Raises a CheckpointError
    if the report can't be read or is not one.
    """
    from huggingface_hub import EvalResult, ModelCardData

    rows = [] if report is None else _results(report)
    data = ModelCardData(
        library_name=LIBRARY,
        license=license,
        tags=_TAGS,
        pipeline_tag=_TASK,
        model_name=repository.rpartition("/")[2],
        eval_results=[
            EvalResult(
                task_type=_TASK,
                dataset_type=row["domain"],
                dataset_name=row["domain"],
                metric_type=row["metric"],
                metric_name=f"{row['label']}, {row['setting']}",
                metric_value=row["value"],
            )
            for row in rows
        ]
        or None,
    )
    config = model.config
    text = _TEMPLATE.format(
        name=repository.rpartition("/")[2] if model.name == "unnamed" else model.name,
        kind="causal variant" if config.causal else "network",
        config=config,
        kbps=config.bitrate() / 1000,
        millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        fingerprint=fingerprint(model).hex(),
        repository=repository,
        evaluation=_table(rows),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _results(report: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The mean measures of a report's first codec."""
    path = expanded(report)
    path = path / "report.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels = {metric["name"]: metric["label"] for metric in content["metrics"]}
        return [
            {
                "domain": str(mean["domain"]),
                "setting": str(mean["setting"]),
                "kbps": float(mean["kbps"][0]),
                "metric": metric,
                "label": str(labels[metric]),
                "value": round(float(values[0]), 4),
            }
            for mean in content["means"]
            if mean["codec"] == content["codecs"][0]["name"]
            for metric, values in mean["measures"].items()
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} is no report of dac-codec evaluate: {type(error).__name__} {error}") from error


def _table(rows: list[dict[str, Any]]) -> str:
    """Results as a section of the page."""
    if not rows:
        return ""
    lines = [
        f"| {row['domain']} | {row['setting']} | {row['kbps']:.2f} | {row['label']} | {row['value']:.3f} |"
        for row in rows
    ]
    head = "| domain | setting | kbit/s | measure | mean |\n|---|---|---:|---|---:|"
    return "\n".join(["\n## Evaluation\n", "By `dac-codec evaluate`:\n", head, *lines, ""])
