"""A .dac file that is decoded block by block: whole, in part, as it arrives, and past damage."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from dac_codec import audio, bitstream, inference
from dac_codec.bitstream import Chunk, Gap, Header, LegacyFile
from dac_codec.codec.concealment import Concealer
from dac_codec.codec.file import DacFile, MemoryReader, PathOrFile, open_for_reading, prefix_errors
from dac_codec.codec.legacy import decode_legacy
from dac_codec.codec.levels import LevelFilter
from dac_codec.codec.models import find_context, load_model, model_of, network_errors
from dac_codec.codec.time_range import TimeRange, sample_range, time_range
from dac_codec.common.errors import BitstreamError, DacError, ModelMismatchError, TruncatedBitstreamError
from dac_codec.common.progress import track
from dac_codec.common.streams import PeekableStream, read_rest
from dac_codec.common.threads import check_stop
from dac_codec.model import DAC


class MissingLayers(NamedTuple):
    """Frames whose finer layers were lost or damaged: they are decoded with fewer codebooks, or without band levels."""

    first_frame: int
    n_frames: int
    layers: tuple[int, ...]
    """Numbers of the missing layers, from 1."""


_LEGACY_PREFIX_BYTES = 6
_SILENCE_SECONDS, _SILENCE_PER_SECOND = 10.0, 60.0
"""Longest silence that all gaps of a stream may ask for: at its beginning, and more for each second of codes read."""
_MOST_HELD_CODES, _LEAST_HELD_CODES = 1 << 20, 1 << 8
"""Most codes that `scan` keeps for `blocks`, 20 minutes of mono in 4 MiB, and the fewest that an event counts as."""
_MAX_PADDING_FRAMES = 2
"""Frames at the end of a file that may decode to nothing but padding."""


class DacStream:
    """A .dac file that is decoded as it is read, in memory that does not grow with its length.

    The files of descript-audio-codec are decoded too, in memory.

    Args:
        source: a path, a binary stream, which is read from its position and not closed, or a file in memory, also as
            bytes.

    Attributes:
        header: metadata of the file; None for a file of descript-audio-codec.
        sample_rate: Hz.
        channels: number of channels.
        seekable: whether the file can be read again, and parts of it skipped; a pipe can't.
        gaps: missing codes found so far by `blocks` or `scan`.
        missing_layers: frames found so far whose finer layers are missing.
        cut: the error at the end of a truncated file; None unless it has been reached.

    Raises:
        BitstreamError: not a .dac file, or the header is damaged.
        DacError: the file can't be opened.
    """

    def __init__(self, source: PathOrFile | bytes | DacFile | LegacyFile) -> None:
        self.gaps: list[Gap] = []
        self.missing_layers: list[MissingLayers] = []
        self._model: str | os.PathLike[str] | DAC | None = None
        self._held: tuple[bool | None, list[Chunk | Gap], TruncatedBitstreamError | None] | None = None  # by `scan`
        self.cut: TruncatedBitstreamError | None = None
        self.header: Header | None = None
        self.seekable: bool = True
        self._name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        self._file = source if isinstance(source, DacFile) else None
        self._legacy = source if isinstance(source, LegacyFile) else None
        with ExitStack() as stack:
            if isinstance(source, DacFile):
                self.header = source.header
            elif not isinstance(source, LegacyFile):
                self._open(stack.enter_context(open_for_reading(source)))
            self._cleanup = stack.pop_all()
        metadata = cast(Header | LegacyFile, self.header or self._legacy)
        self.sample_rate: int = metadata.sample_rate
        self.channels: int = metadata.channels

    def _open(self, stream: BinaryIO) -> None:
        self.seekable = hasattr(stream, "seekable") and stream.seekable()
        self._origin = stream.tell() if self.seekable else 0
        peekable: Any = PeekableStream(stream)
        if bitstream.is_legacy(peekable.peek(_LEGACY_PREFIX_BYTES)):
            self._legacy = bitstream.read_legacy(read_rest(peekable))
            return
        self._stream: Any = stream if self.seekable else peekable
        self._rewind()
        self.header = self._reader.header

    def model(self, model: str | os.PathLike[str] | DAC | None, device: str | torch.device, progress: bool) -> DAC:
        """The model for this file: the given one, else the one that the file names.

        Raises:
            ModelMismatchError: other weights wrote the file, or it names no bundled or published model.
            CheckpointError: the model can't be loaded.
        """
        if self.header is not None:
            self._model = model
            return model_of(self.header, model, device, progress)
        if model is None:
            raise ModelMismatchError("files of descript-audio-codec don't name their model: pass the model")
        return load_model(model, device, progress)

    def scan(self, conceal: bool | None = False) -> int:
        """Read and check the whole file without decoding it.

        Returns:
            The samples per channel that `blocks` will yield.

        Raises:
            BitstreamError: the file is damaged, and `conceal` does not allow that.
            io.UnsupportedOperation: the stream is not seekable.
        """
        if self._legacy is not None:
            return self._legacy.original_length
        if not self.seekable:
            raise io.UnsupportedOperation("a .dac stream that is not seekable can be read only once")
        self._rewind()
        held: list[Chunk | Gap] | None = []
        n_codes = n_frames = 0
        for event in self._events(self._reader, conceal, TimeRange()):
            n_frames += event.n_frames
            n_codes += max(event.codes.size if isinstance(event, Chunk) else 0, _LEAST_HELD_CODES)
            if held is not None and n_codes <= _MOST_HELD_CODES:
                held.append(event)
            else:
                held = None
        self._held = None if held is None else (conceal, held, self.cut)
        return self._length(n_frames)

    def blocks(
        self,
        model: DAC,
        start: float | None = None,
        duration: float | None = None,
        conceal: bool | None = False,
        progress: bool = False,
    ) -> Generator[audio.Audio, None, None]:
        """Decode. A truncated file is decoded up to its last complete chunk, and `cut` is set then.

        With `conceal`, missing codes are replaced by the last sound, which fades out within 0.1 s, chunks whose finer
        layers are damaged are decoded from the coarser ones, and a warning is issued for either. Only frames within the
        model's `decoder_context` of these differ from those of the undamaged file.

        Args:
            model: the model for this file.
            conceal: whether to decode past damage. None: only past damaged layers. The others are as for `decompress`.

        Yields:
            Waveforms [C, t], float32, at the file's rate; concatenated, the result of `decompress`.

        Raises:
            BitstreamError: the file is damaged, and `conceal` does not allow that; or it contains no complete chunk.
            ModelMismatchError: other weights wrote the file.
            DacError: `start` or `duration` is out of range.
        """
        if self._legacy is not None:
            first, stop = sample_range(self.sample_rate, self._legacy.original_length, start, duration)
            yield decode_legacy(self._legacy, model)[:, first:stop]
            return
        codes = self.codes(model, start, duration, conceal, progress)
        yield from self.restored(inference.decode_blocks(model, codes, not self.seekable))

    def codes(
        self,
        model: DAC,
        start: float | None = None,
        duration: float | None = None,
        conceal: bool | None = False,
        progress: bool = False,
    ) -> Iterator[Tensor]:
        """The codes [C, N, f] that `blocks` decodes, with gaps filled; `restored` takes the audio decoded from them."""
        assert self.header is not None
        context = inference.decoder_context(model)
        self._part = part = time_range(self.header, context, start, duration)
        self._concealer = Concealer(self.header, context)
        self._level_filter = None if self.header.levels is None else LevelFilter(self.header, part.first_frame)
        held, self._held = self._held, None
        if held is not None and held[0] is conceal and part == TimeRange():
            events = self._events_held(*held[1:])
        else:
            if self.seekable:
                self._rewind()
            events = self._events(self._reader, conceal, part, warn=True)
        last = part.last_frame
        if self.header.n_samples is not None:
            last = int(min(self.header.expected_frames(self.header.n_samples), last or math.inf))
        total = None if last is None else last - part.first_frame
        shown = track(events, lambda event: event.n_frames, "decoding", total, progress)
        return self._concealer.codes(self._levels_taken(_clip(shown, part, self.header)))

    def _levels_taken(self, events: Iterable[Chunk | Gap]) -> Iterator[Chunk | Gap]:
        """The same events; the filter gets the levels of chunks. Gaps have level 0."""
        for event in events:
            if self._level_filter is not None and isinstance(event, Chunk) and event.levels is not None:
                self._level_filter.add(event.first_frame, event.levels)
            yield event

    def passes(self, model: DAC) -> Iterator[audio.Audio]:
        """Decode the whole piece as its layers arrive: a file ordered by layers coarse first, then finer each time.

        A file in order of time has one pass.

        Yields:
            Waveforms [C, T], float32, of the whole piece; the last one is the result of `decompress`.

        Raises:
            TruncatedBitstreamError: the file ends early. Raised after the passes before that.
            BitstreamError: the file is damaged or of descript-audio-codec, or contains no audio.
        """
        if self.header is None:
            raise BitstreamError("a file of descript-audio-codec has no layers")
        if self.seekable:
            self._rewind()
        if isinstance(self._reader, MemoryReader):
            yield np.concatenate(list(self.blocks(model)), 1)
            return
        with prefix_errors(self._name):
            reader = self._reader
            for chunks in reader.passes():
                if not chunks:
                    raise BitstreamError("the file contains no audio")
                codes = np.concatenate([chunk.codes for chunk in chunks], -1)
                header = bitstream.with_length(self.header, self._reader.n_samples, codes.shape[-1])
                levels = [torch.from_numpy(chunk.levels) for chunk in chunks if chunk.levels is not None]
                file = DacFile(
                    header, torch.from_numpy(codes.astype(np.int64)), torch.cat(levels, -1) if levels else None
                )
                with DacStream(file) as stream:
                    yield np.concatenate(list(stream.blocks(model)), 1)
                self._check_current(reader)

    def restored(self, decoded: Iterable[Tensor]) -> Iterator[audio.Audio]:
        """Audio [C, 1, t] decoded from `codes`, brought to the file's rate, loudness, bandwidth and length [C, t]."""
        empty = True
        blocks = self._concealer.audio(block[:, 0].float().numpy() for block in decoded)
        if self._level_filter is not None:
            blocks = self._level_filter.blocks(blocks)
        for block in self._at_file_rate(blocks):
            empty = False
            yield block
        if empty:
            if self.cut is None and self._part.start:
                raise DacError(f"the start at {self._part.start / self.sample_rate:g} s is beyond the end of the file")
            raise self.cut or BitstreamError("the file contains no audio")

    def _at_file_rate(self, decoded: Iterable[audio.Audio]) -> Iterator[audio.Audio]:
        """Decoded audio [C, t] at the file's rate, loudness, bandwidth and length; no block is empty."""
        header, part, concealer = self._reader.header, self._part, self._concealer
        low_pass = audio.LowPass(header.model_sample_rate, header.channels, header.bandwidth)
        resampler = audio.Resampler(header.model_sample_rate, header.sample_rate, header.channels)
        position = part.origin
        pending = np.zeros((header.channels, 0), np.float32)  # resampled, not yet yielded; starts at `position`

        def release(limit: float) -> Iterator[audio.Audio]:
            """Yield what is pending before the sample `limit`."""
            nonlocal pending, position
            n_samples = int(np.clip(limit - position, 0, pending.shape[1]))
            block = pending[:, min(n_samples, max(0, part.start - position)) : n_samples]
            pending, position = pending[:, n_samples:], position + n_samples
            if block.shape[1]:
                yield audio.apply_gain(block, -header.gain_db)

        stop = math.inf if part.stop is None else part.stop
        skip = part.skip_decoded
        with network_errors():
            for block in decoded:
                skipped = min(skip, block.shape[1])
                skip -= skipped
                pending = np.concatenate((pending, resampler.push(low_pass.push(block[:, skipped:]))), axis=1)
                # While the length is unknown, the frames that may be padding have to wait.
                sure = header.covered_samples(max(0, part.first_frame + concealer.n_frames - _MAX_PADDING_FRAMES))
                yield from release(min(stop, sure if header.n_samples is None else header.n_samples))
                if position >= stop:
                    return
        if concealer.n_frames == 0:
            return
        pending = np.concatenate((pending, resampler.push(low_pass.flush()), resampler.flush()), axis=1)
        end = min(stop, self._length(part.first_frame + concealer.n_frames))
        # Rounding may leave the frames a few samples short.
        missing = int(max(0, end - position - pending.shape[1]))
        pending = np.pad(pending, ((0, 0), (0, missing)))
        yield from release(end)

    def close(self) -> None:
        """Close the file if it was opened here."""
        self._cleanup.close()

    def __enter__(self) -> DacStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _rewind(self) -> None:
        if self._file is not None:
            self._reader: bitstream.Reader | MemoryReader = MemoryReader(self._file)
            return
        if self.seekable:
            self._stream.seek(self._origin)
        self._reader = bitstream.Reader(self._stream, lambda header: find_context(self._model, header))

    def _events(
        self, reader: bitstream.Reader | MemoryReader, conceal: bool | None, part: TimeRange, warn: bool = False
    ) -> Iterator[Chunk | Gap]:
        """Chunks and gaps up to the end or a cut; chunks far before `part` may be left out.

        With `conceal` every chunk is read, since a gap may hide where later chunks are. Only gaps and missing layers
        that overlap `part` are added to `gaps` and `missing_layers`.
        """
        self.gaps, self.missing_layers, self.cut = [], [], None
        self._check_current(reader)
        events: Iterable[Chunk | Gap] = reader
        try:
            with prefix_errors(self._name):
                if isinstance(reader, bitstream.Reader):
                    reader.skip_damaged_layers = conceal is None
                    if conceal:
                        events = reader.events()
                if events is reader and part.first_frame and self.seekable:
                    reader.seek_frame(part.first_frame)
                for event in self._noted(events, part, warn):
                    yield event
                    self._check_current(reader)
        except TruncatedBitstreamError as error:
            self.cut = error

    def _check_current(self, reader: bitstream.Reader | MemoryReader) -> None:
        """Raise a DacError if another reader has moved the stream."""
        if reader is not self._reader:
            raise DacError("the stream was read again before this reading ended: open the file twice")

    def _events_held(self, events: Iterable[Chunk | Gap], cut: TruncatedBitstreamError | None) -> Iterator[Chunk | Gap]:
        """`_events` of the whole file that `scan` has read."""
        self.gaps, self.missing_layers, self.cut = [], [], None
        with prefix_errors(self._name):
            yield from self._noted(events, TimeRange(), warn=True)
        self.cut = cut

    def _check_silence(self, n_missing: int, n_read: int) -> None:
        """Raise a BitstreamError if gaps of `n_missing` frames are more than `n_read` frames of codes justify."""
        missing, held = (n / self._reader.header.frame_rate for n in (n_missing, n_read))
        most = _SILENCE_SECONDS + _SILENCE_PER_SECOND * held
        if missing > most:
            raise BitstreamError(
                f"the file claims {missing:.3g} s of missing frames after {held:.3g} s of codes, more than the "
                f"{most:.3g} s that are allowed"
            )

    def _noted(self, events: Iterable[Chunk | Gap], part: TimeRange, warn: bool) -> Iterator[Chunk | Gap]:
        """The same events; `gaps` and `missing_layers` get what is missing in `part`, with warnings."""
        n_missing = n_read = 0
        run: MissingLayers | None = None  # chunks in succession without the same layers are reported together
        try:
            for event in events:
                check_stop()
                relevant = any(_clip([event], part, self._reader.header))
                layers = event.missing_layers if isinstance(event, Chunk) and relevant else ()
                if run is not None and run.layers != layers:
                    self._note_run(run, warn)
                    run = None
                if isinstance(event, Gap):
                    n_missing += event.n_frames
                    self._check_silence(n_missing, n_read)
                    self.gaps += [event] if relevant else []
                    self._warn(warn, event, "missing", f" ({event.reason.value})")
                elif layers:
                    start = event.first_frame if run is None else run.first_frame
                    run = MissingLayers(start, event.first_frame + event.n_frames - start, layers)
                n_read += 0 if isinstance(event, Gap) else event.n_frames
                yield event
        finally:
            if run is not None:
                self._note_run(run, warn)

    def _note_run(self, run: MissingLayers, warn: bool) -> None:
        self.missing_layers.append(run)
        *others, last = map(str, run.layers)
        missing = f"layers {', '.join(others)} and {last} are" if others else f"layer {last} is"
        self._warn(warn, run, "coarser", f": {missing} missing")

    def _warn(self, warn: bool, what: Gap | MissingLayers, how: str, reason: str) -> None:
        rate = self._reader.header.frame_rate
        text = f"{what.n_frames / rate:.3f} s are {how} at {what.first_frame / rate:.3f} s{reason}"
        if warn:
            warnings.warn(text if self._name is None else f"{self._name}: {text}", stacklevel=3)

    def _length(self, n_frames: int) -> int:
        """Samples per channel of a file that was read to its end and has `n_frames`."""
        known = self._reader.n_samples
        if self._reader.complete and known is not None:
            return known
        # Without its END chunk, the length in the header is unverified.
        covered = self._reader.header.covered_samples(n_frames)
        return covered if known is None else min(covered, known)


def _clip(events: Iterable[Chunk | Gap], part: TimeRange, header: Header) -> Iterator[Chunk | Gap]:
    """The parts of `events` that belong to `part`."""
    last = part.last_frame
    for event in events:
        start, stop = event.first_frame, event.first_frame + event.n_frames
        begin, end = max(part.first_frame, start), stop if last is None else min(last, stop)
        if begin < end:
            if isinstance(event, Chunk):
                yield event.part(begin, end, header.levels)
            else:
                yield Gap(begin, end - begin, event.reason)
        if last is not None and stop >= last:
            return
