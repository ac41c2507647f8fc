"""The script that measures other runtimes: the networks that they get, and its table without them."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dac_codec import pretrained
from dac_codec.errors import exit_status
from tests.conftest import golden_model


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    return importlib.import_module("benchmark_backends")


@torch.no_grad()
def test_others_get_the_same_network(backends: ModuleType) -> None:
    model = golden_model("44khz")
    z = torch.randn(1, model.config.latent_width, 20, generator=torch.Generator().manual_seed(0))
    for network, x in ((model.encoder, model.decode(z)), (model.decoder, z)):
        expected, exact, rough = network(x), *(backends.plain(network, rough)(x) for rough in (False, True))
        torch.testing.assert_close(exact, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        error = (rough - expected).abs().max() / expected.abs().max()
        assert 1e-5 < error < 1e-2
        assert not [name for name, _ in backends.plain(network, False).named_parameters() if "original" in name]


def run(
    backends: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["benchmark_backends.py", *options])
    status = exit_status(backends.main)
    return status, *capsys.readouterr()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_the_table_without_the_others(
    tmp_path: Path,
    backends: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    n_threads: int,
) -> None:
    pretrained.save(golden_model("44khz"), tmp_path / "tiny")
    monkeypatch.setattr(backends, "find_spec", lambda package: None)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        status, out, err = run(
            backends, monkeypatch, capsys, "--models", str(tmp_path / "tiny"), "--seconds", "0.2", "--rounds", "1"
        )
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert status == 0
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("| ")]
    head, exact, default, *others = table
    assert {len(row) for row in table} == {len(head)}
    assert [exact[0], default[0]] == ["dac_codec, exact", "dac_codec, default"]
    assert [row[0] for row in others] == ["dac_codec, default, a clip for each thread"][: n_threads - 1]
    measured = dict(zip(head, exact, strict=True))
    assert measured["equal codes"] == "100.00%"
    assert measured["largest difference"] == "0.0e+00"
    assert default[head.index("to the default")] == "1.00x"
    for row in others:
        accuracy = [head.index(name) for name in ("equal codes", "largest difference", "mel distance")]
        assert [row[index] for index in accuracy] == [default[index] for index in accuracy]
    missing = [line for line in err.splitlines() if line.endswith("is missing: pip install openvino")]
    assert [line.split(" is ")[0] for line in missing] == [
        f"OpenVINO in {kind}" for kind in ("float32", "float32", "bfloat16", "int8")
    ]
    assert err.count("is missing: pip install onnxruntime") == 2


def test_a_model_that_is_not_there_is_named(
    backends: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(backends, monkeypatch, capsys, "--models", "nowhere")
    assert status == 1
    assert err.startswith("benchmark_backends: ")
    assert "nowhere" in err
    assert len(err.splitlines()) == 1
