"""The files of descript-audio-codec: decoded as it decodes them, and converted to ours and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from dac_codec import audio as sound
from dac_codec import inference, pretrained
from dac_codec.bitstream import Header, LegacyFile
from dac_codec.codec.file import DacFile
from dac_codec.codec.models import (
    FINGERPRINT_BYTES,
    check_gain,
    check_legacy,
    check_model,
    check_not_causal,
    network_errors,
)
from dac_codec.common.errors import BitstreamError
from dac_codec.inference.precision import pinned_precision
from dac_codec.inference.prepared import prepare_cached
from dac_codec.model import DAC
from dac_codec.model.layers import convolutions


def to_legacy(file: DacFile, model: DAC) -> LegacyFile:
    """The same codes as a file that descript-audio-codec reads.

    It brings what it decodes to the loudness that the file states, channel by channel, so that the loudness of the
    decoded channels is what has to be written, and the model is needed to know it.

    Raises:
        ModelMismatchError: the file was written with other weights, or those of a causal model, which
            descript-audio-codec doesn't know.
        BitstreamError: the file is empty.
    """
    check_model(file.header, model)
    check_not_causal(model)
    if file.codes.shape[-1] == 0:
        raise BitstreamError("the file holds no audio")
    with network_errors():
        decoded = inference.decode(model, file.codes)[:, 0].numpy()
    loudness = [sound.loudness(channel[None], model.sample_rate) for channel in decoded]
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
    """The same codes in our container, decoding to the loudness that the file states.

    descript-audio-codec brings each channel to that loudness; here all channels together are, as they were measured.

    Raises:
        BitstreamError: the file was written in windows whose codes overlap: only compressing it again can help.
        ModelMismatchError: these weights can't have written the file.
    """
    if not file.padding:
        raise BitstreamError(
            "the file was written in overlapping windows, which can't be converted; decompress it and compress it again"
        )
    codes = torch.from_numpy(file.codes.astype(np.int64))
    check_legacy(file, model)
    with network_errors():
        decoded = inference.decode(model, codes)[:, 0].numpy()
    header = Header(
        model_fingerprint=pretrained.fingerprint(model)[:FINGERPRINT_BYTES],
        model_name=model.name,
        sample_rate=file.sample_rate,
        channels=file.channels,
        n_samples=file.original_length,
        gain_db=sound.loudness(decoded, model.sample_rate) - float(np.mean(file.input_db)),
        model_sample_rate=model.sample_rate,
        hop_length=model.hop_length,
        n_codebooks=codes.shape[1],
        codebook_size=model.codebook_size,
    )
    return DacFile(header, codes)


def decode_legacy(file: LegacyFile, model: DAC) -> sound.Audio:
    """Decode as descript-audio-codec does: window by window, then each channel to the loudness that the file states.

    Returns:
        Waveform [C, T].

    Raises:
        BitstreamError: the file claims more samples than its codes give, or a loudness that no sound has, or has too
            short windows for being without padding.
        ModelMismatchError: these weights can't have written the file.
    """
    check_legacy(file, model)
    decode = _padded(model) if file.padding else _unpadded(model)
    codes = torch.from_numpy(file.codes.astype(np.int64))
    with torch.no_grad(), network_errors():
        windows = [decode(window.to(model.device)).cpu() for window in codes.split(file.chunk_length, -1)]
    decoded = torch.cat(windows, -1)[:, 0].numpy()
    levelled = []
    for channel, level in zip(decoded, np.broadcast_to(file.input_db, (file.channels,)), strict=True):
        gain_db = float(level) - sound.loudness(channel[None], model.sample_rate)
        check_gain(gain_db)
        levelled.append(sound.apply_gain(channel[None], gain_db))
    audio = sound.resample_windowed_sinc(np.concatenate(levelled), model.sample_rate, file.sample_rate)
    # Odd strides can leave the end a few samples short; a length far beyond the codes is a lie.
    missing = file.original_length - audio.shape[-1]
    if missing > 2 * model.hop_length * max(1, file.sample_rate // model.sample_rate):
        raise BitstreamError(f"the file claims {file.original_length} samples and its codes give {audio.shape[-1]}")
    return np.pad(audio[:, : file.original_length], ((0, 0), (0, max(0, missing))))


def _padded(model: DAC) -> Callable[[Tensor], Tensor]:
    """What decodes codes [C, N, F] to audio [C, 1, T]; with odd strides, a few samples of the end are not there."""
    prepared = prepare_cached(model)
    return lambda codes: prepared.decoder_network.whole(prepared.folded_quantizer.decode(codes))


def _unpadded(model: DAC) -> Callable[[Tensor], Tensor]:
    """The same with a decoder that has no padding, of which there is no fast form."""
    decoder = model.decoder.without_padding()
    fewest = 1
    for conv in reversed(list(convolutions(decoder))):
        kernel, stride, span = conv.kernel_size[0], conv.stride[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        fewest = max(1, -(-(fewest - kernel) // stride) + 1) if isinstance(conv, nn.ConvTranspose1d) else fewest + span

    def decode(codes: Tensor) -> Tensor:
        if codes.shape[-1] < fewest:
            raise BitstreamError(
                f"the file has a window of {codes.shape[-1]} frames, expected {fewest} or more without padding"
            )
        with pinned_precision(model.device, exact=True):
            audio: Tensor = decoder(model.quantizer.from_codes(codes)[0])
        return audio

    return decode
