"""What the command line shows."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec import bitstream, codec, pretrained
from dac_codec.codec import DacFile
from dac_codec.model import DAC
from dac_codec.pretrained import hub
from dac_codec.pretrained import models as catalog
from tests.cli.shell import (
    GOLDEN,
    LEGACY,
    errors_of,
    files_below,
    interruptible,
    noise,
    run,
    write_dac,
    write_sound,
)


@pytest.mark.usefixtures("instant")
def test_one_line_per_file_unless_quiet() -> None:
    write_sound("a.wav")
    write_sound("b.wav")
    result = run("compress", "a.wav", "b.wav")
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith("a.wav -> a.dac  4.0 kB -> ")
    assert "kbit/s" in first
    assert first.endswith("x real time)")
    assert second.startswith("b.wav -> b.dac")
    assert run("compress", "a.wav", "b.wav", "--force", "--quiet").output == ""
    result = run("compress", "a.wav", "b.wav", "--quiet")
    assert result.exit_code == 1
    assert len(errors_of(result)) == 2


@pytest.mark.usefixtures("three_cores")
def test_files_that_run_at_once_equal_those_that_run_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are in the order of the inputs, and a warning precedes the line of its file."""
    names = ["0.wav", "1.flac", "2.wav", "3.wav", "4.flac", "5.wav", "6.wav"]
    for index, name in enumerate(names):
        soundfile.write(name, noise(30000, 2)[index:], 44100)
        if name.endswith("flac"):
            Path(name).write_bytes(Path(name).read_bytes()[:-10000])
    Path("5.wav").write_bytes(bytes(1000))
    result = run("compress", *names, "-o", "out", "--model", model, "--allow-truncated")
    assert result.exit_code == 1
    lines = [line.replace("Warning: ", "").partition(" ")[0] for line in result.stderr.splitlines()]
    assert lines == ["0.wav", "1.flac:", "1.flac", "2.wav", "3.wav", "4.flac:", "4.flac", "6.wav", "Error:"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as each of three files at once had
    for name in [name for name in names if name != "5.wav"]:
        assert run("compress", name, "-o", "alone.dac", "--model", model, "--force", "--allow-truncated").exit_code == 0
        assert Path("out", name).with_suffix(".dac").read_bytes() == Path("alone.dac").read_bytes()


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.filterwarnings("ignore:.*cut short")
def test_files_of_a_batch_equal_those_that_run_alone(model: Path) -> None:
    """Files of any length, rate and number of channels, an unreadable one, and one whose output exists."""
    shapes = {"0": (3000, 8000, 1), "1": (30000, 48000, 2), "2": (700, 44100, 3), "3": (5000, 44100, 2)}
    for name, (n_samples, rate, channels) in shapes.items():
        soundfile.write(f"{name}.flac", (int(name) + 1) / 4 * noise(n_samples, channels), rate)
    Path("1.flac").write_bytes(Path("1.flac").read_bytes()[:-10000])
    write_sound("long.wav", 100_000)
    Path("bad.wav").write_bytes(bytes(1000))
    write_sound("kept.wav")
    Path("out").mkdir()
    Path("out/kept.dac").write_bytes(b"kept")
    inputs = ["0.flac", "bad.wav", "1.flac", "kept.wav", "2.flac", "long.wav", "3.flac"]
    result = run("compress", *inputs, "-o", "out", "--model", model, "--allow-truncated")
    assert result.exit_code == 1
    lines = [line.replace("Warning: ", "").partition(" ")[0] for line in result.stderr.splitlines()]
    assert lines == ["0.flac", "1.flac:", "1.flac", "2.flac", "long.wav", "3.flac", "Error:", "Error:", "2"]
    assert [line.partition(": ")[2].partition(":")[0] for line in errors_of(result)] == ["bad.wav", "kept.wav"]
    assert files_below("out") == {"0.dac", "1.dac", "2.dac", "3.dac", "kept.dac", "long.dac"}
    assert Path("out/kept.dac").read_bytes() == b"kept"

    names = [*shapes, "long"]
    Path("out/2.dac").write_bytes(Path("out/2.dac").read_bytes()[:-5])
    result = run("decompress", *(f"out/{name}.dac" for name in names), LEGACY, "-o", "decoded", "--model", model)
    lines = [line.partition(" ")[0] for line in result.stderr.splitlines()]
    assert lines == [*(f"out/{name}.dac" for name in ("0", "1", "3", "long")), str(LEGACY), "Error:"]
    (error,) = errors_of(result)
    assert error.startswith("Error: out/2.dac: ")
    for name in set(names) - {"2"}:
        source = f"{name}.wav" if name == "long" else f"{name}.flac"
        together, alone = DacFile.load(f"out/{name}.dac"), codec.compress(source, model)
        assert together.header == alone.header
        assert (together.codes == alone.codes).float().mean() > 0.999  # two entries may be equally near
        waveform, rate = codec.decompress(together, model)
        found, found_rate = soundfile.read(f"decoded/{name}.wav", dtype="float32", always_2d=True)
        assert found_rate == rate
        np.testing.assert_allclose(found.T, waveform, atol=1e-4)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_interrupting_a_batch_that_waits_for_a_file(model: Path) -> None:
    """Ctrl-C ends a batch one of whose files is a silent pipe."""
    write_sound("in/a.wav")
    write_sound("in/b.wav")
    os.mkfifo("in/c.wav")
    script = (
        "from dac_codec.codec import batches; from dac_codec.cli.main import main\n"
        "batches.uses_batches = lambda device: True; main()"
    )
    command = [sys.executable, "-c", script, "compress", "in/a.wav", "in/b.wav", "in/c.wav", "-o", "out"]
    restore: dict[str, Any] = {"preexec_fn": interruptible}
    with subprocess.Popen([*command, "--model", str(model)], stderr=subprocess.PIPE, **restore) as shell:
        with Path("in/c.wav").open("wb"):  # returns when it is open at both ends
            shell.send_signal(signal.SIGINT)
            time.sleep(0.2)
        _, messages = shell.communicate(timeout=60)
    assert (shell.returncode, messages) == (130, b"Interrupted\n")
    assert files_below("out") == set()


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([30000] * 7, 3), ([30000] * 2, 2), ([90000, 3000, 3000], 1), ([30000, 30000, 5000], 2), ([30000], 1)],
    ids=str,
)
def test_files_run_at_once_where_that_is_faster(
    lengths: list[int], expected: int, instant: None, tiny: DAC, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, running, lock = 0, 0, threading.Lock()
    compress_stream = codec.compress_stream

    def counting(*args: Any, **options: Any) -> codec.Compressed:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1
        return compress_stream(*args, **options)

    monkeypatch.setattr(codec, "compress_stream", counting)
    for index, length in enumerate(lengths):
        write_sound(f"in/{index}.wav", length)
    assert run("compress", "in").exit_code == 0
    assert most == expected


def test_a_model_is_loaded_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    load = pretrained.load

    def counting_load(name: Any, *args: Any, **options: Any) -> DAC:
        loads.append(name)
        return load(name, *args, **options)

    monkeypatch.setattr(pretrained, "load", counting_load)
    monkeypatch.setattr(pretrained, "DEFAULT_MODEL", "tiny")
    monkeypatch.setattr(catalog, "_bundled_folders", lambda: {"tiny": model})
    write_sound("a.wav", 600)
    write_sound("b.wav", 600)
    assert run("compress", "a.wav", "b.wav").exit_code == 0
    assert loads == ["tiny"]
    # The files name their model.
    assert run("decompress", "a.dac", "b.dac", "-o", "out").exit_code == 0
    assert loads == ["tiny", "tiny"]
    assert files_below("out") == {"a.wav", "b.wav"}


def test_info(compressed: DacFile, cut: Path) -> None:
    write_dac("a.dac", compressed)
    result = run("info", "a.dac", cut, LEGACY, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    ours, truncated, legacy = json.loads(result.stdout)
    n_samples, size = 40 * 512 - 100, Path("a.dac").stat().st_size
    assert ours == {
        "file": "a.dac",
        "format": "dac_codec",
        "version": 1,
        "truncated": False,
        "model_id": compressed.model_id,
        "sample_rate": 44100,
        "channels": 2,
        "n_samples": n_samples,
        "duration": n_samples / 44100,
        "n_frames": 40,
        "bitrate": 2 * 9 * 10 * 44100 / 512,
        "n_codebooks": 9,
        "codebook_size": 1024,
        "bits_per_code": 10,
        "model_sample_rate": 44100,
        "hop_length": 512,
        "gain_db": compressed.header.gain_db,
        "bandwidth": compressed.header.bandwidth,
        "coding": "fixed width",
        "size": size,
        "pcm_size": 4 * n_samples,
        "ratio": 4 * n_samples / size,
    }
    assert (truncated["truncated"], truncated["n_frames"], truncated["n_samples"]) == (True, 24, 24 * 512)
    assert (legacy["format"], legacy["version"]) == ("descript-audio-codec", "1.0.0")
    assert (legacy["sample_rate"], legacy["channels"], legacy["n_samples"]) == (44100, 2, 39690)
    assert (legacy["n_codebooks"], legacy["padding"], len(legacy["loudness_db"])) == (9, True, 1)


def test_info_as_text(compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    result = run("info", "a.dac", "missing.dac", LEGACY)
    assert result.exit_code == 1
    assert result.stderr == "Error: missing.dac: No such file or directory\n"
    first, second = result.stdout.split("\n\n")
    for text in (compressed.model_id, "44100 Hz", "0.462 s", "15.50 kbit/s"):
        assert text in first
    assert "descript-audio-codec" in second
    assert run("info", "-", "--json", stdin=Path("a.dac").read_bytes()).stdout.count('"format"') == 1


def test_models(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT_MODEL", "tiny")
    monkeypatch.setattr(catalog, "_bundled_folders", lambda: {"tiny": model})
    monkeypatch.setattr(hub, "cached_repositories", dict)
    rows = json.loads(run("models", "--json").stdout)
    assert [row["name"] for row in rows] == [info.name for info in pretrained.available()]
    assert [row["name"] for row in rows if row["default"]] == ["tiny"]
    assert rows[0] == {
        "name": "tiny",
        "sample_rate": 44100,
        "bitrate": 9 * 10 * 44100 / 512,
        "n_codebooks": 9,
        "where": "bundled",
        "verified": True,
        "default": True,
    }
    lines = run("models").stdout.splitlines()
    assert len(lines) == len(rows)
    assert [line.split()[0] for line in lines if line.endswith("default")] == ["tiny"]


def test_demo_prints_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class DemoResult:
        original: Path
        compressed: Path
        decoded: Path
        seconds: float = 5.0
        channels: int = 2
        compressed_bytes: int = 9_800
        pcm_bytes: int = 1_764_000
        bitrate: float = 15680.0
        ratio: float = 180.0
        encode_speed: float = 3.25
        decode_speed: float = 2.5
        si_sdr: float = 9.5

    calls = []

    def run_demo(output: Path, model: str | None, device: str) -> DemoResult:
        calls.append((output, model, device))
        return DemoResult(output / "original.wav", output / "compressed.dac", output / "decoded.wav")

    module = ModuleType("dac_codec.evaluation.demo")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dac_codec.evaluation.demo", module)
    result = run("demo")
    assert result.exit_code == 0
    assert calls == [(Path("dac-demo"), None, "auto")]
    for text in (
        "dac-demo/decoded.wav",
        "9.8 kB",
        "7.84 kbit/s per",
        "15.68 kbit/s in",
        "180",
        "3.2x",
        "2.5x",
        "9.50 dB",
    ):
        assert text in result.stdout
    shown = json.loads(run("demo", "--json").stdout)
    assert (shown["decoded"], shown["ratio"], shown["si_sdr"]) == ("dac-demo/decoded.wav", 180.0, 9.5)
    run("demo", "--output", "there", "--model", "24khz", "--device", "cpu")
    assert calls[2] == (Path("there"), "24khz", "cpu")


@pytest.mark.parametrize("batched", [False, True])
def test_figures_as_json(model: Path, batched: bool, request: pytest.FixtureRequest) -> None:
    """One object on standard output, and nothing but errors beside it."""
    if batched:
        request.getfixturevalue("as_on_a_gpu")
    sounds = [write_sound("in/a.wav", 3000), write_sound("in/b.wav", 2000)]
    Path("in/bad.wav").write_bytes(b"no sound")
    result = run("compress", "in", "-o", "out", "--model", model, "--json")
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert result.stderr.splitlines() == errors_of(result)
    assert [f"Error: {line}" for line in shown["failures"]] == errors_of(result)
    for row, sound, n_samples in zip(shown["files"], sounds, (3000, 2000), strict=True):
        assert row["input"] == str(sound)
        assert row["output"] == f"out/{sound.stem}.dac"
        assert row["input_bytes"] == sound.stat().st_size
        assert row["output_bytes"] == Path(row["output"]).stat().st_size
        assert row["duration"] == pytest.approx(n_samples / 44100)
        assert row["bitrate"] > 0
        assert batched or row["speed"] > 0

    shown = json.loads(run("decompress", "out", "-o", "back", "--model", model, "--json").stdout)
    assert shown["failures"] == []
    assert [row["output"] for row in shown["files"]] == ["back/a.wav", "back/b.wav"]
    assert [row["duration"] for row in shown["files"]] == pytest.approx([3000 / 44100, 2000 / 44100])
    skipped = run("decompress", "out", "-o", "back", "--model", model, "--json", "--skip-existing", "--quiet")
    assert json.loads(skipped.stdout) == {"files": [], "failures": []}


def test_figures_and_data_do_not_mix() -> None:
    write_sound("a.wav")
    result = run("compress", "a.wav", "-o", "-", "--json")
    assert result.exit_code == 2
    assert "--json prints to standard output, where the data would go" in result.stderr


def test_train_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    module = ModuleType("dac_codec.training.__main__")
    module.main = calls.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dac_codec.training.__main__", module)
    arguments = ["experiment=44khz", "--cfg", "job", "-m", "data.sounds=a b"]
    assert run("train", *arguments).exit_code == 0
    assert run("train", "--help").exit_code == 0
    assert calls == [arguments, ["--help"]]
    monkeypatch.setitem(sys.modules, "dac_codec.training.__main__", None)
    result = run("train")
    assert result.exit_code == 1
    assert "pip install 'dac_codec[train]'" in errors_of(result)[0]


@pytest.mark.parametrize(
    ("name", "weights"),
    [("legacy_44khz_stereo_unchunked", "dac_44khz_tiny.pth"), ("legacy_24khz_mono_chunked", "dac_24khz_tiny.pth")],
)
def test_legacy_files_decode_as_the_reference_decodes_them(name: str, weights: str) -> None:
    result = run("decompress", GOLDEN / f"{name}.dac", "-o", "a.wav", "--model", GOLDEN / weights)
    assert result.exit_code == 0, result.stderr
    with np.load(GOLDEN / f"{name}.npz") as golden:
        found, sample_rate = soundfile.read("a.wav", always_2d=True)
        assert sample_rate == golden["sample_rate"]
        np.testing.assert_allclose(found.T, np.clip(golden["decoded"][0], -1, 1), atol=1e-3)


def test_conversion_keeps_the_codes(model: Path, compressed: DacFile) -> None:
    write_dac("in/a.dac", compressed)
    assert run("convert", "in", "-o", "theirs", "--model", model).exit_code == 0
    theirs = codec.load("theirs/a.dac")
    assert isinstance(theirs, bitstream.LegacyFile)
    np.testing.assert_array_equal(theirs.codes, compressed.codes)
    assert (theirs.original_length, theirs.sample_rate) == (compressed.n_samples, compressed.sample_rate)

    assert run("convert", "theirs/a.dac", "-o", "ours.dac", "--model", model).exit_code == 0
    ours = DacFile.load("ours.dac")
    np.testing.assert_array_equal(ours.codes, compressed.codes)
    assert (ours.n_samples, ours.model_id) == (compressed.n_samples, compressed.model_id)


def test_conversion_takes_the_model_that_a_file_names(
    model: Path, compressed: DacFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dac("a.dac", compressed)
    monkeypatch.setattr(catalog, "_bundled_folders", lambda: {"tiny": model})
    assert run("convert", "a.dac", "-o", "theirs.dac").exit_code == 0
    result = run("convert", "theirs.dac", "-o", "ours.dac")
    assert result.exit_code == 1
    assert "--model" in errors_of(result)[0]


def test_a_failed_conversion_leaves_nothing(model: Path) -> None:
    overlapping = GOLDEN / "legacy_44khz_mono_chunked.dac"
    result = run("convert", overlapping, LEGACY, "-o", "out", "--model", model)
    assert result.exit_code == 1
    assert len(errors_of(result)) == 1
    assert "overlapping" in errors_of(result)[0]
    assert files_below("out") == {LEGACY.name}
