"""Sound files and live sound, read block by block or whole, and sound files of which a part is read."""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from dac_codec.audio import pcm, wav
from dac_codec.audio.libsndfile import reason
from dac_codec.audio.samples import MAX_CHANNELS, Audio, block_length, check_finite, check_rate
from dac_codec.common.errors import AudioError
from dac_codec.common.streams import Pipe

RAW_ENCODINGS = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
"""Sample formats of headerless sound, under the names that ffmpeg gives them."""

_MP3_TAIL_BYTES = 2**12  # tags and read-ahead that may follow the last frame that was decoded
_UNKNOWN_FRAMES = 2**63 - 1  # what libsndfile says of a file that doesn't tell its length


class Reader:
    """A sound file or live sound, read block by block in memory that doesn't grow with its length.

    Nothing is allocated on the word of a header: what was decoded counts. A file that is cut short or damaged gives
    the samples before the damage, and then a warning where the decoder notices; so does an mp3 of variable bit rate
    that doesn't tell its length.

    A stream that can't be sought in, and a named pipe, are read as they come if they hold a wav file of plain samples
    (8 to 32-bit PCM or floats): a block is given as soon as some samples are there. The samples end where the header
    says, or with the stream where the header says 0 or 0xFFFFFFFF, as live ones do. Any other format is first read to
    its end.

    Iterating gives float32 arrays [C, t] of 2^18 samples over all channels, or fewer, and raises an AudioError for a
    source without samples, for NaN and infinite samples, and where the stream fails.

    Args:
        source: a path, or a binary stream, which is read from its position and not closed. Any format that libsndfile
            knows: wav, flac, ogg, opus, mp3, aiff and others.
        name: what messages call the source; by default its path, or the stream's name.

    Attributes:
        name: what messages call the source.
        sample_rate: Hz.
        channels: number of channels.
        n_samples: samples per channel, as the header says; None of a pipe that is read as it comes, whatever a header
            says there, and where only the end tells. A claim: trust what came.
        rewindable: whether `rewind` can start over: not where a pipe is read as it comes.

    Raises:
        AudioError: the source is missing, a folder, not permitted, closed, or not sound.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> None:
        with contextlib.ExitStack() as stack:
            self.name = name if name is not None else _name_of(source)
            self._start(_open(source, self.name, stack), stack)

    @classmethod
    def raw(
        cls, stream: BinaryIO, sample_rate: int, channels: int, encoding: str = "s16le", name: str | None = None
    ) -> Reader:
        """Read headerless samples, interleaved, as they come.

        Args:
            stream: a binary stream, which is read from its position to its end and not closed.
            sample_rate: Hz.
            channels: number of channels.
            encoding: "s16le", "s24le", "s32le" or "f32le".
            name: what messages call the stream; by default the stream's name.

        Raises:
            AudioError: a sample rate, number of channels or encoding that can't be, or no open stream.
        """
        reader = cls.__new__(cls)
        reader.name = _name_of(stream) if name is None else name
        check_rate(sample_rate, reader.name)
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{reader.name}: {channels} channels, expected 1 to {MAX_CHANNELS}")
        if encoding not in RAW_ENCODINGS:
            raise AudioError(f"{reader.name}: encoding {encoding!r}, expected one of {', '.join(RAW_ENCODINGS)}")
        layout = wav.Layout(int(sample_rate), channels, RAW_ENCODINGS[encoding])
        _check_stream(stream, reader.name)
        with contextlib.ExitStack() as stack:
            reader._start(_PcmDecoder(Pipe(stream, reader.name), layout, None), stack)
        return reader

    def _start(self, decoder: _Decoder, stack: contextlib.ExitStack) -> None:
        self._decoder = decoder
        self.sample_rate = decoder.sample_rate
        self.channels = decoder.channels
        self.n_samples = decoder.n_samples
        self.rewindable = decoder.rewindable
        self._blocks = decoder.blocks()
        self._n_samples_read = 0
        self._cleanup = stack.pop_all()

    def __iter__(self) -> Iterator[Audio]:
        yield from self.silently()
        self._complain()

    def silently(self) -> Iterator[Audio]:
        """The same blocks, without the warning: for a sound that is gone over again afterwards."""
        for block in self._decoded():
            check_finite(block, self.sample_rate, self.name, self._n_samples_read - block.shape[1])
            yield block

    def rewind(self) -> None:
        """Start over at the first sample.

        Raises:
            AudioError: the source is not `rewindable`, or is another sound by now.
        """
        if not self.rewindable:
            raise AudioError(f"{self.name}: a pipe is read once, as it comes; save it to a file to read it again")
        self._decoder.rewind()
        if (self._decoder.sample_rate, self._decoder.channels) != (self.sample_rate, self.channels):
            raise AudioError(f"{self.name}: changed while it was read; try again when it is whole")
        self._blocks = self._decoder.blocks()
        self._n_samples_read = 0

    def _decoded(self) -> Iterator[Audio]:
        """Every block as it is, NaN included."""
        for block in self._blocks:
            self._n_samples_read += block.shape[1]
            yield block
        if self._n_samples_read == 0:
            raise AudioError(
                f"{self.name}: the file holds no samples{self._why()}, expected at least one; check how it was made"
            )

    def _why(self) -> str:
        return f" ({self._decoder.failure})" if self._decoder.failure else ""

    def _complain(self) -> None:
        """Warn of what was missing, after the last block."""
        n_samples, failure, unread = self._n_samples_read, self._decoder.failure, self._decoder.unread_bytes
        if failure or (self.n_samples is not None and n_samples < self.n_samples):
            declared = "" if self.n_samples is None else f" of {self.n_samples} declared"
            warnings.warn(
                f"{self.name}: cut short, damaged or with a wrong header{self._why()}: "
                f"read {n_samples}{declared} samples",
                stacklevel=2,
            )
        elif unread > _MP3_TAIL_BYTES:
            # libsndfile guesses the length of an mp3 without a Xing header from its first frame, and stops there (its
            # issue 1001): right at a constant bit rate, too soon at a variable one.
            warnings.warn(
                f"{self.name}: read {n_samples} samples, but the mp3 goes on for {unread} bytes: its header doesn't "
                "give its length; convert it to wav or flac first, for example with ffmpeg",
                stacklevel=2,
            )

    def close(self) -> None:
        """Close what was opened here."""
        self._cleanup.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read(source: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> tuple[Audio, int]:
    """Read a whole sound file.

    Args:
        source: a path, or a binary stream, as for `Reader`.
        name: what messages call the source; by default its path, or the stream's name.

    Returns:
        The waveform [C, T], and its sample rate in Hz.

    Raises:
        AudioError: what `Reader` raises, when it is made and when it is iterated.
    """
    with Reader(source, name) as reader:
        blocks = list(reader._decoded())  # not checked block by block, so that an error counts over the whole file
        reader._complain()
    audio = np.empty((reader.channels, sum(block.shape[1] for block in blocks)), np.float32)
    np.concatenate(blocks, axis=1, out=audio)
    check_finite(audio, reader.sample_rate, reader.name)
    return audio, reader.sample_rate


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[soundfile.SoundFile]:
    """Open a sound file of which only a part is wanted.

    What its attributes `frames`, `samplerate` and `channels` say is the header's word. Seek once, then read once: the
    mp3 decoder can't be trusted with more, and reading itself doesn't seek, which takes long in a compressed file.

    Raises:
        AudioError: the file can't be opened, or an error of the sound file or the system ends the block. One line,
            with the path.
    """
    name = os.fspath(path)
    try:
        if not Path(name).is_file():  # libsndfile would only tell of a "system error"
            raise AudioError(f"{name}: no such file")
        if Path(name).suffix.lower() == ".raw":
            raise AudioError(f"{name}: headerless samples, with no sample rate; convert them to wav first")
        # soundfile takes no str for a name that isn't UTF-8.
        with _ForwardReader(os.fsencode(name) if os.name == "posix" else name) as file:
            yield file
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{name}: {' '.join(reason(error).split())}") from error


class _Decoder(Protocol):
    """Where a Reader's blocks come from.

    Attributes:
        failure: after the last block, what kept the decoder from going on, or "".
        unread_bytes: after the last block of an mp3, how many bytes follow; 0 for other formats.
    """

    sample_rate: int
    channels: int
    n_samples: int | None
    rewindable: bool
    failure: str
    unread_bytes: int

    def blocks(self) -> Iterator[Audio]: ...

    def rewind(self) -> None: ...


class _PcmDecoder:
    """Plain samples from a pipe: at most `n_bytes` of them, and as many as come if that is None."""

    n_samples: int | None = None
    rewindable = False
    failure = ""
    unread_bytes = 0

    def __init__(self, pipe: Pipe, layout: wav.Layout, n_bytes: int | None) -> None:
        self.sample_rate, self.channels = layout.sample_rate, layout.channels
        self._pipe, self._layout, self._n_bytes = pipe, layout, n_bytes

    def blocks(self) -> Iterator[Audio]:
        frame_bytes = self._layout.frame_bytes
        most = block_length(self.channels) * frame_bytes
        left = math.inf if self._n_bytes is None else self._n_bytes
        data = b""
        while left > 0 and (piece := self._pipe.some(int(min(left, most - len(data))))):
            left -= len(piece)
            data += piece
            whole = len(data) - len(data) % frame_bytes
            if whole:
                yield pcm.decode(data[:whole], self._layout.subtype, self.channels)
            data = data[whole:]

    def rewind(self) -> None:
        raise NotImplementedError  # `rewindable` says so


class _FileDecoder:
    """Anything that libsndfile decodes, from a stream that it may seek in."""

    rewindable = True

    def __init__(self, stream: _SafeReader, name: str) -> None:
        self._stream, self._name = stream, name
        self._open()

    def rewind(self) -> None:
        self._file.close()
        self._stream.seek(0)
        self._open()

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        try:
            self._file = _ForwardReader(self._stream)
        except soundfile.SoundFileError as error:
            self._raise_interruption()
            raise AudioError(
                f"{self._name}: not a sound file that can be read ({reason(error)}); convert it to wav or flac first, "
                "for example with ffmpeg"
            ) from error
        except TypeError as error:  # soundfile takes any *.raw for headerless samples, and asks for their sample rate
            raise AudioError(
                f"{self._name}: headerless samples, with no sample rate; convert them to wav first"
            ) from error
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.n_samples: int | None = None if self._file.frames == _UNKNOWN_FRAMES else self._file.frames
        self.failure = ""
        self.unread_bytes = 0

    def blocks(self) -> Iterator[Audio]:
        """Decode to the end of the file or the first damage."""
        block = np.empty((block_length(self.channels), self.channels), np.float32)
        while not self.failure:
            # soundfile doesn't say how much of a block was decoded before an error: the NaN that are left over do.
            block.fill(np.nan)
            try:
                n_decoded = len(self._file.read(out=block))
            except soundfile.SoundFileError as error:
                self.failure = reason(error)
                n_decoded = int(np.count_nonzero(~np.isnan(block).all(axis=1)))
            self._raise_interruption()
            if n_decoded == 0:
                break
            yield block[:n_decoded].T.copy()
        if self._file.format == "MP3":
            position = self._stream.tell()
            self.unread_bytes = self._stream.seek(0, os.SEEK_END) - position

    def _raise_interruption(self) -> None:
        """Raise what a read met that libsndfile couldn't be told of."""
        interruption = self._stream.interruption
        if isinstance(interruption, OSError):
            raise AudioError(
                f"{self._name}: can't be read ({interruption}); check where it comes from"
            ) from interruption
        if interruption is not None:
            raise interruption


