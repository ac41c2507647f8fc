"""Bytes to samples: plain samples as they arrive, and every other format by libsndfile."""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import BinaryIO, TypeAlias

import numpy as np
import soundfile

from dac_codec.audio import libsndfile, pcm, wav
from dac_codec.audio.channels import read_channels
from dac_codec.audio.containers import has_second_flac
from dac_codec.audio.parts import Contents, Part, find_mpeg, find_parts, what_follows
from dac_codec.audio.samples import Audio, block_length
from dac_codec.common import native
from dac_codec.common.errors import AudioError
from dac_codec.common.speakers import useful_mask
from dac_codec.common.streams import OffsetStream, PathOrFile, SeekableStream, SegmentedStream, read_rest, read_some


class PcmDecoder:
    """Plain samples from a stream, as they arrive: `n_bytes` of them, or all up to its end if that is None.

    Attributes, here and in `FileDecoder`:
        sample_rate, channels, channel_mask (see `common.speakers`; None: unknown).
        n_samples: samples per channel that the source declares, or None.
        rewindable: whether there is a method `rewind`.
        failure: after the last block, why the decoder stopped early, or why the end of the source is not that of the
            sound; or "".
        unread: after the last block, what follows and is not read; or "".
        note: what is wrong with the header although all sound is there; or "".
    """

    rewindable = False
    failure: str = ""
    unread: str = ""
    note: str = ""

    def __init__(self, stream: BinaryIO, name: str, layout: wav.Layout, n_bytes: int | None) -> None:
        self.sample_rate: int = layout.sample_rate
        self.channels: int = layout.channels
        self.channel_mask: int | None = useful_mask(layout.channel_mask, layout.channels)
        self.n_samples: int | None = None if n_bytes is None else n_bytes // layout.frame_bytes
        self._stream, self._name, self._layout, self._n_bytes = stream, name, layout, n_bytes

    def blocks(self) -> Iterator[Audio]:
        """Decode from the current position to the end or the first damage: blocks [C, t], unchecked."""
        frame_bytes = self._layout.frame_bytes
        block_bytes = block_length(self.channels) * frame_bytes
        remaining = math.inf if self._n_bytes is None else self._n_bytes
        data = b""
        while remaining > 0:
            with stream_errors(self._name):
                piece = read_some(self._stream, int(min(remaining, block_bytes - len(data))))
            if not piece:
                break
            remaining -= len(piece)
            data += piece
            whole = len(data) - len(data) % frame_bytes
            if whole:
                yield pcm.decode(data[:whole], self._layout.subtype, self.channels)
            data = data[whole:]
        if data and self._n_bytes is None:
            self.note = "an incomplete sample at the end is left out"
        if remaining == 0:
            with stream_errors(self._name):
                if wav.has_second_file(self._stream, self._n_bytes or 0):
                    self.unread = "another sound file follows"


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that is not sought in after each read.

    soundfile seeks to the current position after each block that it reads from a seekable file. In an mp3 that loses
    the bit reservoir, the bits that a frame borrows from the frames before it, and zeros about 1000 samples.
    """

    def seekable(self) -> bool:
        return False


class FileDecoder:
    """Any format that libsndfile knows, from a seekable stream. The parts of a file are decoded one after the other."""

    rewindable = True

    def __init__(self, stream: SeekableStream, name: str) -> None:
        self._stream, self._name, self._opened = stream, name, contextlib.ExitStack()
        self._file: _SequentialFile | None = None
        self.rewind()

    def rewind(self) -> None:
        """Return to the first sample."""
        self._printed: list[str] = []
        with stream_errors(self._name):
            self._contents = _remembered(self._stream, find_parts)
        self._unread_part: Part | None = None
        file = self._open(self._contents.parts[0])
        if file.format == "MP3":
            with stream_errors(self._name):
                contents = _remembered(self._stream, partial(find_mpeg, contents=self._contents))
            if contents.parts[0].segments != self._contents.parts[0].segments:
                file = self._open(contents.parts[0])
            self._contents = contents
        elif libsndfile.is_cut_short(file):
            self._contents = replace(self._contents, failure="the header declares more samples than are there")
        self.sample_rate: int = file.samplerate
        self.channels: int = file.channels
        first, *others = self._contents.parts
        content = SegmentedStream(self._stream, first.segments)
        self.channel_mask, self._order = read_channels(file, content, first.vorbis_order)
        self.failure: str = ""
        self.unread: str = self._contents.unread
        self.note: str = self._contents.note
        self._lengths = [_length(file, first)]
        for part in others:
            try:
                file = self._open(part)
            except AudioError:
                self.unread = "more follows that can't be read"
                break
            if (file.samplerate, file.channels) != (self.sample_rate, self.channels):
                self.unread = what_follows(file.channels, file.samplerate)
                break
            self._lengths.append(_length(file, part))
        if not others:
            self._unread_part = first
        known = [length for length in self._lengths if length is not None]
        self.n_samples: int | None = None if None in self._lengths or self._contents.failure else sum(known)

    def close(self) -> None:
        self._opened.close()

    @property
    def damage(self) -> str:
        """What is known to be missing before anything is decoded; or ""."""
        if any(part.sizes for part in self._contents.parts):
            return f"cut short: the header declares {self.n_samples} samples, fewer are there"
        return self._contents.failure or (f"{self.unread}, which is not read" if self.unread else "")

    def blocks(self) -> Iterator[Audio]:
        """Decode from the first sample to the end or the first damage: blocks [C, t], unchecked."""
        buffer = np.empty((block_length(self.channels), self.channels), np.float32)
        for part in self._contents.parts[: len(self._lengths)]:
            file = self._open(part)
            n_left = file.frames  # libsndfile decodes no more, but fills the block with zeros if an error follows
            while n_left and not self.failure:
                with self._captured(file.format) as lines:
                    block, self.failure = libsndfile.read_block(file, buffer[:n_left])
                self._raise_interruption()
                self._printed += lines
                if len(block) == 0:
                    break
                n_left -= len(block)
                yield (block if self._order is None else block[:, self._order]).T.copy()
        self.failure = self.failure or self._contents.failure or self._reported_error()
        if file.format == "FLAC" and has_second_flac(self._callbacks):
            self.failure, self.unread = "", "another sound file follows"

    def excerpt(self, start: int, n_samples: int) -> Audio:
        """Decode `n_samples` samples [C, n_samples] from `start` on, or fewer at the end."""
        pieces = []
        for part, length in zip(self._contents.parts, self._lengths, strict=False):
            n_part = n_samples if length is None else min(n_samples, length - start)
            if n_part > 0:
                file = self._open(part)
                if start:
                    file.seek(start)
                with self._captured(file.format):
                    block = file.read(n_part, dtype="float32", always_2d=True)
                self._raise_interruption()
                pieces.append((block if self._order is None else block[:, self._order]).T)
                n_samples -= n_part
            start = max(0, start - (length or 0))
        return np.concatenate(pieces, axis=1) if pieces else np.empty((self.channels, 0), np.float32)

    def _open(self, part: Part) -> _SequentialFile:
        """Open a part, and close the one before; one that is open and was not read yet is returned."""
        if part is self._unread_part and self._file is not None:
            self._unread_part = None
            return self._file
        self._opened.close()
        self._callbacks = libsndfile.CallbackStream(SegmentedStream(self._stream, part.segments))
        self._opened.callback(self._callbacks.close)
        try:
            with native.captured() as lines:
                file = _SequentialFile(self._callbacks)
            self._printed += lines
        except soundfile.SoundFileError as error:
            self._raise_interruption()
            raise AudioError(
                f"{self._name}: not a sound file that can be read ({libsndfile.reason(error)}); convert it to "
                "wav or flac first, for example with ffmpeg"
            ) from error
        except TypeError as error:  # soundfile takes any *.raw for headerless samples, and requires their sample rate
            raise AudioError(
                f"{self._name}: headerless samples, with no sample rate; convert them to wav first"
            ) from error
        self._opened.callback(file.close)
        self._file = file
        return file

    def _captured(self, fmt: str) -> AbstractContextManager[list[str]]:
        """Collect what a decoder prints: decoders that print nothing may run in several threads at once."""
        return contextlib.nullcontext([]) if fmt in _SILENT_FORMATS else native.captured()

    def _reported_error(self) -> str:
        """The errors that the decoder has printed; other lines of it are notes."""
        errors = [line for line in self._printed if "error" in line.lower()]
        if errors:
            more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
            return f"the decoder reports: {errors[0]}{more}"
        if self._printed and not self.note:
            self.note = f"the decoder reports: {self._printed[0]}"
        return ""

    def _raise_interruption(self) -> None:
        """Raise what `CallbackStream` kept from libsndfile."""
        error = self._callbacks.interruption
        if isinstance(error, OSError):
            raise AudioError(f"{self._name}: can't be read ({error}); check where it comes from") from error
        if error is not None:
            raise error


def _length(file: _SequentialFile, part: Part) -> int | None:
    """Samples per channel that a part declares, or None."""
    if part.n_samples is not None:
        return part.n_samples
    if part.sizes is not None:
        declared, present = part.sizes
        width = pcm.WIDTHS.get(file.subtype.replace("S8", "U8"))
        if width is None:
            return round(int(file.frames) * declared / max(1, present))
        return declared // (width * int(file.channels))
    return None if file.frames == libsndfile.UNKNOWN_FRAMES else int(file.frames)


_MOST_REMEMBERED = 2**14  # files
_SETTLED_NS = 2_000_000_000
"""Age from which a file that is written again is sure to get another time stamp."""

_contents: dict[tuple[object, ...], Contents] = {}
"""What was found in files on disk, by what identifies them: training reads a file many times."""


def _remembered(stream: SeekableStream, find: Callable[[SeekableStream], Contents]) -> Contents:
    """`find(stream)`, once for each file on disk."""
    if not isinstance(stream, io.FileIO):
        return find(stream)
    status = os.fstat(stream.fileno())
    if time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
        return find(stream)
    key = (getattr(find, "func", find), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _contents:
        if len(_contents) >= _MOST_REMEMBERED:
            _contents.clear()
        _contents[key] = find(stream)
    return _contents[key]


_SILENT_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG")
"""Formats whose decoders print nothing."""

Decoder: TypeAlias = PcmDecoder | FileDecoder


def open_decoder(source: PathOrFile, name: str, stack: contextlib.ExitStack, layout: wav.Layout | None) -> Decoder:
    """Return the decoder of a path or stream, or of a stream of headerless samples in a `layout`.

    Whatever is opened for it is closed with `stack`.

    Raises:
        AudioError: the source can't be opened or read, or is not sound.
    """
    if isinstance(source, str | os.PathLike) and layout is None:
        return _open_path(os.fspath(source), name, stack)
    if isinstance(source, str | os.PathLike) or not hasattr(source, "read"):
        raise AudioError(
            f"{name}: a {type(source).__name__} can't be read, expected a path (str or pathlib.Path) or a binary stream"
        )
    if getattr(source, "closed", False):
        raise AudioError(f"{name}: the stream is closed, expected an open one; open it again")
    if layout is not None:
        return PcmDecoder(source, name, layout, None)
    if not getattr(source, "seekable", bool)():
        return _open_pipe(source, name, stack)
    with stream_errors(name):
        read_some(source, 0)  # refuses text streams
    return _open_file(OffsetStream(source), name, stack)


@contextlib.contextmanager
def stream_errors(name: str) -> Iterator[None]:
    """Turn an error of a caller's stream into an AudioError."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: it has been closed
        raise AudioError(f"{name}: can't be read ({error}); check where the stream comes from") from error
    except TypeError as error:
        raise AudioError(f"{name}: {error}") from error


