"""Unlucky surroundings, one line each: little memory, few descriptors, full disks, terminals of another encoding."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from dac_codec import codec, pretrained
from dac_codec.codec import DacFile
from dac_codec.model import DAC
from tests.cli.shell import files_below, noise, process, raw_noise, run, write_dac
from tests.fuzz.interrupts import interrupt, prepare
from tests.fuzz.limits import MIB, is_one_line, limited

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses /dev/full and limits of Linux")


def lines_of(messages: bytes) -> list[str]:
    return messages.decode().splitlines()


@pytest.mark.parametrize("arguments", [["--help"], ["compress", "--help"], ["--version"], ["info", "a.dac"]])
def test_standard_output_on_a_full_disk(arguments: list[str], compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    with Path("/dev/full").open("wb") as full, process(*arguments, stdout=full) as shell:
        _, messages = shell.communicate(timeout=60)
    assert (shell.returncode, lines_of(messages)) == (1, ["Error: No space left on device"])


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_sound_on_standard_output_on_a_full_disk(command: str, compressed: DacFile, model: Path) -> None:
    soundfile.write("a.wav", noise(3000), 44100)
    write_dac("a.dac", compressed)
    source = {"compress": "a.wav", "decompress": "a.dac"}[command]
    with (
        Path("/dev/full").open("wb") as full,
        process(command, source, "-o", "-", "--model", model, stdout=full) as shell,
    ):
        _, messages = shell.communicate(timeout=60)
    (line,) = lines_of(messages)
    assert shell.returncode == 1
    assert line.startswith(("Error: can't write <stdout>: No space", "Error: <stdout>: can't be written (No space"))


@pytest.mark.parametrize("name", ["ü.dac", "\u30c6.dac", os.fsdecode(b"\xff.dac")])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_names_outside_the_encoding_of_standard_output(name: str, encoding: str, compressed: DacFile) -> None:
    write_dac(name, compressed)
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for arguments in (["info", name], ["info", "--json", name], ["info", "missing-" + name]):
        with process(*arguments, env=environment) as shell:
            output, messages = shell.communicate(timeout=60)
        assert shell.returncode == ("missing" in arguments[-1])
        assert b"Traceback" not in messages
        assert output or len(messages.splitlines()) == 1


def test_a_w64_of_unknown_length_from_a_pipe(model: Path) -> None:
    soundfile.write("a.w64", noise(3000), 44100, format="W64")
    data = bytearray(Path("a.w64").read_bytes())
    place = data.index(b"data") + 16
    data[place : place + 8] = struct.pack("<Q", 2**63 - 1)
    with process("compress", "-", "-o", "a.dac", "--model", model, "--quiet", stdin=subprocess.PIPE) as shell:
        _, messages = shell.communicate(bytes(data), timeout=60)
    assert shell.returncode in (0, 1)
    assert "Traceback" not in messages.decode()
    assert "OverflowError" not in messages.decode()


@pytest.mark.parametrize("limit", [300, 2000])
def test_little_memory_is_one_line(limit: int, model: Path) -> None:
    import resource

    soundfile.write("a.wav", noise(3000), 44100)
    code, messages = limited(["compress", "a.wav", "--model", str(model)], resource.RLIMIT_AS, limit * MIB)
    assert is_one_line(code, messages), messages
    assert code == 0 or "memory" in messages


@pytest.mark.parametrize("limit", [5, 6, 8])
def test_few_descriptors_are_one_line(limit: int, model: Path) -> None:
    import resource

    soundfile.write("a.wav", noise(3000), 44100)
    code, messages = limited(["compress", "a.wav", "--model", str(model), "--quiet"], resource.RLIMIT_NOFILE, limit)
    assert is_one_line(code, messages), messages
    assert files_below() <= {"a.wav", "a.dac"}


@pytest.mark.parametrize("delay", [0.01, 0.3, 1.0])
def test_two_interrupts_at_once_are_one_line(delay: float, tmp_path: Path) -> None:
    """As `timeout -s INT` sends them, also before the command line handles signals."""
    prepare(tmp_path, seconds=60)
    result: Any = interrupt(tmp_path, delay, n_files=2, n_signals=2)
    assert result is not None
    code, messages, left = result
    assert (code, left) == (128 + signal.SIGINT, [])
    assert messages.strip() in ("", "Interrupted")


def test_a_killed_recording_can_be_decoded(model: Path) -> None:
    arguments = ("compress", "-", "-o", "rec.dac", "--model", model, "--raw", "44100,1,s16le", "--chunk-frames", "4")
    with process(*arguments, stdin=subprocess.PIPE) as recorder:
        assert recorder.stdin is not None
        recorder.stdin.write(raw_noise(3))
        recorder.stdin.flush()
        while not (Path("rec.dac.part").exists() and Path("rec.dac.part").stat().st_size > 2000):
            assert recorder.poll() is None
            time.sleep(0.01)
        recorder.kill()
        recorder.wait()
    assert files_below() == {"rec.dac.part"}
    assert run("decompress", "rec.dac.part", "-o", "rec.wav", "--allow-truncated", "--model", model).exit_code == 0
    assert soundfile.info("rec.wav").duration > 0.5


def test_a_file_starts_no_download_in_a_script(compressed: DacFile) -> None:
    """The server is unreachable: what is asked for fails to connect."""
    write_dac("a.dac", DacFile(dataclasses.replace(compressed.header, model_name="24khz"), compressed.codes))
    result = run("decompress", "a.dac")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "whose weights (about 300 MB) are not on this machine; --download fetches them" in result.stderr
    assert "can't be downloaded" in run("decompress", "a.dac", "--download").stderr
    assert "32 codebooks  downloadable" in run("models").stdout


# Jobs and their messages ---------------------------------------------------------------------------------------------


def test_a_run_is_continued(model: Path) -> None:
    for name in "abc":
        soundfile.write(f"{name}.wav", noise(3000), 44100)
    assert run("compress", "a.wav", "--model", model).exit_code == 0
    before = Path("a.dac").stat().st_mtime_ns
    result = run("compress", "a.wav", "b.wav", "c.wav", "--model", model, "--skip-existing")
    assert result.exit_code == 0
    assert result.stderr.startswith("1 file skipped: the output exists\nb.wav -> b.dac")
    assert Path("a.dac").stat().st_mtime_ns == before
    result = run("compress", "a.wav", "b.wav", "c.wav", "--model", model, "--skip-existing")
    assert (result.exit_code, result.stderr) == (0, "3 files skipped: the output exists\n")
    assert run("decompress", "a.dac", "b.dac", "--model", model, "--skip-existing", "--force").exit_code == 2
    result = run("compress", "a.wav", "-o", "a.wav", "--model", model, "--skip-existing")
    assert "is an input of this run" in result.stderr


def test_an_interrupt_says_how_many_files_are_done(
    tiny: DAC, compressed: DacFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def compress_stream(source: Any, target: Path, *args: object, **options: object) -> codec.Compressed:
        calls.append(source)
        if len(calls) == 3:
            raise KeyboardInterrupt
        codec.write_bytes(target, compressed.to_bytes())
        return codec.Compressed(compressed.header, compressed.n_samples, 100)

    monkeypatch.setattr(pretrained, "load", lambda *args, **options: tiny)
    monkeypatch.setattr(codec, "compress_stream", compress_stream)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for name in "abcd":
        soundfile.write(f"{name}.wav", noise(3000), 44100)
    result = run("compress", "a.wav", "b.wav", "c.wav", "d.wav", "--quiet")
    assert result.exit_code == 130
    expected = "2 of 4 files are done; --skip-existing continues with the others\nInterrupted\n"
    assert result.stderr == expected


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_devices_and_named_pipes_as_outputs(command: str, compressed: DacFile, model: Path) -> None:
    soundfile.write("a.wav", noise(3000), 44100)
    write_dac("a.dac", compressed)
    source = {"compress": "a.wav", "decompress": "a.dac"}[command]
    assert run(command, source, "-o", "/dev/null", "--model", model).exit_code == 0
    os.mkfifo("pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE) as reader:
        assert run(command, source, "-o", "pipe", "--model", model, "--quiet").exit_code == 0
        data, _ = reader.communicate(timeout=60)
    assert data.startswith({"compress": b"\x8aDAC", "decompress": b"RIFF"}[command])
    assert Path("pipe").is_fifo()
    (line,) = run(command, source, "-o", "/dev/full", "--model", model).stderr.splitlines()
    assert line.startswith(("Error: /dev/full: can't be written", "Error: can't write /dev/full:"))
    assert "No space left" in line


@pytest.mark.parametrize(
    ("device", "code", "message"),
    [
        ("cuda:1", 1, "PyTorch finds no CUDA device"),
        ("mps", 1, "PyTorch finds no MPS device"),
        ("cuda:x", 2, "is not one of auto, cpu, cuda, cuda:N, mps"),
        ("cpu", 0, ""),
    ],
)
def test_devices(device: str, code: int, message: str, model: Path) -> None:
    soundfile.write("a.wav", noise(3000), 44100)
    result = run("compress", "a.wav", "--device", device, "--model", model)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_dac_file_is_not_compressed_again(compressed: DacFile, model: Path) -> None:
    write_dac("a.dac", compressed)
    result = run("compress", "a.dac", "-o", "b.dac", "--model", model)
    assert result.exit_code == 1
    assert result.stderr == "Error: a.dac: the file is a .dac file already; dac-codec decompress makes sound of it\n"


def test_info_on_a_folder(compressed: DacFile) -> None:
    write_dac("x/a.dac", compressed)
    write_dac("x/y/b.dac", compressed)
    assert [one["file"] for one in json.loads(run("info", "x", "--json").stdout)] == ["x/a.dac", "x/y/b.dac"]
    Path("empty").mkdir()
    result = run("info", "empty")
    assert (result.exit_code, result.stderr) == (1, "Error: empty: no .dac files in this folder or below it\n")
