"""The files of a data set and their splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound, read_split
from dac_codec.training import sounds
from dac_codec.training.sounds import find_sounds

HEADER = "path,domain,duration,split\n"


def tone(path: Path, seconds: float = 0.01) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.ones(round(8000 * seconds)), 8000)
    return path


def both(folder: Path) -> tuple[list[Sound], list[Sound]]:
    found, _ = find_sounds(folder, "train", "val")
    return found["train"], found["val"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 110 sounds, one level down."""
    folder = tmp_path_factory.mktemp("many")
    for index in range(110):
        tone(folder / f"{index % 7}" / f"{index}.wav")
    return folder


def test_a_folder_is_searched_and_durations_are_read(tmp_path: Path) -> None:
    tone(tmp_path / "a" / "b" / "deep.flac", 0.5)
    tone(tmp_path / "flat.wav", 0.25)
    (tmp_path / "notes.txt").write_text("no sound")
    train, val = both(tmp_path)
    assert len(train) == len(val) == 1
    durations = {one.path: one.duration for one in train + val}
    assert durations == {tmp_path / "a" / "b" / "deep.flac": 0.5, tmp_path / "flat.wav": 0.25}
    assert {one.domain for one in train + val} == {"all"}


def test_headers_are_read_once_for_all_splits(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    duration = sounds._duration

    def noted(path: Path) -> float | str:
        read.append(path)
        return duration(path)

    monkeypatch.setattr(sounds, "_duration", noted)
    both(many)
    assert len(read) == len(set(read)) == 110


def test_two_percent_are_for_validation(many: Path) -> None:
    train, val = both(many)
    assert len(train) + len(val) == 110
    assert {one.path for one in train}.isdisjoint(one.path for one in val)
    assert len(val) == 3
    assert [one.path for one in train] == sorted(one.path for one in train)


def test_the_split_of_a_file_does_not_depend_on_other_files(many: Path, tmp_path: Path) -> None:
    _, val = both(many)
    names = {one.path.relative_to(many) for one in val}
    for name in [*names, Path("0/0.wav"), Path("1/1.wav"), Path("2/2.wav")]:
        tone(tmp_path / name)
    assert {one.path.relative_to(tmp_path) for one in both(tmp_path)[1]} == names


@pytest.mark.parametrize("n_files", [2, 3, 9])
def test_no_split_of_a_small_folder_is_empty(tmp_path: Path, n_files: int) -> None:
    for index in range(n_files):
        tone(tmp_path / f"{index}.wav")
    assert [len(group) for group in both(tmp_path)] == [n_files - 1, 1]


def test_a_single_file_is_in_train(tmp_path: Path) -> None:
    path = tone(tmp_path / "only.wav")
    assert find_sounds(tmp_path, "train")[0]["train"] == [Sound(path, "all", 0.01)]
    with pytest.raises(AudioError, match="at least two"):
        find_sounds(tmp_path, "val")


def test_files_that_cant_be_read_are_listed(tmp_path: Path) -> None:
    for index in range(3):
        tone(tmp_path / f"{index}.wav")
    (tmp_path / "torn.flac").write_bytes(b"fLaC" + bytes(50))
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "mute.wav", np.zeros(0), 8000)
    found, unreadable = find_sounds(tmp_path, "train")
    assert len(found["train"]) == 2
    assert [Path(line.partition(": ")[0]).name for line in unreadable] == ["empty.wav", "mute.wav", "torn.flac"]
    assert all("\n" not in line and line.partition(": ")[2] for line in unreadable)


def test_domains_have_folders_and_manifests(tmp_path: Path) -> None:
    for name in ("near", "far", "played", "listed"):
        for index in range(3):
            tone(tmp_path / name / f"{index}.wav")
    manifest = tmp_path / "sounds.csv"
    manifest.write_text(HEADER + "listed/0.wav,noise,0.01,train\nlisted/1.wav,other,0.01,val\n")
    source = {"speech": [tmp_path / "near", str(tmp_path / "far")], "music": tmp_path / "played", "rest": manifest}
    train = find_sounds(source, "train")[0]["train"]
    assert [one.domain for one in train] == ["speech"] * 4 + ["music"] * 2 + ["rest"]
    assert train[-1].path == tmp_path / "listed" / "0.wav"
    assert [one.domain for one in find_sounds(source, "val")[0]["val"]] == ["speech", "speech", "music", "rest"]


def test_a_file_in_two_splits_is_named(tmp_path: Path) -> None:
    for index in range(3):
        tone(tmp_path / "all" / f"{index}.wav")
    (val,) = find_sounds(tmp_path / "all", "val")[0]["val"]
    manifest = tmp_path / "sounds.csv"
    manifest.write_text(HEADER + f"all/{val.path.name},all,0.01,val\n")
    assert len(find_sounds({"one": tmp_path / "all", "other": manifest}, "val")[0]["val"]) == 2
    manifest.write_text(HEADER + f"all/{val.path.name},all,0.01,train\n")
    with pytest.raises(AudioError, match=f"{val.path.name} is in the split 'val' by one place and in 'train' by"):
        find_sounds({"one": tmp_path / "all", "other": manifest}, "train")


