"""Activations into a buffer, with and without a compiler."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._inductor import config as inductor

from dac_codec.inference import StreamingDecoder, StreamingEncoder, activation, layers, prepare
from dac_codec.inference.activation import _rough_squared_sine, scales, snake_into
from tests.conftest import golden_model
from tests.inference.networks import noise, pieces, run
from tests.model.test_snake import alphas, formula, signal
from tests.processes import python


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 9, 5), (3, 9, 5), (2, 0, 5), (1, 800_000, 3)])
def test_snake_into_a_part_of_a_buffer(shape: tuple[int, int, int], dtype: torch.dtype, out_dtype: torch.dtype) -> None:
    x, alpha = signal(*shape, dtype=dtype), alphas(shape[2])
    before = x.clone()
    whole = torch.full((shape[0], shape[1] + 3, shape[2]), 7.0, dtype=out_dtype)
    snake_into(x, scales(alpha), whole[:, 2:-1])
    assert torch.allclose(whole[:, 2:-1].double(), formula(x, alpha), atol=2e-6 if out_dtype == torch.float32 else 0.05)
    assert (whole[:, :2] == 7).all()
    assert (whole[:, -1] == 7).all()
    assert torch.equal(x, before)


@pytest.mark.filterwarnings("error")
def test_values_do_not_depend_on_their_neighbours() -> None:
    """The result does not depend on a value's position, so streams equal whole signals bit for bit."""
    x, factors = 30 * signal(1, 200, 1), scales(torch.full((1,), 1.3))
    x[0, ::50] *= 1e5
    x[0, 7::90] = math.inf
    whole, part = torch.empty_like(x), torch.empty_like(x)
    snake_into(x, factors, whole)
    for start, stop in [(0, 1), (1, 200), (3, 20), (7, 8), (50, 51), (64, 199)]:
        snake_into(x[:, start:stop], factors, part[:, start:stop])
        assert torch.equal(part[:, start:stop].view(torch.int32), whole[:, start:stop].view(torch.int32))


def test_values_do_not_depend_on_the_threads() -> None:
    x, factors = 3 * signal(1, 100_003, 5), scales(alphas(5))
    one, several = torch.empty_like(x), torch.empty_like(x)
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        snake_into(x, factors, one)
        torch.set_num_threads(3)
        snake_into(x, factors, several)
    finally:
        torch.set_num_threads(n_threads)
    assert torch.equal(one, several)
    assert torch.allclose(one.double(), formula(x, factors.alpha), atol=2e-6)


@pytest.mark.parametrize("largest", [1e-4, 1.0, 30.0])
def test_the_rough_sine_is_accurate_enough_for_bfloat16(largest: float) -> None:
    x = torch.linspace(-largest, largest, 100_000)[None, :, None]
    factors = scales(torch.ones(1))
    found = _rough_squared_sine(x, factors.turns, torch.empty_like(x)).double() * factors.height
    expected = torch.sin(x.double()).square()
    assert torch.allclose(found, expected, rtol=8.5e-4, atol=1e-6 * min(1, largest) * largest)


def test_scratch_memory_of_inference_mode_serves_outside_of_it() -> None:
    """A thread's scratch memory does not depend on the mode and the default device of its first use."""
    x, factors = signal(1, 50, 5, dtype=torch.bfloat16), scales(alphas(5))
    expected = formula(x, factors.alpha)
    for out_dtype in (torch.float32, torch.bfloat16):
        activation._scratches.__dict__.clear()
        with torch.inference_mode(), torch.device("meta"):
            snake_into(x, factors, torch.empty_like(x, dtype=out_dtype))
        out = torch.empty_like(x, dtype=out_dtype)
        snake_into(x, factors, out)
        assert torch.allclose(out.double(), expected, atol=2e-6 if out_dtype == torch.float32 else 0.05)


