"""scripts/benchmarks: compare.py and before_after.py on a tiny network, and the statistics of timing.py."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dac_codec import pretrained
from dac_codec.model import DAC
from tests.conftest import golden_model
from tests.processes import python

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"
PACKAGES = {"descript-audio-codec": "dac", "transformers": "transformers", "encodec": "encodec", "snac-24khz": "snac"}

# Stands for the reference: our network, with an offset in the decoder, and other codes in the first frame.
DOUBLE = """
from dac_codec.model import DAC as OurDAC, DACConfig

class DAC(OurDAC):
    def __init__(self, **kwargs):
        super().__init__(DACConfig.from_dict(kwargs))

    def encode(self, audio):
        found = super().encode(audio)
        found.codes[:, 0, 0] = (found.codes[:, 0, 0] + 1) % self.codebook_size
        return found

    def decode(self, z):
        return super().decode(z) + 0.001
"""

# Without warm-up. One thread, as its processes are forks of it.
ONCE = """
import compare, sys, torch
torch.set_num_threads(1)
compare.WARM_UP = 0
sys.exit(compare.main())
"""


@pytest.fixture
def benchmark() -> ModuleType:
    return import_module("compare")


@pytest.fixture
def model(tmp_path: Path) -> DAC:
    model = golden_model("44khz")
    pretrained.save(model, tmp_path / "tiny")
    return model


COMMON = ["--output", "report", "--seconds", "0.2"]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return python(SCRIPTS / "compare.py", *COMMON, *options, cwd=folder, env=environment)


def read(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report" / "report.json").read_text())
    return report


@pytest.mark.parametrize("name", ["44khz", "24khz"])
def test_the_operations_are_those_that_torch_counts(benchmark: ModuleType, name: str) -> None:
    model = golden_model(name)
    seconds = 10
    audio = torch.zeros(1, 1, model.hop_length * round(seconds * model.config.frame_rate))
    found = benchmark.costs(model)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            z = model.encoder(audio)
            codes = model.quantizer(z).codes
        look_up = 2 * codes.numel() * model.codebook_size * model.config.codebook_dim
        assert found["encode"] * seconds == pytest.approx(counter.get_total_flops() - look_up, rel=1e-3)
        with FlopCounterMode(display=False) as counter:
            model.decoder(model.quantizer.from_codes(codes)[0])
        assert found["decode"] * seconds == pytest.approx(counter.get_total_flops(), rel=1e-3)


@pytest.mark.slow
def test_a_run_leaves_tables_and_a_picture(tmp_path: Path, model: DAC) -> None:
    """All rows beside a double of the reference, in one run, as its processes take most of the time."""
    package = tmp_path / "others" / "dac"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(DOUBLE)
    (tmp_path / "once.py").write_text(ONCE)
    rows = ["plain", "exact", *PACKAGES, "command-line"]
    options = ["--models", "tiny", "--rows", *rows, "--batch", "1", "2", "--file-seconds", "0.5", "--rounds", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(SCRIPTS), *sys.path])}
    done = python(tmp_path / "once.py", *COMMON, *options, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.json", "report.md", "speed.svg"}
    assert (tmp_path / "report" / "report.md").read_text() == done.stdout
    report = read(tmp_path)
    missing = {module for module in PACKAGES.values() if importlib.util.find_spec(module) is None} - {"dac"}
    left_out = [sentence for sentence in report["left_out"] if "command line" not in sentence]
    assert {sentence.split()[-1] for sentence in left_out} == missing
    for sentence in report["left_out"]:
        assert sentence in done.stderr
        assert sentence in done.stdout
    assert report["peak_gflops"].keys() == {"float32", "bfloat16"}
    assert report["machine"]["ours"]["threads"] == report["machine"]["others"]["threads"]
    check_speeds(report)
    check_the_comparison_with_the_double(report, model)
    row = report["networks"]["tiny"]["command_line"][0]
    assert row["title"] == "dac-codec"
    for operation in ("compress", "decompress"):
        assert row[operation]["real_time"] == pytest.approx(0.5 / row[operation]["median"])
    assert "| dac-codec |" in done.stdout


def check_speeds(report: dict[str, Any]) -> None:
    network = report["networks"]["tiny"]
    ours = [row for row in network["speed"] if row["title"].startswith("dac_codec")]
    assert [row["batch"] for row in ours] == [1, 1, 2, 2]
    for row in ours:
        assert row["arithmetic"] == "float32"
        for operation in ("encode", "decode"):
            found = row[operation]
            low, high = found["quartiles"]
            assert 0 < found["least"] <= low <= found["median"] <= high
            assert found["real_time"] == pytest.approx(0.2 * row["batch"] / found["median"])
            assert found["gflops"] == pytest.approx(network["gflop_per_second"][operation] * found["real_time"])
            assert found["share_of_peak"] == pytest.approx(found["gflops"] / report["peak_gflops"]["float32"])


def check_the_comparison_with_the_double(report: dict[str, Any], model: DAC) -> None:
    network = report["networks"]["tiny"]
    ours = next(row for row in network["speed"] if row["title"].startswith("dac_codec"))
    theirs = next(row for row in network["speed"] if row["encode"]["ratio"] == 1 and row["batch"] == 1)
    pairs = zip(theirs["encode"]["times"], ours["encode"]["times"], strict=True)
    assert ours["encode"]["ratio"] == pytest.approx(statistics.median(before / after for before, after in pairs))
    found, prepared = network["accuracy"]
    assert prepared["largest_difference"] == pytest.approx(0.001, rel=1e-2)
    n_codes = model.n_codebooks * -(-round(0.2 * model.sample_rate) // model.hop_length)
    assert found["equal_codes"] == pytest.approx(1 - 1 / n_codes)
    assert found["largest_difference"] == pytest.approx(0.001, rel=1e-2)
    assert 0 < found["mel_distance_same_codes"] < found["mel_distance_own_codes"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--models", "nowhere"], "nowhere"),
        (["--models", "tiny", "--other", "no/such/python"], "no/such/python"),
        (["--models", "tiny", "--other", "/bin/false"], "/bin/false"),
    ],
)
def test_missing_models_and_interpreters_are_named(tmp_path: Path, model: DAC, options: list[str], named: str) -> None:
    done = run(tmp_path, *options, "--rows", "plain")
    assert done.returncode == 1
    assert done.stderr.startswith("compare: ")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "report").iterdir()) == []


def test_interleaved_times_and_paired_ratios() -> None:
    timing = import_module("timing")
    calls = []

    def task(name: str, times: list[float]) -> Any:
        return lambda: calls.append(name) or times[calls.count(name) - 1]

    tasks = {"a": task("a", [9, 1, 2, 3]), "b": task("b", [9, 2, 8, 3])}
    times = timing.interleave(tasks, rounds=3)
    assert calls == ["a", "b"] * 4
    assert times == {"a": [1, 2, 3], "b": [2, 8, 3]}
    assert timing.summarize(times["a"], times["b"]) == timing.Timing(1, 2, (1.5, 2.5), 2)
    assert timing.summarize([4]) == timing.Timing(4, 4, (4, 4), None)


@pytest.mark.slow
def test_this_checkout_is_compared_with_itself(tmp_path: Path, model: DAC) -> None:
    options = ["--model", "tiny", "--rounds", "1", "--warm-up", "0", "--seconds", "0.1", "--file-seconds", "0.1"]
    arguments = ("--before", SCRIPTS.parents[1], *options)
    done = python(SCRIPTS / "before_after.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[2:8]]
    names = ["encode, exact", "decode, exact", "encode, default", "decode, default"]
    assert [row[0] for row in rows] == [*names, "dac-codec compress", "dac-codec decompress"]
    assert all(float(cell) > 0 for row in rows for cell in row[5:])
    done = python(SCRIPTS / "before_after.py", "--before", tmp_path)
    assert done.returncode == 2
    assert "is no checkout: it has no folder dac_codec" in done.stderr


def test_cudnn_flags_are_kept_but_for_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, cudnn = import_module("worker"), torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", True)
    with worker.cudnn_flags(allow_tf32=False):
        assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == (True, True, False)
    assert cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured(tmp_path: Path, model: DAC) -> None:
    done = run(tmp_path, "--models", "tiny", "--rows", "plain", "--device", "cuda")
    assert done.returncode == 0, done.stderr
    report = read(tmp_path)
    assert report["peak_gflops"].keys() == {"float32", "tf32", "bfloat16"}
    assert report["peak_gflops"]["bfloat16"] > report["peak_gflops"]["float32"]
    (row,) = report["networks"]["tiny"]["speed"]
    assert row["arithmetic"] == "tf32"
