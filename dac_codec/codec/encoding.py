"""Compress audio to .dac files: resampled to the model's rate, at the network's loudness, each channel on its own."""

from __future__ import annotations

import io
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dac_codec import audio, bitstream, inference, pretrained
from dac_codec.audio.samples import WaveformReader
from dac_codec.bitstream import GainSource, Header, LegacyFile
from dac_codec.codec.file import DacFile, PathOrFile, open_for_writing
from dac_codec.codec.level_analysis import Blocks, NextBlock, with_levels
from dac_codec.codec.levels import level_parameters
from dac_codec.codec.models import FINGERPRINT_BYTES, MOST_GAIN_DB, load_model, network_errors
from dac_codec.codec.rate import Rate, choose_blocks, choose_rate
from dac_codec.common.errors import AudioError
from dac_codec.common.progress import track
from dac_codec.common.streams import CountingWriter
from dac_codec.common.threads import check_stop, prefetch
from dac_codec.model import DAC

TARGET_LUFS = -16.0
"""Loudness of the network's input (BS.1770), as in the reference."""

BEGINNING_SECONDS = 1.0
"""Seconds buffered to choose a pipe's gain; output starts after them."""

BEGINNING_MOST_DB = 12.0
"""Highest gain of a pipe: one that starts with room noise must not overload the network when speech follows."""

LIVE_CHUNK_FRAMES = 16
"""Frames per chunk of a pipe: 186 ms at 44.1 kHz, with 7 bytes of overhead per 180 bytes of mono. With fewer, the
overhead of calls dominates the network's time."""

Waveform = tuple[Tensor | np.ndarray, int]
"""A waveform [C, T] or [T] and its sample rate in Hz."""


@dataclass(frozen=True)
class Compressed:
    """Result of `compress_stream`.

    Attributes:
        header: header of the file; `n_samples` is None if the source was a pipe.
        n_samples: samples per channel.
        n_bytes: size of the file.
        missing: what is missing from the source, as in `audio.Reader`; "" if nothing is.
    """

    header: Header
    n_samples: int
    n_bytes: int
    missing: str = ""

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.header.sample_rate

    @property
    def bitrate(self) -> float:
        """Bits per second of all channels: of constant codes without overhead, else of the file."""
        if self.header.coding is bitstream.Coding.FIXED or not self.n_samples:
            return self.header.bitrate
        return 8 * self.n_bytes / self.duration


def compress(
    source: PathOrFile | bytes | Waveform,
    model: str | os.PathLike[str] | DAC = pretrained.DEFAULT_MODEL,
    n_quantizers: int | None = None,
    bitrate: float | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    effort: int | None = None,
    quality: float | None = None,
    constant: bool = False,
    levels: bool | None = None,
) -> DacFile:
    """Compress audio.

    The audio is resampled to the model's rate and normalized to -16 LUFS, or less where its peaks would exceed full
    scale; each channel is encoded on its own. The gain is stored, and `decompress` reverses it. If the audio contains
    nothing above some frequency, that is stored too, and `decompress` removes what the network adds there.

    Args:
        source: path of a sound file, its bytes, a binary file object, or (waveform [C, T] or [T], sample rate in Hz).
        model: a loaded model, or an argument of `DAC.from_pretrained`.
        n_quantizers: most codebooks to use in a frame; fewer make a smaller file. None: all.
        bitrate: mean bitrate of each channel in bit/s, of the whole file as it is stored, within 1%. With `constant`,
            the highest bitrate of the codes, instead of `n_quantizers`.
        device: "auto" leaves a loaded model where it is, and loads others on a CUDA device if there is one.
        progress: whether to show a progress bar (on a terminal).
        effort: how many paths through the codebooks are searched, 0 to 3: 1, 4, 16 or 64. None: 1, and 0 with
            `constant`.
        quality: each step up halves the error that a code must remove to be sent: frames get more codes where they
            save more. None: 4.55, and 8.5 without band levels, unless there is a bitrate.
        constant: whether every frame has `n_quantizers` codes, packed without entropy coding.
        levels: whether to send band levels, which `decompress` filters the decoded audio with: less noise, for about
            0.7 kbit/s per channel, more above the default quality. Encoding decodes for it, which takes twice the time,
            and more with a `bitrate`. None: yes, but not with an `effort` of 0 or 1, `constant`, or a `bitrate` below
            2150 bit/s.

    Raises:
        AudioError: the audio can't be read, is empty, or is not finite.
        CheckpointError: the model can't be loaded.
        DacError: an argument is out of range, or two of them exclude each other.
    """
    with ExitStack() as stack:
        reader = _open(source, stack)
        if isinstance(reader, audio.Reader):  # which may be a pipe, and is measured whole
            reader = WaveformReader(reader.whole(), reader.sample_rate, reader.channel_mask)
        loaded = load_model(model, device, progress)
        rate = choose_rate(loaded, n_quantizers, bitrate, quality, constant, effort, levels)
        encoding = _prepared(loaded, reader, rate, stack, progress)
        with network_errors():
            blocks = list(encoding.blocks())
    header, codes = encoding.header, torch.cat([block for block, _ in blocks], -1)
    if header.levels is None:
        return DacFile(header, codes)
    band_levels = np.concatenate([found for _, found in blocks if found is not None], -1)
    return DacFile(header, codes, torch.from_numpy(band_levels[..., : header.levels.n_windows(codes.shape[-1])].copy()))


