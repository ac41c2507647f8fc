"""The modules of the page that need no browser, under Node."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dac_codec.audio import LoudnessMeter, LowPass, gain_to
from dac_codec.bitstream import Coding, Header, Order, dumps, thin
from dac_codec.codec.encoding import TARGET_LUFS
from tests.interop.web.test_reader import NODE

pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


def test_the_modules_agree_with_the_python_package(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sound = (0.1 * rng.standard_normal((2, 100_000)) * np.linspace(0.1, 1, 100_000)).astype(np.float32)
    sound.tofile(tmp_path / "sound.f32")
    low_pass = LowPass(44100, 1, 8000)
    np.concatenate((low_pass.push(sound[:1]), low_pass.flush()), axis=1).tofile(tmp_path / "filtered.f32")
    meters = []
    for n_samples in (100_000, 9000):
        meters.append(LoudnessMeter(44100, 2))
        meters[-1].push(sound[:, :n_samples])
    loudness, short = (meter.loudness() for meter in meters)
    expected = {
        "loudness": loudness,
        "shortLoudness": short,
        "gain": float(gain_to(TARGET_LUFS, loudness, meters[0].peak)),
    }
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    header = Header(bytes(8), "", 8000, 1, 60_000, 0, 8000, 40, 2, 16, coding=Coding.LAYERED)
    codes = rng.integers(0, 16, (1, 2, 1500))
    (tmp_path / "layers.dac").write_bytes(thin(dumps(header, codes), order=Order.LAYERS))
    command = [str(NODE), "--test", "--test-reporter=tap", str(Path(__file__).with_name("page.test.mjs"))]
    done = subprocess.run(command, env=os.environ | {"CASES": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# pass 14" in done.stdout
