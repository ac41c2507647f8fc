"""An evaluation that tests start as a process.

python -m tests.evaluation.anchors FOLDER CLIPS
"""

from __future__ import annotations

import sys
from pathlib import Path

from dac_codec.evaluation.clips import Clip
from dac_codec.evaluation.codecs import make_codecs
from dac_codec.evaluation.metrics import METRICS
from dac_codec.evaluation.run import Outcome, run
from tests.evaluation.sounds import RATE, speech_like


def evaluated(cache: Path, n_clips: int, workers: int) -> Outcome:
    """Evaluate one codec on short clips, of which there are four different ones."""
    sounds = [speech_like(0.5, seed) for seed in range(4)]
    clips = [Clip(f"{i:03}", "speech", sounds[i % 4]) for i in range(n_clips)]
    codecs, _ = make_codecs(["anchor"], "none", "cpu")
    settings = [(codec, codec.settings([2])) for codec in codecs]
    return run(clips, RATE, settings, METRICS[:5], cache, workers, progress=False)


if __name__ == "__main__":
    evaluated(Path(sys.argv[1]), int(sys.argv[2]), workers=2)