def _open(source: str | os.PathLike[str] | BinaryIO, name: str, stack: contextlib.ExitStack) -> _Decoder:
    """Return what decodes the source. What is opened for it is closed with `stack`."""
    if isinstance(source, str | os.PathLike):
        return _open_path(os.fspath(source), name, stack)
    _check_stream(source, name)
    if not getattr(source, "seekable", bool)():
        return _open_pipe(Pipe(source, name), name, stack)
    Pipe(source, name).some(0)  # a stream of text is refused here
    borrowed = _Borrowed(source)
    if borrowed.seek(0, os.SEEK_END) == 0:
        raise _empty(name)
    borrowed.seek(0)
    return _open_file(stack.enter_context(_SafeReader(borrowed)), name, stack)


def _check_stream(stream: object, name: str) -> None:
    """Raise an AudioError unless something can be read from a stream."""
    if not hasattr(stream, "read"):
        raise AudioError(
            f"{name}: a {type(stream).__name__} can't be read, expected a path (str or pathlib.Path) or a binary stream"
        )
    if getattr(stream, "closed", False):
        raise AudioError(f"{name}: the stream is closed, expected an open one; open it again")


def _open_path(path: str, name: str, stack: contextlib.ExitStack) -> _Decoder:
    """Return what decodes a file, or the pipe or device of that name."""
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
    # Files that the system makes up as they are read say that they have no bytes.
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return _open_file(stack.enter_context(_SafeReader(file)), name, stack)
    return _open_pipe(Pipe(file, name), name, stack)


