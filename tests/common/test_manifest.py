"""The list of a data set's sounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound, read, read_split

HEADER = "path,domain,duration,split\n"


def test_sounds_by_split(tmp_path: Path) -> None:
    manifest = tmp_path / "sounds.csv"
    manifest.write_text(HEADER + "b.wav,speech,2.5,test\na.wav,music,1,train\n/c.wav,speech,3,test\n")
    test = [Sound(tmp_path / "b.wav", "speech", 2.5), Sound(Path("/c.wav"), "speech", 3.0)]
    assert read(manifest) == {"test": test, "train": [Sound(tmp_path / "a.wav", "music", 1.0)]}
    assert read_split(manifest, "test") == test
    with pytest.raises(AudioError, match=r"no files in its val split.*test, train"):
        read_split(manifest, "val")


def test_a_byte_order_mark_of_excel(tmp_path: Path) -> None:
    (tmp_path / "sounds.csv").write_text(HEADER + "ä.wav,speech,1,test\n", encoding="utf-8-sig")
    assert [sound.path.name for sound in read_split(tmp_path / "sounds.csv", "test")] == ["ä.wav"]


def test_speakers_are_read(tmp_path: Path) -> None:
    manifest = tmp_path / "sounds.csv"
    manifest.write_text("path,speaker,domain,duration,split\na.wav,ann,speech,1,test\nb.wav,,speech,1,test\n")
    assert [sound.speaker for sound in read_split(manifest, "test")] == ["ann", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,domain,duration\na.wav,speech,1\n", r"line 1: no column 'split'"),
        ("", r"line 1: no column 'path'"),
        (HEADER + "a.wav,speech,1,train\nb.wav,speech,long,train\n", r"line 3: the duration is 'long'"),
        (HEADER + "a.wav,speech,0,train\n", r"line 2: the duration is '0'"),
        (HEADER + "a.wav,speech,-1,train\n", r"line 2: the duration is '-1'"),
        (HEADER + "a.wav,speech,nan,train\n", r"line 2: the duration is 'nan'"),
        (HEADER + "a.wav,speech,inf,train\n", r"line 2: the duration is 'inf'"),
        (HEADER + "a.wav,speech,1e300,train\n", r"line 2: the duration is '1e300'"),
        (HEADER + "a\0.wav,speech,1,train\n", r"line 2: the column 'path' has a zero byte"),
        (HEADER + "a.wav,speech,1\n", r"line 2: the column 'split' is empty"),
        (HEADER + ",speech,1,train\n", r"line 2: the column 'path' is empty"),
        ("\udcff\udcfe", "is not a readable manifest"),
    ],
)
def test_invalid_manifest_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    manifest = tmp_path / "bad.csv"
    manifest.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AudioError, match=message) as error:
        read_split(manifest, "train")
    assert str(manifest) in str(error.value)
    assert "\n" not in str(error.value)