def test_scratch_memory_of_a_full_tile_is_kept() -> None:
    tile = torch.empty(1, layers._TILE_BYTES // 4 // 64, 64)
    memory = activation._scratch("squared", tile, torch.float32)
    assert activation._scratch("squared", tile, torch.float32).data_ptr() == memory.data_ptr()
    assert activation._scratch("squared", tile[:, 1:], torch.float32).data_ptr() == memory.data_ptr()
    activation._scratches.__dict__.clear()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@torch.no_grad()
def test_compiled_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch would try each kind of vector instructions of this processor in a new interpreter.
    monkeypatch.setattr(inductor.cpp, "vec_isa_ok", True)
    activation._compiler.cache_clear()
    torch._dynamo.reset()
    model = golden_model("44khz")
    compiled, plain = prepare(model, compile=True, exact=True), prepare(model, exact=True)
    assert compiled._snake is not None
    n_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    audio = noise(1, 1, 20_000, dtype=torch.float32)
    codes = plain.encode(audio).codes
    assert (compiled.encode(audio).codes == codes).float().mean() > 0.999
    assert torch.allclose(compiled.decode_codes(codes), plain.decode_codes(codes), atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == n_graphs > 0


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item per compiled graph, with a backend that returns graphs as they are."""
    found: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., Any]:
        found.append(len(found))
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    torch._dynamo.reset()
    mine = activation.CompiledSnake()
    monkeypatch.setattr(activation, "_compiler", lambda: mine)
    return found


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"exact": True}], ids=str)
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_preparing_compiles_everything(options: dict[str, Any], precision: str, compilations: list[int]) -> None:
    """No compilation afterwards, for any shape, in a thread with other modes than the one that prepared the model."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        compiled = prepare(golden_model("44khz"), compile=True, **options)
        assert len(compilations) == (3 if "dtype" in options else 1)
        audio = noise(3, 1, 3000, dtype=torch.float32)

        def there_and_back(batch: int) -> None:
            codes = compiled.encode(audio[:batch]).codes
            compiled.decode_codes(codes)
            encoder, decoder = StreamingEncoder(compiled, batch_size=batch), StreamingDecoder(compiled, batch)
            codes = run(encoder.push, encoder.flush, pieces(audio[:batch], [700]))
            run(decoder.push, decoder.flush, pieces(codes, [2]))

        with ThreadPoolExecutor(1) as pool:
            for batch in (1, 2, 3):
                pool.submit(there_and_back, batch).result()
        assert len(compilations) == (3 if "dtype" in options else 1)
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_compiler_fails_later(compilations: list[int]) -> None:
    compiled = activation.CompiledSnake()
    x, factors = noise(2, 9, 5), scales(torch.rand(5, dtype=torch.float64))
    found, expected = torch.empty_like(x), torch.empty_like(x)
    snake_into(x, factors, expected)
    compiled(x, factors, found)
    assert torch.allclose(found, expected, atol=1e-12)

    def fail(*arguments: object) -> None:
        raise RuntimeError("no compiler\nany more")

    compiled._one_pass = fail
    with pytest.warns(UserWarning, match=r"^activations are not compiled: no compiler$"):
        compiled(x, factors, found.fill_(0))
    assert torch.equal(found, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(x, factors, found.fill_(0))
    assert torch.equal(found, expected)


_NO_COMPILER = """
import warnings
import torch
from torch._inductor import config
config.cpp.cxx = ("/nonexistent/c++",)
from tests.conftest import golden_model
from dac_codec.inference import prepare
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    prepared = prepare(golden_model("44khz"), compile=True)
told = [str(warning.message) for warning in caught if "activations are not compiled" in str(warning.message)]
assert len(told) == 1 and "\\n" not in told[0], told
assert prepared.encode(torch.zeros(1, 1, 1000)).codes.shape[-1] == 2
print("went on")
"""


def test_without_a_compiler(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(_NO_COMPILER)
    folders = dict.fromkeys(("PATH", "TORCHINDUCTOR_CACHE_DIR", "HOME"), str(tmp_path))
    done = python(tmp_path / "script.py", env=folders)
    assert done.stdout == "went on\n", done.stderr
