"""The script that makes pairs to listen to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from tests.conftest import SCRIPTS, golden_model
from tests.processes import python


def test_a_pair_of_equal_length_starts_where_it_is_asked_to(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (96000, 2))
    soundfile.write(tmp_path / "two_seconds.wav", samples, 48000, subtype="FLOAT")
    golden_model("44khz").save_pretrained(tmp_path / "model")
    options = ["--model", "model", "--seconds", "0.25", "--output", "pairs"]
    done = python(SCRIPTS / "listening_pairs.py", "two_seconds.wav@1.5", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    original, rate = soundfile.read(tmp_path / "pairs/two-seconds-original.flac")
    decoded, _ = soundfile.read(tmp_path / "pairs/two-seconds-decoded.flac")
    assert (rate, original.shape, decoded.shape) == (44100, (11025,), (11025,))
    expected = samples[72000:84000].mean(1)
    assert abs(np.sqrt((original**2).mean()) / np.sqrt((expected**2).mean()) - 1) < 0.1
