"""The scripts that build the data set and measure a model."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from dac_codec import pretrained
from tests.conftest import golden_model

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def prepare_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPTS / "prepare_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_data"] = module
    spec.loader.exec_module(module)
    return module


def test_the_split_is_by_hash(prepare_data: ModuleType) -> None:
    counts = Counter(prepare_data.split_of(f"a/{index}.ogg") for index in range(10_000))
    assert 9500 < counts["train"] < 9700
    assert 150 < counts["val"] < 250
    assert 150 < counts["test"] < 250
    assert prepare_data.split_of("a/1.ogg") == prepare_data.split_of("a/1.ogg")


@pytest.mark.parametrize(
    ("path", "spoken"),
    [
        ("x/cow_desc_fr.ogg", True),
        ("x/cow_desc.ogg", True),
        ("x/symbols/math/7_zh_tw.ogg", True),
        ("x/symbols/alphabets/german/a_with_umlaut.ogg", True),
        ("x/cow.ogg", False),
        ("x/vehicles/emergency/firetruck.ogg", False),
    ],
)
def test_spoken_words_are_told_from_effects(prepare_data: ModuleType, path: str, spoken: bool) -> None:
    assert bool(prepare_data.SPOKEN.search(path)) is spoken


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg")
def test_a_package_becomes_a_manifest(
    prepare_data: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree, cache = tmp_path / "tree", tmp_path / "cache"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: some-sounds\nVersion: 1.2-3\nArchitecture: all\nMaintainer: Nobody <no@body>\nDescription: sounds\n"
    )
    (tree / "usr").mkdir()
    soundfile.write(tree / "usr" / "good.flac", np.zeros(22050), 44100)
    (tree / "usr" / "bad.ogg").write_bytes(b"OggS nonsense")
    cache.mkdir()
    subprocess.run(["dpkg-deb", "--build", tree, cache / "some-sounds_1.2-3_all.deb"], check=True, capture_output=True)

    package = prepare_data.Package("some-sounds", "CC0-1.0", "effects")
    monkeypatch.setattr(prepare_data, "PACKAGES", (package,))
    monkeypatch.setattr(sys, "argv", ["prepare_data", "--cache", str(cache)])
    assert prepare_data.main() == 0
    first = (cache / "manifest.csv").read_bytes()
    assert "bad.ogg" in capsys.readouterr().err
    assert prepare_data.main() == 0
    assert (cache / "manifest.csv").read_bytes() == first
    (row,) = csv.DictReader(first.decode().splitlines())
    assert row["path"] == "some-sounds/usr/good.flac"
    assert (row["domain"], row["version"], row["licence"], row["duration"]) == ("effects", "1.2-3", "CC0-1.0", "0.5")


def test_the_evaluation_leaves_a_report(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 66150), 44100)
    (tmp_path / "manifest.csv").write_text("path,domain,duration,split\na.wav,effects,1.5,test\n")
    pretrained.save(golden_model("44khz"), tmp_path / "model")
    command = [sys.executable, str(SCRIPTS / "evaluate.py"), "--manifest", "manifest.csv", "--model", "model"]
    done = subprocess.run([*command, "--output", "report"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    codebooks = f"{golden_model('44khz').n_codebooks} codebooks"
    for codec, setting in (("ours", "1 codebook"), ("ours", codebooks), ("noise", ""), ("silence", "")):
        assert f"| all | 1 | {codec} | {setting} |" in done.stdout
    files = {path.name for path in (tmp_path / "report").iterdir()}
    assert files == {"cache", "clips.csv", "index.html", "report.json", "report.md"}
    done = subprocess.run(
        [*command, "--output", "report", "--split", "val"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "val" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_of_several_files() -> None:
    command = [sys.executable, SCRIPTS / "benchmark_files.py", "--files", "2x0.2", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [row.split(" | ") for row in done.stdout.splitlines()]
    assert [len(row) for row in rows[0:1] + rows[2:]] == [5, 5, 5]
    assert [row[:2] for row in rows[2:]] == [["| 2 of 0.2 s", "compress"], ["| 2 of 0.2 s", "decompress"]]


def test_the_latency_table() -> None:
    done = subprocess.run([sys.executable, SCRIPTS / "latency.py"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    # 3733 and 4757 are what the streams of these strides were seen to wait for: tests/streaming/test_look_ahead.py.
    assert "| 44khz | 512 (11.6 ms) | 3733 (84.6 ms) | 4757 (107.9 ms) | 204.1 ms |" in lines
    assert "| 44khz, causal | 512 (11.6 ms) | 0 (0.0 ms) | 0 (0.0 ms) | 11.6 ms |" in lines
    assert len(lines) == 2 + 2 * 5


def test_the_cost_of_training_is_measured(tmp_path: Path) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 44100), 44100)
    settings = ["experiment=overfit", f"data.sounds={tmp_path}", "model.encoder_dim=2", "model.decoder_dim=16"]
    command = [sys.executable, str(SCRIPTS / "benchmark_training.py"), *settings, "trainer.batch_size=1"]
    done = subprocess.run([*command, "--only", "float32"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "excerpts/s from one worker" in done.stdout
    assert "| float32 |" in done.stdout
