"""Snake and its gradient, in PyTorch and in Triton."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dac_codec.inference.activation import scales, snake_into
from dac_codec.model import snake as snakes
from dac_codec.model.snake import snake


def formula(x: Tensor, alpha: Tensor) -> Tensor:
    """The formula, in double precision."""
    x, alpha = x.double(), alpha.double()
    return x + torch.sin(alpha * x).pow(2) / (alpha + 1e-9)


def signal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)


def alphas(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    alpha = 0.1 + torch.rand(shape, generator=torch.Generator().manual_seed(1))
    alpha.view(-1)[0] = 0
    alpha.view(-1)[1] *= -1
    return alpha.to(dtype)


def test_values() -> None:
    x, alpha = signal(2, 5, 100), alphas(1, 5, 1)
    assert torch.allclose(snake(x, alpha).double(), formula(x, alpha), atol=2e-6)


def test_gradient() -> None:
    x, alpha = signal(2, 5, 7, dtype=torch.float64), alphas(1, 5, 1, dtype=torch.float64)
    alpha[0, 0] = 0.3  # At zero the formula is not smooth.
    assert torch.autograd.gradcheck(snake, (x.requires_grad_(), alpha.requires_grad_()))


def test_half_precision_is_computed_in_single() -> None:
    x = signal(2, 5, 100, dtype=torch.bfloat16).requires_grad_()
    alpha = alphas(1, 5, 1).requires_grad_()
    y = snake(x, alpha)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, formula(x, alpha).to(torch.bfloat16))
    y.sum().backward()
    assert x.grad is not None
    assert alpha.grad is not None
    assert (x.grad.dtype, alpha.grad.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_of_alpha_is_computed_in_single(dtype: torch.dtype) -> None:
    x, alpha = signal(2, 5, 100, dtype=dtype), alphas(1, 5, 1, dtype=dtype)
    alpha[0, 2] = 1e-5
    y = snake(x, alpha.requires_grad_())
    assert torch.equal(y, formula(x, alpha).to(dtype))
    y.float().sum().backward()
    assert alpha.grad is not None
    assert alpha.grad.dtype == dtype


class _ClaimsToBeOnAGpu(Tensor):
    is_cuda = True  # type: ignore[assignment]


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler.\nSpecify it"), FileNotFoundError()], ids=str
)
def test_without_a_compiler_for_triton(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt, one warning, and PyTorch's result."""
    tried = []

    def launch(*arguments: object) -> None:
        tried.append(arguments)
        raise error

    fake = SimpleNamespace(forward=launch, forward_channels_last=launch, backward=launch)
    monkeypatch.setattr(snakes, "_imported_kernels", lambda: fake)
    monkeypatch.setattr(snakes, "_tried", {})
    x, alpha = signal(2, 5, 7), alphas(5)
    there = x.as_subclass(_ClaimsToBeOnAGpu)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            out = torch.empty(2, 7, 5)
            snake_into(there.transpose(1, 2).contiguous(), scales(alpha), out)
            assert torch.allclose(out.double(), formula(x.transpose(1, 2), alpha), atol=2e-6)
            found = snake(there, alpha[None, :, None])
            assert torch.allclose(found.double(), formula(x, alpha[:, None]), atol=2e-6)
    assert len(tried) == 1
    (warning,) = caught
    assert str(warning.message).startswith("activations on cpu are computed without Triton, which is slower: F")
    assert "\n" not in str(warning.message)


def test_triton_is_used_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def into(x: Tensor, alpha: Tensor, out: Tensor) -> None:
        out.fill_(7)

    fake = SimpleNamespace(forward=lambda x, alpha: x, forward_channels_last=into, backward=lambda *tensors: None)
    monkeypatch.setattr(snakes, "_imported_kernels", lambda: fake)
    monkeypatch.setattr(snakes, "_tried", {})
    out = torch.empty(2, 7, 5)
    snake_into(signal(2, 7, 5).as_subclass(_ClaimsToBeOnAGpu), scales(alphas(5)), out)
    assert (out == 7).all()


_INTERPRETED = """
import torch
from dac_codec.model import snake_triton
from tests.model.test_snake import alphas, signal, formula
torch.cuda.device_of = lambda x: torch.no_grad()
grids = []

class Watched:
    # Records the grid of each launch: two of a GPU's three axes end at 65,535.
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        grids.append(grid)
        return self.kernel[grid]

snake_triton._forward_kernel = Watched(snake_triton._forward_kernel)
snake_triton._backward_kernel = Watched(snake_triton._backward_kernel)
alpha = alphas(1, 5, 1)
alpha[0, 0] = 0.3
for dtype, rtol, atol in ((torch.float32, 1e-5, 1e-5), (torch.bfloat16, 1e-2, 1e-2)):
    for n_samples in (1, 1024, 1500):
        x = signal(2, 5, n_samples, dtype=dtype)
        exact, exact_alpha = x.double().requires_grad_(), alpha.double().requires_grad_()
        y = formula(exact, exact_alpha)
        upstream = signal(2, 5, n_samples, dtype=dtype).flip(2).contiguous()
        y.backward(upstream.double())
        assert torch.allclose(snake_triton.forward(x, alpha).double(), y, rtol, atol)
        dx, dalpha = snake_triton.backward(x, alpha, upstream)
        assert torch.allclose(dx.double(), exact.grad, rtol, atol)
        assert torch.allclose(dalpha.double(), exact_alpha.grad, rtol=1e-4, atol=1e-3)
        rows = torch.zeros(2, n_samples + 3, 5, dtype=dtype)
        snake_triton.forward_channels_last(x.transpose(1, 2).contiguous(), alpha.view(-1), rows[:, 2:-1])
        assert torch.allclose(rows[:, 2:-1].double(), y.transpose(1, 2), rtol, atol)
assert len(grids) == 18 and all(len(grid) == 1 for grid in grids), grids
print("the same")
"""


def test_the_triton_kernels_in_the_interpreter() -> None:
    """The kernels in Triton's interpreter on a CPU, against double precision."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "the same\n", done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    x, alpha = signal(3, 5, 5000, dtype=dtype), alphas(1, 5, 1)
    alpha[0, 0] = 0.3
    exact, exact_alpha = x.double().requires_grad_(), alpha.double().requires_grad_()
    y = formula(exact, exact_alpha)
    y.sum().backward()
    assert exact.grad is not None
    assert exact_alpha.grad is not None
    there, there_alpha = x.cuda().requires_grad_(), alpha.cuda().requires_grad_()
    found = snake(there, there_alpha)
    found.float().sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert torch.allclose(found.double().cpu(), y, tolerance, tolerance)
    assert there.grad is not None
    assert there_alpha.grad is not None
    assert torch.allclose(there.grad.double().cpu(), exact.grad, tolerance, tolerance)
    assert torch.allclose(there_alpha.grad.double().cpu(), exact_alpha.grad, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_compiled_gradient_is_the_same(dtype: torch.dtype) -> None:
    gradients = []
    for function in (snake, torch.compile(snake, backend="aot_eager")):
        x, alpha = signal(2, 3, 50, dtype=dtype).requires_grad_(), alphas(1, 3, 1).requires_grad_()
        function(x, alpha).float().square().sum().backward()
        gradients.append((x.grad, alpha.grad))
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert one.abs().max() > 1
        torch.testing.assert_close(one, other)
