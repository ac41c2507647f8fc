"""Signals, and standard streams that are closed."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from dac_codec import codec
from dac_codec.audio import pcm
from dac_codec.codec import DacFile
from tests.cli.shell import files_below, interruptible, process, run, write_dac, write_sound


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


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_interrupting_a_run_that_waits_for_a_named_pipe(model: Path) -> None:
    write_sound("in/a.wav")
    os.mkfifo("in/c.wav")
    arguments = ("compress", "in/a.wav", "in/c.wav", "-o", "out", "--model", model)
    with process(*arguments, preexec_fn=interruptible) as shell:
        with Path("in/c.wav").open("wb"):  # returns when it is open at both ends
            shell.send_signal(signal.SIGINT)
            time.sleep(0.2)
        _, messages = shell.communicate(timeout=60)
    assert shell.returncode == 130
    done, *rest = messages.decode().splitlines()
    assert done.startswith("in/a.wav -> out/a.dac")
    assert rest == ["1 of 2 files are done; --skip-existing continues with the others", "Interrupted"]
    assert files_below("out") == {"a.dac"}
