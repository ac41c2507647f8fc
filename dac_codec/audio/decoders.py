"""Bytes to samples: plain samples as they arrive, and every other format by libsndfile."""

from __future__ import annotations

import contextlib
import io
import math
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO, TypeAlias

import numpy as np
import soundfile

from dac_codec.audio import libsndfile, pcm, wav
from dac_codec.audio.samples import Audio, block_length
from dac_codec.common.errors import AudioError
from dac_codec.common.streams import OffsetStream, PathOrFile, read_rest, read_some


class PcmDecoder:
    """Plain samples from a stream, as they arrive: `n_bytes` of them, or all up to its end if that is None.

    After the last block, `failure` says why the decoder stopped early ("" if it did not), and `unread_bytes` how many
    bytes follow an mp3's (0 for other formats), here and in `FileDecoder`.
    """

    n_samples: int | None = None
    failure = ""
    unread_bytes = 0

    def __init__(self, stream: BinaryIO, name: str, layout: wav.Layout, n_bytes: int | None) -> None:
        self.sample_rate, self.channels = layout.sample_rate, layout.channels
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


class FileDecoder:
    """Any format that libsndfile knows, from a seekable stream."""

    def __init__(self, stream: libsndfile.CallbackStream, name: str) -> None:
        self._stream, self._name = stream, name
        self._open()

    def _open(self) -> None:
        try:
            self._file = libsndfile.SequentialFile(self._stream)
        except soundfile.SoundFileError as error:
            self._raise_interruption()
            raise AudioError(
                f"{self._name}: not a sound file that can be read ({libsndfile.reason(error)}); convert it to "
                "wav or flac first, for example with ffmpeg"
            ) from error
        except TypeError as error:  # soundfile takes any *.raw for headerless samples, and requires their sample rate
            raise libsndfile.headerless(self._name) from error
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        frames: int = self._file.frames
        self.n_samples = None if frames == libsndfile.UNKNOWN_FRAMES else frames
        self.failure, self.unread_bytes = "", 0

    def rewind(self) -> None:
        """Return to the first sample."""
        self.close()
        self._stream.seek(0)
        self._open()

    def close(self) -> None:
        self._file.close()

    def blocks(self) -> Iterator[Audio]:
        buffer = np.empty((block_length(self.channels), self.channels), np.float32)
        while not self.failure:
            block, self.failure = libsndfile.read_block(self._file, buffer)
            self._raise_interruption()
            if len(block) == 0:
                break
            yield block.T.copy()
        self.unread_bytes = libsndfile.unread_mp3_bytes(self._file, self._stream)

    def _raise_interruption(self) -> None:
        """Raise what `CallbackStream` kept from libsndfile."""
        error = self._stream.interruption
        if isinstance(error, OSError):
            raise AudioError(f"{self._name}: can't be read ({error}); check where it comes from") from error
        if error is not None:
            raise error


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


def _open_file(stream: io.RawIOBase | io.BytesIO, name: str, stack: contextlib.ExitStack) -> FileDecoder:
    if stream.seek(0, os.SEEK_END) == 0:
        raise AudioError(f"{name}: empty (0 bytes), expected a sound file; check how it was made")
    stream.seek(0)
    decoder = FileDecoder(stack.enter_context(libsndfile.CallbackStream(stream)), name)
    stack.callback(decoder.close)
    return decoder
