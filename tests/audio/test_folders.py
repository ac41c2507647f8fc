"""dac_codec.audio.find_audio: the sound files of a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from dac_codec import audio
from dac_codec.common.errors import AudioError


def test_find_audio(tmp_path: Path) -> None:
    for name in ("b/2.WAV", "b/10.flac", "a.ogg", "c/d/e.opus", "c/x.mp3", "c/y.aif", "z.m4a", "notes.txt", "s.raw"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for hidden in (".git/a.wav", "b/._2.wav"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "broken.wav").symlink_to("nowhere.wav")
    (tmp_path / "linked.wav").symlink_to("a.ogg")
    (tmp_path / "c" / "loop").symlink_to(tmp_path)
    (tmp_path / "c" / "d" / "up").symlink_to("..")
    found = [path.relative_to(tmp_path).as_posix() for path in audio.find_audio(tmp_path)]
    assert found == ["a.ogg", "b/10.flac", "b/2.WAV", "c/d/e.opus", "c/x.mp3", "c/y.aif", "linked.wav"]


def test_find_audio_follows_links_to_other_folders(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.wav").touch()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    assert audio.find_audio(tmp_path / "data") == [tmp_path / "data" / "link" / "a.wav"]


def test_find_audio_reports_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="missing: can't be listed"):
        audio.find_audio(tmp_path / "missing")
    (tmp_path / "a.wav").touch()
    with pytest.raises(AudioError, match=r"a\.wav: can't be listed \(Not a directory\)"):
        audio.find_audio(tmp_path / "a.wav")


def test_readable_files_with_rare_names_are_found(tmp_path: Path) -> None:
    names = ["a.aifc", "a.bwf", "a.SND", "a.sph", "a.wave", "a.mp2", "a.voc", "a.nist"]
    for name in names:
        (tmp_path / name).touch()
    assert sorted(path.name for path in audio.find_audio(tmp_path)) == sorted(names)
    assert audio.find_unreadable(tmp_path) == []


def test_sound_that_cannot_be_read_is_listed_with_a_reason(tmp_path: Path) -> None:
    for name in ("a.m4a", "b/c.WMA", "s.raw", "song.wav", "cover.jpg", "film.mp4", ".hidden.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "broken.wav").symlink_to("nowhere.wav")
    (tmp_path / "folder.m4a").mkdir()
    found = {path.relative_to(tmp_path).as_posix(): why for path, why in audio.find_unreadable(tmp_path)}
    assert list(found) == ["a.m4a", "b/c.WMA", "broken.wav", "s.raw"]
    assert found["broken.wav"] == "a broken symbolic link"
    assert "convert it to wav or flac" in found["a.m4a"]
    with pytest.raises(AudioError, match="missing: can't be listed"):
        audio.find_unreadable(tmp_path / "missing")
