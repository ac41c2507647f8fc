"""The calling program's precision settings have no effect on the network and are restored."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from dac_codec import inference
from dac_codec.inference import prepare
from dac_codec.inference.precision import pinned_precision
from dac_codec.inference.quantizer import FoldedQuantizer
from tests.conftest import golden_model
from tests.inference.networks import noise

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def settings_stay_here() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    for backend in (torch.backends.cuda, torch.backends.mkldnn):
        if hasattr(getattr(backend, "matmul", None), "fp32_precision"):
            backend.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision(before)


@torch.no_grad()
def test_autocast_has_no_effect() -> None:
    model, audio = golden_model("44khz"), noise(1, 1, 3000, dtype=torch.float32)
    plain = inference.encode(model, audio)
    decoded = inference.decode(model, plain)
    for options in ({"exact": True}, {"dtype": "float32"}):
        expected = prepare(model, **options).encode(audio)  # type: ignore[arg-type]
        decoded = prepare(model, **options).decode_codes(expected.codes)  # type: ignore[arg-type]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            prepared = prepare(model, **options)  # type: ignore[arg-type]
            for found, wanted in zip(prepared.encode(audio), expected, strict=True):
                assert torch.equal(found, wanted)
            assert torch.equal(prepared.decode(expected.z), prepared.decode_codes(expected.codes))
            assert torch.equal(prepared.decode_codes(expected.codes), decoded)
            assert torch.equal(inference.encode(prepared, audio), expected.codes)
            assert torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(inference.encode(model, audio), plain)
        assert torch.equal(inference.decode(model, plain), decoded)


@pytest.mark.parametrize("precision", ["high", "medium"])
@torch.no_grad()
def test_exact_ignores_the_matmul_precision(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, audio = golden_model("44khz"), noise(1, 1, 3000, dtype=torch.float32)
    seen = []
    look_up = FoldedQuantizer._look_up

    def seeing(method: Any) -> Any:
        def seen_by(*arguments: Any) -> Any:
            seen.append(torch.get_float32_matmul_precision())
            return method(*arguments)

        return seen_by

    exact, near = prepare(model, exact=True), prepare(model, dtype="float32")
    expected = exact.encode(audio)
    decoded = exact.decode(expected.z)
    torch.set_float32_matmul_precision(precision)
    monkeypatch.setattr(FoldedQuantizer, "_look_up", seeing(look_up))
    for found, wanted in zip(exact.encode(audio), expected, strict=True):
        assert torch.equal(found, wanted)
    assert torch.equal(exact.decode(expected.z), decoded)
    assert torch.equal(inference.encode(exact, audio), expected.codes)
    assert set(seen) == {"highest"}
    seen.clear()
    near.encode(audio)
    assert seen == [precision]
    assert torch.get_float32_matmul_precision() == precision


def test_the_last_thread_restores_the_setting() -> None:
    torch.set_float32_matmul_precision("medium")
    inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with pinned_precision(CPU, exact=True):
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=stay)
    with pinned_precision(CPU, exact=True):
        thread.start()
        assert inside.wait(30)
    assert torch.get_float32_matmul_precision() == "highest"
    leave.set()
    thread.join()
    assert torch.get_float32_matmul_precision() == "medium"


@pytest.mark.parametrize("exact", [False, True])
def test_the_flags_of_cudnn(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    for deterministic in (False, True):
        monkeypatch.setattr(cudnn, "deterministic", deterministic)
        monkeypatch.setattr(cudnn, "benchmark", not deterministic)
        allowed = cudnn.allow_tf32
        with pinned_precision(CUDA, exact):
            assert cudnn.allow_tf32 == (allowed and not exact)
            assert (cudnn.deterministic, cudnn.benchmark) == (deterministic, not deterministic)
            with pinned_precision(CUDA, exact):
                pass
        assert cudnn.allow_tf32 == allowed
        assert (cudnn.deterministic, cudnn.benchmark) == (deterministic, not deterministic)


def test_settings_of_one_backend() -> None:
    """PyTorch does not allow to mix them with settings for all backends."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this version of PyTorch has no such settings")
    matmul.fp32_precision = "bf16"
    with pinned_precision(CPU, exact=True):
        assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == "bf16"


def test_devices_without_autocast() -> None:
    with pinned_precision(torch.device("meta"), exact=True):
        pass
