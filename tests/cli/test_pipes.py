"""Standard input and output: pipes, redirected files and terminals."""

from __future__ import annotations

import array
import contextlib
import io
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec import audio, bitstream, codec, inference, pretrained
from dac_codec.codec import DacFile
from tests.cli.shell import errors_of, files_below, interruptible, noise, process, raw_noise, run, write_sound

Process = subprocess.Popen[bytes]


def read_some(stream: Any, size: int) -> bytes:
    """At least `size` bytes."""
    data = b""
    while len(data) < size:
        piece = stream.read1(65536)
        assert piece, "it ended"
        data += piece
    return data


@contextlib.contextmanager
def encoder_and_decoder(model: Path, *options: str) -> Iterator[tuple[Process, Process]]:
    """`compress` of samples from a pipe, with `options`, and `decompress` of its output to samples."""
    common = ("-", "-o", "-", "--model", model)
    with (
        process("compress", *common, "--raw", "44100,1,s16le", *options, stdin=subprocess.PIPE) as encoder,
        process("decompress", *common, "--raw", "s16le", stdin=encoder.stdout) as decoder,
    ):
        assert encoder.stdout is not None
        encoder.stdout.close()  # the decoder has it
        yield encoder, decoder


def test_pipes_are_coded_before_they_end(model: Path) -> None:
    with encoder_and_decoder(model) as (encoder, decoder):
        assert encoder.stdin is not None
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


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_recording_from_a_named_pipe_that_is_interrupted_is_kept(model: Path) -> None:
    os.mkfifo("in")
    data = bytearray(write_sound("a.wav", int(2.5 * 44100)).read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4  # of unknown length
    arguments = ("compress", "in", "-o", "rec.dac", "--model", model)
    with process(*arguments, preexec_fn=interruptible) as recorder, Path("in").open("wb") as recorder.stdin:
        recorder.stdin.write(data)
        recorder.stdin.flush()
        wait_until_all_is_read(recorder)
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait(60) == 130
        assert recorder.stderr is not None
        assert recorder.stderr.read().decode().splitlines() == ["rec.dac contains the 2.50 s recorded", "Interrupted"]
    assert DacFile.load("rec.dac").n_samples == int(2.5 * 44100)


def test_a_recording_that_fails_is_kept(model: Path) -> None:
    """Up to the error, under another name."""
    data = np.append(noise(3 * 44100), np.nan).astype("<f4").tobytes()
    arguments = ("compress", "-", "-o", "rec.dac", "--model", model, "--raw", "44100,1,f32le")
    with process(*arguments, stdin=subprocess.PIPE) as recorder:
        _, messages = recorder.communicate(data)
    assert recorder.returncode == 1
    assert f"; what was written before is in {Path('rec.dac.part').resolve()}\n" in messages.decode()
    assert files_below() == {"rec.dac.part"}
    assert run("decompress", "rec.dac.part", "--model", model, "--allow-truncated").exit_code == 0


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
    with encoder_and_decoder(model, "--quantizers", "2", "--chunk-frames", "4") as (encoder, decoder):
        assert encoder.stdin is not None
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
