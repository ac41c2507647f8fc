"""Several short files through the network in one batch: one alone does not keep a GPU busy.

A file is read (`read_sound`, `read_codes`), goes through the network with others (`compute`) and is written
(`write_codes`, `write_sound`). Only `compute` has to run in one thread.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class ShortFile:
    """A short file that was read.

    Attributes:
        file: header of the .dac file to be written, or the .dac file that was read; that may be closed.
        model: the model for it.
        signal: input of the network: audio [C, 1, T] or codes [C, N, F].
        n_frames: length of the signal.
        n_samples: samples per channel at the file's rate.
    """

    file: Header | DacStream
    model: DAC
    signal: Tensor
    n_frames: int
    n_samples: int


def uses_batches(device: str) -> bool:
    """Whether short files are faster in batches: on a GPU. `device` is as for `load_model`."""
    return (best_device() if device == "auto" else torch.device(device)).type != "cpu"


def read_sound(reader: audio.Reader, model: DAC, n_quantizers: int) -> ShortFile | None:
    """Read and measure a sound file; None if it is long or a pipe, for `compress_stream` from its beginning.

    Raises:
        AudioError: the audio can't be read, is empty, or is not finite.
    """
    most = block_samples(model.device) * reader.sample_rate // (_SHORT * model.sample_rate * reader.channels)
    if not reader.rewindable or (reader.n_samples or 0) > most:
        return None
    samples: list[audio.Audio] = []
    n_samples = 0
    for block in reader.blocks():
        samples.append(block)
        n_samples += block.shape[1]
        if n_samples > most:  # more than its header declares
            return None
    measured = measure(samples, reader.sample_rate, reader.channels, model.sample_rate)
    header = make_header(model, n_quantizers, reader, measured, n_samples)
    signal = torch.cat(list(network_input(samples, header)), -1)
    return ShortFile(header, model, signal, -(-signal.shape[-1] // model.hop_length), n_samples)


def read_codes(stream: DacStream, model: DAC | None, conceal: bool | None = None) -> ShortFile | None:
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
    codes = torch.cat(list(stream.codes(model, conceal=bool(conceal))), -1)
    return ShortFile(stream, model, codes, codes.shape[-1], n_samples)


def compute(files: Sequence[ShortFile]) -> list[Tensor | DacError]:
    """The codes [C, N, F] of each sound, and the audio [C, 1, T] of each .dac file; or the error of its batch.

    Batches are of similar lengths. Without enough memory for a batch, its files are computed one by one.
    """
    outputs: list[Tensor | DacError] = [DacError()] * len(files)
    groups: dict[tuple[DAC, int | None, int], list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        n_quantizers = file.file.n_codebooks if isinstance(file.file, Header) else None
        groups[file.model, n_quantizers, file.signal.shape[1]].append(index)
    for (model, n_quantizers, _), group in groups.items():
        shapes = [(files[index].signal.shape[0], files[index].n_frames) for index in group]
        batches = similar_lengths(shapes, block_samples(model.device) // model.hop_length)
        while batches:
            batch = batches.pop()
            signals = [files[group[place]].signal for place in batch]
            try:
                with network_errors():
                    found: Sequence[Tensor | DacError] = (
                        inference.decode_batch(model, signals)
                        if n_quantizers is None
                        else inference.encode_batch(model, signals, n_quantizers)
                    )
            except DacError as error:
                if len(batch) > 1 and is_out_of_memory(error.__cause__):
                    batches += [[place] for place in batch]
                    continue
                found = [error] * len(batch)
            for place, output in zip(batch, found, strict=True):
                outputs[group[place]] = output
    return outputs


def write_codes(file: ShortFile, codes: Tensor, target: PathOrFile, chunk_frames: int | None = None) -> Compressed:
    """Write a .dac file: the same bytes as `compress_stream`, unless two entries of a codebook are equally near.

    Raises:
        DacError: the target can't be written.
    """
    assert isinstance(file.file, Header)
    data = io.BytesIO()
    with bitstream.Writer(data, file.file, chunk_frames) as writer:
        writer.write(codes.numpy())
    with open_for_writing(target) as stream:
        stream.write(data.getbuffer())
    return Compressed(file.file, file.n_samples, data.tell())


def write_sound(file: ShortFile, decoded: Tensor, target: PathOrFile) -> Decompressed:
    """Write a decoded file, also if it is truncated; the errors are those of `decompress_stream`."""
    assert isinstance(file.file, DacStream)
    return write_blocks(file.file, file.file.restored([decoded]), target, file.n_samples, allow_truncated=True)
