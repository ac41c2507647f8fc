"""Sequences of codes for language models, and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from dac_codec.corpus import patterns

SIZE = 7  # of a codebook

codes = arrays("int64", array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=6), elements=st.integers(0, SIZE - 1))
all_codes = codes.map(torch.from_numpy)


def test_the_patterns_of_the_picture() -> None:
    picture = torch.tensor([[0, 1, 2], [3, 4, 5]])  # two frames of three codebooks
    delayed = [[0, 7, 7], [3, 1, 7], [7, 4, 2], [7, 7, 5]]
    assert patterns.delay(picture, 7).tolist() == delayed
    assert patterns.delay(picture, 7, (0, 0, 1)).tolist() == [[0, 1, 7], [3, 4, 2], [7, 7, 5]]
    assert patterns.flatten(picture).tolist() == [0, 1, 2, 3, 4, 5]
    assert patterns.flatten(picture, 10).tolist() == [0, 11, 22, 3, 14, 25]
    assert patterns.parallel(picture, 10).tolist() == [[0, 11, 22], [3, 14, 25]]


@given(all_codes, st.data())
def test_the_inverses(found: Tensor, data: Any) -> None:
    n_codebooks = found.shape[-1]
    delays = data.draw(st.none() | st.lists(st.integers(0, 5), min_size=n_codebooks, max_size=n_codebooks))
    delayed = patterns.delay(found, SIZE, delays)
    assert (delayed == SIZE).sum() == delayed.numel() - found.numel()
    assert torch.equal(patterns.undelay(delayed, delays), found)
    assert torch.equal(patterns.unparallel(patterns.parallel(found, SIZE), SIZE), found)
    for size in (None, SIZE):
        assert torch.equal(patterns.unflatten(patterns.flatten(found, size), n_codebooks, size), found)


def test_codebooks_of_different_sizes() -> None:
    found = torch.tensor([[3, 1, 0], [0, 0, 4]])
    flat = patterns.flatten(found, (4, 2, 5))
    assert flat.tolist() == [3, 5, 6, 0, 4, 10]
    assert torch.equal(patterns.unflatten(flat, 3, (4, 2, 5)), found)
    with pytest.raises(ValueError, match="there are 2 sizes, expected 3"):
        patterns.parallel(found, (4, 2))


@given(all_codes, st.integers(0, 5))
def test_a_flat_sequence_that_was_cut(found: Tensor, n_lost: int) -> None:
    flat = patterns.flatten(found, SIZE)
    flat = flat[..., : flat.shape[-1] - n_lost]
    frames = flat.shape[-1] // found.shape[-1]
    assert torch.equal(patterns.unflatten(flat, found.shape[-1], SIZE), found[..., :frames, :])


def test_tokens_of_another_codebook_are_refused() -> None:
    tokens = patterns.flatten(torch.zeros(4, 3, dtype=torch.int64), SIZE)
    for wrong in (tokens.roll(1), tokens.new_full((6,), 3 * SIZE)):
        with pytest.raises(ValueError, match=r"outside the range of its codebook; their sizes are \[7, 7, 7\]"):
            patterns.unflatten(wrong, 3, SIZE)


@pytest.mark.parametrize("code", [-1, SIZE])
def test_codes_without_a_token_are_refused(code: int) -> None:
    """-1 is in frames with fewer codes; it would be a token of the codebook before."""
    for function in (patterns.parallel, patterns.flatten):
        with pytest.raises(ValueError, match=r"a code is outside the range of its codebook; .* \[7, 7\]"):
            function(torch.tensor([[3, code]]), SIZE)
    assert patterns.flatten(torch.tensor([[3, code]])).tolist() == [3, code]


@pytest.mark.parametrize("delays", [(0, 1), (0, 1, -1), ()])
def test_wrong_delays(delays: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 3 numbers of at least 0"):
        patterns.delay(torch.zeros(4, 3, dtype=torch.int64), 0, delays)
    with pytest.raises(ValueError, match="there are 1 steps, expected at least the largest delay, 2"):
        patterns.undelay(torch.zeros(1, 3, dtype=torch.int64))
