"""Snake and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

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
