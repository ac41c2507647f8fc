"""Sound files and live sound, found in folders, and read in blocks or whole."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from dac_codec.audio import wav
from dac_codec.audio.decoders import FileDecoder, open_decoder
from dac_codec.audio.samples import MAX_CHANNELS, Audio, check_finite, check_rate
from dac_codec.audio.writing import WRITABLE
from dac_codec.common.errors import AudioError
from dac_codec.common.files import walk_visible
from dac_codec.common.streams import PathOrFile, name_of

RAW_ENCODINGS = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
"""Sample formats of headerless sound, under ffmpeg's names."""

_MP3_TAIL_BYTES = 2**12
"""Size of the tags and the decoder's read-ahead that may follow the last frame of an mp3."""


class Reader:
    """A sound file or live sound, read in blocks. Memory does not grow with its length.

    Nothing is allocated for the length that a header declares. A file that is cut short or damaged yields the samples
    before the damage, then a warning if the decoder notices; so does an mp3 of variable bit rate without its length.

    A stream that is not seekable, or a named pipe, that carries a wav file of plain samples (8 to 32-bit PCM or floats)
    is read as it arrives: a block is yielded as soon as there are samples. They end where the header says, or with the
    stream where the header says 0 or 0xFFFFFFFF, as in live streams. Any other format is first read to its end.

    Iterating yields float32 arrays [C, t] of at most 2^18 samples over all channels, and raises an AudioError for a
    source without samples, for NaN and infinite samples, and where the stream fails.

    Args:
        source: a path, or a binary stream, which is read from its position and not closed. Any format that libsndfile
            knows: wav, flac, ogg, opus, mp3, aiff and others.
        name: what messages call the source; by default its path, or the stream's name.

    Attributes:
        name, sample_rate (Hz), channels: of the source.
        n_samples: samples per channel that the header declares, which may be wrong; None for a pipe that is read as it
            arrives, and where the header declares none.
        rewindable: whether `rewind` can start again: not where a pipe is read as it arrives.

    Raises:
        AudioError: the source is missing, a folder, not permitted, closed, or not sound.
    """

    def __init__(self, source: PathOrFile, name: str | None = None, _layout: wav.Layout | None = None) -> None:
        self.name = name_of(source) if name is None else name
        with contextlib.ExitStack() as stack:
            self._decoder = open_decoder(source, self.name, stack, _layout)
            self._cleanup = stack.pop_all()
        self.sample_rate, self.channels = self._decoder.sample_rate, self._decoder.channels
        self.n_samples = self._decoder.n_samples
        self.rewindable = isinstance(self._decoder, FileDecoder)
        self._blocks = self._decoder.blocks()
        self._n_samples_read = 0

    @classmethod
    def raw(
        cls, stream: BinaryIO, sample_rate: int, channels: int, encoding: str = "s16le", name: str | None = None
    ) -> Reader:
        """Read headerless, interleaved samples as they arrive.

        Args:
            stream: a binary stream, which is read from its position to its end and not closed.
            sample_rate: Hz.
            channels: number of channels.
            encoding: a key of `RAW_ENCODINGS`, such as "s16le".
            name: as for `Reader`.

        Raises:
            AudioError: an invalid sample rate, number of channels or encoding, or no open stream.
        """
        name = name_of(stream) if name is None else name
        check_rate(sample_rate, name)
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{name}: {channels} channels, expected 1 to {MAX_CHANNELS}")
        if encoding not in RAW_ENCODINGS:
            raise AudioError(f"{name}: encoding {encoding!r}, expected one of {', '.join(RAW_ENCODINGS)}")
        return cls(stream, name, wav.Layout(int(sample_rate), channels, RAW_ENCODINGS[encoding]))

    def __iter__(self) -> Iterator[Audio]:
        return self.blocks()

    def blocks(self, warn: bool = True, check: bool = True) -> Iterator[Audio]:
        """Yield the blocks [C, t] from the current position on.

        Args:
            warn: whether to warn after the last block of a file that is cut short or damaged; False for the first of
                two passes.
            check: whether to raise an AudioError for NaN and infinite samples.

        Raises:
            AudioError: no samples, or the stream fails.
        """
        for block in self._blocks:
            if check:
                check_finite(block, self.sample_rate, self.name, self._n_samples_read)
            self._n_samples_read += block.shape[1]
            yield block
        why = f" ({self._decoder.failure})" if self._decoder.failure else ""
        if self._n_samples_read == 0:
            raise AudioError(
                f"{self.name}: the file holds no samples{why}, expected at least one; check how it was made"
            )
        if warn:
            self._warn_if_cut(why)

    def rewind(self) -> None:
        """Return to the first sample.

        Raises:
            AudioError: the source is not `rewindable`, or its sample rate or number of channels has changed.
        """
        if not isinstance(self._decoder, FileDecoder):
            raise AudioError(f"{self.name}: a pipe is read once, as it arrives; save it to a file to read it again")
        self._decoder.rewind()
        if (self._decoder.sample_rate, self._decoder.channels) != (self.sample_rate, self.channels):
            raise AudioError(f"{self.name}: changed while it was read; try again when it is complete")
        self._blocks = self._decoder.blocks()
        self._n_samples_read = 0

    def _warn_if_cut(self, why: str) -> None:
        n_samples, unread = self._n_samples_read, self._decoder.unread_bytes
        if why or (self.n_samples is not None and n_samples < self.n_samples):
            declared = "" if self.n_samples is None else f" of {self.n_samples} declared"
            message = f"cut short, damaged or with a wrong header{why}: read {n_samples}{declared} samples"
        elif unread > _MP3_TAIL_BYTES:  # see `libsndfile.unread_mp3_bytes`
            message = (
                f"read {n_samples} samples, but {unread} bytes of the mp3 follow: its header doesn't give its length; "
                "convert it to wav or flac first, for example with ffmpeg"
            )
        else:
            return
        warnings.warn(f"{self.name}: {message}", stacklevel=2)

    def close(self) -> None:
        """Close what was opened here."""
        self._cleanup.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read(source: PathOrFile, name: str | None = None) -> tuple[Audio, int]:
    """Read a whole sound file: the waveform [C, T], and its sample rate in Hz.

    Arguments and errors are those of `Reader`.
    """
    with Reader(source, name) as reader:
        blocks = list(reader.blocks(check=False))  # checked below, so that the message counts over the whole file
    audio = np.empty((reader.channels, sum(block.shape[1] for block in blocks)), np.float32)
    np.concatenate(blocks, axis=1, out=audio)
    check_finite(audio, reader.sample_rate, reader.name)
    return audio, reader.sample_rate


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """List the sound files in a folder and the folders below it, sorted by path.

    Sound files are those with the extension of a format that libsndfile reads. Hidden files and folders are left out,
    links to folders are followed (see `walk_visible`).

    Raises:
        AudioError: the folder is missing, is not a folder, or part of it can't be listed.
    """
    containers = {container.lower() for container in soundfile.available_formats()} - {"raw"}  # raw: no header
    extensions = {f".{extension}" for extension in (*containers, *WRITABLE, "aifc")}
    try:
        found = walk_visible(folder, follow_links=True)
        return sorted(path for path in found if path.suffix.lower() in extensions and path.is_file())
    except OSError as error:
        raise AudioError(
            f"{error.filename or folder}: can't be listed ({error.strerror or error}), expected a folder; "
            "check the path and its access rights"
        ) from error
