"""The same network on a long signal: window after window, each with enough context to give what the whole would."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dac_codec.model import DAC
from dac_codec.model.layers import convolutions

WINDOW_SAMPLES = 1 << 19
"""Samples of a window, all channels together, without its context: 12 s of mono at 44.1 kHz. Memory grows with this and
not with the file."""

_SHORTEST_WINDOW = 32
"""Frames; a shorter window would spend most of its time on its context."""


def encoder_context(model: DAC) -> int:
    """Frames on either side of a frame that the encoder looks at, rounded up."""
    samples, samples_per_step = 0, 1
    for conv in convolutions(model.encoder):
        samples += _reach(conv) * samples_per_step
        samples_per_step *= conv.stride[0]
    return math.ceil(samples / model.hop_length)


def decoder_context(model: DAC) -> int:
    """Frames on either side of a sample that the decoder looks at, rounded up."""
    frames, steps_per_frame = 0.0, 1
    for conv in convolutions(model.decoder):
        if isinstance(conv, nn.ConvTranspose1d):
            frames += math.ceil(_reach(conv) / conv.stride[0]) / steps_per_frame
            steps_per_frame *= conv.stride[0]
        else:
            frames += _reach(conv) / steps_per_frame
    return math.ceil(frames)


def _reach(conv: nn.Conv1d | nn.ConvTranspose1d) -> int:
    """How far a convolution's kernel reaches to the side where it reaches farther, in steps of its finer side."""
    span = conv.dilation[0] * (conv.kernel_size[0] - 1)
    padding = int(conv.padding[0])
    return max(padding, span - padding)


def encode(model: DAC, audio: Tensor, n_quantizers: int | None = None, progress: bool = False) -> Tensor:
    """Codes [B, N, F] of audio [B, 1, T], as `model.encode` gives them, in memory that does not grow with T.

    Audio of up to `WINDOW_SAMPLES` in all is encoded in one piece. Beyond that, codes can differ from those of the
    whole where two entries are equally near to float32 round-off.

    Raises:
        ValueError: a wrong shape, or `n_quantizers` out of range.
    """
    audio = model.preprocess(audio)
    hop, context = model.hop_length, encoder_context(model)
    parts = []
    for first, last in _windows(audio.shape[-1] // hop, hop * audio.shape[0], progress, "encoding"):
        start = max(0, first - context)
        window = audio[..., start * hop : (last + context) * hop].to(model.device)
        codes = model.encode(window, n_quantizers).codes
        parts.append(codes[..., first - start : last - start].cpu())
    return torch.cat(parts, -1)


def decode(model: DAC, codes: Tensor, progress: bool = False) -> Tensor:
    """Audio [B, 1, F * hop] of codes [B, N, F], as `model.decode_codes` gives it, in memory that grows with that only.

    Raises:
        ValueError: a wrong shape, or a code outside its codebook.
    """
    hop, context = model.hop_length, decoder_context(model)
    parts = []
    for first, last in _windows(codes.shape[-1], hop * codes.shape[0], progress, "decoding"):
        start = max(0, first - context)
        audio = model.decode_codes(codes[..., start : last + context].to(model.device))
        parts.append(audio[..., (first - start) * hop : (last - start) * hop].cpu())
    return torch.cat(parts, -1)


def _windows(n_frames: int, samples_per_frame: int, progress: bool, what: str) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) frame of each window."""
    size = max(_SHORTEST_WINDOW, WINDOW_SAMPLES // samples_per_frame)
    with tqdm(total=n_frames, unit="frame", desc=what, disable=None if progress else True, leave=False) as bar:
        for first in range(0, n_frames, size):
            last = min(first + size, n_frames)
            yield first, last
            bar.update(last - first)
