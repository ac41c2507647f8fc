"""Signals of different lengths through the network at once, each with the result that it has alone.

Every layer puts zeros behind a signal's end, and makes something else than zeros of zeros that are there already: a row
of a batch that is filled up to the length of the longest comes out wrong where its frames depend on what is behind its
end. These frames, as few in each row, are computed again from the ends of the rows, which are equally long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dac_codec.inference.look_ahead import Context, decoder_context, encoder_context
from dac_codec.inference.prepared import encoder_network, folded_quantizer
from dac_codec.model import DAC
from dac_codec.model.checks import checked_quantizers


@torch.no_grad()
def encode_batch(model: DAC, signals: Sequence[Tensor], n_quantizers: int | None = None) -> list[Tensor]:
    """Codes [B, N, F] of each signal [B, 1, T], as `encode` gives them up to rounding, on the CPU.

    Args:
        model: the model.
        signals: audio, at least one sample; all of it, filled up to the longest, goes through the network at once.
        n_quantizers: codebooks to use; None means all.

    Raises:
        ValueError: a wrong shape, or `n_quantizers` out of range.
    """

    network, quantizer = encoder_network(model), folded_quantizer(model)
    n_codebooks = checked_quantizers(n_quantizers, model.n_codebooks)

    def encoded(rows: Tensor) -> Tensor:
        z = network.whole(rows.to(network.device, network.dtype).transpose(1, 2))
        return quantizer.codes(z, n_codebooks).cpu()

    whole_frames = [model.preprocess(signal) for signal in signals]
    return _all_at_once(whole_frames, encoded, encoder_context(model), model.hop_length, 1)


@torch.no_grad()
def decode_batch(model: DAC, signals: Sequence[Tensor]) -> list[Tensor]:
    """Audio [B, 1, F * hop] of each signal's codes [B, n, F], as `decode` gives it up to rounding, on the CPU.

    Args:
        model: the model.
        signals: codes, at least one frame, the same number n for all; they go through the network as in `encode_batch`.

    Raises:
        ValueError: a wrong shape, or a code outside its codebook.
    """

    def decoded(rows: Tensor) -> Tensor:
        return model.decode_codes(rows.to(model.device)).cpu()

    return _all_at_once(signals, decoded, decoder_context(model), 1, model.hop_length)


def _all_at_once(
    signals: Sequence[Tensor], network: Callable[[Tensor], Tensor], context: Context, n_in: int, n_out: int
) -> list[Tensor]:
    """What a network gives for each signal [B, C, F * n_in]: [B, C', F * n_out], with `context` frames around each."""
    lengths = [signal.shape[-1] // n_in for signal in signals]
    longest = max(lengths)
    outputs = _rows(network, [F.pad(signal, (0, n_in * longest - signal.shape[-1])) for signal in signals])
    outputs = [output[..., : n_out * length] for output, length in zip(outputs, lengths, strict=True)]

    by_length: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        if length < longest:
            # All of a signal that is shorter than the ends of the others.
            by_length[min(length, context.before + context.after)].append(index)
    if context.after:
        for length, indices in by_length.items():
            ends = _rows(network, [signals[index][..., -n_in * length :] for index in indices])
            for index, end in zip(indices, ends, strict=True):
                n_again = n_out * min(length, context.after)
                outputs[index][..., -n_again:] = end[..., -n_again:]
    return outputs


def _rows(network: Callable[[Tensor], Tensor], signals: list[Tensor]) -> list[Tensor]:
    """What a network gives for signals [B, C, T] of equal lengths."""
    return list(network(torch.cat(signals)).split([signal.shape[0] for signal in signals]))


def similar_lengths(shapes: Sequence[tuple[int, int]], most: int) -> list[list[int]]:
    """Divide signals into batches such that little is filled up.

    Args:
        shapes: rows and length of each signal.
        most: rows times the longest one's length that a batch may have; a signal that has more is alone.

    Returns:
        The indices of each batch's signals, from the shortest to the longest: of no more than twice the shortest's
        length, so that at most half is filling.
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
