"""The command line: what it reads and writes, what it says, and the exit code, whatever happens."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

import dac_codec
from dac_codec import audio, bitstream, codec, inference, pretrained
from dac_codec.audio import pcm
from dac_codec.cli import running
from dac_codec.cli.main import main
from dac_codec.codec import DacFile, batches
from dac_codec.model import DAC
from dac_codec.pretrained import models as catalog

GOLDEN = Path(__file__).parents[1] / "golden"
LEGACY = GOLDEN / "legacy_44khz_stereo_unchunked.dac"
COMMANDS = ["compress", "decompress", "info", "models", "convert", "convert-model", "demo", "evaluate"]


def interruptible() -> None:
    """Restore signals in a child: in the background or without a terminal, tests may run with some of them ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny() -> DAC:
    return pretrained.load(GOLDEN / "dac_44khz_tiny.pth")


@pytest.fixture(scope="session")
def model(tiny: DAC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of 44.1 kHz, 9 codebooks of 1024, and a hop of 512."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pretrained.save(tiny, folder, name="tiny")
    return folder


@pytest.fixture(scope="session")
def compressed(model: Path) -> DacFile:
    """40 frames of stereo at 44.1 kHz."""
    return codec.compress((noise(40 * 512 - 100, 2).T, 44100), model, device="cpu", constant=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder; nothing is downloaded."""
    monkeypatch.setenv("DAC_CODEC_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test on the CPU, also in child processes, so that nothing moves `tiny`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def instant(tiny: DAC, compressed: DacFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the network, for tests of the files around it."""

    def compress_stream(source: Any, target: Path, *args: object, **options: object) -> codec.Compressed:
        codec.write_bytes(target, compressed.to_bytes())
        return codec.Compressed(compressed.header, compressed.n_samples, len(compressed.to_bytes()))

    monkeypatch.setattr(pretrained, "load", lambda *args, **options: tiny)
    monkeypatch.setattr(codec, "compress_stream", compress_stream)


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are processed one after the other."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.fixture
def three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files of equal size are processed at once."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(running, "available_cores", lambda: 3)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs on batches of short files."""
    monkeypatch.setattr(batches, "uses_batches", lambda device: True)


def noise(n_samples: int, channels: int = 1) -> npt.NDArray[np.float32]:
    """Noise [T, C] from a fixed seed."""
    return 0.1 * np.random.default_rng(0).standard_normal((n_samples, channels)).astype(np.float32)


def write_sound(path: str, n_samples: int = 2000, sample_rate: int = 44100, channels: int = 1) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(n_samples, channels), sample_rate)
    return Path(path)


def write_dac(path: str, file: DacFile) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    file.save(path)
    return Path(path)


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    """Run the command line in this process; an exception other than SystemExit would be a traceback."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def process(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """Run the command line as a shell would."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "dac_codec", *map(str, arguments)], **options)


def files_below(folder: str = ".") -> set[str]:
    """All files in a folder except the cache, including temporary ones."""
    paths = (path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] != ".cache"}


def errors_of(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("Error: ")]


# Help, version, usage ------------------------------------------------------------------------------------------------


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


# Round trips ---------------------------------------------------------------------------------------------------------


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


def test_standard_input_to_standard_output(model: Path) -> None:
    write_sound("a.wav", 3000, 48000, 2)
    with Path("a.wav").open("rb") as sound:
        shell = process("compress", "-", "-o", "-", "--model", model, stdin=sound)
    data, messages = shell.communicate()
    assert shell.returncode == 0, messages
    assert data == codec.compress("a.wav", model).to_bytes()
    assert messages.decode().startswith("<stdin> -> <stdout>  ")

    Path("a.dac").write_bytes(data)
    run("decompress", "a.dac", "-o", "b.wav", "--model", model)
    for arguments in (["-", "-o", "-"], ["-"]):
        assert run("decompress", *arguments, "--model", model, stdin=data).stdout_bytes == Path("b.wav").read_bytes()


def test_standard_input_to_a_file_and_a_file_to_standard_output(model: Path) -> None:
    write_sound("a.wav")
    result = run("compress", "-", "-o", "a.dac", "--model", model, stdin=Path("a.wav").read_bytes())
    assert (result.exit_code, result.stdout) == (0, "")
    assert run("compress", "a.wav", "-o", "-", "--model", model).stdout_bytes == Path("a.dac").read_bytes()


