"""Several short files through the network in one batch: one alone does not keep a GPU busy.

GPU only, not yet measured. A file is read (`read_sound`, `read_codes`), goes through the network with others
(`compute`) and is written (`ShortFile.write`). Only `compute` has to run in one thread.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dac_codec import audio, bitstream, inference
from dac_codec.codec.decoding import Decompressed, write_blocks
from dac_codec.codec.encoding import Compressed, make_header, measure, network_input, with_coding
from dac_codec.codec.file import PathOrFile, write_bytes
from dac_codec.codec.level_analysis import NextBlock
from dac_codec.codec.models import best_device, network_errors
from dac_codec.codec.rate import Rate, choose_blocks
from dac_codec.codec.stream import DacStream
from dac_codec.common.errors import DacError, is_out_of_memory
from dac_codec.inference.batches import similar_lengths
from dac_codec.inference.network import block_samples
from dac_codec.model import DAC

_SHORT = 4
"""A file is short if this many of it fit into one batch."""


class ShortFile(NamedTuple):
    """A short file that was read."""

    model: DAC
    rate: Rate | None
    """How it is encoded; None: it is decoded."""
    signal: Tensor
    """Input of the network: audio [C, 1, T] or codes [C, N, F]."""
    write: Callable[[Any, PathOrFile], Any]
    """Writes the network's output; results and errors are those of `compress_stream` or `decompress_stream`."""


def uses_batches(device: str) -> bool:
    """Whether short files are faster in batches: on a GPU. `device` is as for `load_model`."""
    return (best_device() if device == "auto" else torch.device(device)).type != "cpu"


def read_sound(reader: audio.Reader, model: DAC, rate: Rate, chunk_frames: int | None = None) -> ShortFile | None:
    """Read and measure a sound file; None if it is long or a pipe, for `compress_stream` from its beginning.

    Its output has the bytes of `compress_stream`, unless two entries of a codebook are equally near.
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
    header = make_header(model, rate.n_quantizers, reader, measured, n_samples)
    header, context = with_coding(header, model, rate)
    signal = torch.cat(list(network_input(samples, header)), -1)

    def original() -> NextBlock:
        return partial(next, iter([signal]), None)

    new_writer = partial(bitstream.Writer, header=header, chunk_frames=chunk_frames, model=context)

    def write(frames: inference.Frames, target: PathOrFile) -> Compressed:
        data = io.BytesIO()
        with new_writer(data) as writer:
            for block, levels in choose_blocks([frames], rate, model, new_writer, original):
                writer.write(block.numpy(), levels)
        write_bytes(target, data.getvalue())
        return Compressed(header, n_samples, data.tell(), reader.missing)

    return ShortFile(model, rate, signal, write)


def read_codes(stream: DacStream, model: DAC | None, conceal: bool | None = False) -> ShortFile | None:
    """Read and check a .dac file; None if it is long, a pipe, of descript-audio-codec, or has no complete chunk.

    Its output is written even if the file is truncated; `stream` may be closed before that.
    """
    if stream.header is None or not stream.seekable:
        return None
    model = stream.model(model, "auto", progress=False)
    n_samples = stream.scan(conceal)
    most = block_samples(model.device) // (_SHORT * model.hop_length * stream.channels)
    if not 0 < stream.header.expected_frames(n_samples) <= most:
        return None
    codes = torch.cat(list(stream.codes(model, conceal=conceal)), -1)

    def write(decoded: Tensor, target: PathOrFile) -> Decompressed:
        return write_blocks(stream, stream.restored([decoded]), target, n_samples, allow_truncated=True)

    return ShortFile(model, None, codes, write)


def compute(files: Sequence[ShortFile]) -> list[inference.Frames | Tensor | DacError]:
    """The frames of each sound, and the audio [C, 1, T] of each .dac file; or the error of its batch."""
    outputs: list[inference.Frames | Tensor | DacError] = [DacError()] * len(files)
    groups: dict[tuple[DAC, Rate | None, int], list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        groups[file.model, file.rate, file.signal.shape[1]].append(index)
    for (model, rate, _), group in groups.items():
        hop = 1 if rate is None else model.hop_length
        signals = [files[index].signal for index in group]
        shapes = [(len(signal), -(-signal.shape[-1] // hop)) for signal in signals]
        for batch in similar_lengths(shapes, block_samples(model.device) // model.hop_length):
            found = _compute_batch(model, rate, [signals[place] for place in batch])
            for place, output in zip(batch, found, strict=True):
                outputs[group[place]] = output
    return outputs


def _compute_batch(
    model: DAC, rate: Rate | None, signals: list[Tensor]
) -> Sequence[inference.Frames | Tensor | DacError]:
    """The output of the network for each signal: one by one if there is not enough memory for all."""
    try:
        with network_errors():
            if rate is None:
                return inference.decode_batch(model, signals)
            return inference.encode_frames_batch(model, signals, rate.n_quantizers, rate.n_paths)
    except DacError as error:
        if len(signals) == 1 or not is_out_of_memory(error.__cause__):
            return [error] * len(signals)
    # Not in the handler, where the error would keep the tensors of the failed batch.
    return [output for signal in signals for output in _compute_batch(model, rate, [signal])]
