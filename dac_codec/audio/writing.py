"""Sound files and live sound, written in blocks or whole."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from dac_codec.audio import pcm, wav
from dac_codec.audio.channels import check_standard, to_vorbis_order, write_mask
from dac_codec.audio.libsndfile import OutputFile, reason
from dac_codec.audio.samples import MAX_CHANNELS, blocks, check, check_rate
from dac_codec.common.errors import AudioError
from dac_codec.common.files import atomic_write, is_device
from dac_codec.common.speakers import useful_mask
from dac_codec.common.streams import PathOrFile, name_of, write_all

# File extension -> container and default sample format, in libsndfile's names.
WRITABLE = {
    **{name: (name.upper(), "PCM_16") for name in ("wav", "rf64", "w64", "flac", "aiff", "au", "caf")},
    "aif": ("AIFF", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "oga": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


class Writer:
    """A sound file or live sound, written in blocks. Memory does not grow with its length.

    A context manager. A file is written under a temporary name beside the target, which it replaces when the block
    succeeds; otherwise it is deleted. Streams and devices, which may not be seekable, receive the samples of wav and
    raw at once, and all bytes of any other format at the end.

    Samples are clipped to [-1, 1] in integer PCM, and +1.0 becomes the largest integer. A wav file above 4 GiB is
    written as RF64, its 64-bit form (EBU Tech 3306); one of unknown length reserves 36 bytes for that. On a stream, a
    wav header of unknown length has 0xFFFFFFFF in place of its sizes, which players and `Reader` take for "to the end".

    Args:
        target: a path, or a binary stream, which is not closed.
        sample_rate: Hz.
        channels: number of channels.
        n_samples: samples per channel that will be written; None if not known.
        fmt: a file extension that selects the format, by default the target's, or wav for streams. "raw" is for streams
            only: interleaved little-endian samples without a header.
        subtype: a sample format in libsndfile's names, such as "PCM_24" or "FLOAT"; by default 16-bit PCM for wav, raw,
            flac, aiff, au, caf, w64 and rf64, and the codec of the same name for ogg (Vorbis), opus and mp3.
        channel_mask: positions of the channels (`common.speakers`), which are in the order of its bits; None: unknown.
            wav, rf64 and caf store it; flac, ogg and opus have fixed positions for each number of channels.

    Raises:
        AudioError: an unsupported format, an invalid sample rate or number of channels, or positions of channels that
            the format does not have. In the block: the target can't be written. At its end: the number of samples is
            not `n_samples`.
        BrokenPipeError: the reader of a stream closed it.
    """

    def __init__(
        self,
        target: PathOrFile,
        sample_rate: int,
        channels: int,
        n_samples: int | None = None,
        fmt: str | None = None,
        subtype: str | None = None,
        channel_mask: int | None = None,
    ) -> None:
        self.name: str = name_of(target)
        self.sample_rate: int = check_rate(sample_rate, self.name)
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{self.name}: {channels} channels, expected 1 to {MAX_CHANNELS}")
        self.channels = channels
        self.n_samples = n_samples
        to_stream = not isinstance(target, str | os.PathLike)
        if fmt is None:
            suffix = "" if to_stream else Path(self.name).suffix
            fmt = suffix or ("wav" if to_stream or is_device(Path(self.name)) else "")
        self._container, self._subtype = _file_format(fmt, subtype, self.name, to_stream)
        self._plain = self._container in ("WAV", "RAW") and self._subtype in pcm.WIDTHS
        self._mask = useful_mask(channel_mask, channels)
        if self._container in ("FLAC", "OGG"):
            check_standard(self._mask, channels, self._container, self.name)
        self._target = target
        self._buffer: io.BytesIO | None = None
        self._dropped: list[BaseException] = []
        self._n_written = 0
        self._check_size(n_samples or 0)

    def __enter__(self) -> Writer:
        with contextlib.ExitStack() as stack:
            with self._errors():
                self._open(stack)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        if exception[0] is not None:
            with contextlib.suppress(OSError, soundfile.SoundFileError):  # `exception` is the one to report
                self._cleanup.__exit__(*exception)
            return
        with self._errors(), self._cleanup, self._errors():  # the inner one before the file is moved to its place
            if self.n_samples not in (None, self._n_written):
                raise AudioError(
                    f"{self.name}: {self.n_samples} samples were announced, {self._n_written} were written"
                )
            self._file.close()
            if self._buffer is not None:
                _send(self._stream, self._buffer.getbuffer())

    def write(self, block: npt.ArrayLike) -> None:
        """Append a block [C, T] or [T] of any floating dtype, full scale 1.0.

        Raises:
            AudioError: samples that `check` refuses, another number of channels, more samples than `n_samples` or than
                the format can hold, or the target can't be written.
            BrokenPipeError: the reader of a stream closed it.
        """
        waveform = check(block, self.sample_rate, self.name)
        if waveform.shape[0] != self.channels:
            raise AudioError(f"{self.name}: a block has {waveform.shape[0]} channels, expected {self.channels}")
        n_written = self._n_written + waveform.shape[1]
        if self.n_samples is not None and n_written > self.n_samples:
            raise AudioError(f"{self.name}: {self.n_samples} samples were announced, more were written")
        self._check_size(n_written)
        if self._container == "OGG":
            waveform = to_vorbis_order(waveform)
        with self._errors():
            for part in blocks(waveform):  # libsndfile's Vorbis encoder fails on long ones
                self._file.write(part.T)  # soundfile makes libsndfile clip to an integer format's range
        self._n_written = n_written

    def _check_size(self, n_samples: int) -> None:
        """Raise an AudioError if the header's sizes can't hold `n_samples`."""
        size = n_samples * self.channels * pcm.WIDTHS.get(self._subtype, 1)
        if size > wav.LIMIT_BYTES and self._container in ("AIFF", "AU", "WAV") and not self._plain:
            raise AudioError(
                f"{self.name}: more than the 4 GiB that {self._container} {self._subtype} can hold; write rf64, w64, "
                "caf or flac"
            )

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Open the target; `stack` closes it, and moves a file to its place or deletes it.

        A stream gets what libsndfile writes at the end, from a buffer: only then its bytes are final.
        """
        path: Path | None = None
        stream: Any = self._target
        if isinstance(stream, str | os.PathLike):
            if not is_device(Path(stream)):
                path = stream = stack.enter_context(atomic_write(Path(stream)))
            stream = stack.enter_context(io.FileIO(stream, "w"))
        if self._plain:
            wav_layout = wav.Layout(self.sample_rate, self.channels, self._subtype, self._mask)
            self._file = _PcmFile(stream, self._container, wav_layout, self.n_samples, rewritable=path is not None)
            return
        self._stream, self._buffer = stream, io.BytesIO() if path is None else None
        layout = self.sample_rate, self.channels, self._subtype
        self._file = OutputFile(self._dropped, self._buffer or stream, "w", *layout, format=self._container)
        stack.callback(self._file.close)
        if self._mask is not None and self._container not in ("FLAC", "OGG"):
            write_mask(self._file, self._mask)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn an error of the target into an AudioError that says what to do."""
        try:
            try:
                yield
            finally:
                if self._dropped:
                    raise self._dropped[0]
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{self.name}: {self.channels} channels at {self.sample_rate} Hz can't be written as "
                f"{self._container} {self._subtype} ({reason(error)}); choose another format, such as wav"
            ) from error
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path, or a closed stream
            what = getattr(error, "strerror", None) or str(error)
            raise AudioError(
                f"{self.name}: can't be written ({what}); check the path, its access rights and the free disk space"
            ) from error


def write(
    target: PathOrFile, audio: npt.ArrayLike, sample_rate: int, fmt: str | None = None, subtype: str | None = None
) -> None:
    """Write a whole sound file: `audio` [C, T] or [T] of any floating dtype, full scale 1.0.

    The other arguments, and the errors, are those of `Writer` and `Writer.write`.
    """
    waveform = check(audio, sample_rate, name_of(target))
    with Writer(target, sample_rate, waveform.shape[0], waveform.shape[1], fmt, subtype) as writer:
        writer.write(waveform)


class _PcmFile:
    """Plain samples after a wav header, or without one ("RAW"), written as by `soundfile.SoundFile`.

    A stream gets its header once. In a file (`rewritable`), the header of unknown length is replaced at the end.
    """

    def __init__(
        self, stream: BinaryIO, container: str, layout: wav.Layout, n_samples: int | None, rewritable: bool
    ) -> None:
        self._stream, self._layout, self._n_written = stream, layout, 0
        self._rewrites = rewritable and n_samples is None
        self._pads = container == "WAV" and (rewritable or n_samples is not None)
        if container == "WAV":
            _send(stream, wav.header(layout, 0 if self._rewrites else n_samples, with_room=self._rewrites))

    def write(self, frames: npt.NDArray[np.float32]) -> None:
        """Append samples [T, C]."""
        _send(self._stream, pcm.encode(frames.T, self._layout.subtype))
        self._n_written += len(frames)

    def close(self) -> None:
        if self._pads:  # to an even number of bytes
            _send(self._stream, bytes(self._n_written * self._layout.frame_bytes % 2))
        if self._rewrites:
            self._stream.seek(0)
            _send(self._stream, wav.header(self._layout, self._n_written, with_room=True))


def _send(stream: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data` and flush it: live samples must not wait, and closing is too late to report a full disk."""
    write_all(stream, data)
    if hasattr(stream, "flush"):
        stream.flush()


def _file_format(fmt: str, subtype: str | None, name: str, to_stream: bool) -> tuple[str, str]:
    """Return libsndfile's names for the container and the sample format."""
    extension = fmt.lower().removeprefix(".")
    formats = {**WRITABLE, "raw": ("RAW", "PCM_16")} if to_stream else WRITABLE
    if extension not in formats:
        found = f"file format {extension!r}" if extension else "no file extension"
        raise AudioError(f"{name}: {found}, expected one of {', '.join(sorted(formats))}")
    container, default_subtype = formats[extension]
    subtype = default_subtype if subtype is None else subtype.upper()
    known = pcm.WIDTHS if container == "RAW" else soundfile.available_subtypes(container)
    if subtype not in known:
        raise AudioError(
            f"{name}: {container} has no sample format {subtype!r}, expected one of {', '.join(sorted(known))}"
        )
    return container, subtype
