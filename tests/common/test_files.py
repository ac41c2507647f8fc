"""The visible files of a folder, and files that appear whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from dac_codec.common import files
from dac_codec.common.files import atomic_write, walk_visible, write_files


def test_hidden_files_and_folders_are_left_out_and_links_followed_once(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for path in (folder / "b" / "c", folder / ".hidden", folder / "folder.dac", elsewhere):
        path.mkdir(parents=True)
    for path in (folder / "a.dac", folder / ".a.dac", folder / "b" / "c" / "d", folder / ".hidden" / "e"):
        path.touch()
    (elsewhere / "f").touch()
    for link, target in (("loop", folder), ("one", elsewhere), ("two", elsewhere), ("broken", tmp_path / "nothing")):
        (folder / "b" / link).symlink_to(target)

    def found(follow_links: bool) -> list[str]:
        return sorted(
            path.relative_to(folder).as_posix() for path in walk_visible(folder, follow_links) if path.is_file()
        )

    assert found(follow_links=False) == ["a.dac", "b/c/d"]
    assert found(follow_links=True) == ["a.dac", "b/c/d", "b/one/f"]


def test_files_replace_others_once_all_are_written(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1", "b/c": b"2"})
    with pytest.raises(TypeError):
        write_files(tmp_path, {"a": "no bytes", "b/c": b"3"})  # type: ignore[dict-item]
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {"a": b"1", "c": b"2"}


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links take a privilege there")
def test_links_are_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"shared")
    (tmp_path / "a").symlink_to("blob")
    write_files(tmp_path, {"a": b"1"})
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "blob").read_bytes()) == (b"1", b"shared")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk_visible(tmp_path / "nowhere"))


KILLED = """
import os, signal, sys
from pathlib import Path
from dac_codec.common.files import atomic_write
with atomic_write(Path(sys.argv[1]), keep_partial=len(sys.argv) > 2) as temporary:
    temporary.write_text("half")
    print("written", flush=True)
    sys.stdin.read()
"""


def writing(*arguments: object) -> subprocess.Popen[str]:
    """A process that is writing a file."""
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_searched", set())
    (tmp_path / ".mine.tmp").write_text("not ours")
    with writing(tmp_path / "a") as killed, writing(tmp_path / "b") as living:
        killed.kill()
        killed.wait()
        assert len(list(tmp_path.glob(".????????????????.tmp"))) == 2
        with atomic_write(tmp_path / "c") as temporary:
            temporary.write_text("whole")
        assert len(list(tmp_path.glob(".????????????????.tmp"))) == 1
        living.communicate("")
    assert {path.name for path in tmp_path.iterdir()} == {"b", "c", ".mine.tmp"}
    assert (tmp_path / "b").read_text() == "half"


@pytest.mark.skipif(files.fcntl is None, reason="needs file locks")
def test_a_file_that_another_process_takes_for_abandoned_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one locks the new file before this one does, and removes it a moment later."""
    lock = files.fcntl.flock
    taken: list[Path] = []

    def flock(descriptor: int, operation: int) -> None:
        if not taken:
            (path,) = tmp_path.glob(".*.tmp")
            taken.append(path)
            other = stack.enter_context(path.open())
            lock(other.fileno(), operation)
        lock(descriptor, operation)

    with ExitStack() as stack:
        monkeypatch.setattr(files.fcntl, "flock", flock)
        with atomic_write(tmp_path / "target") as temporary:
            temporary.write_text("whole")
            taken[0].unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target").read_text() == "whole"


def test_a_recording_that_is_killed_has_the_name_of_its_target(tmp_path: Path) -> None:
    for expected in ({"rec.dac.part"}, {"rec.dac.part", "rec.dac.part2"}):
        with writing(tmp_path / "rec.dac", "keep") as process:
            process.kill()
            process.wait()
        assert {path.name for path in tmp_path.iterdir()} == expected
    with atomic_write(tmp_path / "rec.dac", keep_partial=True) as temporary:
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"rec.dac", *expected}
    long = tmp_path / ("x" * 253)
    with atomic_write(long, keep_partial=True) as temporary:
        pass
    assert long.exists()
