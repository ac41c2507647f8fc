"""benchmarks/files.py, effort.py, latency.py, training.py; and the short scripts, with their errors."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from dac_codec import pretrained
from dac_codec.common.errors import DacError
from dac_codec.common.scripts import exit_status
from tests.conftest import SCRIPTS, golden_model, load_script
from tests.processes import python


def test_the_table_of_several_files() -> None:
    done = python(SCRIPTS / "benchmarks" / "files.py", "--files", "2x0.2", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    rows = [row.split(" | ") for row in done.stdout.splitlines()]
    assert [len(row) for row in rows[0:1] + rows[2:]] == [5, 5, 5]
    assert [row[:2] for row in rows[2:]] == [["| 2 of 0.2 s", "compress"], ["| 2 of 0.2 s", "decompress"]]


@pytest.mark.parametrize("busy", [False, True])
def test_the_table_of_efforts(busy: bool) -> None:
    efforts = ["--efforts", "--busy"] if busy else ["--efforts", "0", "1"]
    done = python(SCRIPTS / "benchmarks" / "effort.py", "--seconds", "0.3", "--rounds", "1", *efforts)
    assert done.returncode == 0, done.stderr
    rows = [row.strip("| ").split(" | ") for row in done.stdout.splitlines()[2:-2]]
    kinds = [f"{kind}, effort {effort}" for effort in "01" for kind in ("constant", "variable")]
    assert [row[0] for row in rows] == (["default, encode", "default, decode"] if busy else ["default", *kinds])
    assert [len(row) for row in rows] == [5] * len(rows)
    assert all(cell.endswith("x") for row in rows for cell in row[1 : 4 if busy else 5])


def test_rankings_of_paths(tmp_path: Path) -> None:
    time = np.arange(22050) / 44100
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 300 * time * (1 + time)), 44100)
    done = python(SCRIPTS / "rank_paths.py", tmp_path, "--paths", "2", "--codebooks", "9", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in (lines[0], lines[6])] == [
        f"all, 1 clips, the first {n} codes" for n in (9, 2)
    ]
    names = ["greedy", *(f"{name}, M = 2" for name in ("look-up", "latents", "both", "decoder"))]
    assert [line[2:20].strip() for line in lines[1:6]] == names
    assert all(len(line[20:].split()) == 2 for line in lines[1:6])


def test_the_gain_of_refitted_codebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    time = np.arange(44100) / 44100
    soundfile.write(tmp_path / "a.flac", 0.3 * np.sin(2 * np.pi * 300 * time * (1 + time)), 44100)
    (tmp_path / "manifest.csv").write_text("path,domain,duration,split\na.flac,effects,1,test\n", encoding="utf-8")
    model = golden_model("44khz")
    pretrained.save(model, tmp_path / "model")
    model.quantizer.stages()[0].out_proj.get_parameter("bias").data += 1.0
    pretrained.save(model, tmp_path / "worse")
    script = load_script("compare_refits")
    arguments = [tmp_path / "manifest.csv", tmp_path / "model", tmp_path / "worse", "--paths", 1, 4]
    monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments), "--minutes", "0.1", "--clips", "1"])
    script.main()
    *latents, domain, same, worse = capsys.readouterr().out.splitlines()
    before, after = ([float(value) for value in re.findall(r"(\S+) dB", line)] for line in latents)
    assert (len(before), len(after)) == (2, 2)
    assert max(after) < min(before)
    assert domain == "effects, 1 clips: mel distance, SI-SDR"
    assert same.split()[2::3] == ["+0.000", "+0.000"]
    assert float(worse.split()[5]) != 0
    next(model.encoder.parameters()).data += 1.0
    pretrained.save(model, tmp_path / "worse")
    with pytest.raises(DacError, match="the models have different encoders"):
        script.main()


def test_the_table_of_band_levels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / "a.wav", 0.1 * random.standard_normal(22050), 44100)
    done = python(SCRIPTS / "band_levels.py", tmp_path, "--quality", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[2:26].strip() for line in lines[1:]] == ["constant", "quality 2", "quality 2, band levels"]
    bitrates, mel_distances, _ = zip(*(map(float, line[26:].split()) for line in lines[1:]), strict=True)
    assert bitrates[1] < bitrates[2]
    assert mel_distances[1] > mel_distances[2]


def test_the_latency_table() -> None:
    done = python(SCRIPTS / "benchmarks" / "latency.py")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # 3733 and 4757 are verified in tests/inference/test_look_ahead.py.
    assert "| 44khz | 512 (11.6 ms) | 3733 (84.6 ms) | 4757 (107.9 ms) | 204.1 ms |" in lines
    assert "| 44khz, causal | 512 (11.6 ms) | 0 (0.0 ms) | 0 (0.0 ms) | 11.6 ms |" in lines
    assert len(lines) == 2 + 2 * 6


def test_each_optimization_is_disabled_and_restored() -> None:
    """The plain version is another function with the same result."""
    script = import_module("training")
    x, alpha = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)), torch.full((1, 3, 1), 0.7)
    spectra = script.Spectra(x)
    discriminator = script.Discriminator(sample_rate=8000, periods=[2], fft_sizes=[64], bands=[(0.0, 1.0)])
    sound = torch.randn(4, 1, 400, generator=torch.Generator().manual_seed(0))

    def found() -> dict[str, Tensor]:
        return {
            "Snake as one function": script.layers.snake(x, alpha),
            "shared spectrograms": spectra.magnitude(16),
            "real and fake together": torch.cat([one.flatten() for maps in discriminator(sound) for one in maps]),
        }

    expected = found()
    parameter = torch.nn.Parameter(torch.zeros(1))
    for change, (owner, name, _) in script.CHANGES.items():
        before = getattr(owner, name)
        with script.without(change):
            assert getattr(owner, name) is not before
            now = found()
            assert all(torch.allclose(now[key], value, atol=1e-5) for key, value in expected.items())
            assert (spectra.magnitude(16) is spectra.magnitude(16)) == (change != "shared spectrograms")
            assert torch.optim.AdamW([parameter], fused=True).defaults["fused"] == (change != "fused optimizer")
        assert getattr(owner, name) is before
    with pytest.raises(KeyError):
        script.without("something else")


WITHOUT = [
    f"without {change}"
    for change in ("Snake as one function", "fused optimizer", "shared spectrograms", "real and fake together")
]


@pytest.mark.slow
def test_training_steps_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = import_module("training")
    monkeypatch.setattr(script, "STEPS", 2)
    monkeypatch.setattr(script, "LOADER_SECONDS", 0.2)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 44100), 44100)
    settings = ["experiment=overfit", f"data.sounds={tmp_path}", "model.encoder_dim=2", "model.decoder_dim=16"]
    settings += ["trainer.batch_size=1", "data.excerpt=0.1", "--rounds", "1", "--only", "float32", *WITHOUT]
    monkeypatch.setattr(sys, "argv", ["training.py", *settings])
    assert exit_status(script.main) == 0
    shown = capsys.readouterr().out
    assert "excerpts/s from one worker" in shown
    rows = [line.split(" | ") for line in shown.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["| float32", *(f"| {name}" for name in WITHOUT)]
    assert all(float(row[3]) > 0 for row in rows[2:])


def test_spectrograms_of_clips(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 44100), 44100)
    pretrained.save(golden_model("44khz"), tmp_path / "model")
    command = [SCRIPTS / "spectrograms.py", "a.wav", "--model", "model", "--output", "a.jpg", "--clips"]
    done = python(*command, "a.wav", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    done = python(*command, "b.wav", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "spectrograms: a.wav: no clip b.wav, expected some of a.wav\n")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (None, 0, ""),
        (DacError("no luck"), 1, "train: no luck\n"),
        (FileNotFoundError(2, "gone", "a"), 1, "train: [Errno 2] gone: 'a'\n"),
        (MemoryError(), 1, "train: not enough memory\n"),
        (ModuleNotFoundError("x", name="x"), 1, "train: x is not installed: pip install 'dac_codec[train]'\n"),
        (KeyError("k"), 1, "train: 'k'\n"),
        (KeyboardInterrupt(), 130, "train: interrupted\n"),
    ],
)
def test_errors_of_scripts_are_one_line(
    error: BaseException | None,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def main() -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    assert exit_status(main, (KeyError,)) == status
    assert capsys.readouterr().err == said
    if isinstance(error, KeyError):
        with pytest.raises(KeyError):
            exit_status(main)


@pytest.mark.parametrize("files", ["foo", "0x1", "3x0", "x"])
def test_invalid_sets_of_files(files: str) -> None:
    done = python(SCRIPTS / "benchmarks" / "files.py", "--files", files)
    assert done.returncode == 2
    assert f"invalid sounds value: '{files}'" in done.stderr
