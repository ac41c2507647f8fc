"""Sound to codes: at the model's rate, brought to the network's loudness, each channel on its own."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dac_codec import audio as sound
from dac_codec import bitstream, pretrained
from dac_codec.audio.samples import block_length, blocks
from dac_codec.bitstream import GainSource, Header
from dac_codec.codec.batches import ALONE, Coder
from dac_codec.codec.file import DacFile, PathOrFile, created
from dac_codec.codec.models import FINGERPRINT_BYTES, choose_quantizers, load_model, network_errors
from dac_codec.common.errors import AudioError
from dac_codec.common.threads import prefetch
from dac_codec.model import DAC

TARGET_LUFS = -16.0
"""Loudness at which the network hears everything (BS.1770), as in the reference."""

BEGINNING_SECONDS = 1.0
"""What the gain of a pipe is chosen from. Nothing is written before it is there."""

BEGINNING_MOST_DB = 12.0
"""The highest gain of a pipe: what begins with the hiss of a room must not overload the network when someone speaks."""

LIVE_CHUNK_FRAMES = 16
"""Frames per chunk of a pipe: 186 ms of the 44.1 kHz models, with 7 bytes of overhead for each 180 bytes of mono. With
fewer at a time, the network's time goes into calls and not into numbers."""


@dataclass(frozen=True)
class Compressed:
    """What came of compressing.

    Attributes:
        header: of the file; it leaves `n_samples` open if the sound came from a pipe.
        n_samples: samples per channel of the sound.
        n_bytes: size of the file.
    """

    header: Header
    n_samples: int
    n_bytes: int

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.header.sample_rate


