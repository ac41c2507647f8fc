"""Long signals in blocks of bounded size: memory grows with what goes in and comes out, and with nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from tqdm import tqdm

from dac_codec.inference.decoder import StreamingDecoder
from dac_codec.inference.encoder import StreamingEncoder
from dac_codec.inference.look_ahead import decoder_context
from dac_codec.inference.network import block_samples
from dac_codec.model import DAC
from dac_codec.model.checks import check_audio

_SHORTEST_BLOCK = 16
"""Frames; with fewer at a time, the time goes into calls and not into numbers."""


def encode(model: DAC, audio: Tensor, n_quantizers: int | None = None, progress: bool = False) -> Tensor:
    """Codes [B, N, F] of audio [B, 1, T], as `model.encode` gives them (see `StreamingEncoder`), on the CPU.

    Raises:
        ValueError: a wrong shape, samples that are integers, or `n_quantizers` out of range.
    """
    check_audio(audio)
    return torch.cat(list(encode_blocks(model, _split(audio, "encoding", progress), n_quantizers)), -1)


def decode(model: DAC, codes: Tensor, progress: bool = False) -> Tensor:
    """Audio [B, 1, F * hop] of codes [B, n, F], as `model.decode_codes` gives it, on the CPU.

    Raises:
        ValueError: a wrong shape, or a code outside its codebook.
    """
    if codes.ndim != 3 or codes.shape[-1] == 0:
        raise ValueError(f"codes must be [B, n, F] with at least one frame, not {list(codes.shape)}")
    return torch.cat(list(decode_blocks(model, _split(codes, "decoding", progress))), -1)


def decode_range(model: DAC, codes: Tensor, first_frame: int, last_frame: int) -> Tensor:
    """A part of what `decode` gives, without decoding what is far from it.

    Args:
        model: the model.
        codes: of the whole signal [B, n, F].
        first_frame: of the part.
        last_frame: of the part, exclusive.

    Returns:
        Audio [B, 1, (last_frame - first_frame) * hop], on the CPU.

    Raises:
        ValueError: a wrong shape, a code outside its codebook, or not 0 <= first_frame < last_frame <= F.
    """
    if codes.ndim != 3 or not 0 <= first_frame < last_frame <= codes.shape[-1]:
        raise ValueError(f"codes {list(codes.shape)} have no frames from {first_frame} to {last_frame}")
    context = decoder_context(model)
    start = max(0, first_frame - context.before)
    audio = decode(model, codes[..., start : last_frame + context.after])
    return audio[..., (first_frame - start) * model.hop_length : (last_frame - start) * model.hop_length]


def encode_blocks(
    model: DAC, blocks: Iterable[Tensor], n_quantizers: int | None = None, block_frames: int | None = None
) -> Iterator[Tensor]:
    """Encode a signal that is read bit by bit.

    Args:
        model: the model.
        blocks: audio [B, 1, t], of any lengths.
        n_quantizers: codebooks to use; None means all.
        block_frames: frames to wait for before the network goes to work; None means as many as are fast.

    Yields:
        Codes [B, N, f], f > 0, on the CPU: joined, what `encode` gives for the joined blocks.

    Raises:
        ValueError: a wrong shape, or `n_quantizers` out of range.
    """
    stream: StreamingEncoder | None = None
    for block in _regroup(blocks, model.hop_length, model, block_frames):
        if stream is None:
            stream = StreamingEncoder(model, n_quantizers, block.shape[0])
        if (codes := stream.push(block)).shape[-1]:
            yield codes.cpu()
    if stream is not None and (codes := stream.flush()).shape[-1]:
        yield codes.cpu()


def decode_blocks(model: DAC, codes: Iterable[Tensor], at_once: bool = False) -> Iterator[Tensor]:
    """Decode codes that are read bit by bit.

    Args:
        model: the model.
        codes: [B, n, f], with any numbers of frames.
        at_once: whether codes are decoded as they come, and don't wait until there are as many as are fast.

    Yields:
        Audio [B, 1, t], t > 0, on the CPU: joined, what `decode` gives for the joined codes.

    Raises:
        ValueError: a wrong shape, or a code outside its codebook.
    """
    stream: StreamingDecoder | None = None
    for block in _regroup(codes, 1, model, at_once=at_once):
        if stream is None:
            stream = StreamingDecoder(model, block.shape[0])
        if (audio := stream.push(block)).shape[-1]:
            yield audio.cpu()
    if stream is not None and (audio := stream.flush()).shape[-1]:
        yield audio.cpu()


def _regroup(
    blocks: Iterable[Tensor],
    steps_per_frame: int,
    model: DAC,
    block_frames: int | None = None,
    at_once: bool = False,
) -> Iterator[Tensor]:
    """The same signal [B, C, t] in blocks of a good size, the last one, or of each block if `at_once`, being what is
    left.

    Raises:
        ValueError: a block has another shape than the ones before it.
    """
    waiting: list[Tensor] = []
    n_waiting = 0
    for block in blocks:
        if block.ndim != 3 or (waiting and block.shape[:2] != waiting[0].shape[:2]):
            raise ValueError(
                f"blocks must be three-dimensional and differ in their last size only: {list(block.shape)}"
            )
        good = block_samples(model.device) // (model.hop_length * max(1, block.shape[0]))
        n_frames = block_frames or max(_SHORTEST_BLOCK, good)
        size = steps_per_frame * n_frames
        while block.shape[-1]:
            part, block = block[..., : size - n_waiting], block[..., size - n_waiting :]
            waiting.append(part)
            n_waiting += part.shape[-1]
            if n_waiting == size:
                yield torch.cat(waiting, -1)
                waiting, n_waiting = [], 0
        if at_once and waiting:
            yield torch.cat(waiting, -1)
            waiting, n_waiting = [], 0
    if waiting:
        yield torch.cat(waiting, -1)


def _split(signal: Tensor, what: str, progress: bool) -> Iterator[Tensor]:
    """A signal in pieces, with a progress bar that moves on when the next one is asked for."""
    size = -(-signal.shape[-1] // 100)
    with tqdm(
        total=signal.shape[-1], unit_scale=True, desc=what, disable=None if progress else True, leave=False
    ) as bar:
        for piece in signal.split(size, -1):
            yield piece
            bar.update(piece.shape[-1])