def compress_stream(
    source: PathOrFile | bytes | Waveform | audio.Reader,
    target: PathOrFile,
    model: str | os.PathLike[str] | DAC = pretrained.DEFAULT_MODEL,
    n_quantizers: int | None = None,
    bitrate: float | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    chunk_frames: int | None = None,
    redundancy: bool = False,
    effort: int | None = None,
    quality: float | None = None,
    constant: bool = False,
    levels: bool | None = None,
) -> Compressed:
    """Compress a sound file or a pipe block by block, in memory that does not grow with its length.

    A file is read twice, first for its loudness and bandwidth; the result equals that of `compress`. A pipe of plain
    samples (wav or raw) is encoded as it arrives: its gain is chosen from the first second and is at most +12 dB, which
    the header states. Samples are written once `chunk_frames` frames and the encoder's look-ahead have arrived. It has
    the same number of codes in every frame, unless `quality` or `bitrate` is given; the latter is then the mean of the
    codes at log2(codebook size) bits each, from the first seconds on. A file's `bitrate` needs memory: 22 MB per hour
    and channel with 9 codebooks at 86 frames per second.

    The arguments and errors of `compress` apply, and these:

    Args:
        source: as for `compress`, or a reader at its beginning.
        target: a path, where the file appears complete or not at all, or a binary stream, which is not closed.
        chunk_frames: frames per chunk, all of which one damaged byte costs; None: 3.5 s, and 16 frames for a pipe.
        redundancy: whether to repeat the coarse codes of each chunk with the next one, for streams over which single
            chunks are lost: a reader then decodes a lost chunk from these.
        levels: as for `compress`; not for a pipe if None. Its samples are then written later by the look-ahead of the
            decoder and 8 frames.

    Raises:
        AudioError: the audio changes while it is read.
        DacError: the target can't be written.
        BitstreamError: `chunk_frames` is out of range.
        BrokenPipeError: the reader of a stream closed it.
    """
    loaded = load_model(model, device, progress)
    with ExitStack() as stack:
        reader = _open(source, stack)
        live = not reader.rewindable
        rate = choose_rate(loaded, n_quantizers, bitrate, quality, constant, effort, levels, live)
        encoding = _prepared(loaded, reader, rate, stack, progress, chunk_frames, redundancy)
        header, counted = encoding.header, encoding.counted
        with open_for_writing(target, keep_partial=live) as stream, network_errors():
            output = CountingWriter(stream)
            blocks = encoding.blocks()
            writer = encoding.new_writer(output)  # type: ignore[arg-type]
            for block, band_levels in blocks:
                writer.write(block.numpy(), band_levels)
                if live:
                    writer.flush()
            if header.n_samples not in (None, counted.n_samples):
                raise AudioError(f"{reader.name}: changed while it was read; try again when it is complete")
            writer.close(counted.n_samples)
        return Compressed(header, counted.n_samples, output.n_bytes, reader.missing)


class _Encoding(NamedTuple):
    """A measured sound."""

    header: Header
    counted: _Counted
    blocks: Callable[[], Blocks]
    """Encodes the sound."""
    new_writer: Callable[[BinaryIO], bitstream.Writer]
    """Opens a writer of its file."""