def test_a_manifest_keeps_its_domains_and_splits(tmp_path: Path) -> None:
    manifest = tmp_path / "sounds.csv"
    manifest.write_text(HEADER + "b.wav,speech,2.5,test\na.wav,music,1,train\n/c.wav,speech,3,test\n")
    expected = [Sound(tmp_path / "b.wav", "speech", 2.5), Sound(Path("/c.wav"), "speech", 3.0)]
    assert find_sounds(str(manifest), "test") == ({"test": expected}, [])
    with pytest.raises(AudioError, match=r"no files in its val split.*test, train"):
        find_sounds(manifest, "val")


def test_least_bandwidth_leaves_sounds_out(tmp_path: Path) -> None:
    manifest = tmp_path / "sounds.csv"
    rows = ("a.wav,speech,1,22050,train", "b.wav,speech,1,8000,train", "c.wav,music,1,16000,train")
    manifest.write_text("\n".join(("path,domain,duration,bandwidth,split", *rows)))
    for source in (manifest, {"speech": manifest}):
        assert [one.path.name for one in find_sounds(source, "train")[0]["train"]] == ["a.wav", "b.wav", "c.wav"]
        wide = find_sounds(source, "train", least_bandwidth=16000.0)[0]["train"]
        assert [one.path.name for one in wide] == ["a.wav", "c.wav"]
    manifest.write_text(HEADER + "a.wav,speech,1,train\n")
    assert len(find_sounds(manifest, "train", least_bandwidth=16000.0)[0]["train"]) == 1
    manifest.write_text("path,domain,duration,bandwidth,split\na.wav,speech,1,,train\n")
    with pytest.raises(AudioError, match=r"line 2: the bandwidth is '', expected a positive number of Hz"):
        find_sounds(manifest, "train")


def test_missing_places(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for source in (tmp_path / "link", {"speech": tmp_path / "link"}):
        with pytest.raises(AudioError, match="broken symbolic link"):
            find_sounds(source, "train")
    for source in (tmp_path / "gone", {"speech": [tmp_path / "gone"]}):
        with pytest.raises(AudioError, match="expected a folder"):
            find_sounds(source, "train")
    with pytest.raises(AudioError, match=r"prepare_data\.py"):
        read_split(tmp_path / "gone.csv", "train")


def test_an_empty_split_is_an_error_that_counts_the_others(tmp_path: Path) -> None:
    (tmp_path / "torn.flac").write_bytes(b"fLaC")
    with pytest.raises(AudioError, match=r"none in others, 1 can't be read.*torn\.flac"):
        find_sounds(tmp_path, "train")
    tone(tmp_path / "a.wav")
    tone(tmp_path / "b.wav")
    with pytest.raises(AudioError, match=r"split 'holiday', 1 in 'train', 1 in 'val'"):
        find_sounds({"speech": tmp_path}, "holiday")
    with pytest.raises(AudioError, match="no sound files"):
        find_sounds({}, "train")


def test_sound_that_is_incomplete_or_in_another_format_is_listed(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav", "cut.wav"):
        tone(tmp_path / name, 1.0)
    content = (tmp_path / "cut.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: len(content) // 2])
    (tmp_path / "c.m4a").write_bytes(b"something")
    found, unreadable = find_sounds(tmp_path, "train", "val")
    assert {one.path.name for group in found.values() for one in group} == {"a.wav", "b.wav"}
    assert len(unreadable) == 2
    assert "cut.wav: cut short: the header declares 8000 samples" in unreadable[0]
    assert "c.m4a: sound in a format that can't be read" in unreadable[1]


@pytest.mark.skipif("MP3" not in soundfile.available_formats(), reason="this libsndfile has no mp3")
def test_the_duration_of_an_mp3_of_variable_bit_rate_is_counted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sound = np.concatenate([0.3 * random.standard_normal(2 * 44100), 1e-3 * random.standard_normal(8 * 44100)])
    with soundfile.SoundFile(
        tmp_path / "a.mp3", "w", 44100, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as file:
        file.write(sound)
    content = (tmp_path / "a.mp3").read_bytes()
    begin = content.index(b"\xff\xfb", 100)  # the frame after the one that gives the length
    assert b"Xing" in content[:begin]
    (tmp_path / "a.mp3").write_bytes(content[begin:])
    assert soundfile.info(tmp_path / "a.mp3").duration < 6  # libsndfile's estimate
    assert sounds._duration(tmp_path / "a.mp3") == pytest.approx(10, abs=0.1)
