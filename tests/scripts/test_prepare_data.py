"""The script that builds the data set, on small packages."""

from __future__ import annotations

import csv
import itertools
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

RATE = 44100

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg")

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: sounds

Files: *
Copyright: somebody
License: GPL-2+

Files: sfx/[a]?.flac
 music/*
Copyright: somebody else
License: CC-BY-SA-3.0
 The text of it,
 .
 with empty lines.

License: GPL-2+
 On Debian systems
"""


def noises(seed: int, seconds: float = 1.0) -> np.ndarray:
    """Noise bursts at random pitches [T]: every seed is another recording."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    wave = np.zeros_like(time)
    for _ in range(round(16 * seconds)):
        begin, pitch = random.uniform(0, seconds), random.uniform(100, 4500)
        wave += (time > begin) * np.exp(-20 * np.maximum(0, time - begin)) * np.sin(2 * np.pi * pitch * time)
    return 0.1 * wave + 0.001 * random.standard_normal(len(time))


def build_package(
    cache: Path, name: str, files: dict[str, Any], copyright_text: str = COPYRIGHT, version: str = "1.2-3"
) -> None:
    """A package in the cache: each file is samples, samples and their rate, or bytes."""
    tree = cache / f"{name}.tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <no@body>\nDescription: sounds\n"
    )
    for path, content in {f"doc/{name}/copyright": copyright_text.encode(), **files}.items():
        target = tree / "usr" / "share" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            samples, rate = content if isinstance(content, tuple) else (content, RATE)
            soundfile.write(target, samples, rate)
    archive = cache / f"{name}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree, archive], check=True, capture_output=True)
    shutil.rmtree(tree)


def build(
    prepare_data: ModuleType, monkeypatch: pytest.MonkeyPatch, cache: Path, *packages: Any
) -> tuple[int, dict[str, dict[str, str]], list[dict[str, str]]]:
    """Run the script. Returns its status, the manifest's rows by path without the package, and the duplicates."""
    monkeypatch.setattr(prepare_data, "PACKAGES", packages)
    monkeypatch.setattr(sys, "argv", ["prepare_data", "--cache", str(cache)])
    status = prepare_data.main()
    tables = []
    for name in ("manifest.csv", "duplicates.csv"):
        path = cache / name
        tables.append(list(csv.DictReader(path.read_text().splitlines())) if path.exists() else [])
    return status, {row["path"].partition("/usr/share/")[2]: row for row in tables[0]}, tables[1]


def path_in(prepare_data: ModuleType, split: str, held_out: int, pattern: str) -> str:
    """The first path of a pattern with some letters in it that falls into a split by its hash."""
    paths = (pattern.format("".join(letters)) for letters in itertools.product("bcdfgh", repeat=4))
    return next(path for path in paths if prepare_data.split_of(path, held_out) == split)


def test_the_split_is_by_hash(prepare_data: ModuleType) -> None:
    counts = Counter(prepare_data.split_of(f"a/{index}.ogg") for index in range(10_000))
    assert 9500 < counts["train"] < 9700
    assert 150 < counts["val"] < 250
    assert 150 < counts["test"] < 250
    assert prepare_data.split_of("a/1.ogg") == prepare_data.split_of("a/1.ogg")
    # The bundled model was trained on the first and not on the others.
    folder = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    assert prepare_data.split_of(f"{folder}/animals/amphibians/frog-1_desc_be.ogg") == "train"
    assert prepare_data.split_of(f"{folder}/animals/birds/heron_greatblue_flying.ogg") == "val"
    assert prepare_data.split_of(f"{folder}/seasonal/christmas/santahat.ogg") == "test"


@pytest.mark.parametrize(
    ("name", "original", "series"),
    [
        ("celtic_fast.ogg", "celtic", "celtic"),
        ("track3_enhanced.opus", "track3", "track"),
        ("con_wood_07.ogg", "con_wood_07", "con_wood"),
        ("swordhit_10a.ogg", "swordhit_10a", "swordhit"),
        ("37.ogg", "37", "37"),
        ("breakfast.ogg", "breakfast", "breakfast"),
    ],
)
def test_names_of_versions_and_takes(prepare_data: ModuleType, name: str, original: str, series: str) -> None:
    assert prepare_data.original(f"a/b/{name}") == original
    assert prepare_data.series(f"a/b/{name}") == series


@needs_dpkg
def test_no_speaker_and_no_source_is_in_two_splits(
    prepare_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voices = {
        f"{name}/{index}.wav": noises(10 * place + index) for place, name in enumerate("abcd") for index in (1, 2)
    }
    build_package(
        tmp_path, "old", {"a/9.wav": noises(99), **{f"a/{index}.wav": noises(index) for index in range(3, 6)}}
    )
    build_package(tmp_path, "new", {**voices, "c/3.wav": noises(99), "d/3.wav": noises(21)})
    tested = path_in(prepare_data, "test", 2, "strokes/usr/share/{}_1.wav").removeprefix("strokes/usr/share/")
    takes = (tested.replace("_1", f"_{number}") for number in range(2, 100))
    trained = next(take for take in takes if prepare_data.split_of(f"strokes/usr/share/{take}") == "train")
    build_package(tmp_path, "strokes", {tested: noises(50), trained: noises(51)})
    pattern = r"/share/(\w)/"
    packages = [
        prepare_data.Package("old", "speech", trained_on=True, voices="people", speaker=pattern),
        prepare_data.Package("new", "speech", voices="people", speaker=pattern, test=("c", "x"), val=("d",)),
        prepare_data.Package("strokes", "effects", trained_on=True),
    ]
    status, rows, _ = build(prepare_data, monkeypatch, tmp_path, *packages)
    assert status == 0
    splits: dict[str, set[str]] = {}
    for row in rows.values():
        assert bool(row["speaker"]) is (row["domain"] == "speech") is not bool(row["source"])
        if row["split"] != prepare_data.DUPLICATE:
            splits.setdefault(row["speaker"] or row["source"], set()).add(row["split"])
    assert splits == {
        "people/a": {"train"},
        "people/b": {"train"},
        "people/c": {"test"},
        "people/d": {"val"},
        f"strokes/usr/share/{tested[:-6]}": {"train"},
    }
    duplicates = {path for path, row in rows.items() if row["split"] == prepare_data.DUPLICATE}
    assert duplicates == {"c/1.wav", "c/3.wav"}  # the recordings of d/3.wav and a/9.wav


@needs_dpkg
def test_a_package_becomes_a_manifest(
    prepare_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "sounds/music/good.flac": np.tile(noises(0), 2),
        "sounds/sfx/ab.flac": noises(1),
        "sounds/sfx/[a]b.flac": noises(2),
        "sounds/sfx/[a]b.png": b"a picture",
        "sounds/silence.wav": np.zeros(RATE),
        "sounds/bad.ogg": b"OggS nonsense",
    }
    build_package(tmp_path, "some-sounds", files)
    package = prepare_data.Package(
        "some-sounds", "effects", ((re.compile("/music/"), "music"),), ("usr/share/sounds/", ""), "unused"
    )
    status, rows, pairs = build(prepare_data, monkeypatch, tmp_path, package)
    printed = capsys.readouterr()
    assert status == 0
    assert "bad.ogg" in printed.err
    assert "silence.wav: silent" in printed.err
    assert pairs == []
    assert {path: row["licence"] for path, row in rows.items()} == {
        "sounds/music/good.flac": "CC-BY-SA-3.0",
        "sounds/sfx/ab.flac": "GPL-2+",
        "sounds/sfx/[a]b.flac": "CC-BY-SA-3.0",
    }
    row = rows["sounds/music/good.flac"]
    assert (row["domain"], row["version"], row["duration"], row["bandwidth"]) == ("music", "1.2-3", "2.0", "22050")
    assert "| some-sounds | 1.2-3 | CC-BY-SA-3.0 and GPL-2+ | effects | 2 |" in printed.out
    kept = {path.name for path in (tmp_path / "some-sounds").rglob("*") if path.is_file()}
    assert kept == {".version", "good.flac", "ab.flac", "[a]b.flac", "silence.wav", "bad.ogg", "copyright"}

    # Again: nothing is read that was read before, and the tables are the same.
    tables = [(tmp_path / name).read_bytes() for name in ("manifest.csv", "duplicates.csv")]
    monkeypatch.setattr(prepare_data.duplicates, "landmarks", None)
    assert build(prepare_data, monkeypatch, tmp_path, package)[0] == 0
    assert [(tmp_path / name).read_bytes() for name in ("manifest.csv", "duplicates.csv")] == tables


@needs_dpkg
def test_duplicates_are_in_one_split(prepare_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held_out(split: str, pattern: str) -> str:
        return path_in(prepare_data, split, prepare_data.HELD_OUT, f"new/usr/share/{pattern}").removeprefix(
            "new/usr/share/"
        )

    heard = path_in(prepare_data, "train", 2, "heard/usr/share/{}.flac").removeprefix("heard/usr/share/")
    alone, copy, excerpt = (held_out("test", f"{name}{{}}") for name in ("alone", "copy", "excerpt"))
    validated, tested = held_out("val", "validated{}"), held_out("test", "tested{}")
    piece = held_out("test", "piece{}")
    narrow = held_out("test", "narrow{}")
    build_package(tmp_path, "heard", {heard: noises(0, 4.0)})
    files = {
        f"{alone}_1.wav": noises(1),
        f"{alone}_2.wav": noises(5),
        f"{copy}.flac": noises(0, 4.0),  # the samples of what was trained on
        f"{excerpt}.ogg": 0.3 * noises(0, 4.0)[30000:120000],  # a part of it, lossy and quieter
        f"{validated}.wav": noises(2, 2.0),
        f"{tested}.ogg": noises(2, 2.0),
        f"{piece}.wav": noises(3),
        f"elsewhere/{piece}_fast.wav": noises(4),
        f"{narrow}.wav": (noises(7)[::2], RATE // 2),
    }
    build_package(tmp_path, "new", files)
    packages = [
        prepare_data.Package("heard", "effects", trained_on=True),
        prepare_data.Package("new", "effects"),
    ]
    status, rows, pairs = build(prepare_data, monkeypatch, tmp_path, *packages)
    assert status == 0
    splits = {path: row["split"] for path, row in rows.items()}
    assert {splits[path] for path in (heard, f"{copy}.flac", f"{excerpt}.ogg", f"{narrow}.wav")} == {"train"}
    assert splits[f"{alone}_1.wav"] == splits[f"{alone}_2.wav"] == "test"
    assert splits[f"{validated}.wav"] == splits[f"{tested}.ogg"] == "val"
    assert splits[f"{piece}.wav"] == splits[f"elsewhere/{piece}_fast.wav"]
    assert len(rows) == len(files) + 1
    names = {Path(path).name: path for path in rows}
    found = {(names[Path(row["first"]).name], names[Path(row["second"]).name], row["reason"]) for row in pairs}
    assert found == {
        (heard, f"{copy}.flac", "samples"),
        (heard, f"{excerpt}.ogg", "sound"),
        (f"{tested}.ogg", f"{validated}.wav", "sound"),
        (f"elsewhere/{piece}_fast.wav", f"{piece}.wav", "name"),
    }

    _, rows, _ = build(prepare_data, monkeypatch, tmp_path, prepare_data.Package("new", "effects"))
    assert rows[f"{copy}.flac"]["split"] == rows[f"{excerpt}.ogg"]["split"] == "test"
    only = prepare_data.Package("new", "effects", only_trained_on=True)
    _, rows, _ = build(prepare_data, monkeypatch, tmp_path, only)
    assert {row["split"] for row in rows.values()} == {"train"}


@needs_dpkg
def test_sounds_in_zip_archives_are_found(
    prepare_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.flac", noises(0), RATE)
    with zipfile.ZipFile(tmp_path / "public.zip", "w") as archive:
        archive.write(tmp_path / "a.flac", "audio/music/a.flac")
        archive.write(tmp_path / "a.flac", "../escaped.flac")
        archive.writestr("art/a.png", b"a picture")
    build_package(tmp_path, "zipped", {"mods/public.zip": (tmp_path / "public.zip").read_bytes()})
    status, rows, _ = build(prepare_data, monkeypatch, tmp_path, prepare_data.Package("zipped", "music"))
    assert status == 0
    assert set(rows) == {"mods/public/audio/music/a.flac", "mods/public/escaped.flac"}
    assert not list((tmp_path / "zipped").rglob("*.zip"))


@needs_dpkg
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_g722_is_decoded_and_only_trained_on(
    prepare_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(2 * 16000) / 16000)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", "-f", "g722", tmp_path / "a.g722"]
    subprocess.run(command, check=True)
    coded = (tmp_path / "a.g722").read_bytes()
    assert len(coded) == 16000  # 64 kbit/s
    build_package(tmp_path, "calls", {f"a{index}/it's fine.g722": coded for index in range(70)})
    status, rows, _ = build(prepare_data, monkeypatch, tmp_path, prepare_data.Package("calls", "speech"))
    assert status == 0
    assert len(rows) == 70
    for row in rows.values():
        found = (row["duration"], row["sample_rate"], row["bandwidth"], row["split"])
        assert found == ("2.0", "16000", "8000", "train")
    decoded, _ = soundfile.read(tmp_path / "calls/usr/share/a0/it's fine.flac")
    likeness = [np.corrcoef(decoded[delay : delay + 30000], wave[:30000])[0, 1] for delay in range(50)]
    assert max(likeness) > 0.99


@needs_dpkg
def test_missing_programs_and_broken_packages_are_named(
    prepare_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_package(tmp_path, "calls", {"a.g722": bytes(1000)})
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "ffmpeg" else which(name))
    package = prepare_data.Package("calls", "speech")
    assert build(prepare_data, monkeypatch, tmp_path, package)[0] == 1
    assert "apt-get install ffmpeg" in capsys.readouterr().err
    assert not (tmp_path / "calls").exists()
    (tmp_path / "broken_1_all.deb").write_bytes(b"not a package")
    assert build(prepare_data, monkeypatch, tmp_path, prepare_data.Package("broken", "speech"))[0] == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("prepare_data: dpkg-deb failed with status 2: ")
    assert not (tmp_path / "manifest.csv").exists()


@needs_dpkg
def test_another_version_of_a_package_is_unpacked_again(
    prepare_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = prepare_data.Package("one", "effects")
    build_package(tmp_path, "one", {f"{index}.wav": noises(index) for index in range(3)})
    _, first, _ = build(prepare_data, monkeypatch, tmp_path, package)
    build_package(tmp_path, "one", {f"{index}.wav": noises(index)[::2] for index in range(2)}, version="1.3-1")
    assert build(prepare_data, monkeypatch, tmp_path, package)[0] == 1
    assert "one_1.2-3_all.deb, one_1.3-1_all.deb: remove all but one" in capsys.readouterr().err
    (tmp_path / "one_1.2-3_all.deb").unlink()
    status, second, _ = build(prepare_data, monkeypatch, tmp_path, package)
    assert status == 0
    assert set(first) == {"0.wav", "1.wav", "2.wav"}
    assert {row["version"] for row in second.values()} == {"1.3-1"}
    assert set(second) == {"0.wav", "1.wav"}
    assert float(second["0.wav"]["duration"]) == pytest.approx(float(first["0.wav"]["duration"]) / 2, abs=0.02)


@needs_dpkg
def test_an_interrupted_run_continues(
    prepare_data: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        build_package(tmp_path, name, {f"{index}.flac": noises(index) for index in range(3)})
    (tmp_path / "one.unpacking").mkdir()
    (tmp_path / "one.unpacking" / "half.flac").write_bytes(b"half")
    packages = [prepare_data.Package(name, "effects") for name in ("one", "two")]
    landmarks = prepare_data.duplicates.landmarks
    calls: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(0)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return landmarks(*arguments)

    monkeypatch.setattr(prepare_data.duplicates, "landmarks", interrupted)
    assert build(prepare_data, monkeypatch, tmp_path, *packages)[0] == 130
    assert "the same command continues" in capsys.readouterr().err
    assert not (tmp_path / "manifest.csv").exists()
    status, rows, pairs = build(prepare_data, monkeypatch, tmp_path, *packages)
    assert status == 0
    assert len(calls) == 7  # the four sounds that were read before weren't read again
    assert set(rows) == {"0.flac", "1.flac", "2.flac"}
    assert len(pairs) == 3