def _prepared(
    model: DAC,
    reader: audio.Reader | WaveformReader,
    rate: Rate,
    stack: ExitStack,
    progress: bool,
    chunk_frames: int | None = None,
    redundancy: bool = False,
) -> _Encoding:
    """Measure the sound of a reader at its beginning, or the first second of a pipe.

    `stack` ends the threads that encode; `progress`, `chunk_frames` and `redundancy` are as for `compress_stream`.
    """
    if reader.rewindable:
        counted = _Counted(reader.blocks(), reader.n_samples, "measuring", progress)
        with prefetch(counted) as samples:
            measured = measure(samples, reader.sample_rate, reader.channels, model.sample_rate)
        header = make_header(model, rate.n_quantizers, reader, measured, counted.n_samples)
        reader.rewind()
        counted = _Counted(reader.blocks(), header.n_samples, "encoding", progress)
        inputs = stack.enter_context(prefetch(network_input(counted, header)))
        block_frames = None
    else:
        counted = _Counted(reader.blocks(), None, "encoding", progress)
        beginning, samples = _beginning(counted, reader.sample_rate)
        gain_db, _ = measure([beginning], reader.sample_rate, reader.channels, model.sample_rate)
        # The bandwidth stays open: later samples may have a higher one than the beginning.
        header = make_header(model, rate.n_quantizers, reader, Measured(min(gain_db, BEGINNING_MOST_DB), None), None)
        inputs = network_input(samples, header)
        chunk_frames = block_frames = LIVE_CHUNK_FRAMES if chunk_frames is None else chunk_frames
    header, context = with_coding(header, model, rate, redundancy)
    if header.coding is bitstream.Coding.LAYERED and block_frames is not None and not redundancy:
        # A layer costs 6 bytes in each of many short chunks, and saves none that are lost as a whole.
        header = replace(header, layers=(header.n_codebooks,))
    encoded: deque[Tensor] = deque()  # the network's input, for band levels

    def original() -> NextBlock:
        """The network's input from its beginning: read again if all of it is encoded before codes are chosen."""
        if rate.bitrate is not None and reader.rewindable:
            reader.rewind()
            return partial(next, network_input(reader.blocks(), header), None)
        return lambda: encoded.popleft() if encoded else None

    if rate.levels and (rate.bitrate is None or not reader.rewindable):
        inputs = _kept(inputs, encoded)
    new_writer = partial(
        bitstream.Writer, header=header, chunk_frames=chunk_frames, model=context, redundancy=redundancy
    )
    network = model, inputs, rate.n_quantizers, block_frames, rate.n_paths

    def blocks() -> Blocks:
        if rate.is_constant:
            codes = stack.enter_context(closing(inference.encode_blocks(*network)))
            return stack.enter_context(closing(with_levels(model, header, codes, original)))
        frames = stack.enter_context(closing(inference.encode_frames(*network, n_networks=rate.n_networks)))
        return stack.enter_context(closing(choose_blocks(frames, rate, model, new_writer, original)))

    return _Encoding(header, counted, blocks, new_writer)


def _kept(blocks: Iterable[Tensor], kept: deque[Tensor]) -> Iterator[Tensor]:
    """The same blocks, which are appended to `kept` too."""
    for block in blocks:
        kept.append(block)
        yield block


