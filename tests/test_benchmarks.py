"""The scripts that measure streaming and memory, as processes, with a small model and short sounds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.conftest import GOLDEN

SCRIPTS = Path(__file__).parents[1] / "scripts"
MODEL = GOLDEN / "dac_44khz_tiny.pth"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPTS / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What a script that refused its input said."""
    assert done.returncode == 1
    assert done.stdout == ""
    (message,) = done.stderr.splitlines()
    return message


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, (24000, 2)), 48000)
    return path


# Live sound over a socket --------------------------------------------------------------------------------------------


def test_live_sound_arrives_whole_and_its_lateness_is_told(sound: Path) -> None:
    done = run("live_loopback.py", sound, "--model", MODEL, "--chunk-frames", 3)
    assert (done.returncode, done.stderr) == (0, "")
    whole, algorithmic, late, factor = done.stdout.splitlines()
    assert whole == "sound                0.50 s in chunks of 3 frames, all of which arrived"
    # A chunk is 3 frames of 512 samples; 3733 and 4757 are the look-aheads of tests/streaming/test_look_ahead.py.
    assert algorithmic == f"algorithmic latency  {1000 * (3 * 512 + 3733 + 4757) / 44100:.1f} ms"
    middle, most = map(float, re.findall(r"[\d.]+(?= ms)", late))
    assert 0 < middle <= most
    assert 1000 * (3 * 512 + 3733 + 4757) / 44100 < most < 60_000
    found = re.fullmatch(r"real-time factor     ([\d.]+)x", factor)
    assert found is not None
    assert 0 < float(found[1]) < 1


def test_live_sound_without_waiting(sound: Path) -> None:
    done = run("live_loopback.py", sound, "--model", MODEL, "--speed", 0)
    assert done.returncode == 0
    names = [line[:21].strip() for line in done.stdout.splitlines()]
    assert names == ["sound", "algorithmic latency", "real-time factor"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.wav"], "missing.wav: no such file"),
        ([__file__], "not a sound file"),
        (["a.wav", "--chunk-frames", "0"], "chunk_frames must be in 1.."),
        (["a.wav", "--model", "missing"], "no model, file or folder called 'missing'"),
    ],
)
def test_live_sound_that_cannot_be_sent(arguments: list[str], message: str, sound: Path) -> None:
    name, *options = (str(sound) if part == "a.wav" else part for part in arguments)
    assert message in one_sentence(run("live_loopback.py", name, "--model", MODEL, *options))


# Rates of streaming --------------------------------------------------------------------------------------------------


def test_the_rates_of_chunk_sizes() -> None:
    done = run("benchmark_streaming.py", "--model", MODEL, "--seconds", 0.1)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:7]]
    assert [row[0] for row in rows] == ["1", "4", "16", "64", "whole"]
    assert rows[1][1] == f"{1000 * (4 * 512 + 3733 + 4757) / 44100:.1f} ms"
    assert all(float(rate.removesuffix("x")) > 0 for row in rows for rate in row[2:])
    assert "dac_44khz_tiny" in done.stdout.splitlines()[-1]
    assert "no model, file or folder" in one_sentence(run("benchmark_streaming.py", "--model", "missing"))