def test_bad_standard_input(model: Path) -> None:
    for command in ("compress", "decompress"):
        result = run(command, "-", "--model", model, stdin=b"rubbish")
        assert (result.exit_code, result.stdout) == (1, "")
        assert len(errors_of(result)) == 1
        assert errors_of(result)[0].count("<std") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_terminals_are_refused() -> None:
    import pty

    main_end, terminal = pty.openpty()
    try:
        write_sound("a.wav")
        for arguments, stream in ((["a.wav", "-o", "-"], "stdout"), (["-", "-o", "a.dac"], "stdin")):
            with process("compress", *arguments, **{stream: terminal}) as shell:
                _, messages = shell.communicate(timeout=60)
            assert shell.returncode == 2
            assert b"is a terminal" in messages
    finally:
        os.close(main_end)
        os.close(terminal)


# Names of outputs ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("instant")
def test_outputs_are_next_to_their_inputs_by_default() -> None:
    write_sound("x/a.wav")
    write_sound("b.wav")
    assert run("compress", "x", "b.wav").exit_code == 0
    assert files_below() == {"x/a.wav", "x/a.dac", "b.wav", "b.dac"}
    Path("x/a.wav").unlink()
    assert run("decompress", "x", "--model", "any").exit_code == 0
    assert files_below("x") == {"a.wav", "a.dac"}


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("b.dac", "b.dac"),
        ("b", "b"),
        ("new/b.dac", "new/b.dac"),
        ("there", "there/a.dac"),
        ("new/", "new/a.dac"),
    ],
)
def test_output_of_a_single_file(output: str, expected: str) -> None:
    write_sound("a.wav")
    Path("there").mkdir()
    assert run("compress", "a.wav", "-o", output).exit_code == 0
    assert files_below() == {"a.wav", expected}


@pytest.mark.usefixtures("instant")
def test_subfolders_are_kept() -> None:
    for name in ("a.wav", "x/B.FLAC", "x/y/c.ogg", ".hidden/d.wav", "x/.e.wav"):
        write_sound(name)
    Path("x/readme.txt").write_text("not sound")
    top = Path.cwd()
    result = run("compress", top, "-o", top / "out")
    assert result.exit_code == 0, result.stderr
    assert files_below("out") == {"a.dac", "x/B.dac", "x/y/c.dac"}

    Path("out/x/.f.dac").write_bytes(b"hidden")
    Path("out/x/y/c.dac").rename("out/x/y/C.DAC")
    result = run("decompress", "out", "-o", "back", "--model", "any")
    assert result.exit_code == 0, result.stderr
    assert files_below("back") == {"a.wav", "x/B.wav", "x/y/C.wav"}


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.wav", "a.flac", "b.wav"], ["a.wav.dac", "a.flac.dac", "b.dac"]),
        (["A.wav", "a.flac"], ["A.wav.dac", "a.flac.dac"]),
        (["a.wav", "a.flac", "a.wav.wav"], ["a.wav.dac", "a.flac.dac", "a.wav.wav.dac"]),
    ],
    ids=str,
)
def test_colliding_outputs_keep_their_full_names(names: list[str], expected: list[str]) -> None:
    for name in names:
        write_sound(f"in/{name}")
    paths = [f"in/{name}" for name in names]
    for inputs, output in ((["in"], "tree"), (paths, "files"), (paths[::-1], "reversed")):
        result = run("compress", *inputs, "-o", output)
        assert result.exit_code == 0, result.stderr
        assert files_below(output) == set(expected)
    # Existing files change no name.
    assert run("compress", "in", "-o", "tree", "--force").exit_code == 0
    assert files_below("tree") == set(expected)


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.wav.dac", "b.dac", "c.v2.dac"], ["a.wav", "b.wav", "c.v2.wav"]),
        (["a.wav.dac", "a.flac.dac"], ["a.wav.wav", "a.flac.wav"]),
        (["a.wav.dac", "a.dac"], ["a.wav.wav", "a.wav"]),
    ],
    ids=str,
)
def test_names_of_decompressed_files(names: list[str], expected: list[str], compressed: DacFile) -> None:
    for name in names:
        write_dac(f"in/{name}", compressed)
    assert run("decompress", "in", "-o", "out", "--model", "any").exit_code == 0
    assert files_below("out") == set(expected)


