"""Inputs, models and folders that fail, and files that end early."""

from __future__ import annotations

import dataclasses
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dac_codec import bitstream, codec
from dac_codec.codec import DacFile
from tests.cli.shell import LEGACY, errors_of, files_below, run, write_dac, write_sound
from tests.conftest import GOLDEN


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


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links take a privilege there")
def test_links_in_folders_of_dac_files(model: Path, compressed: DacFile) -> None:
    """Linked folders are entered; a broken link is a failure."""
    write_dac("elsewhere/a.dac", compressed)
    Path("in").mkdir()
    Path("in/linked").symlink_to("../elsewhere")
    Path("in/broken.dac").symlink_to("nowhere")
    os.mkfifo("in/pipe.dac")  # is not waited for
    for command in (["decompress", "in", "-o", "out", "--model", model], ["info", "in"]):
        result = run(*command)
        assert result.exit_code == 1
        assert "broken.dac" in errors_of(result)[0]
    assert files_below("out") == {"linked/a.wav"}


@pytest.mark.parametrize("command", ["compress", "decompress", "info", "tokenize", "export", "demo"])
def test_empty_paths(command: str) -> None:
    arguments = {"info": [""], "demo": ["-o", ""]}.get(command, ["x", "-o", ""])
    result = run(command, *arguments)
    assert result.exit_code == 2
    assert "it is empty; check that shell variables are set" in result.stderr


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
