"""Input validation shared by all entry points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_audio(audio: Tensor) -> None:
    """Raise a ValueError unless audio is [B, 1, T], not empty, with floating-point samples."""
    if audio.ndim != 3 or audio.shape[1] != 1 or audio.numel() == 0:
        raise ValueError(f"audio must be [B, 1, T] with at least one sample, not {list(audio.shape)}")
    check_samples(audio)


def check_samples(audio: Tensor) -> None:
    """Raise a ValueError unless samples are floating point: integers would exceed full scale."""
    if not audio.is_floating_point():
        raise ValueError(
            f"audio is {audio.dtype}, expected floating point in [-1, 1]; divide integer PCM by its full scale (32768 "
            "for 16 bit) first"
        )


def check_latents(z: Tensor, width: int) -> None:
    """Raise a ValueError unless latents are [B, width, F], not empty."""
    if z.ndim != 3 or z.shape[1] != width or z.numel() == 0:
        raise ValueError(f"latents must be [B, {width}, F] with at least one frame, not {list(z.shape)}")


def check_codes(codes: Tensor, sizes: Sequence[int]) -> None:
    """Raise a ValueError unless codes are non-empty integers [B, n, F], each below the size of its codebook.

    A frame may have fewer codes: -1 in the place of its last ones, or of all.
    """
    n_codebooks, codebook_size = len(sizes), max(sizes)
    if codes.ndim != 3 or not 1 <= codes.shape[1] <= n_codebooks or codes.numel() == 0:
        raise ValueError(
            f"codes must be [B, 1..{n_codebooks}, F] with at least one frame for this model, not {list(codes.shape)}"
        )
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes must be integers, not {codes.dtype}; convert them with codes.long() if they are whole")
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return  # a graph can't branch on values; the embedding refuses an index that is out of range
    codes = codes.long()  # PyTorch has no min() for some integer types.
    lowest = int(codes.min())
    if lowest < -1 or int(codes.max()) >= codebook_size:
        raise ValueError(
            f"codes must be between 0 and {codebook_size - 1} for this model, or -1 where a frame has no code"
        )
    if len(set(sizes)) > 1:
        for index, (size, own) in enumerate(zip(sizes, codes.unbind(1), strict=False)):
            if int(own.max()) >= size:
                raise ValueError(f"codes of codebook {index} must be below {size} for this model, not {int(own.max())}")
    if lowest < 0 and bool(((codes[:, :-1] < 0) & (codes[:, 1:] >= 0)).any()):
        raise ValueError("codes must be -1 in all codebooks after the last code of a frame")


def check_whole(n_codes: int, sizes: Sequence[int]) -> None:
    """Raise a ValueError unless a frame of finite scalar quantization has all of its codes."""
    if n_codes != len(sizes):
        raise ValueError(f"finite scalar quantization needs all {len(sizes)} codes of a frame, not {n_codes}")