@pytest.mark.usefixtures("instant")
def test_a_dac_file_needs_no_extension(compressed: DacFile) -> None:
    write_dac("a", compressed)
    write_dac("a.dac", compressed)
    assert run("decompress", "a", "a.dac", "-o", "out", "--model", "any").exit_code == 0
    assert files_below("out") == {"a.wav", "a.dac.wav"}


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("inputs", [["x/a.wav", "y/a.wav"], ["x", "y"], ["x", "y/a.wav"]], ids=str)
def test_one_output_for_two_inputs_is_wrong_usage(inputs: list[str]) -> None:
    write_sound("x/a.wav")
    write_sound("y/a.wav")
    write_sound("x/b.wav")
    result = run("compress", *inputs, "-o", "out")
    assert result.exit_code == 2
    assert "x/a.wav and y/a.wav would both become" in result.stderr
    assert files_below() == {"x/a.wav", "y/a.wav", "x/b.wav"}


@pytest.mark.usefixtures("instant")
def test_names_that_differ_only_in_case() -> None:
    write_sound("a.wav")
    if Path("A.WAV").exists():
        pytest.skip("this file system does not tell upper from lower case")
    write_sound("A.wav")
    assert run("compress", "a.wav", "A.wav", "-o", "out").exit_code == 0
    assert files_below("out") == {"a.wav.dac", "A.wav.dac"}
    # Simulates a case-insensitive file system:
    Path("out/A.wav.dac").unlink()
    Path("out/A.wav.dac").symlink_to("a.wav.dac")
    result = run("compress", "a.wav", "A.wav", "-o", "out", "--force")
    assert result.exit_code == 1
    assert "out/A.wav.dac was already written in this run" in errors_of(result)[0]


@pytest.mark.usefixtures("instant")
def test_the_same_input_twice_is_one_job() -> None:
    write_sound("a.wav")
    result = run("compress", "a.wav", "./a.wav", Path("a.wav").absolute(), "-o", "out")
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(" -> out") == 1


