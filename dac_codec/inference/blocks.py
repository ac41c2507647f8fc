"""Long signals in blocks of bounded size: memory beyond input and output does not grow with the length."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from itertools import chain, islice

import torch
from torch import Tensor

from dac_codec.common.threads import check_stop
from dac_codec.inference.decoder import StreamingDecoder
from dac_codec.inference.encoder import Frames, StreamingEncoder, frame_power
from dac_codec.inference.look_ahead import decoder_context
from dac_codec.inference.network import Step, block_samples, pipelined
from dac_codec.inference.prepared import prepare_cached
from dac_codec.model import DAC
from dac_codec.model.checks import check_audio

_MIN_BLOCK = 16
"""Frames of a block below which call overhead dominates."""

MIN_BLOCKS = 8
"""Blocks of a signal from which a thread per block of the network is faster than threads within each layer."""


def encode(model: DAC, audio: Tensor, n_quantizers: int | None = None, n_paths: int = 1) -> Tensor:
    """Codes [B, N, F] of audio [B, 1, T], on the CPU.

    With one path they are those of `model.encode`, see `StreamingEncoder`; more are searched as in `PathSearch`.

    Raises:
        ValueError: a wrong shape, integer samples, or `n_quantizers` or `n_paths` out of range.
    """
    check_audio(audio)
    return torch.cat(list(encode_blocks(model, [audio], n_quantizers, n_paths=n_paths)), -1)


def decode(model: DAC, codes: Tensor) -> Tensor:
    """Audio [B, 1, F * hop] of codes [B, n, F], as `model.decode_codes` gives it, on the CPU.

    Raises:
        ValueError: a wrong shape, or a code outside its codebook.
    """
    if codes.ndim != 3 or codes.shape[-1] == 0:
        raise ValueError(f"codes must be [B, n, F] with at least one frame, not {list(codes.shape)}")
    return torch.cat(list(decode_blocks(model, [codes])), -1)


def decode_range(model: DAC, codes: Tensor, first_frame: int, last_frame: int) -> Tensor:
    """A range of the audio that `decode` gives, decoding only the frames that it depends on.

    Args:
        model: any model.
        codes: [B, n, F] of the whole signal.
        first_frame, last_frame: the range; the last frame is exclusive.

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
    model: DAC,
    blocks: Iterable[Tensor],
    n_quantizers: int | None = None,
    block_frames: int | None = None,
    n_paths: int = 1,
) -> Generator[Tensor, None, None]:
    """Encode a signal block by block.

    Args:
        model: any model.
        blocks: audio [B, 1, t], of any lengths.
        n_quantizers: codebooks to use; None means all.
        block_frames: frames per call of the network; None means the fastest number.
        n_paths: paths that are searched.

    Yields:
        Codes [B, N, f], f > 0, on the CPU; concatenated, the result of `encode` for the concatenated blocks.

    Raises:
        ValueError: a wrong shape, or `n_quantizers` or `n_paths` out of range.
    """
    for frames in encode_frames(model, blocks, n_quantizers, block_frames, n_paths, with_errors=False):
        yield frames.codes


def encode_frames(
    model: DAC,
    blocks: Iterable[Tensor],
    n_quantizers: int | None = None,
    block_frames: int | None = None,
    n_paths: int = 1,
    with_errors: bool = True,
    n_networks: int = 1,
) -> Generator[Frames, None, None]:
    """`encode_blocks`, with the errors and the power of the frames, which are empty unless `with_errors`.

    `n_networks` run at once: two if a decoder takes the codes as they come.
    """
    quantizer = prepare_cached(model).folded_quantizer
    regrouped = _regroup(blocks, model.hop_length, model, block_frames)
    regrouped, in_threads = (regrouped, False) if block_frames is not None else _peek(regrouped, model)
    first = next(regrouped, None)
    if first is None:
        return
    stream = StreamingEncoder(model, n_quantizers, first.shape[0], n_paths)
    powers: deque[Tensor] = deque()

    def steps() -> Iterator[Step]:
        for block in chain([first], regrouped):
            check_stop()
            if with_errors:
                powers.append(frame_power(block, model.hop_length).cpu())
            yield stream.take(block)
        yield stream.end()

    @torch.no_grad()
    def quantized(step: Step) -> tuple[Tensor, Tensor]:
        codes = stream.codes(step.signal)
        errors = torch.empty(0)
        if with_errors and codes.shape[-1]:
            errors = quantizer.errors(step.signal, codes) / quantizer.scale
        return codes.cpu(), errors.cpu()

    power = torch.empty(len(first), 0, dtype=torch.float64)  # of frames without codes yet
    with pipelined(steps(), [*stream.stages(n_networks), quantized], in_threads) as found:
        for codes, errors in found:
            n_frames = codes.shape[-1]
            while with_errors and power.shape[1] < n_frames:
                power = torch.cat([power, powers.popleft()], 1)
            if n_frames:
                yield Frames(codes, errors, power[:, :n_frames])
                power = power[:, n_frames:]


