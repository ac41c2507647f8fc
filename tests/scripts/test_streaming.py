"""live_loopback.py, benchmarks/streaming.py and benchmarks/memory.py with a small model and short sounds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
import torch

from dac_codec import pretrained
from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status
from dac_codec.model import DAC, DACConfig
from tests.conftest import GOLDEN, SCRIPTS
from tests.processes import python

MODEL = GOLDEN / "dac_44khz_tiny.pth"


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error message of a script that refused its input."""
    assert done.returncode == 1
    assert done.stdout == ""
    (message,) = done.stderr.splitlines()
    return message


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, (24000, 2)), 48000)
    return path


# live_loopback.py ---------------------------------------------------------------------------------------------------


def test_live_sound_arrives_complete_and_its_latency_is_printed(sound: Path) -> None:
    done = python(SCRIPTS / "live_loopback.py", sound, "--model", MODEL, "--chunk-frames", 3)
    assert (done.returncode, done.stderr) == (0, "")
    whole, algorithmic, late, factor = done.stdout.splitlines()
    assert whole == "sound                0.50 s in chunks of 3 frames, all received"
    # A chunk is 3 frames of 512 samples; 3733 and 4757 are the look-aheads of tests/inference/test_look_ahead.py.
    assert algorithmic == f"algorithmic latency  {1000 * (3 * 512 + 3733 + 4757) / 44100:.1f} ms"
    middle, most = map(float, re.findall(r"[\d.]+(?= ms)", late))
    assert 0 < middle <= most
    assert 1000 * (3 * 512 + 3733 + 4757) / 44100 < most < 60_000
    found = re.fullmatch(r"real-time factor     ([\d.]+)x", factor)
    assert found is not None
    assert 0 < float(found[1]) < 1


def test_live_sound_without_waiting(sound: Path) -> None:
    done = python(SCRIPTS / "live_loopback.py", sound, "--model", MODEL, "--speed", 0)
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
def test_live_sound_with_invalid_arguments(arguments: list[str], message: str, sound: Path) -> None:
    name, *options = (str(sound) if part == "a.wav" else part for part in arguments)
    assert message in one_sentence(python(SCRIPTS / "live_loopback.py", name, "--model", MODEL, *options))


# streaming.py --------------------------------------------------------------------------------------------------


def test_streaming_is_timed_by_chunk_size(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    streaming = import_module("streaming")
    monkeypatch.setattr(streaming, "ROUNDS", 1)
    monkeypatch.setattr(sys, "argv", ["streaming.py", "--model", str(MODEL), "--seconds", "0.1"])
    assert exit_status(streaming.main) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:7]]
    assert [row[0] for row in rows] == ["1", "4", "16", "64", "whole"]
    assert rows[1][1] == f"{1000 * (4 * 512 + 3733 + 4757) / 44100:.1f} ms"
    assert all(float(rate.removesuffix("x")) > 0 for row in rows for rate in row[2:])
    assert rows[-1][3::2] == ["1.00", "1.00"]
    assert "dac_44khz_tiny" in lines[-1]
    assert "no model, file or folder" in one_sentence(python(SCRIPTS / "benchmarks/streaming.py", "--model", "missing"))


# memory.py -----------------------------------------------------------------------------------------------------------

STAND_IN = f"""
import shutil, sys
import numpy as np
import soundfile
stage, *rest = sys.argv[1:]
folder = rest[rest.index("--output") + 1]
if stage == "encode":
    shutil.copyfile("{GOLDEN}/legacy_44khz_mono_chunked.dac", folder + "/" + rest[-3].split("/")[-1][:-4] + ".dac")
else:
    with np.load("{GOLDEN}/legacy_44khz_mono_chunked.npz") as golden:
        sound = golden["decoded"][0].T
    soundfile.write(folder + "/" + rest[-3].split("/")[-1][:-4] + ".wav", sound, 44100)
"""
"""Stands for the commands of the reference: for any sound, writes one of its files, and the audio that it decoded."""


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """The interpreter of an environment with a stand-in for the reference."""
    (tmp_path / "dac").mkdir()
    (tmp_path / "dac" / "__main__.py").write_text(STAND_IN)
    (tmp_path / "descript_audio_codec-1.0.0.dist-info").mkdir()
    (tmp_path / "descript_audio_codec-1.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: descript-audio-codec\nVersion: 1.0.0\n"
    )
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    return interpreter


@pytest.fixture(scope="module")
def benchmark_memory() -> ModuleType:
    return import_module("memory")


posix = pytest.mark.skipif(sys.platform == "win32", reason="os.wait4 is POSIX")


