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
from dac_codec.model.checks import check_audio


@torch.no_grad()
def encode_frames_batch(
    model: DAC, signals: Sequence[Tensor], n_quantizers: int | None = None, n_paths: int = 1
) -> list[Frames]:
    """The frames of each signal [B, 1, T], as `encode_frames` gives them up to rounding.

    Args:
        model: any model.
        signals: audio of at least one sample each; all rows, padded to the longest, are processed at once.
        n_quantizers: codebooks to use; None means all.
        n_paths: paths that are searched, see `PreparedDAC.look_up`.

    Raises:
        ValueError: a wrong shape, or `n_quantizers` or `n_paths` out of range.
    """
    prepared = prepare_cached(model)
    network, quantizer, look_up = prepared.encoder_network, prepared.folded_quantizer, prepared.look_up(n_paths)
    n_codebooks = model.quantizer.checked(n_quantizers)

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


def encode_padded(
    model: DAC,
    audio: Tensor | Sequence[Tensor],
    lengths: Sequence[int] | Tensor | None = None,
    n_quantizers: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Codes of signals of different lengths in one tensor, each as the signal has them alone, up to rounding.

    Args:
        model: any model.
        audio: waveforms [T] or [1, T] of any lengths; or [B, 1, T] with `lengths`, whose values after them are ignored.
        lengths: samples of each row of a tensor [B, 1, T]; None: T of all.
        n_quantizers: codebooks to use; None means all.

    Returns:
        Codes [B, N, F] with zeros after each signal's end, and a mask [B, F] that is True before it, on the CPU.

    Raises:
        ValueError: a wrong shape, a length out of range, or `n_quantizers` out of range.
    """
    if isinstance(audio, Tensor):
        check_audio(audio)
        sizes = [audio.shape[-1]] * len(audio) if lengths is None else [int(length) for length in lengths]
        if len(sizes) != len(audio) or not all(1 <= size <= audio.shape[-1] for size in sizes):
            raise ValueError(f"lengths must be {len(audio)} numbers from 1 to {audio.shape[-1]}, not {sizes}")
        signals = [row[None, :, :size] for row, size in zip(audio, sizes, strict=True)]
    else:
        if lengths is not None:
            raise ValueError("lengths are for a tensor [B, 1, T]; waveforms in a list have their own")
        signals = [one[None, None] if one.ndim == 1 else one[None] for one in audio]
    if not signals:
        raise ValueError("there are no waveforms, expected at least one")
    codes = [frames.codes for frames in encode_frames_batch(model, signals, n_quantizers)]
    n_frames = torch.tensor([one.shape[-1] for one in codes])
    longest = int(n_frames.max())
    padded = torch.cat([F.pad(one, (0, longest - one.shape[-1])) for one in codes])
    return padded, torch.arange(longest) < n_frames[:, None]


@torch.no_grad()
def decode_batch(model: DAC, signals: Sequence[Tensor]) -> list[Tensor]:
    """Audio [B, 1, F * hop] of each signal's codes [B, n, F], as `decode` gives it up to rounding, on the CPU.

    Args:
        model: any model.
        signals: codes of at least one frame each, with the same n; processed as in `encode_frames_batch`.

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
