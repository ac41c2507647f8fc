"""The scripts that measure a model and what training it costs."""

from __future__ import annotations

import json
import subprocess
import sys
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
    command = [sys.executable, SCRIPTS / "benchmarks" / "files.py", "--files", "2x0.2", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [row.split(" | ") for row in done.stdout.splitlines()]
    assert [len(row) for row in rows[0:1] + rows[2:]] == [5, 5, 5]
    assert [row[:2] for row in rows[2:]] == [["| 2 of 0.2 s", "compress"], ["| 2 of 0.2 s", "decompress"]]


def test_the_latency_table() -> None:
    done = subprocess.run([sys.executable, SCRIPTS / "latency.py"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    # 3733 and 4757 are what the streams of these strides were seen to wait for: tests/inference/test_look_ahead.py.
    assert "| 44khz | 512 (11.6 ms) | 3733 (84.6 ms) | 4757 (107.9 ms) | 204.1 ms |" in lines
    assert "| 44khz, causal | 512 (11.6 ms) | 0 (0.0 ms) | 0 (0.0 ms) | 11.6 ms |" in lines
    assert len(lines) == 2 + 2 * 5


def test_each_change_is_left_out_and_comes_back() -> None:
    """What is put in its place is another thing that gives the same."""
    script = load_script("benchmarks/training")
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


def test_the_cost_of_training_is_measured(tmp_path: Path) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 44100), 44100)
    settings = ["experiment=overfit", f"data.sounds={tmp_path}", "model.encoder_dim=2", "model.decoder_dim=16"]
    command = [sys.executable, str(SCRIPTS / "benchmarks" / "training.py"), *settings, "trainer.batch_size=1"]
    done = subprocess.run(
        [*command, "--rounds", "1", "--only", "float32", *WITHOUT], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "excerpts/s from one worker" in done.stdout
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["| float32", *(f"| {name}" for name in WITHOUT)]
    assert all(float(row[3]) > 0 for row in rows[2:])


def write_report(folder: Path, **values: float) -> None:
    folder.mkdir()
    means = [
        {"domain": "all", "codec": "ours", "payload_kbps": 1.0, "measures": {name: [9.0, 9, 9, 1] for name in values}},
        {
            "domain": "all",
            "codec": "ours",
            "payload_kbps": 7.0,
            "measures": {n: [v, v, v, 1] for n, v in values.items()},
        },
        {"domain": "all", "codec": "opus", "payload_kbps": 8.0, "measures": {name: [7.0, 7, 7, 1] for name in values}},
    ]
    metrics = [{"name": name, "higher_is_better": name == "si_sdr"} for name in values]
    (folder / "report.json").write_text(json.dumps({"means": means, "metrics": metrics}))


def test_where_the_line_leads(tmp_path: Path) -> None:
    """On a straight line, the third point and the bar are where they must be."""
    for index, (mel, sdr, stft) in enumerate([(1.6, 1.0, 3.0), (1.5, 3.0, 3.1), (1.4, 5.0, 3.2)]):
        write_report(tmp_path / str(index), mel_distance=mel, si_sdr=sdr, stft_distance=stft)
    reports = [f"{1000 * 2**index}={tmp_path / str(index)}" for index in range(3)]
    command = [sys.executable, str(SCRIPTS / "extrapolate.py"), *reports, "--output", str(tmp_path / "curve.svg")]
    command += ["--bar", "mel_distance=1.2", "si_sdr=4.5", "stft_distance=2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2:] == [
        "| mel_distance | 1.600 | 1.500 | 1.400 | -0.100 | 1.2 | 1.6e+04 steps |",
        "| si_sdr | 1.000 | 3.000 | 5.000 | +2.000 | 4.5 | met |",
        "| stft_distance | 3.000 | 3.100 | 3.200 | +0.100 | 2 | never |",
    ]
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["5=a", "--bar", "mel_distance=1"], "reports of two numbers of steps"),
        (["5=a", "5=b", "--bar", "mel_distance=1"], "two reports are of the same number of steps"),
        (["5=a", "6=nowhere", "--bar", "mel_distance=1"], "can't read the report nowhere/report.json"),
        (["5=a", "6=b", "--bar", "pesq=1"], "the report of step 5 has no pesq; it has mel_distance"),
    ],
)
def test_reports_that_make_no_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    for name in "ab":
        write_report(tmp_path / name, mel_distance=1.0)
    command = [sys.executable, str(SCRIPTS / "extrapolate.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("extrapolate: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_spectrograms_of_clips(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 44100), 44100)
    pretrained.save(golden_model("44khz"), tmp_path / "model")
    command = [sys.executable, str(SCRIPTS / "spectrograms.py"), "a.wav", "--model", "model", "--output", "a.jpg"]
    done = subprocess.run([*command, "--clips", "a.wav"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.jpg").read_bytes().startswith(b"\xff\xd8\xff")
    done = subprocess.run([*command, "--clips", "b.wav"], cwd=tmp_path, capture_output=True, text=True)
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
def test_what_ends_a_script_is_one_line(
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
def test_files_that_are_no_number_of_sounds(files: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "benchmarks" / "files.py", "--files", files], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"invalid sounds value: '{files}'" in done.stderr