def _open_path(path: str, name: str, stack: contextlib.ExitStack) -> Decoder:
    """Return the decoder of a file, pipe or device."""
    try:
        file = stack.enter_context(io.FileIO(path))
        status = os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise AudioError(f"{name}: a folder, expected a sound file; name a file inside it") from error
    except PermissionError as error:
        raise AudioError(f"{name}: no permission to read it; check its access rights") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise AudioError(f"{name}: can't be opened ({error}); check the path") from error
    # Files that the system generates as they are read, such as those in /proc, have a size of 0.
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return _open_file(file, name, stack)
    return _open_pipe(file, name, stack)


def _open_pipe(pipe: BinaryIO, name: str, stack: contextlib.ExitStack) -> Decoder:
    """Return the decoder of a pipe, which is first read to its end unless it carries plain samples."""
    with stream_errors(name):
        found = wav.read_header(pipe, name)
        if not isinstance(found, bytes):
            return PcmDecoder(pipe, name, *found)
        content = found + read_rest(pipe)
    return _open_file(io.BytesIO(content), name, stack)


def _open_file(stream: SeekableStream, name: str, stack: contextlib.ExitStack) -> FileDecoder:
    if stream.seek(0, os.SEEK_END) == 0:
        raise AudioError(f"{name}: empty (0 bytes), expected a sound file; check how it was made")
    stream.seek(0)
    decoder = FileDecoder(stream, name)
    stack.callback(decoder.close)
    return decoder
