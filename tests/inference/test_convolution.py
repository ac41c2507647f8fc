"""The convolutions over rows equal PyTorch's, for any shape."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dac_codec.inference import convolution
from dac_codec.inference.convolution import Conv, PackedConv, RowConv, can_prepack, round_up
from dac_codec.inference.winograd import WinogradConv, fastest_conv

CHANNELS = [1, 2, 7, 8, 16, 33]


def pytorch(conv: nn.Conv1d | nn.ConvTranspose1d, x: Tensor, n_places: int) -> Tensor:
    """The first outputs [B, T', O] of PyTorch's own convolution of x [B, T, C], without padding."""
    x, stride = rearrange(x, "b t c -> b c t"), conv.stride[0]
    if isinstance(conv, nn.ConvTranspose1d):
        # Only outputs to which every tap contributes.
        first = conv.kernel_size[0] - stride
        y = F.conv_transpose1d(x, conv.weight, conv.bias, stride)[..., first : first + n_places * stride]
    else:
        y = F.conv1d(x, conv.weight, conv.bias, stride, 0, conv.dilation)[..., :n_places]
    return rearrange(y, "b c t -> b t c")


def outputs(
    conv: nn.Conv1d | nn.ConvTranspose1d,
    n_places: int,
    batch: int,
    dtype: torch.dtype,
    kind: Callable[..., Conv] = RowConv,
) -> tuple[Tensor, Tensor]:
    """Outputs of PyTorch's convolution and of ours, for this many positions of the kernel."""
    fast = kind(conv, dtype)
    n_outputs = n_places * (conv.stride[0] if isinstance(conv, nn.ConvTranspose1d) else 1)
    n_inputs = fast.n_inputs(n_outputs)
    x = torch.randn(batch, n_inputs, conv.in_channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        expected = pytorch(conv, x, n_places)
        found = fast(x.to(dtype))
    assert expected.shape == (batch, n_outputs, conv.out_channels)
    return expected, found[:, :n_outputs]


@given(
    st.sampled_from(CHANNELS),
    st.sampled_from(CHANNELS),
    st.sampled_from([(1, 1), (3, 1), (7, 1), (7, 3), (7, 9)]),
    st.integers(1, 70),
    st.integers(1, 3),
    st.sampled_from([torch.float64, torch.float32]),
)
@settings(deadline=None, max_examples=60)
def test_convolutions(
    n_in: int, n_out: int, shape: tuple[int, int], n_places: int, batch: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(n_in, n_out, shape[0], dilation=shape[1]).double()
    expected, found = outputs(conv, n_places, batch, dtype)
    assert torch.allclose(found.double(), expected, atol=1e-12 if dtype == torch.float64 else 1e-5)


@given(
    st.sampled_from(CHANNELS),
    st.sampled_from(CHANNELS),
    st.integers(2, 8),
    st.integers(1, 70),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([torch.float64, torch.float32]),
)
@settings(deadline=None, max_examples=60)
def test_strides(
    n_in: int, n_out: int, stride: int, n_places: int, batch: int, transposed: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    kind = nn.ConvTranspose1d if transposed else nn.Conv1d
    expected, found = outputs(kind(n_in, n_out, 2 * stride, stride).double(), n_places, batch, dtype)
    assert torch.allclose(found.double(), expected, atol=1e-12 if dtype == torch.float64 else 1e-5)


def test_bfloat16() -> None:
    torch.manual_seed(0)
    expected, found = outputs(nn.Conv1d(33, 16, 7, dilation=3).double(), 50, 2, torch.bfloat16)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), expected, atol=0.02)


def test_without_prepacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """On processors and builds of PyTorch that do not support it."""
    monkeypatch.setattr(convolution, "can_prepack", lambda device, dtype: False)
    torch.manual_seed(0)
    expected, found = outputs(nn.Conv1d(33, 16, 7, dilation=3).double(), 50, 2, torch.float32)
    assert torch.allclose(found.double(), expected, atol=1e-5)


@given(st.integers(1, 10_000), st.integers(2, 6))
def test_rounded_lengths_are_few_and_waste_little(n_rows: int, bits: int) -> None:
    rounded = round_up(n_rows, bits)
    assert n_rows <= rounded <= (1 + 2 ** (1 - bits)) * n_rows
    assert round_up(rounded, bits) == rounded
    assert bin(rounded).rstrip("0").count("1") <= bits


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 200), st.integers(1, 3), st.booleans())
@settings(deadline=None, max_examples=60)
def test_winograd(n_in: int, dilation: int, n_places: int, batch: int, packed: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(8 * n_in, 24, 7, dilation=dilation).double()
    with pytest.MonkeyPatch.context() as patch:
        if not packed:
            patch.setattr(convolution, "can_prepack", lambda device, dtype: False)
        expected, found = outputs(conv, n_places, batch, torch.float32, WinogradConv)
    assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize(("n_channels", "kind"), [(192, WinogradConv), (191, RowConv)])
def test_layers_with_many_channels_use_winograd(n_channels: int, kind: type[Conv]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(n_channels, 192, 7, dilation=3).double()
    if not can_prepack(conv.weight.device, torch.bfloat16):
        pytest.skip("oneDNN does not prepack here")
    assert type(fastest_conv(conv, torch.bfloat16)) is kind
    assert type(fastest_conv(conv, torch.float32)) is RowConv
    expected, found = outputs(conv, 100, 2, torch.bfloat16, kind)
    assert torch.allclose(found.double(), expected, atol=0.03)


def test_the_latest_layouts_are_kept() -> None:
    packed = PackedConv(torch.randn(8, 8, 3), None, 1, torch.float32)
    if not packed.is_prepacked:
        pytest.skip("oneDNN does not prepack here")
    for n_rows in (10, 20, 10, 40, 10):
        packed(torch.zeros(1, n_rows, 8))
    assert list(packed._layouts) == [(1, 40), (1, 10)]
