"""The command `dac-codec evaluate`."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner

from dac_codec import pretrained
from dac_codec.cli.main import main
from tests.conftest import golden_model
from tests.evaluation.sounds import RATE, speech_like
from tests.processes import python


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation starts no processes, which take longer to import their packages than so short clips need."""
    monkeypatch.setattr("dac_codec.evaluation.run.available_cores", lambda: 1)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("speech/a.wav", "music/b.wav"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        soundfile.write(tmp_path / "data" / name, speech_like(0.6)[0], RATE)
    pretrained.save(golden_model("44khz"), tmp_path / "model")
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.usefixtures("one_core")
def test_evaluate_twice_with_other_codecs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First as a process that uses all cores."""
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "data", "--model", "model", "-o", "out", "--bitrates", "0.5,99"]
    done = python("dac_codec", *command, "--codecs", "ours,silence")
    assert done.returncode == 0, done.stderr
    assert "| all | 2 | ours | 1 codebook |" in done.stdout
    assert "Open out/index.html" in done.stderr
    first = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cache").iterdir()}
    assert len(first) == 2 * 3
    result = CliRunner().invoke(main, [*command, "--codecs", "ours,anchor", "--quiet"])
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    now = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cache").iterdir()}
    assert len(now) == 2 * 4
    assert first.items() <= now.items()
    with (tmp_path / "out" / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["codec"] for row in rows} == {"ours", "anchor"}
    for row in rows:
        size = float(row["bytes"])
        assert float(row["kbps"]) == pytest.approx(size * 8 / float(row["seconds"]) / 1000)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
@pytest.mark.usefixtures("one_core")
def test_names_that_are_not_utf_8(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (data / "speech" / "a.wav").rename(os.fsdecode(os.fsencode(data) + b"/speech/\xff.wav"))
    result = CliRunner().invoke(main, ["evaluate", "data", "--model", "model", "-o", "out", "--codecs", "anchor"])
    assert result.exit_code == 0, result.output
    assert "speech/\\udcff.wav,speech" in (tmp_path / "out" / "clips.csv").read_text()


def test_wrong_arguments_are_reported_in_one_line(data: Path, tmp_path: Path) -> None:
    for arguments, code, message in (
        (["nowhere"], 2, "does not exist"),
        ([str(data), "--codecs", "ours,flac"], 2, "'flac' is not one of ours,"),
        ([str(data), "--bitrates", "2,x"], 2, "such as 2,4,6,8"),
        ([str(data), "--bitrates", "0"], 2, "such as 2,4,6,8"),
        ([str(data), "--model", str(data)], 1, "Error: "),
        ([str(data / "speech" / "a.wav"), "-o", str(data / "speech" / "a.wav" / "b")], 1, "can't create the folder"),
    ):
        output = [] if "-o" in arguments else ["-o", str(tmp_path / "out")]
        result = CliRunner().invoke(main, ["evaluate", *arguments, *output])
        assert result.exit_code == code, result.output
        assert message in result.output
        assert "Traceback" not in result.output
        assert not (tmp_path / "out").exists()
