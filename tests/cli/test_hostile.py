"""Unlucky surroundings, one line each: little memory, few descriptors, full disks, terminals of another encoding."""

from __future__ import annotations

import dataclasses
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

from dac_codec.codec import DacFile
from tests.cli.test_main import (
    compressed,
    files_below,
    folder,
    model,
    no_gpu,
    noise,
    process,
    raw_noise,
    run,
    tiny,
    write_dac,
)
from tests.fuzz.interrupts import interrupt, prepare
from tests.fuzz.limits import MIB, is_one_line, limited

__all__ = ["compressed", "folder", "model", "no_gpu", "tiny"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses /dev/full and limits of Linux")


def lines_of(messages: bytes) -> list[str]:
    return messages.decode().splitlines()


@pytest.mark.parametrize("arguments", [["--help"], ["compress", "--help"], ["--version"], ["info", "a.dac"]])
def test_standard_output_on_a_full_disk(arguments: list[str], compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    with Path("/dev/full").open("wb") as full, process(*arguments, stdout=full) as shell:
        _, messages = shell.communicate(timeout=60)
    assert (shell.returncode, lines_of(messages)) == (1, ["Error: No space left on device"])


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


@pytest.mark.parametrize("delay", [0.05, 0.3, 1.0])
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
    with process("decompress", "rec.dac.part", "-o", "rec.wav", "--allow-truncated", "--model", model) as shell:
        assert shell.wait(60) == 0
    assert soundfile.info("rec.wav").duration > 0.5


def test_a_file_starts_no_download_in_a_script(compressed: DacFile) -> None:
    """The server is unreachable: what is asked for fails to connect."""
    write_dac("a.dac", DacFile(dataclasses.replace(compressed.header, model_name="24khz"), compressed.codes))
    result = run("decompress", "a.dac")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "whose weights (about 300 MB) are not on this machine; --download fetches them" in result.stderr
    assert "can't be downloaded" in run("decompress", "a.dac", "--download").stderr
    assert "24khz             24000 Hz  up to 24.00 kbit/s  32 codebooks  downloadable" in run("models").stdout
