"""The network as a graph (torch.export, torch.compile, TorchScript) and its higher derivatives."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dac_codec.model import DAC
from dac_codec.model.snake import snake
from tests.conftest import golden_model
from tests.inference.networks import TINY, lively
from tests.model.test_snake import formula

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture(scope="module")
def model() -> DAC:
    return golden_model("44khz")


class Decoding(nn.Module):
    """`decode_codes` as a forward pass."""

    def __init__(self, model: DAC) -> None:
        super().__init__()
        self.model = model

    def forward(self, codes: Tensor) -> Tensor:
        return self.model.decode_codes(codes)


class Encoding(nn.Module):
    """`encode` as a forward pass, to codes."""

    def __init__(self, model: DAC) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio: Tensor) -> Tensor:
        return self.model.encode(audio).codes


def codes_of(n_frames: int, n_codebooks: int = 9) -> Tensor:
    return torch.randint(0, 1024, (1, n_codebooks, n_frames), generator=torch.Generator().manual_seed(n_frames))


def audio_of(n_samples: int) -> Tensor:
    return 0.1 * torch.randn(1, 1, n_samples, generator=torch.Generator().manual_seed(n_samples))


@torch.no_grad()
def test_export_at_a_free_length() -> None:
    model = lively(TINY, torch.float32)

    def exported(module: nn.Module, given: Tensor) -> nn.Module:
        free = ({2: torch.export.Dim.DYNAMIC},)
        return torch.export.export(module, (given,), dynamic_shapes=free, strict=False).module()

    decoding, encoding = exported(Decoding(model), codes_of(5, 3)), exported(Encoding(model), audio_of(30))
    for length in (3, 8):
        codes, audio = codes_of(length, 3), audio_of(length * 6 - 1)
        torch.testing.assert_close(decoding(codes), model.decode_codes(codes), atol=1e-5, rtol=1e-4)
        assert torch.equal(encoding(audio), model.encode(audio).codes)


@torch.no_grad()
@pytest.mark.parametrize("kind", [Decoding, Encoding])
def test_one_graph_without_breaks(kind: Callable[[DAC], nn.Module], model: DAC) -> None:
    given = codes_of(5) if kind is Decoding else audio_of(2560)
    module = kind(model)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(given), module(given), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_torchscript(model: DAC) -> None:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(Decoding(model), codes_of(5), check_trace=False), stream)
    loaded = torch.jit.load(io.BytesIO(stream.getvalue()))
    torch.testing.assert_close(loaded(codes_of(5)), model.decode_codes(codes_of(5)), atol=1e-5, rtol=1e-4)


def test_codes_out_of_range_are_refused_outside_of_graphs(model: DAC) -> None:
    with pytest.raises(ValueError, match="between 0 and 1023"):
        model.decode_codes(codes_of(5) + 1024)


# Derivatives ---------------------------------------------------------------------------------------------------------


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), (0.5 + torch.rand(1, 3, 1, generator=generator, dtype=torch.float64)).requires_grad_()


def test_second_derivatives() -> None:
    assert torch.autograd.gradcheck(snake, inputs())
    assert torch.autograd.gradgradcheck(snake, inputs())


def test_a_gradient_penalty() -> None:
    x, alpha = inputs()
    found, expected = [], []
    for function, gradients in ((snake, found), (formula, expected)):
        (slope,) = torch.autograd.grad(function(x, alpha).sum(), x, create_graph=True)
        gradients.extend(torch.autograd.grad((slope.square().sum() - 1).square(), (x, alpha)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_transforms_of_functions() -> None:
    x, alpha = inputs()
    x, alpha = x.detach(), alpha.detach()
    slope = torch.func.grad(lambda x: snake(x, alpha).sum())(x)
    torch.testing.assert_close(slope, torch.func.grad(lambda x: formula(x, alpha).sum())(x))
    found = torch.func.vmap(lambda row: snake(row[None], alpha)[0])(x)
    torch.testing.assert_close(found, snake(x, alpha))
    _, tangent = torch.func.jvp(lambda x: snake(x, alpha), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, slope)
