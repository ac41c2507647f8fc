"""Sound files and live sound, read in blocks or whole."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soundfile

from dac_codec.audio import wav
from dac_codec.audio.decoders import FileDecoder, open_decoder
from dac_codec.audio.libsndfile import reason
from dac_codec.audio.samples import MAX_CHANNELS, Audio, check_finite, check_rate
from dac_codec.common.errors import AudioError, in_one_line
from dac_codec.common.streams import PathOrFile, name_of

RAW_ENCODINGS = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}
"""Sample formats of headerless sound, under ffmpeg's names."""


class Reader:
    """A sound file or live sound, read in blocks. Memory does not grow with its length.

    Nothing is allocated for the length that a header declares. A file that is cut short or damaged yields the samples
    before the damage; then `missing` says so, and there is a warning. Joined Ogg streams (`cat a.ogg b.ogg`, radio) of
    one sample rate and number of channels are read as one. mp3 files are read to their end, whatever length they
    declare. Where other sound follows that is not read, `missing` says so, too.

    A stream that is not seekable, or a named pipe, that carries a wav file of plain samples (8 to 32-bit PCM or floats)
    is read as it arrives: a block is yielded as soon as there are samples. They end where the header says, or with the
    stream where the header says 0 or 0xFFFFFFFF, as in live streams. Any other format is first read to its end.

    Iterating yields float32 arrays [C, t] of at most 2^18 samples over all channels, in the order of a wav file, and
    raises an AudioError for a source without samples, for NaN and infinite samples, and where the stream fails.

    Args:
        source: a path, or a binary stream, which is read from its position and not closed. Any format that libsndfile
            knows: wav, flac, ogg, opus, mp3, aiff and others.
        name: what messages call the source; by default its path, or the stream's name.
        warn: whether to warn after the last block if `missing` is not empty; False for callers that look at it.

    Attributes:
        name, sample_rate (Hz), channels: of the source.
        channel_mask: positions of the channels (`common.speakers`); None for mono and stereo, or if unknown.
        n_samples: samples per channel that the header declares, which may be wrong; None for a pipe that is read as it
            arrives, and where the header declares none.
        rewindable: whether `rewind` can start again: not where a pipe is read as it arrives.
        missing: after the last block, what is missing from the sound, in a sentence without the name; "" if nothing is.

    Raises:
        AudioError: the source is missing, a folder, not permitted, closed, or not sound.
    """

    def __init__(
        self, source: PathOrFile, name: str | None = None, warn: bool = True, _layout: wav.Layout | None = None
    ) -> None:
        self.name: str = name_of(source) if name is None else name
        self.missing: str = ""
        self._warns, self._warned = warn, False
        with contextlib.ExitStack() as stack:
            self._decoder = open_decoder(source, self.name, stack, _layout)
            self._cleanup = stack.pop_all()
        self.sample_rate: int = self._decoder.sample_rate
        self.channels: int = self._decoder.channels
        self.channel_mask: int | None = self._decoder.channel_mask
        self.rewindable: bool = self._decoder.rewindable
        self.n_samples: int | None = self._decoder.n_samples if self.rewindable else None
        self._blocks = self._decoder.blocks()
        self._n_samples_read = 0

    @classmethod
    def raw(
        cls,
        stream: BinaryIO,
        sample_rate: int,
        channels: int,
        encoding: str = "s16le",
        name: str | None = None,
        warn: bool = True,
    ) -> Reader:
        """Read headerless, interleaved samples as they arrive, from the position of a binary stream to its end.

        `sample_rate` is in Hz, `encoding` a key of `RAW_ENCODINGS`; `name` and `warn` are those of `Reader`.

        Raises:
            AudioError: an invalid sample rate, number of channels or encoding, or no open stream.
        """
        name = name_of(stream) if name is None else name
        sample_rate = check_rate(sample_rate, name)
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{name}: {channels} channels, expected 1 to {MAX_CHANNELS}")
        if encoding not in RAW_ENCODINGS:
            raise AudioError(f"{name}: encoding {encoding!r}, expected one of {', '.join(RAW_ENCODINGS)}")
        return cls(stream, name, warn, wav.Layout(sample_rate, channels, RAW_ENCODINGS[encoding]))

    def __iter__(self) -> Iterator[Audio]:
        return self.blocks()

    def whole(self) -> Audio:
        """All samples [C, T]. Raises the errors of `blocks`."""
        blocks = list(self.blocks(check=False))  # checked below, so that the message counts over the whole file
        audio = np.concatenate(blocks, axis=1)
        check_finite(audio, self.sample_rate, self.name)
        return audio

    def blocks(self, check: bool = True) -> Iterator[Audio]:
        """Yield the blocks [C, t] from the current position on.

        Args:
            check: whether to raise an AudioError for NaN and infinite samples.

        Raises:
            AudioError: no samples, or the stream fails.
        """
        for block in self._blocks:
            if check:
                check_finite(block, self.sample_rate, self.name, self._n_samples_read)
            self._n_samples_read += block.shape[1]
            yield block
        if self._n_samples_read == 0:
            why = f" ({self._decoder.failure})" if self._decoder.failure else ""
            raise AudioError(
                f"{self.name}: the file holds no samples{why}, expected at least one; check how it was made"
            )
        self.missing = self._missing()
        if not self._warned:
            self._warned = True  # once, if there are several passes
            for line in (self.missing if self._warns else "", self._decoder.note):
                if line:
                    warnings.warn(f"{self.name}: {line}", stacklevel=2)

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

    def excerpt(self, start: int, n_samples: int) -> Audio:
        """Decode a part [C, n_samples] of a file from sample `start` on, unchecked; it is shorter at the end.

        Raises:
            AudioError: the source is not `rewindable`, or can't be decoded there.
        """
        if not isinstance(self._decoder, FileDecoder):
            raise AudioError(f"{self.name}: a pipe is read once, as it arrives; save it to a file to read a part")
        try:
            return self._decoder.excerpt(start, n_samples)
        except soundfile.SoundFileError as error:
            raise AudioError(f"{self.name}: {in_one_line(reason(error))}") from error

    def complete_length(self) -> int:
        """Samples per channel of a file, as far as that can be told without decoding it.

        Raises:
            AudioError: the length is not known, or the file is cut short or followed by sound that is not read.
        """
        why = self._decoder.damage if isinstance(self._decoder, FileDecoder) else "a pipe"
        if why or not self.n_samples:
            raise AudioError(f"{self.name}: {why or 'no samples'}")
        return self.n_samples

    def _missing(self) -> str:
        """What is missing from the sound after its last block."""
        n_read, declared, failure = self._n_samples_read, self._decoder.n_samples, self._decoder.failure
        if failure or (declared is not None and n_read < declared):
            why = f" ({failure})" if failure else ""
            found = f"cut short, damaged or with a wrong header{why}: read {n_read}"
            if declared is None or declared <= n_read:
                return f"{found} samples"
            seconds = (declared - n_read) / self.sample_rate
            return f"{found} of {declared} declared samples, {seconds:.2f} s are missing"
        if self._decoder.unread:
            return (
                f"read {n_read} samples, but {self._decoder.unread}, which is not read; split the file, or convert it "
                "to wav first, for example with ffmpeg"
            )
        return ""

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
        return reader.whole(), reader.sample_rate