# Overwriting ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("instant")
def test_existing_files_are_kept_without_force(compressed: DacFile) -> None:
    write_sound("a.wav")
    write_sound("b.wav")
    Path("a.dac").write_text("precious")
    result = run("compress", "a.wav", "b.wav")
    assert result.exit_code == 1
    assert errors_of(result) == ["Error: a.wav: a.dac exists; use --force to overwrite it"]
    assert Path("a.dac").read_text() == "precious"
    assert Path("b.dac").read_bytes() == compressed.to_bytes()
    assert run("compress", "a.wav", "--force").exit_code == 0
    assert Path("a.dac").read_bytes() == compressed.to_bytes()


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("link", [None, os.symlink, os.link], ids=["itself", "symbolic link", "hard link"])
def test_no_input_is_ever_overwritten(link: Callable[[str, str], None] | None, compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    target = "a.dac"
    if link is not None:
        target = "other.wav"
        link("a.dac", target)
    result = run("decompress", "a.dac", "-o", target, "--force")
    assert result.exit_code == 1
    assert "is an input of this run" in errors_of(result)[0]
    assert Path("a.dac").read_bytes() == compressed.to_bytes()


@pytest.mark.usefixtures("instant")
def test_only_files_are_overwritten() -> None:
    write_sound("a.wav")
    Path("out/a.dac").mkdir(parents=True)
    result = run("compress", "a.wav", "-o", "out", "--force")
    assert result.exit_code == 1
    assert "out/a.dac exists and is not a file" in errors_of(result)[0]


# What can go wrong ---------------------------------------------------------------------------------------------------


def test_bad_files_do_not_stop_the_good_ones(model: Path) -> None:
    write_sound("1.wav")
    Path("2.wav").write_bytes(b"RIFF, but no more than that")
    soundfile.write("3.wav", np.array([0.0, np.nan, 0.0]), 44100, subtype="FLOAT")
    Path("4.wav").touch()
    Path("empty").mkdir()
    write_sound("6.wav")
    result = run(
        "compress", "1.wav", "2.wav", "3.wav", "4.wav", "5.wav", "empty", "6.wav", "-o", "out", "--model", model
    )
    assert result.exit_code == 1
    assert files_below("out") == {"1.dac", "6.dac"}
    errors = sorted(errors_of(result))
    assert [error.removeprefix("Error: ").partition(":")[0] for error in errors] == [
        *(f"{n}.wav" for n in "2345"),
        "empty",
    ]
    assert "NaN" in errors[1]
    assert result.stderr.splitlines()[-1] == "5 failed"


def test_bad_dac_files(model: Path, compressed: DacFile) -> None:
    data = bytearray(compressed.to_bytes())
    write_dac("good.dac", compressed)
    data[-20] ^= 1
    Path("damaged.dac").write_bytes(data)
    Path("text.dac").write_text("no codes")
    empty = dataclasses.replace(compressed.header, n_samples=0)
    Path("silent.dac").write_bytes(bitstream.dumps(empty, np.zeros((2, 9, 0), np.uint16)))
    loud = dataclasses.replace(compressed.header, gain_db=-1e30)
    Path("loud.dac").write_bytes(bitstream.dumps(loud, compressed.codes.numpy().astype(np.uint16)))
    result = run("decompress", ".", "-o", "out", "--model", model)
    assert result.exit_code == 1
    assert files_below("out") == {"good.wav"}
    named = ["damaged.dac", "loud.dac", "silent.dac", "text.dac"]
    assert [error.split(":")[1].strip() for error in errors_of(result)] == named
    result = run("convert", ".", "-o", "theirs", "--model", model)
    assert result.exit_code == 1
    assert files_below("theirs") == {"good.dac"}
    assert [error.split(":")[1].strip() for error in errors_of(result)] == named


def test_a_folder_without_files_is_an_error() -> None:
    Path("empty/below").mkdir(parents=True)
    for command, what in (("compress", "sound"), ("decompress", ".dac"), ("convert", ".dac")):
        result = run(command, "empty", "-o", "out")
        assert result.exit_code == 1
        assert result.stderr == f"Error: empty: no {what} files in this folder or below it\n"
    assert not Path("out").exists()


@pytest.mark.usefixtures("instant")
@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left on device"), OSError("odd")], ids=repr)
def test_system_errors_are_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(codec, "write_bytes", fail)
    result = run("compress", write_sound("a.wav"), write_sound("b.wav"))
    assert result.exit_code == 1
    assert len(errors_of(result)) == 2
    assert len(result.stderr.splitlines()) == 3


def test_wrong_and_missing_models(model: Path, compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    for arguments, complaint in (
        (["a.dac", "--model", GOLDEN / "dac_24khz_tiny.pth"], "a.dac: the file was written with tiny@"),
        (["a.dac"], "a.dac: the file was written with tiny@"),
        (["a.dac", "--model", "nowhere"], "nowhere"),
        ([LEGACY], "model"),
    ):
        result = run("decompress", *arguments, "-o", "b.wav")
        assert result.exit_code == 1
        assert len(errors_of(result)) == 1
        assert complaint in errors_of(result)[0]
    assert not Path("b.wav").exists()


@pytest.mark.usefixtures("instant")
def test_output_folders_that_cannot_be_made_or_written() -> None:
    write_sound("a.wav")
    Path("file").touch()
    result = run("compress", "a.wav", "-o", "file/b.dac")
    assert result.exit_code == 1
    assert "file" in errors_of(result)[0]

    Path("locked").mkdir(mode=0o500)
    if os.access("locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    result = run("compress", "a.wav", "-o", "locked")
    assert result.exit_code == 1
    assert "locked/a.dac" in errors_of(result)[0]


def test_a_missing_device(model: Path) -> None:
    result = run("compress", write_sound("a.wav"), write_sound("b.wav"), "--device", "cuda", "--model", model)
    assert result.exit_code == 1
    assert len(errors_of(result)) == 1
    assert "CUDA" in result.stderr


def test_warnings_are_one_line(model: Path) -> None:
    data = write_sound("a.flac", 20_000).read_bytes()
    Path("a.flac").write_bytes(data[: len(data) // 2])
    result = run("compress", "a.flac", "--model", model, "--allow-truncated")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: a.flac: cut short")
    assert "UserWarning" not in result.stderr


# Files that end early ------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(compressed: DacFile) -> Path:
    """Five chunks of 8 frames, truncated within the fourth."""
    stream = io.BytesIO()
    with bitstream.Writer(stream, compressed.header, chunk_frames=8) as writer:
        writer.write(compressed.codes.numpy())
    Path("cut.dac").write_bytes(stream.getvalue()[: -len(stream.getvalue()) // 3])
    return Path("cut.dac")


@pytest.mark.parametrize(("flag", "exit_code", "prefix"), [([], 1, "Error"), (["--allow-truncated"], 0, "Warning")])
def test_a_truncated_file_is_decoded_up_to_its_last_complete_chunk(
    flag: list[str], exit_code: int, prefix: str, cut: Path, model: Path
) -> None:
    result = run("decompress", cut, "--model", model, *flag)
    assert result.exit_code == exit_code
    lines = [line for line in result.stderr.splitlines() if line.startswith(f"{prefix}: cut.dac: the file ends early")]
    assert len(lines) == 1
    assert "0.28 s" in lines[0]
    expected, _ = codec.decompress(codec.load(cut, allow_truncated=True), model)
    found, _ = soundfile.read("cut.wav")
    assert len(found) == 24 * 512
    np.testing.assert_allclose(found.T, np.clip(expected.numpy(), -1, 1), atol=2**-15)


def test_a_truncated_file_on_standard_input(cut: Path, model: Path) -> None:
    result = run("decompress", "-", "--model", model, stdin=cut.read_bytes())
    assert result.exit_code == 1
    assert soundfile.info(io.BytesIO(result.stdout_bytes)).frames == 24 * 512


@pytest.mark.parametrize("flag", [[], ["--allow-truncated"]])
def test_a_file_without_a_complete_chunk_fails(flag: list[str], cut: Path, model: Path) -> None:
    data = cut.read_bytes()
    for size in (20, 100):
        cut.write_bytes(data[:size])
        result = run("decompress", cut, "--model", model, *flag)
        assert result.exit_code == 1
        assert "ends early" in errors_of(result)[0]
    assert files_below() == {"cut.dac"}


# Interruptions -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("instant", "one_core")
def test_an_interrupt_leaves_only_complete_files(compressed: DacFile, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[bytes] = []
    encode = pcm.encode

    def interrupted_encode(*args: Any) -> bytes:
        encoded.append(encode(*args))
        if len(encoded) == 3:  # a file is two blocks
            raise KeyboardInterrupt
        return encoded[-1]

    for name in "abc":
        write_dac(f"{name}.dac", compressed)
    monkeypatch.setattr(pcm, "encode", interrupted_encode)
    result = run("decompress", "a.dac", "b.dac", "c.dac", "-o", "out", "--model", "any")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "Interrupted"
    assert files_below("out") == {"a.wav"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("command", ["compress", "decompress"])
@pytest.mark.parametrize(("n_files", "number"), [(1, "SIGTERM"), (1, "SIGHUP"), (2, "SIGINT"), (2, "SIGTERM")])
def test_interrupting_files_that_run_at_once(
    command: str, n_files: int, number: str, compressed: DacFile, model: Path
) -> None:
    """Ctrl-C stops the threads of long files soon, and leaves no file."""
    codes = compressed.codes.repeat(1, 1, 400)
    long = dataclasses.replace(compressed.header, n_samples=codes.shape[-1] * 512)
    Path("in").mkdir()
    for name in "ab"[:n_files]:
        if command == "compress":
            write_sound(f"in/{name}.wav", 200 * 44100)
        else:
            DacFile(long, codes).save(f"in/{name}.dac")
    restore: dict[str, Any] = {"preexec_fn": interruptible}
    environment = {**os.environ, "OMP_NUM_THREADS": str(n_files)}
    with process(command, "in", "-o", "out", "--model", model, env=environment, **restore) as shell:
        while len(files_below("out")) < min(n_files, torch.get_num_threads()):  # temporary ones
            assert shell.poll() is None
            time.sleep(0.01)
        time.sleep(0.2)
        shell.send_signal(signal.Signals[number])
        asked = time.monotonic()
        _, messages = shell.communicate(timeout=60)
    assert (shell.returncode, messages) == (128 + signal.Signals[number], b"Interrupted\n")
    assert time.monotonic() - asked < 10  # the run would take half a minute
    assert files_below("out") == set()


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX")
@pytest.mark.parametrize(
    "arguments", [["compress", "-", "-o", "x.dac"], ["info", "-"], ["compress", "a.wav", "-o", "-"]]
)
def test_closed_standard_streams(arguments: list[str]) -> None:
    write_sound("a.wav")
    which = 1 if arguments[-1] == "-" and arguments[0] == "compress" else 0
    options: dict[str, Any] = {("stdin", "stdout")[which]: None, "preexec_fn": lambda: os.close(which)}
    with process(*arguments, **options) as shell:
        _, messages = shell.communicate(timeout=60)
    assert shell.returncode in (1, 2)
    assert f"standard {('input', 'output')[which]} is closed" in messages.decode()
    assert "Traceback" not in messages.decode()
    assert files_below() == {"a.wav"}


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links take a privilege there")
def test_circular_links(model: Path, compressed: DacFile) -> None:
    Path("loop").symlink_to("loop")
    write_sound("a.wav")
    for arguments in (["loop/a.wav", "-o", "x.dac"], ["loop", "-o", "x.dac"], ["a.wav", "-o", "loop"]):
        result = run("compress", *arguments, "--model", model)
        assert result.exit_code == 1
        assert len(errors_of(result)) == 1
    assert files_below() == {"a.wav"}
    assert Path("loop").is_symlink()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.usefixtures("instant", "one_core")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", ["first file", "last file"])
def test_a_signal_within_a_weakref_callback_is_not_lost(
    number: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python drops an exception that is raised there."""
    compress_stream = codec.compress_stream
    calls: list[object] = []
    dropped: list[object] = []

    def interrupted(*args: Any, **options: Any) -> codec.Compressed:
        calls.append(args)
        if len(calls) == {"first file": 1, "last file": 3}[when]:
            value = threading.Event()
            reference = weakref.ref(value, lambda _: signal.raise_signal(number))
            del value
            assert reference() is None
        return compress_stream(*args, **options)

    monkeypatch.setattr(codec, "compress_stream", interrupted)
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs the tests may ignore it
    result = run("compress", *(write_sound(f"{name}.wav") for name in "abc"))
    signal.signal(signal.SIGINT, before)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (128 + number, "Interrupted")
    assert len(dropped) == 1
    assert len(calls) == {"first file": 1, "last file": 3}[when]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_interrupt_signal() -> None:
    restore: dict[str, Any] = {"preexec_fn": interruptible}
    with process("info", "-", stdin=subprocess.PIPE, **restore) as shell:
        assert shell.stdin is not None
        assert shell.stderr is not None
        shell.stdin.write(bytes(1 << 20))  # More than a pipe holds: when this returns, most of it was read.
        shell.stdin.flush()
        while Path(f"/proc/{shell.pid}/stat").read_text().rpartition(") ")[2][0] != "S":  # until it waits for more
            time.sleep(0.01)
        shell.send_signal(signal.SIGINT)
        assert shell.wait(60) == 130
        assert shell.stderr.read() == b"Interrupted\n"


def test_a_closed_output_is_no_error(compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        with process("info", "a.dac", stdout=write_end) as shell:
            _, messages = shell.communicate()
    finally:
        os.close(write_end)
    assert messages == b""
    assert shell.returncode == 141


# What is shown -------------------------------------------------------------------------------------------------------


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
    run("demo", "--output", "there", "--model", "24khz", "--device", "cpu")
    assert calls[1] == (Path("there"), "24khz", "cpu")


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


# Files of descript-audio-codec ---------------------------------------------------------------------------------------


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


# Pipes ---------------------------------------------------------------------------------------------------------------


def raw_noise(seconds: float) -> bytes:
    return (noise(int(44100 * seconds)) * 32767).astype("<i2").tobytes()


def read_some(stream: Any, size: int) -> bytes:
    """At least `size` bytes."""
    data = b""
    while len(data) < size:
        piece = stream.read1(65536)
        assert piece, "it ended"
        data += piece
    return data


@pytest.fixture(scope="session")
def live(tiny: DAC, model: Path) -> bytes:
    """Two seconds of mono from a pipe, in chunks of 4 frames."""
    sound = audio.Reader.raw(io.BytesIO(raw_noise(2)), 44100, 1)
    target = io.BytesIO()
    codec.compress_stream(sound, target, pretrained.load(str(model)), 2, chunk_frames=4)
    return target.getvalue()


def test_pipes_are_coded_before_they_end(model: Path) -> None:
    common = ("-", "-o", "-", "--model", model)
    with (
        process("compress", *common, "--raw", "44100,1,s16le", stdin=subprocess.PIPE) as encoder,
        process("decompress", *common, "--raw", "s16le", stdin=encoder.stdout) as decoder,
    ):
        assert encoder.stdin is not None
        assert encoder.stdout is not None
        encoder.stdout.close()  # the decoder has it
        encoder.stdin.write(raw_noise(2))
        encoder.stdin.flush()
        data = read_some(decoder.stdout, 44100)  # half a second, while standard input is open
        assert decoder.poll() is encoder.poll() is None
        encoder.stdin.write(raw_noise(1))
        encoder.stdin.close()
        assert decoder.stdout is not None
        data += decoder.stdout.read()
        assert (encoder.wait(), decoder.wait()) == (0, 0)
        assert encoder.stderr is not None
        assert encoder.stderr.read().startswith(b"<stdin> -> <stdout>  264.6 kB -> ")
    assert len(data) == len(raw_noise(3))


def test_a_pipe_with_lost_chunks_and_no_end(live: bytes, model: Path) -> None:
    stream = io.BytesIO(live)
    ends = [stream.tell() for _ in bitstream.Reader(stream)]
    holed = live[: ends[9]] + live[ends[12] : ends[30] + 5]  # without three chunks of four frames, and the end
    with process("decompress", "-", "-o", "-", "--model", model, stdin=subprocess.PIPE) as shell:
        data, messages = shell.communicate(holed)
    assert shell.returncode == 1
    gap, cut = messages.decode().splitlines()
    assert gap.startswith("Warning: 0.139 s are missing at 0.")
    assert gap.endswith(" s (lost)")
    assert cut.startswith("Error: <stdin>: the file ends early")
    assert data[:4] == b"RIFF"
    frames = sum(chunk.codes.shape[-1] for chunk in itertools.islice(bitstream.Reader(io.BytesIO(live)), 31))
    assert len(data) == 44 + 2 * 512 * frames


def test_a_damaged_file_is_decoded_with_conceal(live: bytes, model: Path) -> None:
    Path("a.dac").write_bytes(live[:500] + bytes([live[500] ^ 1]) + live[501:])
    assert run("decompress", "a.dac", "--model", model).exit_code == 1
    assert files_below() == {"a.dac"}
    result = run("decompress", "a.dac", "--model", model, "--conceal", "-o", "b.wav")
    assert result.exit_code == 1
    assert errors_of(result) == ["Error: a.dac: 1 gap is concealed in b.wav (--allow-gaps accepts this)"]
    result = run("decompress", "a.dac", "--model", model, "--conceal", "--allow-gaps")
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: a.dac: 0.046 s are missing at ")
    assert soundfile.info("a.wav").frames == soundfile.info("b.wav").frames == 2 * 44100
    assert run("decompress", "-", "--model", model, stdin=Path("a.dac").read_bytes()).exit_code == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_closed_output_ends_a_pipe_quietly(live: bytes, model: Path) -> None:
    with process("decompress", "-", "-o", "-", "--model", model, stdin=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        assert shell.stderr is not None
        shell.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            shell.stdin.write(live)
            shell.stdin.close()
        assert shell.wait() == 141
        assert shell.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_an_output_that_closes_in_the_middle(command: str, live: bytes, model: Path) -> None:
    raw = {"compress": ("--raw", "44100,1,s16le"), "decompress": ("--raw", "s16le")}[command]
    data = {"compress": raw_noise(20), "decompress": live}[command]
    with process(command, "-", "-o", "-", "--model", model, *raw, stdin=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        assert shell.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            shell.stdin.write(data[: len(data) // 2])
            shell.stdin.flush()
            read_some(shell.stdout, 500)
            shell.stdout.close()
            shell.stdin.write(data[len(data) // 2 :])
            shell.stdin.close()
        assert shell.wait() == 141
        assert shell.stderr.read() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("output", ["rec.dac", "-"])
def test_a_recording_that_is_interrupted_is_kept(number: int, output: str, model: Path) -> None:
    data = raw_noise(2.5)
    arguments = ("compress", "-", "-o", output, "--model", model, "--raw", "44100,1,s16le")
    with process(*arguments, stdin=subprocess.PIPE, preexec_fn=interruptible) as recorder:
        assert recorder.stdin is not None
        recorder.stdin.write(data)
        recorder.stdin.flush()
        wait_until_all_is_read(recorder)
        recorder.send_signal(number)
        written, messages = recorder.communicate(timeout=60)
        assert recorder.returncode == 128 + number
    name = {"-": "<stdout>"}.get(output, output)
    assert messages.decode().splitlines() == [f"{name} contains the 2.50 s recorded", "Interrupted"]
    assert files_below() == ({output} - {"-"})
    found = DacFile.from_bytes(written) if output == "-" else DacFile.load(output)
    assert found.n_samples == len(data) // 2
    whole = io.BytesIO()
    codec.compress_stream(audio.Reader.raw(io.BytesIO(data), 44100, 1), whole, pretrained.load(str(model)))
    assert torch.equal(found.codes, DacFile.from_bytes(whole.getvalue()).codes)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_redirected_file_is_no_recording(model: Path) -> None:
    """The first Ctrl-C ends the run, and nothing is kept."""
    Path("long.raw").write_bytes(raw_noise(1) * 200)
    arguments = ("compress", "-", "-o", "out/rec.dac", "--model", model, "--raw", "44100,1,s16le")
    with Path("long.raw").open("rb") as stream, process(*arguments, stdin=stream, preexec_fn=interruptible) as shell:
        while not files_below("out"):  # a temporary one
            assert shell.poll() is None
            time.sleep(0.01)
        shell.send_signal(signal.SIGINT)
        _, messages = shell.communicate(timeout=60)
    assert (shell.returncode, messages) == (130, b"Interrupted\n")
    assert files_below("out") == set()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_recording_that_is_interrupted_before_its_first_sample(model: Path) -> None:
    arguments = ("compress", "-", "-o", "rec.dac", "--model", model, "--raw", "44100,1,s16le")
    with process(*arguments, stdin=subprocess.PIPE, preexec_fn=interruptible) as recorder:
        assert recorder.stdin is not None
        recorder.stdin.write(b"\0")  # half a sample: when it is read, the pipe is
        recorder.stdin.flush()
        wait_until_all_is_read(recorder)
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(60) == 130
        assert recorder.stderr is not None
        assert recorder.stderr.read() == b"Interrupted\n"
    assert files_below() == set()


def wait_until_all_is_read(process: Any) -> None:
    """Wait until a process has read all of its standard input and waits for more."""
    import fcntl
    import termios

    asleep = 0
    while asleep < 20:
        assert process.poll() is None
        left = array.array("i", [0])
        fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, left)
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]
        asleep = asleep + 1 if left[0] == 0 and state == "S" else 0
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_the_output_of_a_killed_encoder_is_decoded(model: Path, live: bytes) -> None:
    common = ("-", "-o", "-", "--model", model)
    with (
        process(
            "compress",
            *(*common, "--raw", "44100,1,s16le", "--quantizers", "2", "--chunk-frames", "4"),
            stdin=subprocess.PIPE,
        ) as encoder,
        process("decompress", *common, "--raw", "s16le", stdin=encoder.stdout) as decoder,
    ):
        assert encoder.stdin is not None
        assert encoder.stdout is not None
        encoder.stdout.close()  # the decoder has it
        encoder.stdin.write(raw_noise(2))
        encoder.stdin.flush()
        data = read_some(decoder.stdout, 44100)
        encoder.kill()
        rest, messages = decoder.communicate()
        assert decoder.returncode == 1
    assert messages.startswith(b"Error: <stdin>: the file ends early")
    data += rest
    assert len(data) % (2 * 512) == 0
    target = io.BytesIO()
    codec.decompress_stream(io.BytesIO(live), target, pretrained.load(str(model)), fmt="raw")
    # The last frames depend on codes that were not written.
    sure = len(data) - 2 * 512 * inference.decoder_context(pretrained.load(str(model))).after
    found, expected = (np.frombuffer(part[:sure], "<i2").astype(int) for part in (data, target.getvalue()))
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["compress", "a.wav", "--raw", "44100,1,s16le"],
        ["compress", "-", "--raw", "44100,s16le"],
        ["compress", "-", "--raw", "44100,1,S16_LE"],
        ["compress", "a.wav", "--chunk-frames", "0"],
        ["decompress", "a.dac", "--raw", "s16le"],
        ["decompress", "a.dac", "--start", "a minute"],
        ["decompress", "a.dac", "--duration", "-1"],
    ],
    ids=" ".join,
)
def test_wrong_usage_of_streams(arguments: list[str]) -> None:
    write_sound("a.wav")
    result = run(*arguments, stdin=b"")
    assert result.exit_code == 2
    assert files_below() == {"a.wav"}


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


@pytest.mark.usefixtures("three_cores")
def test_the_model_is_loaded_with_the_threads_of_a_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    load_model = codec.models.load_model

    def listening(*arguments: Any, **options: Any) -> DAC:
        threads.append(-1)
        return load_model(*arguments, **options)

    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(codec, "load_model", listening)
    for name in "abc":
        write_sound(f"in/{name}.wav")
    assert run("compress", "in", "--model", model, "-o", "out").exit_code == 0
    assert threads == [1, -1, 3]
    threads.clear()
    assert run("decompress", "out", "--model", model, "-o", "decoded").exit_code == 0
    assert threads == [1, -1, 3]