def _checked(source: Any) -> Any:
    """The source, bytes as a stream; raises an AudioError for anything else."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if isinstance(source, tuple) and len(source) != 2:
        raise AudioError(f"the audio is a tuple of {len(source)}, expected (waveform, sample rate in Hz)")
    if isinstance(source, (str, os.PathLike, tuple, audio.Reader)) or hasattr(source, "read"):
        return source
    raise AudioError(
        f"the audio is a {type(source).__name__}, expected a path, bytes, a binary file object or (waveform, sample "
        "rate in Hz)"
    )


def _open(source: PathOrFile | bytes | Waveform | audio.Reader, stack: ExitStack) -> audio.Reader | WaveformReader:
    """A reader of any source; `stack` closes what is opened here."""
    given = _checked(source)
    if isinstance(given, tuple):
        waveform, sample_rate = given
        if isinstance(waveform, Tensor):
            waveform = waveform.detach().cpu()
            waveform = (waveform.float() if waveform.dtype == torch.bfloat16 else waveform).numpy()
        return WaveformReader(audio.check(waveform, sample_rate), sample_rate)
    return given if isinstance(given, audio.Reader) else stack.enter_context(audio.Reader(given))


def network_input(samples: Iterable[audio.Audio], header: Header) -> Iterator[Tensor]:
    """Samples [C, t] at the file's rate as the network's input [C, 1, t']: at the model's rate, with the gain."""
    for block in _resampled(samples, header.sample_rate, header.model_sample_rate, header.channels):
        yield torch.from_numpy(_finite(audio.apply_gain(block, header.gain_db)))[:, None]


def _resampled(samples: Iterable[audio.Audio], rate: int, new_rate: int, channels: int) -> Iterator[audio.Audio]:
    resampler = audio.Resampler(rate, new_rate, channels)
    yield from map(resampler.push, samples)
    yield resampler.flush()


def _finite(block: audio.Audio) -> audio.Audio:
    """`block`; raises an AudioError if the resampler or the gain left the range of float32."""
    if not np.isfinite(block).all():
        raise AudioError("the audio exceeds the range of float32 after resampling or gain; full scale must be 1.0")
    return block


class Measured(NamedTuple):
    """Properties of a sound that are measured before it is encoded."""

    gain_db: float
    """Gain that brings it to the network's loudness."""
    bandwidth: int | None
    """Frequency in Hz above which it contains nothing; None if that is not below the limit of the two rates."""


def measure(samples: Iterable[audio.Audio], sample_rate: int, channels: int, model_rate: int) -> Measured:
    """Measure samples [C, t] after resampling them to the model's rate.

    Raises an AudioError if they are too loud to be resampled, or need a gain that `decompress` refuses.
    """
    loudness = audio.LoudnessMeter(model_rate, channels)
    spectrum = audio.BandwidthMeter(model_rate, channels)
    for block in map(_finite, _resampled(samples, sample_rate, model_rate, channels)):
        loudness.push(block)
        spectrum.push(block)
    gain_db = audio.gain_to(TARGET_LUFS, loudness.loudness(), loudness.peak)
    if abs(gain_db) > MOST_GAIN_DB:
        raise AudioError(
            f"the audio needs a gain of {gain_db:.0f} dB, expected {-MOST_GAIN_DB} to {MOST_GAIN_DB} dB; full "
            "scale must be 1.0"
        )
    bandwidth = spectrum.bandwidth(gain_db)
    if bandwidth is None or not audio.leaves_room(min(sample_rate, model_rate), bandwidth):
        return Measured(gain_db, None)
    return Measured(gain_db, math.ceil(bandwidth))


def _beginning(samples: Iterable[audio.Audio], sample_rate: int) -> tuple[audio.Audio, Iterator[audio.Audio]]:
    """The first second of a sound, or all of a shorter one; and all samples, these included."""
    iterator = iter(samples)
    n_samples = round(BEGINNING_SECONDS * sample_rate)
    taken: list[audio.Audio] = []
    while sum(block.shape[1] for block in taken) < n_samples and (block := next(iterator, None)) is not None:
        taken.append(block)
    first = np.concatenate(taken, axis=1)
    return first[:, :n_samples], chain([first], iterator)


def make_header(
    model: DAC,
    n_quantizers: int,
    source: audio.Reader | WaveformReader | LegacyFile,
    measured: Measured,
    n_samples: int | None,
) -> Header:
    """The header of a file with `n_samples` samples per channel; None for a pipe, whose length is unknown."""
    sizes = model.config.sizes[:n_quantizers]
    return Header(
        model_fingerprint=pretrained.fingerprint(model)[:FINGERPRINT_BYTES],
        model_name=model.name,
        sample_rate=source.sample_rate,
        channels=source.channels,
        n_samples=n_samples,
        gain_db=measured.gain_db,
        model_sample_rate=model.sample_rate,
        hop_length=model.hop_length,
        n_codebooks=n_quantizers,
        codebook_size=max(sizes),
        codebook_sizes=sizes,
        gain_source=GainSource.BEGINNING if n_samples is None else GainSource.WHOLE,
        bandwidth=measured.bandwidth,
        channel_mask=None if isinstance(source, LegacyFile) else source.channel_mask,
    )


def with_coding(
    header: Header, model: DAC, rate: Rate, redundancy: bool = False
) -> tuple[Header, bitstream.CodeModel | None]:
    """`header` with the coding and the band levels of a rate, and the context model beside the weights, if any."""
    if rate.is_constant and not rate.levels and not redundancy:
        return header, None
    context = pretrained.context_model(model)
    fingerprint = None if context is None else context.fingerprint
    levels = level_parameters(header.model_sample_rate, header.hop_length, header.bandwidth) if rate.levels else None
    return replace(header, coding=bitstream.Coding.LAYERED, context_fingerprint=fingerprint, levels=levels), context


class _Counted:
    """The same blocks [C, t] with a progress bar; `n_samples` counts the samples per channel so far."""

    def __init__(self, samples: Iterable[audio.Audio], total: int | None, description: str, progress: bool) -> None:
        self._samples = samples
        self._bar = description, total, progress
        self.n_samples = 0

    def __iter__(self) -> Iterator[audio.Audio]:
        for block in track(self._samples, lambda block: block.shape[1], *self._bar):
            check_stop()
            self.n_samples += block.shape[1]
            yield block
