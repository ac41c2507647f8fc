"""Draw spectrograms of clips of a data set above those of the clips decoded by a model.

    python scripts/spectrograms.py data/manifest.csv --clips speech-19 music-11 --output weaknesses.jpg

The names of the clips are those in a report of `dac-codec evaluate`, whose clips.csv shows which ones are worst.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dac_codec import pretrained
from dac_codec.codec import compress, decompress
from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status
from dac_codec.evaluation import figures
from dac_codec.evaluation.clips import find_clips


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a manifest, or a folder of sounds")
    parser.add_argument("--clips", nargs="+", required=True, metavar="NAME")
    parser.add_argument("--model", default=pretrained.DEFAULT_MODEL, help="name, folder or file")
    parser.add_argument("--output", type=Path, required=True, help="a .png or .jpg file")
    arguments = parser.parse_args()
    model = pretrained.load(arguments.model)
    found = {clip.name: clip.waveform for clip in find_clips(arguments.data, model.sample_rate)}
    if missing := [name for name in arguments.clips if name not in found]:
        raise DacError(f"{arguments.data}: no clip {missing[0]}, expected some of {', '.join(found)}")
    clips = {}
    for name in arguments.clips:
        decoded, _ = decompress(compress((found[name], model.sample_rate), model), model)
        clips[name] = (found[name], decoded.numpy())
    figures.spectrograms(clips, model.sample_rate, arguments.output)


if __name__ == "__main__":
    sys.exit(exit_status(main, (ValueError,)))  # ValueError: an unknown suffix, by Matplotlib
