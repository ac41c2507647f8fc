"""The script that measures speed: its arithmetic, and whole runs on a tiny network."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.utils.flop_counter import FlopCounterMode

from dac_codec import pretrained
from dac_codec.model import DAC
from tests.conftest import golden_model, load_script

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"
PACKAGES = {"descript-audio-codec": "dac", "transformers": "transformers", "encodec": "encodec", "snac-24khz": "snac"}

# Stands for the reference: our network, whose decoder is wrong by a little, and which finds another code now and then.
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


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("compare")


@pytest.fixture
def model(tmp_path: Path) -> DAC:
    model = golden_model("44khz")
    pretrained.save(model, tmp_path / "tiny")
    return model


def run(folder: Path, *options: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "compare.py"), "--output", "report", "--seconds", "0.2", "--rounds", "2"]
    paths = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *sys.path])}
    return subprocess.run([*command, *options], cwd=folder, env=environment, capture_output=True, text=True)


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
        assert found["encoder"] * seconds == pytest.approx(counter.get_total_flops(), rel=1e-3)
        with FlopCounterMode(display=False) as counter:
            codes = model.quantizer(z).codes
        look_up = 2 * codes.numel() * model.codebook_size * model.config.codebook_dim
        assert found["quantizing"] * seconds == pytest.approx(counter.get_total_flops() - look_up, rel=1e-3)
        with FlopCounterMode(display=False) as counter:
            z = model.quantizer.from_codes(codes)[0]
        assert found["dequantizing"] * seconds == pytest.approx(counter.get_total_flops(), rel=1e-3)
        with FlopCounterMode(display=False) as counter:
            model.decoder(z)
        assert found["decoder"] * seconds == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_run_leaves_tables_and_a_picture(tmp_path: Path, model: DAC) -> None:
    rows = ["plain", *PACKAGES]
    done = run(tmp_path, "--models", "tiny", "--rows", *rows, "--batch", "1", "2")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.json", "report.md", "speed.svg"}
    assert (tmp_path / "report" / "report.md").read_text() == done.stdout
    report = read(tmp_path)
    missing = {module for module in PACKAGES.values() if importlib.util.find_spec(module) is None}
    assert {sentence.split()[-1] for sentence in report["left_out"]} == missing
    for sentence in report["left_out"]:
        assert sentence in done.stderr
        assert sentence in done.stdout
    assert report["peak_gflops"].keys() == {"float32", "bfloat16"}
    assert report["machine"]["ours"]["threads"] == report["machine"]["others"]["threads"]

    network = report["networks"]["tiny"]
    ours = [row for row in network["speed"] if row["title"].startswith("dac_codec")]
    assert [row["batch"] for row in ours] == [1, 2]
    for row in ours:
        assert row["arithmetic"] == "float32"
        for operation in ("encode", "decode"):
            found = row[operation]
            low, high = found["quartiles"]
            assert 0 < low <= found["seconds"] <= high
            assert found["real_time"] == pytest.approx(0.2 * row["batch"] / found["seconds"])
            assert found["gflops"] == pytest.approx(network["gflop_per_second"][operation] * found["real_time"])
            assert found["share_of_peak"] == pytest.approx(found["gflops"] / report["peak_gflops"]["float32"])
    assert [(row["title"], row["operation"]) for row in network["stages"]] == [
        ("dac_codec, the network as it is trained", "encode"),
        ("dac_codec, the network as it is trained", "decode"),
    ]
    for row in network["stages"]:
        assert row["seconds"].keys() == {"convolutions", "activations", "quantizer", "rest"}
        assert min(row["seconds"].values()) > 0


def test_the_reference_is_compared_with(tmp_path: Path, model: DAC) -> None:
    package = tmp_path / "others" / "dac"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(DOUBLE)
    done = run(
        tmp_path, "--models", "tiny", "--rows", "plain", "exact", "descript-audio-codec", path=tmp_path / "others"
    )
    assert done.returncode == 0, done.stderr
    report = read(tmp_path)
    assert report["left_out"] == []
    network = report["networks"]["tiny"]
    ours, exact, theirs = network["speed"]
    assert exact["arithmetic"] == "float32"
    assert theirs["encode"]["ratio"] == 1
    assert ours["encode"]["ratio"] == pytest.approx(theirs["encode"]["seconds"] / ours["encode"]["seconds"])
    found, of_the_engine = network["accuracy"]
    assert of_the_engine["largest_difference"] == pytest.approx(0.001, rel=1e-2)
    n_codes = model.n_codebooks * -(-round(0.2 * model.sample_rate) // model.hop_length)
    assert found["equal_codes"] == pytest.approx(1 - 1 / n_codes)
    assert found["largest_difference"] == pytest.approx(0.001, rel=1e-2)
    assert 0 < found["mel_distance_same_codes"] < found["mel_distance_own_codes"]


def test_whole_processes_are_timed(tmp_path: Path, model: DAC) -> None:
    done = run(tmp_path, "--models", "tiny", "--rows", "command-line", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    (row,) = read(tmp_path)["networks"]["tiny"]["command_line"]
    assert row["title"] == "dac-codec"
    for operation in ("compress", "decompress"):
        assert row[operation]["real_time"] == pytest.approx(30 / row[operation]["seconds"])
    assert "| dac-codec |" in done.stdout


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--models", "nowhere"], "nowhere"),
        (["--models", "tiny", "--other", "no/such/python"], "no/such/python"),
        (["--models", "tiny", "--other", "/bin/false"], "/bin/false"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, model: DAC, options: list[str], named: str) -> None:
    done = run(tmp_path, *options, "--rows", "plain")
    assert done.returncode == 1
    assert done.stderr.startswith("compare: ")
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list((tmp_path / "report").iterdir()) == []


def test_triton_kernels_count_among_the_activations() -> None:
    """As an event of the GPU that no operation of the processor launched; what one did launch counts once."""
    worker = load_script("benchmarks/worker")

    def operation(name: str, microseconds: float, *kernels: tuple[str, float], above: Any = None) -> Any:
        return SimpleNamespace(
            name=name,
            device_type=DeviceType.CPU,
            self_device_time_total=microseconds,
            self_cpu_time_total=1e6,
            cpu_parent=above,
            kernels=[SimpleNamespace(name=kernel, duration=duration) for kernel, duration in kernels],
        )

    def kernel(name: str, microseconds: float, is_user_annotation: bool = False) -> Any:
        return SimpleNamespace(
            name=name,
            device_type=DeviceType.CUDA,
            time_range=SimpleNamespace(elapsed_us=lambda: microseconds),
            is_user_annotation=is_user_annotation,
        )

    quantizer = operation("quantizer", 0)
    events = [
        quantizer,
        operation("aten::mm", 5e6, ("cutlass_gemm", 5e6), above=quantizer),
        operation("aten::cudnn_convolution", 2e6, ("cutlass_gemm", 2e6)),
        operation("_Snake", 1e6, ("_forward_kernel", 1e6)),
        kernel("cutlass_gemm", 5e6),
        kernel("cutlass_gemm", 2e6),
        kernel("_forward_kernel", 1e6),
        kernel("_forward_kernel", 3e6),
        kernel("Memset (Device)", 4e6),
        kernel("quantizer", 9e6, is_user_annotation=True),
    ]
    spent = worker._spent(events, cuda=True)
    assert {kind: spent[kind] for kind in ("convolutions", "activations", "quantizer", "rest")} == pytest.approx(
        {"convolutions": 2, "activations": 4, "quantizer": 5, "rest": 4}
    )


def test_cudnn_stays_as_it_is_but_for_its_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, cudnn = load_script("benchmarks/worker"), torch.backends.cudnn
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
