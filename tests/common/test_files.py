"""The visible files of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dac_codec.common.files import walk_visible


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


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk_visible(tmp_path / "nowhere"))
