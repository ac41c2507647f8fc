"""Signals of different lengths in one batch, each with the result that it has alone.

Zero-padding a short row differs from a true end: biases and activations turn padding into non-zeros, which reach back
into the last frames over the look-ahead. These frames are computed a second time, from ends of equal length:

        longest    |-----------------------------|
        short      |-----------------xxxx|0000000|      first pass; x depends on what is after the end
        its end            |---------^^^^|              second pass; ^ replaces x
                            `before` `after`            frames of context
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dac_codec.inference.encoder import Frames, frame_power
from dac_codec.inference.look_ahead import Context, decoder_context, encoder_context
from dac_codec.inference.prepared import prepare_cached
from dac_codec.model import DAC
from dac_codec.model.checks import checked_quantizers


def encode_batch(
    model: DAC, signals: Sequence[Tensor], n_quantizers: int | None = None, n_paths: int = 1
) -> list[Tensor]:
    """Codes [B, N, F] of each signal [B, 1, T], as `encode` gives them up to rounding, on the CPU.

    Args:
        model: any model.
        signals: audio of at least one sample each; all rows, padded to the longest, are processed at once.
        n_quantizers: codebooks to use; None means all.
        n_paths: paths that are searched, see `PreparedDAC.look_up`.

    Raises:
        ValueError: a wrong shape, or `n_quantizers` or `n_paths` out of range.
    """
    return [frames.codes for frames in encode_frames_batch(model, signals, n_quantizers, n_paths)]


@torch.no_grad()
def encode_frames_batch(
    model: DAC, signals: Sequence[Tensor], n_quantizers: int | None = None, n_paths: int = 1
) -> list[Frames]:
    """`encode_batch`, with the errors and the power of all frames of a signal, as `encode_frames` gives them."""
    prepared = prepare_cached(model)
    network, quantizer, look_up = prepared.encoder_network, prepared.folded_quantizer, prepared.look_up(n_paths)
    n_codebooks = checked_quantizers(n_quantizers, model.n_codebooks)

    def encode(rows: Tensor) -> Tensor:
        z = network.whole(rows.to(network.device, network.dtype))
        codes = look_up(z, n_codebooks)
        return torch.cat([codes.double(), quantizer.errors(z, codes).double() / quantizer.scale], 1).cpu()

    signals = [model.preprocess(signal) for signal in signals]
    both = _process(signals, encode, encoder_context(model), model.hop_length, 1)
    return [
        Frames(found[:, :n_codebooks].long(), found[:, n_codebooks:], frame_power(signal, model.hop_length).cpu())
        for found, signal in zip(both, signals, strict=True)
    ]


@torch.no_grad()
def decode_batch(model: DAC, signals: Sequence[Tensor]) -> list[Tensor]:
    """Audio [B, 1, F * hop] of each signal's codes [B, n, F], as `decode` gives it up to rounding, on the CPU.

    Args:
        model: any model.
        signals: codes of at least one frame each, with the same n; processed as in `encode_batch`.

    Raises:
        ValueError: a wrong shape, or a code outside its codebook.
    """
    prepared = prepare_cached(model)

    def decode(rows: Tensor) -> Tensor:
        return prepared.decode_codes(rows.to(model.device)).cpu()

    return _process(signals, decode, decoder_context(model), 1, model.hop_length)


def _process(
    signals: Sequence[Tensor], network: Callable[[Tensor], Tensor], context: Context, n_in: int, n_out: int
) -> list[Tensor]:
    """Outputs [B, C', F * n_out] of signals [B, C, F * n_in], given the context of a frame."""
    lengths = [signal.shape[-1] // n_in for signal in signals]
    longest = max(lengths)
    outputs = _joined(network, [F.pad(signal, (0, n_in * longest - signal.shape[-1])) for signal in signals])
    outputs = [output[..., : n_out * length] for output, length in zip(outputs, lengths, strict=True)]

    by_length: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        if length < longest:
            by_length[min(length, context.before + context.after)].append(index)
    if context.after:
        for length, indices in by_length.items():
            ends = _joined(network, [signals[index][..., -n_in * length :] for index in indices])
            for index, end in zip(indices, ends, strict=True):
                n_replaced = n_out * min(length, context.after)
                outputs[index][..., -n_replaced:] = end[..., -n_replaced:]
    return outputs


def _joined(network: Callable[[Tensor], Tensor], signals: list[Tensor]) -> list[Tensor]:
    """Outputs for signals [B, C, T] of equal length."""
    return list(network(torch.cat(signals)).split([signal.shape[0] for signal in signals]))


def similar_lengths(shapes: Sequence[tuple[int, int]], most: int) -> list[list[int]]:
    """Group signals into batches with little padding.

    Args:
        shapes: rows and length of each signal.
        most: largest size of a batch, rows times the longest length; a larger signal gets its own batch.

    Returns:
        The indices of each batch's signals, shortest first. The longest of a batch has at most twice the length of the
        shortest, so that at most half is padding.
    """
    batches: list[list[int]] = []
    n_rows = 0
    for index in sorted(range(len(shapes)), key=lambda index: (shapes[index][1], index)):
        rows, length = shapes[index]
        n_rows += rows
        if not batches or n_rows * length > most or length > 2 * shapes[batches[-1][0]][1]:
            batches.append([])
            n_rows = rows
        batches[-1].append(index)
    return batches