def decode_blocks(model: DAC, codes: Iterable[Tensor], at_once: bool = False) -> Iterator[Tensor]:
    """Decode codes block by block.

    Args:
        model: any model.
        codes: [B, n, f], of any lengths.
        at_once: whether to decode each block as it arrives instead of collecting the fastest number of frames.

    Yields:
        Audio [B, 1, t], t > 0, on the CPU; concatenated, the result of `decode` for the concatenated codes.

    Raises:
        ValueError: a wrong shape, or a code outside its codebook.
    """
    regrouped = _regroup(codes, 1, model, at_once=at_once)
    regrouped, in_threads = (regrouped, False) if at_once else _peek(regrouped, model)
    for _, audio in decode_each(model, regrouped, in_threads):
        if audio.shape[-1]:
            yield audio


def decode_each(
    model: DAC, blocks: Iterable[Tensor], in_threads: bool, n_networks: int = 1
) -> Iterator[tuple[Tensor | None, Tensor]]:
    """Decode the blocks of codes [B, n, f] of a whole signal as they are; `in_threads` is as for `pipelined`.

    `n_networks` run at once: two if the encoder that makes the codes does.

    Yields:
        Each block, and the audio [B, 1, t], t >= 0, that is known by then; at last None, and the rest of the audio.
    """
    iterator = iter(blocks)
    first = next(iterator, None)
    if first is None:
        return
    stream = StreamingDecoder(model, first.shape[0])
    taken: deque[Tensor] = deque()

    def steps() -> Iterator[Step]:
        for block in chain([first], iterator):
            check_stop()
            taken.append(block)
            yield stream.take(block)
        yield stream.end()

    with pipelined(steps(), stream.stages(n_networks), in_threads, tries_layers=n_networks == 1) as found:
        for step in found:
            yield None if step.last or not taken else taken.popleft(), stream.give(step).cpu()


def uses_threads(model: DAC, n_frames: int, batch_size: int) -> bool:
    """Whether signals of `n_frames` are long enough for a thread per block of the network."""
    return _has_threads(model) and n_frames * model.hop_length * batch_size >= MIN_BLOCKS * block_samples(model.device)


def _peek(blocks: Iterator[Tensor], model: DAC) -> tuple[Iterator[Tensor], bool]:
    """The same blocks, and whether there are enough of them for several threads."""
    beginning = list(islice(blocks, MIN_BLOCKS if _has_threads(model) else 0))
    return chain(beginning, blocks), len(beginning) == MIN_BLOCKS


def _has_threads(model: DAC) -> bool:
    return model.device.type == "cpu" and torch.get_num_threads() > 1


def _regroup(
    blocks: Iterable[Tensor], steps_per_frame: int, model: DAC, block_frames: int | None = None, at_once: bool = False
) -> Iterator[Tensor]:
    """Cut a signal of blocks [B, C, t] into blocks of one size; the last, or with `at_once` any, may be shorter."""
    waiting: list[Tensor] = []
    n_waiting = 0
    for block in blocks:
        if block.ndim != 3 or (waiting and block.shape[:2] != waiting[0].shape[:2]):
            raise ValueError(
                f"blocks must be three-dimensional and differ in their last size only: {list(block.shape)}"
            )
        fastest = block_samples(model.device) // (model.hop_length * max(1, block.shape[0]))
        size = steps_per_frame * (block_frames or max(_MIN_BLOCK, fastest))
        while block.shape[-1]:
            part, block = block[..., : size - n_waiting], block[..., size - n_waiting :]
            waiting.append(part)
            n_waiting += part.shape[-1]
            if n_waiting == size or (at_once and not block.shape[-1]):
                yield torch.cat(waiting, -1)
                waiting, n_waiting = [], 0
    if waiting:
        yield torch.cat(waiting, -1)