def compress(
    source: PathOrFile | tuple[Tensor | np.ndarray, int],
    model: str | os.PathLike[str] | DAC = pretrained.DEFAULT_MODEL,
    n_quantizers: int | None = None,
    bitrate: float | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> DacFile:
    """Compress audio.

    The audio is brought to the model's rate and to -16 LUFS, lowered where its peaks would exceed full scale, and each
    channel is encoded on its own. The gain is stored and undone by `decompress`. Where the audio holds nothing above
    some frequency, that is stored too, and what the network puts there is taken out by `decompress`.

    Args:
        source: a sound file's path, a binary file object, or (waveform [C, T] or [T], sample rate in Hz).
        model: a loaded model, or what `DAC.from_pretrained` takes.
        n_quantizers: codebooks to use; fewer make a smaller file. None: all.
        bitrate: highest bits per second of each channel, instead of `n_quantizers`.
        device: "auto" leaves a loaded model where it is, and takes a CUDA device, if there is one, for any other.
        progress: whether to show a progress bar (on a terminal).

    Raises:
        AudioError: the audio can't be read, is empty, or is not finite.
        CheckpointError: the model can't be loaded.
        DacError: `n_quantizers` or `bitrate` is out of the model's range.
    """
    model = load_model(model, device, progress)
    n_quantizers = choose_quantizers(model, n_quantizers, bitrate)
    if isinstance(source, tuple):
        waveform, sample_rate = source
        array = waveform.detach().cpu().numpy() if isinstance(waveform, Tensor) else waveform
        original = sound.check(array, sample_rate)
    else:
        original, sample_rate = sound.read(source)
    channels, n_samples = original.shape
    size = block_length(channels)
    measured = _measure(blocks(original, size), sample_rate, channels, model.sample_rate)
    header = _header(model, n_quantizers, sample_rate, channels, n_samples, measured)
    progressing = _progress(blocks(original, size), n_samples, "encoding", progress)
    return DacFile(header, torch.cat(list(_codes(progressing, header, model)), -1))


def compress_stream(
    source: PathOrFile | sound.Reader,
    target: PathOrFile,
    model: str | os.PathLike[str] | DAC = pretrained.DEFAULT_MODEL,
    n_quantizers: int | None = None,
    bitrate: float | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    chunk_frames: int | None = None,
    coder: Coder = ALONE,
) -> Compressed:
    """Compress a sound file or live sound block by block, in memory that doesn't grow with its length.

    A file is gone over twice, first for its loudness and bandwidth: what is written is what `compress` gives. A pipe of
    plain samples (wav or raw) is coded as it comes. Its gain is chosen from the first second, and at most +12 dB: the
    header says so. From then on a sound is written when `chunk_frames` frames and the encoder's look-ahead have come
    after their start.

    Args:
        source: a sound file's path, a binary file object, or a reader at its beginning.
        target: a path, where the file appears whole or not at all, or a binary stream, which is not closed.
        model: a loaded model, or what `DAC.from_pretrained` takes.
        n_quantizers: codebooks to use; fewer make a smaller file. None: all.
        bitrate: highest bits per second of each channel, instead of `n_quantizers`.
        device: "auto" leaves a loaded model where it is, and takes a CUDA device, if there is one, for any other.
        progress: whether to show a progress bar (on a terminal).
        chunk_frames: frames per chunk, which is what damage to one byte costs; None: 3.5 s, and of a pipe
            `LIVE_CHUNK_FRAMES`.
        coder: what takes the sound through the network: a member of `Batches`, where other files go with this one.

    Raises:
        AudioError: the audio can't be read, is empty, is not finite, or changes while it is read.
        CheckpointError: the model can't be loaded.
        DacError: `n_quantizers` or `bitrate` is out of the model's range, or the target can't be written.
        BitstreamError: `chunk_frames` is out of range.
        BrokenPipeError: the reader of a stream went away.
    """
    model = load_model(model, device, progress)
    n_quantizers = choose_quantizers(model, n_quantizers, bitrate)
    with nullcontext(source) if isinstance(source, sound.Reader) else sound.Reader(source) as reader:
        rate, channels = reader.sample_rate, reader.channels
        counted = _Counted(reader.blocks(warn=not reader.rewindable))
        if reader.rewindable:
            with prefetch(_progress(counted, reader.n_samples, "measuring", progress)) as passed:
                measured = _measure(passed, rate, channels, model.sample_rate)
            header = _header(model, n_quantizers, rate, channels, counted.n_samples, measured)
            reader.rewind()
            counted = _Counted(reader)
            samples: Iterable[sound.Audio] = counted
            block_frames = None
        else:
            beginning, samples = _beginning(counted, rate)
            measured = _measure([beginning], rate, channels, model.sample_rate)
            # What comes later may be brighter than the beginning, so that nothing is known of the bandwidth.
            measured = _Measured(min(measured.gain_db, BEGINNING_MOST_DB), None)
            header = _header(model, n_quantizers, rate, channels, None, measured)
            chunk_frames = block_frames = LIVE_CHUNK_FRAMES if chunk_frames is None else chunk_frames
        progressing = _progress(samples, header.n_samples, "encoding", progress)
        # The reader must not be closed while it is read in another thread.
        with created(target) as stream, closing(_codes(progressing, header, model, block_frames, coder)) as blocks:
            output = _CountedOutput(stream)
            writer = bitstream.Writer(output, header, chunk_frames)  # type: ignore[arg-type]
            for codes in blocks:
                writer.write(codes.numpy())
                if block_frames is not None:
                    writer.flush()
            if header.n_samples not in (None, counted.n_samples):
                raise AudioError(f"{reader.name}: changed while it was read; try again when it is whole")
            writer.close(counted.n_samples)
        return Compressed(header, counted.n_samples, output.n_bytes)


def _codes(
    samples: Iterable[sound.Audio],
    header: Header,
    model: DAC,
    block_frames: int | None = None,
    coder: Coder = ALONE,
) -> Generator[Tensor, None, None]:
    """The codes [C, N, f] of a sound [C, t] at its own rate, as `streaming.encode_blocks` yields them.

    Live sound comes in blocks of `block_frames`; that which is there already is read and resampled by another thread
    than the network's.
    """
    resampler = sound.Resampler(header.sample_rate, header.model_sample_rate, header.channels)

    def resampled() -> Iterator[Tensor]:
        for block in samples:
            yield _for_the_network(resampler.push(block), header.gain_db)
        yield _for_the_network(resampler.flush(), header.gain_db)

    live = block_frames is not None
    with network_errors(), nullcontext(resampled()) if live else prefetch(resampled()) as ready:
        yield from coder.encode_blocks(model, ready, header.n_codebooks, block_frames)


def _for_the_network(block: sound.Audio, gain_db: float) -> Tensor:
    return torch.from_numpy(sound.apply_gain(block, gain_db))[:, None]


@dataclass(frozen=True)
class _Measured:
    """What is found out about a sound before it is coded.

    Attributes:
        gain_db: the gain that brings it to the network's loudness.
        bandwidth: frequency in Hz above which it holds nothing; None where that is not below what the rates allow.
    """

    gain_db: float
    bandwidth: int | None


def _measure(samples: Iterable[sound.Audio], sample_rate: int, channels: int, model_rate: int) -> _Measured:
    """Go over a sound [C, t] as it will be at the model's rate."""
    resampler = sound.Resampler(sample_rate, model_rate, channels)
    loudness = sound.LoudnessMeter(model_rate, channels)
    spectrum = sound.BandwidthMeter(model_rate, channels)

    def push(block: sound.Audio) -> None:
        loudness.push(block)
        spectrum.push(block)

    for block in samples:
        push(resampler.push(block))
    push(resampler.flush())
    gain_db = sound.gain_to(TARGET_LUFS, loudness.loudness(), loudness.peak)
    bandwidth = spectrum.bandwidth(gain_db)
    if bandwidth is None or not sound.leaves_room(min(sample_rate, model_rate), bandwidth):
        return _Measured(gain_db, None)
    return _Measured(gain_db, math.ceil(bandwidth))


def _beginning(samples: Iterable[sound.Audio], sample_rate: int) -> tuple[sound.Audio, Iterator[sound.Audio]]:
    """The first second of a sound, or all if it is shorter; and the sound, from its first sample on."""
    iterator = iter(samples)
    n_samples = round(BEGINNING_SECONDS * sample_rate)
    taken: list[sound.Audio] = []
    while sum(block.shape[1] for block in taken) < n_samples and (block := next(iterator, None)) is not None:
        taken.append(block)
    first = np.concatenate(taken, axis=1)
    return first[:, :n_samples], chain([first], iterator)


def _header(
    model: DAC, n_quantizers: int, sample_rate: int, channels: int, n_samples: int | None, measured: _Measured
) -> Header:
    return Header(
        model_fingerprint=pretrained.fingerprint(model)[:FINGERPRINT_BYTES],
        model_name=model.name,
        sample_rate=sample_rate,
        channels=channels,
        n_samples=n_samples,
        gain_db=measured.gain_db,
        model_sample_rate=model.sample_rate,
        hop_length=model.hop_length,
        n_codebooks=n_quantizers,
        codebook_size=model.codebook_size,
        gain_source=GainSource.BEGINNING if n_samples is None else GainSource.WHOLE,
        bandwidth=measured.bandwidth,
    )


def _progress(
    samples: Iterable[sound.Audio], n_samples: int | None, what: str, progress: bool
) -> Iterator[sound.Audio]:
    """The same, with a progress bar that moves on when the next block is asked for."""
    with tqdm(total=n_samples, unit_scale=True, desc=what, disable=None if progress else True, leave=False) as bar:
        for block in samples:
            yield block
            bar.update(block.shape[1])


class _Counted:
    """A sound of which is known how much has come.

    Args:
        samples: the sound in blocks.

    Attributes:
        n_samples: samples per channel so far.
    """

    def __init__(self, samples: Iterable[sound.Audio]) -> None:
        self._samples = samples
        self.n_samples = 0

    def __iter__(self) -> Iterator[sound.Audio]:
        for block in self._samples:
            self.n_samples += block.shape[1]
            yield block


class _CountedOutput:
    """A binary stream of which is known how much was written to it.

    Args:
        stream: the stream.

    Attributes:
        n_bytes: bytes so far.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.n_bytes = 0

    def write(self, data: bytes | memoryview) -> int | None:
        n_written = self._stream.write(data)
        self.n_bytes += n_written or 0
        return n_written

    def flush(self) -> None:
        self._stream.flush()
