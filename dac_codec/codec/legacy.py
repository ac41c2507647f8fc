"""Files of descript-audio-codec: decoding, and conversion from and to this package's format."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dac_codec import audio, inference
from dac_codec.bitstream import LegacyFile
from dac_codec.codec.encoding import Measured, make_header
from dac_codec.codec.file import DacFile
from dac_codec.codec.models import check_gain, check_legacy, check_legacy_network, check_model, network_errors
from dac_codec.common.errors import BitstreamError
from dac_codec.common.speakers import positions
from dac_codec.inference.precision import pinned_precision
from dac_codec.inference.prepared import prepare_cached
from dac_codec.model import DAC
from dac_codec.model.layers import convolutions

_FRAMES_AT_ONCE = 256
"""Frames of windows that are decoded in one pass: a pass for each window of one frame would take hours."""


def to_legacy(file: DacFile, model: DAC) -> LegacyFile:
    """Convert a file to descript-audio-codec's format, with the same codes.

    descript-audio-codec normalizes each decoded channel to the loudness that the file states. The codes are decoded
    here to measure it. A warning says if positions of channels are dropped.

    Raises:
        ModelMismatchError: other weights wrote the file, or the model is causal.
        BitstreamError: the file is empty.
    """
    check_model(file.header, model)
    check_legacy_network(model)
    if file.codes.shape[-1] == 0:
        raise BitstreamError("the file contains no audio")
    if int(file.codes.min()) < 0:
        raise BitstreamError(
            "the number of codes varies from frame to frame, which the format of descript-audio-codec does not allow"
        )
    if file.levels is not None:
        raise BitstreamError(
            "the format of descript-audio-codec has no band levels: remove them first (convert --no-levels)"
        )
    if file.header.channel_mask is not None:
        names = " ".join(positions(file.header.channel_mask))
        warnings.warn(f"the format of descript-audio-codec has no channel positions: {names} are dropped", stacklevel=2)
    with network_errors():
        decoded = inference.decode(model, file.codes)[:, 0].numpy()
    loudness = [audio.loudness(channel[None], model.sample_rate) for channel in decoded]
    return LegacyFile(
        codes=file.codes.numpy().astype(np.uint16),
        chunk_length=file.codes.shape[-1],
        original_length=file.n_samples,
        input_db=tuple(value - file.header.gain_db for value in loudness),
        channels=file.channels,
        sample_rate=file.sample_rate,
        padding=True,
    )


def from_legacy(file: LegacyFile, model: DAC) -> DacFile:
    """Convert a file of descript-audio-codec to this package's format, with the same codes.

    descript-audio-codec normalizes each channel to the loudness that the file states; the result has that loudness over
    all channels.

    Raises:
        BitstreamError: the file was written in overlapping windows.
        ModelMismatchError: the model can't have written the file.
    """
    if not file.padding:
        raise BitstreamError(
            "a file that was written in overlapping windows can't be converted; decompress it and compress the result"
        )
    codes = torch.from_numpy(file.codes.astype(np.int64))
    check_legacy(file, model)
    with network_errors():
        decoded = inference.decode(model, codes)[:, 0].numpy()
    gain_db = audio.loudness(decoded, model.sample_rate) - float(np.mean(file.input_db))
    return DacFile(make_header(model, codes.shape[1], file, Measured(gain_db, None), file.original_length), codes)


def decode_legacy(file: LegacyFile, model: DAC) -> audio.Audio:
    """Decode as descript-audio-codec does: window by window, with each channel normalized to the stated loudness.

    Returns:
        Waveform [C, T].

    Raises:
        BitstreamError: the file states more samples than its codes give or a loudness out of range, or its windows are
            too short for a decoder without padding.
        ModelMismatchError: the model can't have written the file.
    """
    check_legacy(file, model)
    audio.check_windowed_sinc(model.sample_rate, file.sample_rate)
    tolerance = 2 * model.hop_length * max(1, file.sample_rate // model.sample_rate)
    _check_length(file, file.codes.shape[-1] * model.hop_length * file.sample_rate // model.sample_rate, tolerance)
    decode = _padded(model) if file.padding else _unpadded(model)
    codes = torch.from_numpy(file.codes.astype(np.int64))
    with torch.no_grad(), network_errors():
        decoded = _windows(codes, file.chunk_length, lambda windows: decode(windows.to(model.device)).cpu())
    levelled = []
    for channel, level in zip(decoded[:, 0].numpy(), np.broadcast_to(file.input_db, (file.channels,)), strict=True):
        gain_db = float(level) - audio.loudness(channel[None], model.sample_rate)
        check_gain(gain_db)
        levelled.append(audio.apply_gain(channel[None], gain_db))
    waveform = audio.resample_windowed_sinc(np.concatenate(levelled), model.sample_rate, file.sample_rate)
    missing = _check_length(file, waveform.shape[-1], tolerance)  # odd strides can leave the end a few samples short
    return np.pad(waveform[:, : file.original_length], ((0, 0), (0, max(0, missing))))


def _check_length(file: LegacyFile, n_samples: int, tolerance: int) -> int:
    """The samples that `n_samples` lack; raises a BitstreamError if they are more than `tolerance`."""
    missing = file.original_length - n_samples
    if missing > tolerance:
        raise BitstreamError(f"the file claims {file.original_length} samples, but its codes give {n_samples}")
    return missing


def _windows(codes: Tensor, length: int, decode: Callable[[Tensor], Tensor]) -> Tensor:
    """Decode the windows of `length` frames of codes [C, N, F] on their own, short ones together; audio [C, 1, T]."""
    channels, _, n_frames = codes.shape
    n_at_once = max(1, _FRAMES_AT_ONCE // (channels * length))
    windows = codes.split(length, -1)
    whole = windows[: n_frames // length]
    groups = [whole[first : first + n_at_once] for first in range(0, len(whole), n_at_once)]
    groups += [windows[len(whole) :]] if n_frames % length else []
    decoded = [piece for group in groups for piece in decode(torch.cat(group)).split(channels)]
    return torch.cat(decoded, -1)


def _padded(model: DAC) -> Callable[[Tensor], Tensor]:
    """A function that decodes codes [C, N, F] to audio [C, 1, T]; odd strides leave the end a few samples short."""
    prepared = prepare_cached(model)
    return lambda codes: prepared.decoder_network.whole(prepared.folded_quantizer.decode(codes))


def _unpadded(model: DAC) -> Callable[[Tensor], Tensor]:
    """The same with the model's own decoder without padding, which can't be prepared."""
    decoder = model.decoder.without_padding()
    fewest = 1
    for conv in reversed(list(convolutions(decoder))):
        kernel, stride, span = conv.kernel_size[0], conv.stride[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        fewest = max(1, -(-(fewest - kernel) // stride) + 1) if isinstance(conv, nn.ConvTranspose1d) else fewest + span

    def decode(codes: Tensor) -> Tensor:
        if codes.shape[-1] < fewest:
            raise BitstreamError(
                f"the file has a window of {codes.shape[-1]} frames, expected at least {fewest} without padding"
            )
        with pinned_precision(model.device, exact=True):
            decoded: Tensor = decoder(model.quantizer.from_codes(codes)[0])
        return decoded

    return decode
