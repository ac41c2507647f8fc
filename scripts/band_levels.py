"""What band levels are worth: bytes on disk and quality at some qualities, without and with them.

    python scripts/band_levels.py data/manifest.csv --quality 3 5

prints for each domain (subfolders, or the manifest's) the bitrate and the measures of the greedy look-up with all
codebooks in every frame, which the others have to beat, and of files of each quality.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dac_codec import codec
from dac_codec.common.scripts import exit_status
from dac_codec.evaluation.clips import Clip, find_clips
from dac_codec.evaluation.metrics import usable_metrics
from dac_codec.model import DAC

MEASURES = ("mel_distance", "si_sdr", "pesq", "stoi")


def measured(clip: Clip, model: DAC, options: dict[str, Any]) -> list[float]:
    """Bitrate in kbit/s and the measures of a clip that is compressed with some options."""
    data = io.BytesIO()
    result = codec.compress_stream((clip.waveform, model.sample_rate), data, model, **options)
    data.seek(0)
    decoded = codec.decompress(data, model)[0].numpy()
    measures = [one for one in usable_metrics()[0] if one.name in MEASURES and one.applies_to(clip.domain)]
    values = [one.measure(decoded, clip.waveform, model.sample_rate) for one in measures]
    return [8 * result.n_bytes / result.duration / 1000, *values]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder, a sound file or a manifest")
    parser.add_argument("--model", default="dac-mini-44khz", help="name or path [%(default)s]")
    parser.add_argument("--quality", nargs="+", type=float, default=[3.0, 5.0], help="qualities of `compress` [3 5]")
    arguments = parser.parse_args()
    model = codec.load_model(arguments.model, "cpu")
    rows: dict[str, dict[str, Any]] = {"constant": {"constant": True}}
    for quality in arguments.quality:
        for name, levels in (("", False), (", band levels", True)):
            rows[f"quality {quality:g}{name}"] = {"quality": quality, "levels": levels}
    clips = find_clips(arguments.data, model.sample_rate)
    for domain in sorted({clip.domain for clip in clips}):
        print(f"{domain}: kbit/s, mel distance, SI-SDR in dB (and PESQ-WB and STOI of speech)")
        for name, options in rows.items():
            values = [measured(clip, model, options) for clip in clips if clip.domain == domain]
            print(f"  {name:24}", "  ".join(f"{value:.3f}" for value in np.nanmean(values, 0)), flush=True)


if __name__ == "__main__":
    sys.exit(exit_status(main))
