"""Several short files through the network in one batch: one alone does not keep a GPU busy.

A file is read (`read_sound`, `read_codes`), goes through the network with others (`encode_short`, `decode_short`) and
is written (`write_codes`, `write_sound`). The first and the last step can run in one thread per file.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dac_codec import audio, bitstream, inference
from dac_codec.bitstream import Header
from dac_codec.codec.decoding import Decompressed, write_blocks
from dac_codec.codec.encoding import Compressed, make_header, measure, network_input
from dac_codec.codec.file import PathOrFile, open_for_writing
from dac_codec.codec.models import best_device, is_out_of_memory, network_errors
from dac_codec.codec.stream import DacStream
from dac_codec.common.errors import DacError
from dac_codec.inference.batches import similar_lengths
from dac_codec.inference.network import block_samples
from dac_codec.model import DAC

_SHORT = 4
"""A file is short if this many of it fit into one batch."""


def uses_batches(device: str) -> bool:
    """Whether short files are faster in batches: on a GPU. `device` is as for `load_model`."""
    return (best_device() if device == "auto" else torch.device(device)).type != "cpu"


@dataclass(frozen=True)
class ShortSound:
    """A short sound file that was read and measured.

    Attributes:
        header: header of the .dac file.
        signal: input of the network [C, 1, T].
    """

    header: Header
    signal: Tensor


@dataclass(frozen=True)
class ShortCodes:
    """A short .dac file that was read.

    Attributes:
        stream: the file; it may be closed.
        model: the model for it.
        n_samples: samples per channel that it decodes to.
        codes: [C, N, F], gaps filled.
    """

    stream: DacStream
    model: DAC
    n_samples: int
    codes: Tensor


def read_sound(reader: audio.Reader, model: DAC, n_quantizers: int) -> ShortSound | None:
    """Read and measure a sound file; None if it is long or a pipe, for `compress_stream` from its beginning.

    Raises:
        AudioError: the audio can't be read, is empty, or is not finite.
    """
    most = block_samples(model.device) * reader.sample_rate // (_SHORT * model.sample_rate * reader.channels)
    if not reader.rewindable or (reader.n_samples or 0) > most:
        return None
    samples: list[audio.Audio] = []
    n_samples = 0
    for block in reader:
        samples.append(block)
        n_samples += block.shape[1]
        if n_samples > most:  # more than its header declares
            return None
    measured = measure(samples, reader.sample_rate, reader.channels, model.sample_rate)
    header = make_header(model, n_quantizers, reader, measured, n_samples)
    return ShortSound(header, torch.cat(list(network_input(samples, header)), -1))


def encode_short(sounds: Sequence[ShortSound], model: DAC) -> list[Tensor | DacError]:
    """Codes [C, N, F] of each sound, or its error; all have the same number of codebooks."""
    lengths = [-(-sound.signal.shape[-1] // model.hop_length) for sound in sounds]
    network = partial(inference.encode_batch, model, n_quantizers=sounds[0].header.n_codebooks)
    return _in_batches([sound.signal for sound in sounds], lengths, model, network)


def write_codes(sound: ShortSound, codes: Tensor, target: PathOrFile, chunk_frames: int | None = None) -> Compressed:
    """Write a .dac file: the same bytes as `compress_stream`, unless two entries of a codebook are equally near.

    Raises:
        DacError: the target can't be written.
    """
    data = io.BytesIO()
    with bitstream.Writer(data, sound.header, chunk_frames) as writer:
        writer.write(codes.numpy())
    with open_for_writing(target) as stream:
        stream.write(data.getbuffer())
    assert sound.header.n_samples is not None
    return Compressed(sound.header, sound.header.n_samples, data.tell())


def read_codes(stream: DacStream, model: DAC | None, conceal: bool | None = None) -> ShortCodes | None:
    """Read and check a .dac file; None if it is long, a pipe, of descript-audio-codec, or has no complete chunk.

    Raises:
        BitstreamError: the file is damaged, and `conceal` is not True.
        ModelMismatchError: other weights wrote the file.
    """
    if stream.header is None or not stream.seekable:
        return None
    model = stream.model(model, "auto", progress=False)
    n_samples = stream.scan(bool(conceal))
    most = block_samples(model.device) // (_SHORT * model.hop_length * stream.channels)
    if not 0 < stream.header.expected_frames(n_samples) <= most:
        return None
    return ShortCodes(stream, model, n_samples, torch.cat(list(stream.codes(model, conceal=bool(conceal))), -1))


def decode_short(files: Sequence[ShortCodes]) -> list[Tensor | DacError]:
    """Audio [C, 1, T] at the model's rate of each file, or its error."""
    outputs: list[Tensor | DacError] = [DacError()] * len(files)
    groups: dict[tuple[DAC, int], list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        groups[file.model, file.codes.shape[1]].append(index)
    for (model, _), indices in groups.items():
        codes = [files[index].codes for index in indices]
        lengths = [part.shape[-1] for part in codes]
        decoded = _in_batches(codes, lengths, model, partial(inference.decode_batch, model))
        for index, output in zip(indices, decoded, strict=True):
            outputs[index] = output
    return outputs


def write_sound(
    file: ShortCodes,
    decoded: Tensor,
    target: PathOrFile,
    allow_truncated: bool = False,
    fmt: str | None = None,
    subtype: str | None = None,
) -> Decompressed:
    """Write a decoded file; the other arguments and the errors are those of `decompress_stream`."""
    blocks = file.stream.restored([decoded])
    return write_blocks(file.stream, blocks, target, file.n_samples, allow_truncated, fmt, subtype)


def _in_batches(
    signals: Sequence[Tensor],
    n_frames: Sequence[int],
    model: DAC,
    network: Callable[[list[Tensor]], list[Tensor]],
) -> list[Tensor | DacError]:
    """The network's output for each signal [C, D, T], or its error; signals of similar length go together."""
    outputs: list[Tensor | DacError] = [DacError()] * len(signals)
    shapes = [(signal.shape[0], length) for signal, length in zip(signals, n_frames, strict=True)]
    batches = similar_lengths(shapes, block_samples(model.device) // model.hop_length)
    while batches:
        indices = batches.pop()
        try:
            with network_errors():
                found: Sequence[Tensor | DacError] = network([signals[index] for index in indices])
        except DacError as error:
            if len(indices) > 1 and is_out_of_memory(error.__cause__):
                batches += [[index] for index in indices]  # one by one, which takes less memory
                continue
            found = [error] * len(indices)
        for index, output in zip(indices, found, strict=True):
            outputs[index] = output
    return outputs
