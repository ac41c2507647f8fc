"""Names of outputs, and which files may be overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dac_codec.codec import DacFile
from tests.cli.shell import errors_of, files_below, run, write_dac, write_sound


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
