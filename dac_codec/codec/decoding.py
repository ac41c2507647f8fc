"""Decompress .dac files to audio."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dac_codec import audio
from dac_codec.bitstream import Gap, LegacyFile
from dac_codec.codec.file import DacFile, PathOrFile
from dac_codec.codec.stream import DacStream, MissingLayers
from dac_codec.common.errors import TruncatedBitstreamError
from dac_codec.common.threads import write_behind
from dac_codec.model import DAC


@dataclass(frozen=True)
class Decompressed:
    """Result of `decompress_stream`.

    Attributes:
        sample_rate: Hz.
        channels: number of channels.
        n_samples: samples per channel that were written.
        gaps: missing codes that were concealed.
        missing_layers: frames that were decoded without their finer layers, which are missing.
        cut: the error at the end of a truncated file, else None.
    """

    sample_rate: int
    channels: int
    n_samples: int
    gaps: tuple[Gap, ...]
    missing_layers: tuple[MissingLayers, ...]
    cut: TruncatedBitstreamError | None

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


def decompress(
    file: DacFile | LegacyFile | PathOrFile | bytes,
    model: str | os.PathLike[str] | DAC | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    start: float | None = None,
    duration: float | None = None,
) -> tuple[Tensor, int]:
    """Decompress audio to the original's length, rate and channels, or a part of it.

    A part equals a slice of the whole up to the rounding of the network. If the file's rate is not the model's, the
    resampler adds up to 2e-5 of full scale where the two rates have no simple ratio.

    Args:
        file: compressed audio, in memory (also as bytes) or as a path or binary file object; files of
            descript-audio-codec too.
        model: a loaded model, or an argument of `DAC.from_pretrained`. None: the bundled or published model that the
            file names. Files of descript-audio-codec name none.
        device: "auto" leaves a loaded model where it is, and loads others on a CUDA device if there is one.
        progress: whether to show a progress bar (on a terminal).
        start: seconds to skip; those of a seekable file are neither decoded nor checked.
        duration: seconds to decode, at most; None for all.

    Returns:
        Waveform [C, T], float32, on the CPU; and its sample rate in Hz.

    Raises:
        BitstreamError: not a .dac file, or a damaged one.
        ModelMismatchError: other weights wrote the file.
        CheckpointError: the model can't be loaded.
        DacError: `start` or `duration` is out of range.
    """
    with DacStream(file) as stream:
        loaded = stream.model(model, device, progress)
        blocks = list(stream.blocks(loaded, start, duration, progress=progress))
        if stream.cut is not None:
            raise stream.cut
        return torch.from_numpy(np.concatenate(blocks, axis=1)), stream.sample_rate


def decompress_stream(
    source: PathOrFile | DacStream,
    target: PathOrFile,
    model: str | os.PathLike[str] | DAC | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    start: float | None = None,
    duration: float | None = None,
    conceal: bool | None = None,
    allow_truncated: bool = False,
    fmt: str | None = None,
    subtype: str | None = None,
) -> Decompressed:
    """Decompress a file or a pipe block by block, in memory that does not grow with its length.

    A whole file is checked before anything is written. A pipe is decoded as it arrives.

    The arguments and errors of `decompress` apply, and these:

    Args:
        source: a path, a binary file object, or a stream at its beginning.
        target: a path, where the file appears complete or not at all, or a binary stream, which is not closed.
        conceal: whether to decode past damage, as for `DacStream.blocks`; None: past damaged layers, and past other
            damage if the source is a pipe.
        allow_truncated: whether to decode a truncated file up to its last complete chunk.
        fmt: a file extension that replaces the target's, as for `audio.Writer`.
        subtype: a sample format, as for `audio.Writer`.

    Raises:
        TruncatedBitstreamError: the file is truncated and `allow_truncated` is False.
        BitstreamError: the file has no complete chunk.
        AudioError: the target can't be written.
        BrokenPipeError: the reader of a stream closed it.
    """
    with nullcontext(source) if isinstance(source, DacStream) else DacStream(source) as stream:
        loaded = stream.model(model, device, progress)
        if conceal is None and not stream.seekable:
            conceal = True
        n_samples = None
        if stream.seekable and start is None and duration is None:
            n_samples = stream.scan(conceal)
            if stream.cut is not None and not allow_truncated:
                raise stream.cut
        with closing(stream.blocks(loaded, start, duration, conceal, progress)) as blocks:
            return write_blocks(stream, blocks, target, n_samples, allow_truncated, fmt, subtype)


def write_blocks(
    stream: DacStream,
    blocks: Iterable[audio.Audio],
    target: PathOrFile,
    n_samples: int | None,
    allow_truncated: bool = False,
    fmt: str | None = None,
    subtype: str | None = None,
) -> Decompressed:
    """Write the decoded blocks [C, t] of `stream`, `n_samples` per channel in all if known, for `decompress_stream`."""
    iterator = iter(blocks)
    first = next(iterator)  # before the target is opened: an error here leaves no file
    # A pipe is written by this thread, where Ctrl-C can interrupt it.
    is_file = isinstance(target, (str, os.PathLike)) and (Path(target).is_file() or not Path(target).exists())
    mask = None if stream.header is None else stream.header.channel_mask
    n_written = 0
    with (
        audio.Writer(target, stream.sample_rate, stream.channels, n_samples, fmt, subtype, mask) as writer,
        write_behind(writer.write) if is_file else nullcontext(writer.write) as write,
    ):
        for block in chain([first], iterator):
            write(block)
            n_written += block.shape[1]
        if stream.cut is not None and not allow_truncated:
            raise stream.cut
    return Decompressed(
        stream.sample_rate, stream.channels, n_written, tuple(stream.gaps), tuple(stream.missing_layers), stream.cut
    )
