"""Codes to sound: whole, in part, as they come, and past what is damaged."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dac_codec import audio as sound
from dac_codec import bitstream, inference
from dac_codec.bitstream import Chunk, Gap, Header, LegacyFile
from dac_codec.codec.batches import ALONE, Coder
from dac_codec.codec.concealment import Concealer
from dac_codec.codec.excerpts import Excerpt, excerpt, sample_range
from dac_codec.codec.file import DacFile, PathOrFile, naming, opened
from dac_codec.codec.legacy import decode_legacy
from dac_codec.codec.models import load_model, model_of, network_errors
from dac_codec.common.errors import BitstreamError, DacError, ModelMismatchError, TruncatedBitstreamError
from dac_codec.common.threads import write_behind
from dac_codec.model import DAC

_LEGACY_PREFIX_BYTES = 6
_MOST_FRAMES_CUT = 2
"""Frames of which the end of a file may say that they are not sound."""


@dataclass(frozen=True)
class Decompressed:
    """What came of decompressing.

    Attributes:
        sample_rate: Hz.
        channels: number of channels.
        n_samples: samples per channel that were written.
        gaps: what was missing, and concealed.
        cut: how the file ends early, if it does.
    """

    sample_rate: int
    channels: int
    n_samples: int
    gaps: tuple[Gap, ...]
    cut: TruncatedBitstreamError | None

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


class DacStream:
    """A .dac file that is decoded as it is read, in memory that doesn't grow with its length.

    The files of descript-audio-codec can be decoded too, in memory.

    Args:
        source: a path, or a binary stream, which is read from its position and not closed.

    Attributes:
        header: what the file says of itself; None for a file of descript-audio-codec.
        sample_rate: Hz.
        channels: number of channels.
        seekable: whether it can be gone over again, and parts of it be passed over: not if it comes from a pipe.
        gaps: what `blocks`, or `scan`, found missing so far.
        cut: how the file was found to end early; None if it wasn't.

    Raises:
        BitstreamError: not a .dac file, or one with a damaged header.
        DacError: the file can't be opened.
    """

    def __init__(self, source: PathOrFile) -> None:
        self.gaps: list[Gap] = []
        self.cut: TruncatedBitstreamError | None = None
        self._source = source
        self._legacy: LegacyFile | None = None
        with ExitStack() as stack, naming(source):
            self._stream = stack.enter_context(opened(source))
            seekable = getattr(self._stream, "seekable", None)
            self.seekable: bool = seekable is not None and seekable()
            self._origin = self._stream.tell() if self.seekable else 0
            prefix = _read_fully(self._stream, _LEGACY_PREFIX_BYTES)
            if bitstream.is_legacy(prefix):
                self._legacy = bitstream.read_legacy(prefix + self._stream.read())
                self.sample_rate, self.channels = self._legacy.sample_rate, self._legacy.channels
                self.header: Header | None = None
            else:
                if not self.seekable:
                    self._stream = cast(BinaryIO, _Prefixed(prefix, self._stream))
                self._reader = self._rewound()
                self.header = self._reader.header
                self.sample_rate, self.channels = self.header.sample_rate, self.header.channels
            self._cleanup = stack.pop_all()

    def model(self, model: str | os.PathLike[str] | DAC | None, device: str | torch.device, progress: bool) -> DAC:
        """The model that the file needs: the given one, else the one that the file names.

        Raises:
            ModelMismatchError: the file was written with other weights, or names none that are known here.
            CheckpointError: the model can't be loaded.
        """
        if self.header is not None:
            return model_of(self.header, model, device, progress)
        if model is None:
            raise ModelMismatchError("a file of descript-audio-codec does not say which model wrote it: name the model")
        return load_model(model, device, progress)

    def scan(self, conceal: bool = False) -> int:
        """Go over the whole file without decoding it; return the samples per channel that `blocks` will give.

        Raises:
            BitstreamError: the file is damaged, and `conceal` is False.
            io.UnsupportedOperation: the stream is not seekable.
        """
        if self._legacy is not None:
            return self._legacy.original_length
        if not self.seekable:
            raise io.UnsupportedOperation("a .dac stream that is not seekable is read once")
        self._reader = self._rewound()
        n_frames = 0
        for event in self._events(conceal, Excerpt()):
            n_frames += event.codes.shape[-1] if isinstance(event, Chunk) else event.n_frames or 0
        return self._length(n_frames)

    def blocks(
        self,
        model: DAC,
        start: float | None = None,
        duration: float | None = None,
        conceal: bool = False,
        progress: bool = False,
        coder: Coder = ALONE,
    ) -> Iterator[sound.Audio]:
        """Decode. A file that ends early gives what is before the cut, and then `cut` says so.

        Where codes are missing and `conceal` is True, the last sound fades away within 0.1 s, and there is a warning.
        The model's `decoder_context` tells how many frames beside a gap are touched; the others are what they would be.

        Args:
            model: the one that the file needs.
            start: seconds that are left out; of a file that is not read from a pipe they are not even decoded.
            duration: seconds that are given, if there are as many; None for all.
            conceal: whether to go on behind damage.
            progress: whether to show a progress bar (on a terminal).
            coder: as for `decompress_stream`.

        Yields:
            Waveforms [C, t], float32, at the file's rate: joined, what `decompress` gives.

        Raises:
            BitstreamError: the file is damaged and `conceal` is False, or holds no whole chunk.
            ModelMismatchError: these weights didn't write the file.
            DacError: `start` or `duration` is out of range.
        """
        if self._legacy is not None:
            coder.go_alone()
            first, stop = sample_range(self.sample_rate, self._legacy.original_length, start, duration)
            yield decode_legacy(self._legacy, model)[:, first:stop]
            return
        assert self.header is not None
        part = excerpt(self.header, inference.decoder_context(model), start, duration)
        if self.seekable:
            self._reader = self._rewound()
        events = _progress(self._events(conceal, part, warn=True), self.header, part, progress)
        n_given = 0
        for block in decode_events(events, self.header, model, part, self._length, not self.seekable, coder):
            n_given += block.shape[1]
            yield block
        if n_given == 0:
            if self.cut is None and part.start:
                raise DacError(f"the start at {start:g} s is behind the end of the file")
            raise self.cut or BitstreamError("the file holds no sound")

    def close(self) -> None:
        """Close what was opened here."""
        self._cleanup.close()

    def __enter__(self) -> DacStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _rewound(self) -> bitstream.Reader:
        if self.seekable:
            self._stream.seek(self._origin)
        return bitstream.Reader(self._stream)

    def _events(self, conceal: bool, part: Excerpt, warn: bool = False) -> Iterator[Chunk | Gap]:
        """What is there and what is missing, up to the end or a cut; what is far before `part` may be left out.

        A gap can hide what tells where later chunks are, so that with `conceal` every chunk is looked at. Of the gaps
        that are found, those are kept that touch `part`.
        """
        self.gaps, self.cut = [], None
        try:
            with naming(self._source):
                if conceal:
                    for event in self._reader.events():
                        if isinstance(event, Gap):
                            if any(True for _ in _clip([event], part.first_frame, part.last_frame)):
                                self.gaps.append(event)
                            if warn:
                                warnings.warn(self._told(event), stacklevel=2)
                        yield event
                    return
                position = self._reader.seek_frame(part.first_frame) if part.first_frame and self.seekable else 0
                for codes in self._reader:
                    yield Chunk(position, codes)
                    position += codes.shape[-1]
        except TruncatedBitstreamError as error:
            self.cut = error

    def _told(self, gap: Gap) -> str:
        assert self.header is not None
        seconds = None if gap.n_frames is None else gap.n_frames / self.header.frame_rate
        name = f"{os.fspath(self._source)}: " if isinstance(self._source, (str, os.PathLike)) else ""
        length = "sound of unknown length is" if seconds is None else f"{seconds:.3f} s are"
        return f"{name}{length} missing at {gap.first_frame / self.header.frame_rate:.3f} s ({gap.reason.value})"

    def _length(self, n_frames: int) -> int:
        """Samples per channel of a file of which `n_frames` were found, when all of it has been read."""
        assert self.header is not None
        known = self._reader.n_samples
        if self._reader.complete and known is not None:
            return known
        # What was not borne out by an END chunk is a mere claim.
        covered = self.header.covered_samples(n_frames)
        return covered if known is None else min(covered, known)


def decompress(
    file: DacFile | LegacyFile | PathOrFile,
    model: str | os.PathLike[str] | DAC | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
    start: float | None = None,
    duration: float | None = None,
) -> tuple[Tensor, int]:
    """Decompress audio: exactly the original's length, rate and channels, or a part of it.

    A part is what a slice of the whole would be: at the model's own rate up to the rounding of the network, at another
    one up to that and 2e-5 of full scale, by which the resampler differs from itself where rates have no simple ratio.

    Args:
        file: compressed audio, in memory or as a path or binary file object; the files of descript-audio-codec too.
        model: a loaded model, or what `DAC.from_pretrained` takes. None: the one that the file names, where it is
            bundled or published. Files of descript-audio-codec name none.
        device: "auto" leaves a loaded model where it is, and takes a CUDA device, if there is one, for any other.
        progress: whether to show a progress bar (on a terminal).
        start: seconds that are left out; those of a file are not decoded, nor are their checksums checked.
        duration: seconds to decode, if there are as many; None for all.

    Returns:
        Waveform [C, T], float32, on the CPU; and its sample rate in Hz.

    Raises:
        BitstreamError: not a .dac file, or a damaged one.
        ModelMismatchError: the file was written with other weights.
        CheckpointError: the model can't be loaded.
        DacError: `start` or `duration` is out of range.
    """
    if isinstance(file, LegacyFile):
        if model is None:
            raise ModelMismatchError("a file of descript-audio-codec does not say which model wrote it: name the model")
        first, stop = sample_range(file.sample_rate, file.original_length, start, duration)
        audio = decode_legacy(file, load_model(model, device, progress))
        return torch.from_numpy(audio[:, first:stop].copy()), file.sample_rate
    if isinstance(file, DacFile):
        return _decompress_codes(file, model_of(file.header, model, device, progress), start, duration, progress)
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
    coder: Coder = ALONE,
) -> Decompressed:
    """Decompress a file or a live stream block by block, in memory that doesn't grow with its length.

    A whole file is checked before anything is written. From a pipe, what is written is what has come so far.

    Args:
        source: a path, a binary file object, or a stream at its beginning.
        target: a path, where the file appears whole or not at all, or a binary stream, which is not closed.
        model: as for `decompress`.
        device: as for `decompress`.
        progress: whether to show a progress bar (on a terminal).
        start: as for `decompress`.
        duration: as for `decompress`.
        conceal: whether to go on behind damage, as `DacStream.blocks` does; None: where the source is a pipe.
        allow_truncated: whether a file that ends early is decoded up to there.
        fmt: a file extension, in place of the target's, as for `audio.Writer`.
        subtype: a sample format, as for `audio.Writer`.
        coder: what takes the codes through the network: a member of `Batches`, where other files go with this one.

    Raises:
        TruncatedBitstreamError: the file ends early, and `allow_truncated` is False.
        BitstreamError: not a .dac file, a damaged one, or one without a whole chunk.
        ModelMismatchError: the file was written with other weights.
        CheckpointError: the model can't be loaded.
        AudioError: the target can't be written.
        DacError: `start` or `duration` is out of range.
        BrokenPipeError: the reader of a stream went away.
    """
    with nullcontext(source) if isinstance(source, DacStream) else DacStream(source) as stream:
        loaded = stream.model(model, device, progress)
        conceal = not stream.seekable if conceal is None else conceal
        n_samples = None
        if stream.seekable and start is None and duration is None:
            n_samples = stream.scan(conceal)
            if stream.cut is not None and not allow_truncated:
                raise stream.cut
        blocks = stream.blocks(loaded, start, duration, conceal, progress, coder)
        first = next(blocks)  # What fails before this leaves no trace.
        n_written = 0
        with (
            sound.Writer(target, stream.sample_rate, stream.channels, n_samples, fmt, subtype) as writer,
            write_behind(writer.write) if _takes_at_once(target) else nullcontext(writer.write) as write,
        ):
            for block in chain([first], blocks):
                write(block)
                n_written += block.shape[1]
            if stream.cut is not None and not allow_truncated:
                raise stream.cut
        return Decompressed(stream.sample_rate, stream.channels, n_written, tuple(stream.gaps), stream.cut)


def _takes_at_once(target: PathOrFile) -> bool:
    """Whether a target is a file: a pipe may keep its writer waiting, and Ctrl-C has to come through."""
    return isinstance(target, (str, os.PathLike)) and (Path(target).is_file() or not Path(target).exists())


def _decompress_codes(
    file: DacFile, model: DAC, start: float | None, duration: float | None, progress: bool
) -> tuple[Tensor, int]:
    """What `decompress` gives for a file that is in memory."""
    codes, header = file.codes.numpy(), replace(file.header, n_samples=file.n_samples)
    if codes.size == 0 or file.n_samples == 0:
        raise BitstreamError("the file holds no audio")
    if not (codes.min() >= 0 and codes.max() < header.codebook_size):
        raise BitstreamError(f"codes must be in 0..{header.codebook_size - 1}, found {codes.min()}..{codes.max()}")
    part = excerpt(header, inference.decoder_context(model), start, duration)
    size = -(-codes.shape[-1] // 100)  # steps of the progress bar
    chunks = (
        Chunk(first, codes[..., first : first + size].astype(np.uint16)) for first in range(0, codes.shape[-1], size)
    )
    events = _progress(chunks, header, part, progress)
    blocks = list(decode_events(events, header, model, part, lambda n_frames: file.n_samples, at_once=False))
    return torch.from_numpy(np.concatenate(blocks, axis=1)), header.sample_rate


def _progress(events: Iterable[Chunk | Gap], header: Header, part: Excerpt, progress: bool) -> Iterator[Chunk | Gap]:
    """The same, with a progress bar."""
    total = part.last_frame
    if header.n_samples is not None:
        total = int(min(header.expected_frames(header.n_samples), total or math.inf))
    total = None if total is None else total - part.first_frame
    with tqdm(total=total, unit_scale=True, desc="decoding", disable=None if progress else True, leave=False) as bar:
        for event in events:
            yield event
            bar.update(event.codes.shape[-1] if isinstance(event, Chunk) else event.n_frames or 0)


def decode_events(
    events: Iterable[Chunk | Gap],
    header: Header,
    model: DAC,
    part: Excerpt,
    length: Callable[[int], int],
    at_once: bool,
    coder: Coder = ALONE,
) -> Iterator[sound.Audio]:
    """The sound [C, t] of a file's codes, at the file's rate and loudness; no block is empty.

    Args:
        events: chunks and gaps from `part.first_frame`, or from before it, on.
        header: of the file.
        model: the one that wrote it.
        part: what to give of the sound.
        length: called with the number of frames when there are no more, says how many samples they stand for.
        at_once: whether codes are decoded as they come, in however small chunks.
        coder: as for `decompress_stream`.
    """
    concealer = Concealer(header, inference.decoder_context(model))
    codes = concealer.codes(_clip(events, part.first_frame, part.last_frame))
    low_pass = sound.LowPass(header.model_sample_rate, header.channels, header.bandwidth)
    resampler = sound.Resampler(header.model_sample_rate, header.sample_rate, header.channels)
    position = part.origin
    held = np.zeros((header.channels, 0), np.float32)  # resampled and not given yet; begins at `position`

    def release(limit: float) -> Iterator[sound.Audio]:
        """Give what is held before the sample `limit`."""
        nonlocal held, position
        n_samples = int(np.clip(limit - position, 0, held.shape[1]))
        block = held[:, min(n_samples, max(0, part.start - position)) : n_samples]
        held, position = held[:, n_samples:], position + n_samples
        if block.shape[1]:
            yield sound.apply_gain(block, -header.gain_db)

    stop = math.inf if part.stop is None else part.stop
    skip = part.skip_decoded
    with network_errors():
        for decoded in concealer.audio(x[:, 0].numpy() for x in coder.decode_blocks(model, codes, at_once)):
            skipped = min(skip, decoded.shape[1])
            skip -= skipped
            held = np.concatenate((held, resampler.push(low_pass.push(decoded[:, skipped:]))), axis=1)
            # Where only the end tells the length, what it may cut off has to wait for it.
            n_frames = part.first_frame + concealer.n_frames
            sure = header.covered_samples(max(0, n_frames - _MOST_FRAMES_CUT))
            yield from release(min(stop, sure if header.n_samples is None else header.n_samples))
            if position >= stop:
                return
    if concealer.n_frames == 0:
        return
    held = np.concatenate((held, resampler.push(low_pass.flush()), resampler.flush()), axis=1)
    end = min(stop, length(part.first_frame + concealer.n_frames))
    # A file's frames may fall short of its samples by a rounding.
    missing = int(max(0, end - position - held.shape[1]))
    held = np.pad(held, ((0, 0), (0, missing)))
    yield from release(end)


def _clip(events: Iterable[Chunk | Gap], first: int, last: int | None) -> Iterator[Chunk | Gap]:
    """What of `events` is within the frames from `first` to `last`, exclusive."""
    for event in events:
        if isinstance(event, Gap) and event.n_frames is None:
            yield event
            continue
        n_frames = event.codes.shape[-1] if isinstance(event, Chunk) else event.n_frames or 0
        start, stop = event.first_frame, event.first_frame + n_frames
        begin, end = max(first, start), stop if last is None else min(last, stop)
        if begin < end:
            if isinstance(event, Chunk):
                yield Chunk(begin, event.codes[..., begin - start : end - start])
            else:
                yield Gap(begin, end - begin, event.reason)
        if last is not None and stop >= last:
            return


def _read_fully(stream: BinaryIO, size: int) -> bytes:
    """The next `size` bytes, or fewer where the stream ends."""
    data = b""
    while len(data) < size and (piece := stream.read(size - len(data))):
        data += piece
    return data


class _Prefixed:
    """A pipe of which the first bytes were read already.

    Args:
        prefix: these bytes.
        stream: what follows.
    """

    def __init__(self, prefix: bytes, stream: BinaryIO) -> None:
        self._prefix = prefix
        self._stream: Any = stream
        self._read1: Callable[[int], bytes] = getattr(stream, "read1", stream.read)

    def read(self, size: int) -> bytes:
        """As of the stream: at most `size` bytes, and at least one but at the end."""
        if not self._prefix:
            data: bytes = self._stream.read(size)
            return data
        data, self._prefix = self._prefix[:size], self._prefix[size:]
        return data

    def read1(self, size: int) -> bytes:
        """The same, and no more than has come."""
        return self.read(size) if self._prefix else self._read1(size)
