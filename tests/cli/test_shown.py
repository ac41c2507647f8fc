"""What the command line prints: a line for each file, JSON, and the output of info, models and demo."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dac_codec import pretrained
from dac_codec.codec import DacFile
from dac_codec.pretrained import hub
from dac_codec.pretrained import models as catalog
from tests.cli.shell import LEGACY, errors_of, run, write_dac, write_sound


@pytest.mark.usefixtures("instant")
def test_one_line_per_file_unless_quiet() -> None:
    write_sound("a.wav")
    write_sound("b.wav")
    result = run("compress", "a.wav", "b.wav")
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert first.startswith("a.wav -> a.dac  4.0 kB -> ")
    assert "kbit/s" in first
    assert first.endswith("x real time)")
    assert second.startswith("b.wav -> b.dac")
    assert run("compress", "a.wav", "b.wav", "--force", "--quiet").output == ""
    result = run("compress", "a.wav", "b.wav", "--quiet")
    assert result.exit_code == 1
    assert len(errors_of(result)) == 2


def test_info(compressed: DacFile, cut: Path) -> None:
    write_dac("a.dac", compressed)
    result = run("info", "a.dac", cut, LEGACY, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    ours, truncated, legacy = json.loads(result.stdout)
    n_samples, size = 40 * 512 - 100, Path("a.dac").stat().st_size
    assert ours == {
        "file": "a.dac",
        "format": "dac_codec",
        "version": 1,
        "truncated": False,
        "model_id": compressed.model_id,
        "sample_rate": 44100,
        "channels": 2,
        "n_samples": n_samples,
        "duration": n_samples / 44100,
        "n_frames": 40,
        "bitrate": 2 * 9 * 10 * 44100 / 512,
        "n_codebooks": 9,
        "codebook_size": 1024,
        "bits_per_code": 10,
        "model_sample_rate": 44100,
        "hop_length": 512,
        "gain_db": compressed.header.gain_db,
        "bandwidth": compressed.header.bandwidth,
        "coding": "fixed width",
        "size": size,
        "pcm_size": 4 * n_samples,
        "ratio": 4 * n_samples / size,
    }
    assert (truncated["truncated"], truncated["n_frames"], truncated["n_samples"]) == (True, 24, 24 * 512)
    assert (legacy["format"], legacy["version"]) == ("descript-audio-codec", "1.0.0")
    assert (legacy["sample_rate"], legacy["channels"], legacy["n_samples"]) == (44100, 2, 39690)
    assert (legacy["n_codebooks"], legacy["padding"], len(legacy["loudness_db"])) == (9, True, 1)


def test_info_as_text(compressed: DacFile) -> None:
    write_dac("a.dac", compressed)
    result = run("info", "a.dac", "missing.dac", LEGACY)
    assert result.exit_code == 1
    assert result.stderr == "Error: missing.dac: No such file or directory\n"
    first, second = result.stdout.split("\n\n")
    for text in (compressed.model_id, "44100 Hz", "0.462 s", "15.50 kbit/s"):
        assert text in first
    assert "descript-audio-codec" in second
    assert run("info", "-", "--json", stdin=Path("a.dac").read_bytes()).stdout.count('"format"') == 1


def test_models(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT_MODEL", "tiny")
    monkeypatch.setattr(catalog, "_bundled_folders", lambda: {"tiny": model})
    monkeypatch.setattr(hub, "cached_repositories", dict)
    rows = json.loads(run("models", "--json").stdout)
    assert [row["name"] for row in rows] == [info.name for info in pretrained.available()]
    assert [row["name"] for row in rows if row["default"]] == ["tiny"]
    assert rows[0] == {
        "name": "tiny",
        "sample_rate": 44100,
        "bitrate": 9 * 10 * 44100 / 512,
        "n_codebooks": 9,
        "where": "bundled",
        "verified": True,
        "default": True,
    }
    lines = run("models").stdout.splitlines()
    assert len(lines) == len(rows)
    assert [line.split()[0] for line in lines if line.endswith("default")] == ["tiny"]


def test_demo_prints_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class DemoResult:
        original: Path
        compressed: Path
        decoded: Path
        seconds: float = 5.0
        channels: int = 2
        compressed_bytes: int = 9_800
        pcm_bytes: int = 1_764_000
        bitrate: float = 15680.0
        ratio: float = 180.0
        encode_speed: float = 3.25
        decode_speed: float = 2.5
        si_sdr: float = 9.5

    calls = []

    def run_demo(output: Path, model: str | None, device: str) -> DemoResult:
        calls.append((output, model, device))
        return DemoResult(output / "original.wav", output / "compressed.dac", output / "decoded.wav")

    module = ModuleType("dac_codec.evaluation.demo")
    module.run_demo = run_demo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dac_codec.evaluation.demo", module)
    result = run("demo")
    assert result.exit_code == 0
    assert calls == [(Path("dac-demo"), None, "auto")]
    for text in (
        "dac-demo/decoded.wav",
        "9.8 kB",
        "7.84 kbit/s per",
        "15.68 kbit/s in",
        "180",
        "3.2x",
        "2.5x",
        "9.50 dB",
    ):
        assert text in result.stdout
    shown = json.loads(run("demo", "--json").stdout)
    assert (shown["decoded"], shown["ratio"], shown["si_sdr"]) == ("dac-demo/decoded.wav", 180.0, 9.5)
    run("demo", "--output", "there", "--model", "24khz", "--device", "cpu")
    assert calls[2] == (Path("there"), "24khz", "cpu")


@pytest.mark.parametrize("batched", [False, True])
def test_figures_as_json(model: Path, batched: bool, request: pytest.FixtureRequest) -> None:
    """One object on standard output, and nothing but errors beside it."""
    if batched:
        request.getfixturevalue("as_on_a_gpu")
    sounds = [write_sound("in/a.wav", 3000), write_sound("in/b.wav", 2000)]
    Path("in/bad.wav").write_bytes(b"no sound")
    result = run("compress", "in", "-o", "out", "--model", model, "--json")
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert result.stderr.splitlines() == errors_of(result)
    assert [f"Error: {line}" for line in shown["failures"]] == errors_of(result)
    for row, sound, n_samples in zip(shown["files"], sounds, (3000, 2000), strict=True):
        assert row["input"] == str(sound)
        assert row["output"] == f"out/{sound.stem}.dac"
        assert row["input_bytes"] == sound.stat().st_size
        assert row["output_bytes"] == Path(row["output"]).stat().st_size
        assert row["duration"] == pytest.approx(n_samples / 44100)
        assert row["bitrate"] > 0
        assert batched or row["speed"] > 0

    shown = json.loads(run("decompress", "out", "-o", "back", "--model", model, "--json").stdout)
    assert shown["failures"] == []
    assert [row["output"] for row in shown["files"]] == ["back/a.wav", "back/b.wav"]
    assert [row["duration"] for row in shown["files"]] == pytest.approx([3000 / 44100, 2000 / 44100])
    skipped = run("decompress", "out", "-o", "back", "--model", model, "--json", "--skip-existing", "--quiet")
    assert json.loads(skipped.stdout) == {"files": [], "failures": []}


def test_figures_and_data_do_not_mix() -> None:
    write_sound("a.wav")
    result = run("compress", "a.wav", "-o", "-", "--json")
    assert result.exit_code == 2
    assert "--json prints to standard output, where the data would go" in result.stderr
