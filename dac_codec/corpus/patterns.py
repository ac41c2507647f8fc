"""Codes [..., F, N] as sequences for a language model, and back: in parallel, delayed, or flat.

    codes of frames 0, 1, 2      parallel      delayed (. is the padding)      flat
    codebook 0    a b c          a b c         a b c . .                       a A 1 b B 2 c C 3
    codebook 1    A B C          A B C         . A B C .
    codebook 2    1 2 3          1 2 3         . . 1 2 3

A model predicts a row of a parallel or delayed sequence in one step (Copet et al., "Simple and Controllable Music
Generation", 2023, section 2.2), and one code of a flat sequence. Where tokens of all codebooks share a table of
embeddings, those of each codebook are shifted by the sizes of the codebooks before it. `sizes` is the size of each, or
one for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Sizes = int | Sequence[int]


def parallel(codes: Tensor, sizes: Sizes) -> Tensor:
    """Tokens [..., F, N] of codes [..., F, N], with a range for each codebook.

    Raises a ValueError for a code that its codebook lacks, such as -1 where a frame has fewer codes.
    """
    each = _each(codes, sizes)
    _check("code", codes, each)
    return codes + each.cumsum(0) - each


def unparallel(tokens: Tensor, sizes: Sizes) -> Tensor:
    """The inverse of `parallel`. Raises a ValueError for a token outside the range of its codebook."""
    each = _each(tokens, sizes)
    codes = tokens - each.cumsum(0) + each
    _check("token", codes, each)
    return codes


def delay(codes: Tensor, padding: int, delays: Sequence[int] | None = None) -> Tensor:
    """Tokens [..., F + D, N] of codes [..., F, N]: those of codebook n come `delays[n]` steps later.

    Args:
        codes: the codes.
        padding: the token where there is no code, such as the size of the codebooks.
        delays: of each codebook, at least 0; D is the largest. None: 0, 1, ..., N - 1.

    Raises:
        ValueError: not one delay for each codebook, or a negative one.
    """
    steps = _delays(codes.shape[-1], delays)
    *batch, n_frames, n_codebooks = codes.shape
    tokens = codes.new_full((*batch, n_frames + max(steps), n_codebooks), padding)
    for codebook, step in enumerate(steps):
        tokens[..., step : step + n_frames, codebook] = codes[..., codebook]
    return tokens


def undelay(tokens: Tensor, delays: Sequence[int] | None = None) -> Tensor:
    """The inverse of `delay`: codes [..., F, N] of tokens [..., F + D, N].

    Raises a ValueError for delays as `delay` does, and for fewer than D tokens.
    """
    steps = _delays(tokens.shape[-1], delays)
    n_frames = tokens.shape[-2] - max(steps)
    if n_frames < 0:
        raise ValueError(f"there are {tokens.shape[-2]} steps, expected at least the largest delay, {max(steps)}")
    codes = [tokens[..., step : step + n_frames, codebook] for codebook, step in enumerate(steps)]
    return torch.stack(codes, -1)


def flatten(codes: Tensor, sizes: Sizes | None = None) -> Tensor:
    """Tokens [..., F * N] of codes [..., F, N], frame by frame; with `sizes`, in a range for each codebook."""
    return (codes if sizes is None else parallel(codes, sizes)).flatten(-2)


def unflatten(tokens: Tensor, n_codebooks: int, sizes: Sizes | None = None) -> Tensor:
    """The inverse of `flatten`. The codes of an incomplete last frame are left out, as of a sequence that was cut.

    Raises a ValueError for a token outside the range of its codebook.
    """
    codes = tokens[..., : tokens.shape[-1] // n_codebooks * n_codebooks].unflatten(-1, (-1, n_codebooks))
    return codes if sizes is None else unparallel(codes, sizes)


def _each(codes: Tensor, sizes: Sizes) -> Tensor:
    """The size of each codebook [N]."""
    each = [sizes] * codes.shape[-1] if isinstance(sizes, int) else sizes
    if len(each) != codes.shape[-1]:
        raise ValueError(f"there are {len(each)} sizes, expected {codes.shape[-1]}")
    return torch.tensor(each, device=codes.device)


def _check(what: str, codes: Tensor, each: Tensor) -> None:
    if bool(((codes < 0) | (codes >= each)).any()):
        raise ValueError(f"a {what} is outside the range of its codebook; their sizes are {each.tolist()}")


def _delays(n_codebooks: int, delays: Sequence[int] | None) -> Sequence[int]:
    steps = range(n_codebooks) if delays is None else delays
    if len(steps) != n_codebooks or min(steps) < 0:
        raise ValueError(f"the delays are {list(steps)}, expected {n_codebooks} numbers of at least 0")
    return steps