def _open_pipe(pipe: Pipe, name: str, stack: contextlib.ExitStack) -> _Decoder:
    """Return what decodes a pipe: as it comes, or when all its bytes are there."""
    found = wav.read_header(pipe)
    if not isinstance(found, bytes):
        return _PcmDecoder(pipe, *found)
    content = found + pipe.rest()
    if not content:
        raise _empty(name)
    return _open_file(stack.enter_context(_SafeReader(io.BytesIO(content))), name, stack)


def _open_file(stream: _SafeReader, name: str, stack: contextlib.ExitStack) -> _Decoder:
    decoder = _FileDecoder(stream, name)
    stack.callback(decoder.close)
    return decoder


def _empty(name: str) -> AudioError:
    return AudioError(f"{name}: empty (0 bytes), expected a sound file; check how it was made")


def _name_of(source: str | os.PathLike[str] | BinaryIO) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "<stream>"))


class _Borrowed(io.RawIOBase):
    """A caller's stream from its position on, which stays open."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._origin = stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_SET:
            if offset < 0:
                raise ValueError("before the beginning")
            offset += self._origin
        return self._stream.seek(offset, whence) - self._origin


class _SafeReader(io.BufferedReader):
    """A seekable stream for libsndfile to call back.

    An exception would be printed on its way out of a callback, and end there. A damaged header can make libsndfile
    seek to before the beginning, but it finds out for itself that it is not where it wanted to be. Anything else that
    happens during a read, such as Ctrl-C, is the end of the file for libsndfile, and kept for `interruption`.
    """

    interruption: BaseException | None = None

    def readinto(self, buffer: Any, /) -> int:
        try:
            return super().readinto(buffer)
        except BaseException as error:
            self.interruption = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError):
            return self.tell()


class _ForwardReader(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file whose reads don't seek.

    soundfile seeks to the current position after each block that it reads from a seekable file. In an mp3 that loses
    the bits that a frame borrows from the frames before it, and some thousand samples come out as zeros.
    """

    def seekable(self) -> bool:
        return False
