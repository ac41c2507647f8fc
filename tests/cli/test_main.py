"""The command line: usage and round trips."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FrameType, ModuleType

import numpy as np
import pytest
import soundfile
import torch

import dac_codec
from dac_codec import codec
from dac_codec.codec import DacFile
from tests.cli.shell import errors_of, files_below, run, write_dac, write_sound

COMMANDS = ["compress", "decompress", "info", "models", "convert", "convert-model", "demo", "evaluate", "refit"]
COMMANDS += ["tokenize", "detokenize", "export", "web"]


def test_help_and_info_import_no_large_package(compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    script = f"""
import sys
from dac_codec.cli.main import main
def loaded_by(*arguments):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, end.code
    return sorted({{"torch", "numpy", "soundfile", "tqdm"}} & set(sys.modules))
heavy = loaded_by("--help")
for command in {COMMANDS}:
    heavy += loaded_by(command, "--help")
assert not heavy, heavy
assert "torch" not in loaded_by("info", "a.dac")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    assert command in run("--help").stdout
    for flag in ("--help", "-h"):
        result = run(command, flag)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: main {command}")


def test_version() -> None:
    assert run("--version").stdout == "dac-codec, version 0.1.0\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress"],
        ["compress", "a.wav", "--quantizers", "2", "--bitrate", "3", "--constant"],
        ["compress", "a.wav", "--quality", "5", "--bitrate", "3"],
        ["compress", "a.wav", "--quality", "5", "--constant"],
        ["compress", "a.wav", "--quality", "nan"],
        ["compress", "a.wav", "--effort", "4"],
        ["compress", "a.wav", "--quantizers", "0"],
        ["compress", "a.wav", "--bitrate", "-1"],
        ["compress", "a.wav", "--device", "abacus"],
        ["compress", "-", "a.wav", "-o", "out"],
        ["compress", "a.wav", "b.wav", "-o", "-"],
        ["compress", ".", "-o", "-"],
        ["compress", "-", "-o", "."],
        ["compress", "-", "-o", "out/"],
        ["compress", "a.wav", "b.wav", "-o", "b.wav"],
        ["compress", ".", "-o", "b.wav"],
        ["decompress", "a.dac", "-o"],
        ["compress", ""],
        ["compress", "a.wav", "-o", ""],
        ["convert", "a.dac"],
        ["info"],
        ["explode"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_writes_nothing(arguments: list[str]) -> None:
    write_sound("a.wav")
    write_sound("b.wav")
    result = run(*arguments, stdin=b"")
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert files_below() == {"a.wav", "b.wav"}


@pytest.mark.parametrize("option", [["--quantizers", "10"], ["--bitrate", "0.5"]])
def test_options_out_of_the_models_range_are_wrong_usage(option: list[str], model: Path) -> None:
    result = run("compress", write_sound("a.wav"), "--model", model, *option)
    assert result.exit_code == 2
    assert "codebook" in result.stderr
    assert ("--quantizers must be" if option[0] == "--quantizers" else "0.5 kbit/s is too low") in result.stderr
    assert files_below() == {"a.wav"}


def test_few_frames_lead_to_the_network() -> None:
    """The stack of our functions, from the command line to the first convolution, is short enough to read."""
    package = Path(dac_codec.__file__).parent
    frames: list[str] = []

    def profile(frame: FrameType | None, event: str, argument: object) -> None:
        if frames or event != "call" or frame is None or frame.f_code.co_name != "__call__":
            return
        if Path(frame.f_code.co_filename).parent != package / "inference":  # its layers are callable, and no others
            return
        while (frame := frame.f_back) is not None:
            if frame.f_code.co_filename.startswith(str(package)):
                frames.append(f"{frame.f_code.co_filename}:{frame.f_code.co_name}")

    write_sound("a.wav", 100_000)
    run("models")
    sys.setprofile(profile)
    try:
        assert run("compress", "a.wav", "-o", "a.dac").exit_code == 0
    finally:
        sys.setprofile(None)
    assert 0 < len(frames) <= 11, "\n".join(frames)


@pytest.mark.parametrize(
    ("n_samples", "sample_rate", "channels"), [(3000, 44100, 2), (2001, 8000, 1), (1, 44100, 1), (1500, 48000, 3)]
)
def test_output_has_the_length_rate_and_channels_of_the_input(
    n_samples: int, sample_rate: int, channels: int, model: Path
) -> None:
    write_sound("a.wav", n_samples, sample_rate, channels)
    assert run("compress", "a.wav", "-o", "a.dac", "--model", model).exit_code == 0
    assert run("decompress", "a.dac", "-o", "b.wav", "--model", model).exit_code == 0
    found = soundfile.info("b.wav")
    assert (found.frames, found.samplerate, found.channels) == (n_samples, sample_rate, channels)
    assert found.subtype == "PCM_16"


def test_files_equal_those_of_the_library(model: Path) -> None:
    write_sound("a.wav", 3000, 22050, 2)
    run("compress", "a.wav", "--model", model)
    assert Path("a.dac").read_bytes() == codec.compress("a.wav", model).to_bytes()
    run("decompress", "a.dac", "-o", "b.wav", "--model", model)
    expected, _ = codec.decompress("a.dac", model)
    found, _ = soundfile.read("b.wav")
    np.testing.assert_allclose(found.T, np.clip(expected.numpy(), -1, 1), atol=2**-15)


@pytest.mark.parametrize(
    ("option", "n_codebooks"), [([], 9), (["--quantizers", "4"], 4), (["--bitrate", "3", "--constant"], 3)]
)
def test_size_options(option: list[str], n_codebooks: int, model: Path) -> None:
    run("compress", write_sound("a.wav"), "--model", model, *option)
    assert DacFile.load("a.dac").codes.shape[1] == n_codebooks


def test_rate_options() -> None:
    time = np.arange(2 * 44100) / 44100
    soundfile.write("a.wav", 0.3 * np.sin(2 * np.pi * 300 * time * (1 + time)) * np.exp(-3 * time), 44100)
    sizes = {}
    for name, options in {
        "default": [],
        "constant": ["--constant"],
        "low": ["--quality", "3"],
        "slow": ["--quality", "3", "--effort", "2"],
        "mean": ["--bitrate", "3"],
    }.items():
        assert run("compress", "a.wav", "-o", f"{name}.dac", *options, "--quiet").exit_code == 0
        sizes[name] = Path(f"{name}.dac").stat().st_size
    files = {name: DacFile.load(f"{name}.dac") for name in sizes}
    assert files["constant"].n_codes.unique().tolist() == [9]
    assert sizes["low"] < sizes["default"] < sizes["constant"]
    assert not torch.equal(files["low"].codes, files["slow"].codes)
    assert 8 * sizes["mean"] / 2.0 == pytest.approx(3000, rel=0.01)
    command = ["compress", "-", "-o", "-", "--raw", "44100,1,s16le"]
    sound = (soundfile.read("a.wav")[0] * 32767).astype("<i2").tobytes()
    for options, n_different in (([], 1), (["--bitrate", "4"], 2), (["--quality", "7"], 2)):
        file = DacFile.from_bytes(run(*command, *options, stdin=sound).stdout_bytes)
        assert len(file.n_codes.unique()) >= n_different
        assert bool((file.n_codes == 9).all()) is (n_different == 1)


def test_output_format_follows_the_extension(model: Path, compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    assert run("decompress", "a.dac", "-o", "a.flac", "--model", model).exit_code == 0
    assert soundfile.info("a.flac").format == "FLAC"
    result = run("decompress", "a.dac", "-o", "a.xyz", "--model", model)
    assert result.exit_code == 1
    assert "a.xyz" in errors_of(result)[0]


@pytest.mark.parametrize(("start", "duration"), [("0.1", "0.2"), ("0:0.1", "0:0:0.2")])
def test_a_part_of_a_file(compressed: DacFile, model: Path, start: str, duration: str) -> None:
    write_dac("a.dac", compressed)
    whole, _ = codec.decompress(compressed, model)
    assert run("decompress", "a.dac", "--model", model, "--start", start, "--duration", duration).exit_code == 0
    found, _ = soundfile.read("a.wav")
    np.testing.assert_allclose(found.T, np.clip(whole.numpy()[:, 4410 : 3 * 4410], -1, 1), atol=2**-14)
    result = run("decompress", "a.dac", "--model", model, "--start", "1:00", "-o", "b.wav")
    assert result.exit_code == 1
    assert "beyond the end" in errors_of(result)[0]
    assert files_below() == {"a.dac", "a.wav"}


@pytest.mark.parametrize("arguments", [["compress", "none.wav"], ["convert-model", "none", "out", "--to", "ours"]])
def test_verbose_shows_where_an_error_comes_from(arguments: list[str]) -> None:
    """Of one file, and of the whole run; the message stays the last line."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    for shown in (run(*arguments, "-v"), run("-v", *arguments)):
        assert shown.exit_code == 1
        assert shown.stderr.startswith("Traceback (most recent call last):\n")
        assert shown.stderr.splitlines()[-1] == result.stderr.splitlines()[-1]
        assert errors_of(shown) == errors_of(result)


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
