"""The command line and sound files that are damaged, joined, of several channels, or can't be read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import Result

from dac_codec import audio
from dac_codec.codec import DacFile, batches
from tests.cli.shell import run
from tests.processes import python

RATE = 44100


def write_sound(name: str, n_samples: int = 4000, channels: int = 1, mask: int | None = None) -> Path:
    sound = 0.1 * np.random.default_rng(0).standard_normal((channels, n_samples))
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with audio.Writer(name, RATE, channels, n_samples, channel_mask=mask) as writer:
        writer.write(sound)
    return Path(name)


def lines(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith(("Error", "Warning"))]


# Missing sound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [False, True])
def test_a_file_that_is_cut_short_is_kept_with_exit_code_1(
    model: Path, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "uses_batches", lambda device: batched)
    for name in ("in/a.wav", "in/b.wav"):
        content = write_sound(name).read_bytes()
    Path("in/a.wav").write_bytes(content[:5044])
    result = run("compress", "in", "-o", "out", "--model", model)
    assert result.exit_code == 1
    assert lines(result) == [
        "Error: in/a.wav: cut short, damaged or with a wrong header: read 2500 of 4000 declared samples, 0.03 s are "
        "missing; out/a.dac contains the 0.06 s that were read (--allow-truncated accepts this)"
    ]
    assert DacFile.load("out/a.dac").n_samples == 2500
    assert DacFile.load("out/b.dac").n_samples == 4000
    result = run("compress", "in", "-o", "out", "--model", model, "--force", "--allow-truncated")
    assert result.exit_code == 0
    assert [line.split(":")[:2] for line in lines(result)] == [["Warning", " in/a.wav"]]


def test_a_pipe_that_is_cut_short_is_kept_with_exit_code_1(model: Path) -> None:
    content = write_sound("a.wav").read_bytes()
    result = run("compress", "-", "-o", "a.dac", "--model", model, stdin=content[:5044])
    assert result.exit_code == 1
    assert "read 2500 of 4000 declared samples" in lines(result)[0]
    assert DacFile.load("a.dac").n_samples == 2500
    assert run("compress", "-", "-o", "b.dac", "--model", model, stdin=content).exit_code == 0


def test_joined_files_are_read_or_reported(model: Path) -> None:
    for name, n_samples in (("a.ogg", 8000), ("a.wav", 4000)):
        content = write_sound(name).read_bytes()
        Path(name).write_bytes(2 * content)
        result = run("compress", name, "-o", "a.dac", "--model", model, "--force")
        assert result.exit_code == (1 if name == "a.wav" else 0)
        assert ("another sound file follows" in result.stderr) == (name == "a.wav")
        assert DacFile.load("a.dac").n_samples == n_samples


def test_a_crashed_recording_is_read_with_a_warning(model: Path) -> None:
    content = bytearray(write_sound("a.wav").read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    Path("a.wav").write_bytes(content)
    result = run("compress", "a.wav", "--model", model)
    assert result.exit_code == 0
    assert lines(result) == [
        "Warning: a.wav: the header gives 0 as the size of the samples; read to the end of the file"
    ]
    assert DacFile.load("a.dac").n_samples == 4000


# Channels ------------------------------------------------------------------------------------------------------------


def test_positions_of_channels_are_kept_and_shown(model: Path) -> None:
    write_sound("quad.wav", channels=4, mask=0x33)
    write_sound("stereo.wav", channels=2)
    for name in ("quad", "stereo"):
        assert run("compress", f"{name}.wav", "--model", model).exit_code == 0
    assert DacFile.load("quad.dac").header.channel_mask == 0x33
    assert "quad: FL FR BL BR" in run("info", "quad.dac").stdout
    shown = json.loads(run("info", "--json", "quad.dac", "stereo.dac").stdout)
    assert [fields.get("channel_mask") for fields in shown] == [0x33, None]
    for name in ("back.wav", "back.flac", "back.ogg"):
        assert run("decompress", "quad.dac", "-o", name, "--model", model).exit_code == 0
        with audio.Reader(name) as reader:
            assert (reader.channels, reader.channel_mask) == (4, 0x33)
    assert run("decompress", "-", "-o", "-", "--model", model, stdin=Path("quad.dac").read_bytes()).stdout_bytes[
        20:22
    ] == (b"\xfe\xff")


# Folders -------------------------------------------------------------------------------------------------------------


def test_sound_that_a_folder_leaves_out_is_named_and_counted(model: Path) -> None:
    for name in ("in/a.wav", "in/b.au"):
        write_sound(name)
    Path("in/b.au").rename("in/b.snd")
    Path("in/a.wav").rename("in/a.wave")
    for name in ("in/x/c.m4a", "in/d.wma", "in/notes.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"something")
    result = run("compress", "in", "-o", "out", "--model", model)
    assert result.exit_code == 1
    assert [line.split(";")[0] for line in lines(result)] == [
        f"Error: in/{name}: left out: sound in a format that can't be read" for name in ("d.wma", "x/c.m4a")
    ]
    assert "2 failed" in result.stderr
    assert sorted(path.name for path in Path("out").rglob("*.dac")) == ["a.dac", "b.dac"]
    for name in ("in/x/c.m4a", "in/d.wma"):
        Path(name).unlink()
    assert run("compress", "in", "-o", "out", "--model", model, "--force").exit_code == 0


def test_a_folder_of_unreadable_sound_says_what_is_in_it() -> None:
    Path("in").mkdir()
    Path("in/a.m4a").touch()
    result = run("compress", "in")
    assert result.exit_code == 1
    assert len(lines(result)) == 1
    assert "in/a.m4a: left out" in lines(result)[0]


# What C libraries print ----------------------------------------------------------------------------------------------


def process(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "dac_codec", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def test_standard_output_carries_only_data(model: Path) -> None:
    """libsndfile prints to standard output for a damaged sample dump (SDS), which it finds by its content."""
    soundfile.write("a.sds", 0.1 * np.random.default_rng(0).standard_normal(4000), RATE)
    content = bytearray(Path("a.sds").read_bytes())
    whole = DacFile.from_bytes(run("compress", "a.sds", "-o", "-", "--model", model).stdout_bytes)
    content[21 + 127] ^= 0x11
    Path("a.wav").write_bytes(content)
    for source, stdin in (("a.wav", None), ("-", bytes(content))):
        result = process("compress", source, "-o", "-", "--model", model, stdin=stdin)
        assert result.returncode == 1
        assert DacFile.from_bytes(result.stdout).n_samples == whole.n_samples
        (line,) = result.stderr.decode().splitlines()
        assert "the decoder reports: Error A : E1" in line


@pytest.mark.skipif("MP3" not in soundfile.available_formats(), reason="this libsndfile has no mp3")
def test_lines_of_the_mp3_decoder_become_one_of_ours(model: Path) -> None:
    soundfile.write("a.mp3", 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    content = bytearray(Path("a.mp3").read_bytes())
    for position in np.random.default_rng(0).integers(2000, len(content), 300):
        content[position] ^= 0xFF
    Path("a.mp3").write_bytes(content)
    result = python("dac_codec", "compress", "a.mp3", "-o", "a.dac", "--model", model)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: a.mp3: cut short, damaged")
    assert Path("a.dac").exists()


def test_closed_standard_error_ends(model: Path) -> None:
    write_sound("a.wav")
    command = f"exec '{sys.executable}' -m dac_codec compress a.wav --model '{model}' 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False, timeout=60).returncode == 0
    assert Path("a.dac").exists()