@pytest.mark.slow
@posix
def test_both_codecs_side_by_side(reference: Path, tmp_path: Path) -> None:
    options = ["--seconds", "1", "--channels", "1", "--model", MODEL, "--output", tmp_path / "out"]
    # A new interpreter: its children begin with its memory.
    command = [sys.executable, SCRIPTS / "benchmarks/memory.py", *options, "--reference", reference]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:4]]
    content = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert content["descript-audio-codec"] == "1.0.0"
    theirs, ours = content["rows"]
    for row, cells in zip((theirs, ours), table, strict=True):
        assert cells[:2] == [row["codec"], "1 s, 1 channels"]
        assert cells[2] == f"{row['frames_per_second']:.1f}"
        for index, name in ((4, "compress"), (7, "decompress")):
            assert cells[index] == f"{row[name]['peak'] / 2**20:.0f} MiB"
            assert cells[index + 1] == f"{1 / row[name]['seconds']:.3g}x"
            assert cells[index + 2] == f"{theirs[name]['seconds'] / row[name]['seconds']:.2f}"
    assert ours["frames_per_second"] == -(-44100 // 512)
    with np.load(GOLDEN / "legacy_44khz_mono_chunked.npz") as golden:
        assert theirs["frames_per_second"] == golden["codes"].shape[-1]
    # The stand-in is small, so a larger peak would be the memory of this script at the fork.
    assert ours["compress"]["peak"] > 2**28 > theirs["compress"]["peak"]
    assert (ours["part"]["failure"], theirs["part"], table[0][-1]) == ("", None, "")
    picture = (tmp_path / "out" / "memory.svg").read_text()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert "descript-audio-codec, decompress" in picture


@posix
def test_the_limit_of_the_reference_and_the_reasons_of_failures(
    benchmark_memory: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = (sys.executable, "-c", "import sys; sys.exit('not\\nenough memory')")
    ends = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    ours = benchmark_memory.Codec("dac_codec", fails, fails, "-o", cuts=True)
    theirs = benchmark_memory.Codec("descript-audio-codec", ends, ends, "-o", cuts=False)
    monkeypatch.setattr(benchmark_memory, "ours", lambda model: ours)
    monkeypatch.setattr(benchmark_memory, "theirs", lambda *arguments: theirs)
    monkeypatch.setattr(benchmark_memory, "versions", lambda interpreter: {})
    monkeypatch.setattr(benchmark_memory, "check_same", lambda *arguments: None)
    options = ["--seconds", "1", "2", "--reference", "python", "--reference-up-to", "1"]
    monkeypatch.setattr(sys, "argv", ["memory", *options])
    assert exit_status(benchmark_memory.main) == 1
    shown = capsys.readouterr()
    assert [line.split("|")[1].strip() for line in shown.out.splitlines()[2:5]] == [theirs.name, ours.name, ours.name]
    assert shown.out.count("failed at ") == 3
    assert shown.err.splitlines() == [
        "memory: descript-audio-codec, 1 s, 2 channels, compress: killed by signal 9",
        "memory: dac_codec, 1 s, 2 channels, compress: enough memory",
        "memory: dac_codec, 2 s, 2 channels, compress: enough memory",
    ]


@posix
def test_the_peak_is_that_of_the_process(benchmark_memory: ModuleType) -> None:
    small = benchmark_memory.measured(sys.executable, "-c", "pass")
    large = benchmark_memory.measured(sys.executable, "-c", "import time; x = b'1' * 2**30; time.sleep(0.2)")
    assert 2**30 < large.peak < 2**30 + small.peak
    assert large.seconds > 0.2
    assert large.failure == small.failure == ""


def test_the_reference_gets_the_same_weights(benchmark_memory: ModuleType, tmp_path: Path) -> None:
    benchmark_memory.write_weights(str(MODEL), tmp_path / "weights.pth")
    found = torch.load(tmp_path / "weights.pth", weights_only=True)
    golden = torch.load(MODEL, weights_only=True)
    assert found["state_dict"].keys() == golden["state_dict"].keys()
    assert pretrained.fingerprint(pretrained.load(tmp_path / "weights.pth")) == pretrained.fingerprint(
        pretrained.load(MODEL)
    )
    causal = DAC(DACConfig(encoder_dim=1, latent_dim=4, decoder_dim=16, n_codebooks=1, codebook_size=4, causal=True))
    causal.save_pretrained(tmp_path / "causal")
    with pytest.raises(DacError, match="no network like that of"):
        benchmark_memory.write_weights(str(tmp_path / "causal"), tmp_path / "weights.pth")


@posix
@pytest.mark.parametrize(("decoded", "message"), [(0.1, None), (0.2, "decode the same file differently")])
def test_a_reference_with_another_output_is_not_compared(
    benchmark_memory: ModuleType, tmp_path: Path, decoded: float, message: str | None
) -> None:
    def writing(value: float, name: str) -> tuple[str, ...]:
        script = f"import sys, soundfile; soundfile.write(sys.argv[-1] + '{name}', [{value}] * 9, 44100, format='WAV')"
        return (sys.executable, "-c", script)

    theirs = benchmark_memory.Codec("theirs", writing(0.0, "/short.dac"), writing(decoded, "/short.wav"), "-o", False)
    ours = benchmark_memory.Codec("ours", (), writing(0.1, ""), "-o", True)
    with nullcontext() if message is None else pytest.raises(DacError, match=message):
        benchmark_memory.check_same(theirs, ours, tmp_path)


@pytest.mark.parametrize(
    ("interpreter", "message"),
    [("missing", "No such file or directory"), (sys.executable, "has no descript-audio-codec")],
)
def test_interpreters_without_the_reference(interpreter: str, message: str) -> None:
    assert message in one_sentence(python(SCRIPTS / "benchmarks/memory.py", "--reference", interpreter))


def test_too_many_channels(
    benchmark_memory: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["memory", "--channels", "100000"])
    assert exit_status(benchmark_memory.main) == 1
    assert "100000 channels, expected 1 to " in capsys.readouterr().err


def test_graphs_beside_the_engine() -> None:
    pytest.importorskip("onnxruntime")
    done = python(SCRIPTS / "benchmarks/graphs.py", "--models", MODEL, "--seconds", 0.2, "--rounds", 1, "--chunk", 4)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows[1:]] == [
        *("dac_codec, exact", "dac_codec, default", "onnxruntime, fp32", "onnxruntime, fp16", "onnxruntime, int8"),
        *("dac_codec, exact, in chunks of 4 frames", "onnxruntime, fp32, in chunks of 4 frames"),
    ]
    assert rows[1][2] == "1.00"
