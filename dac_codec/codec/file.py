"""Compressed audio in memory (`DacFile`), and opening the files it is read from and written to."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from dac_codec import bitstream
from dac_codec.bitstream import Chunk, Header, LegacyFile
from dac_codec.bitstream.container import check_codes, check_levels
from dac_codec.codec.models import find_context, model_id
from dac_codec.common.errors import BitstreamError, DacError
from dac_codec.common.files import atomic_write, is_device
from dac_codec.common.streams import PathOrFile as PathOrFile
from dac_codec.common.streams import read_rest, write_all
from dac_codec.model import DAC


@dataclass(frozen=True, eq=False)
class DacFile:
    """Compressed audio in memory: all that is needed to decode it except the model.

    Attributes:
        header: metadata of the file.
        codes: [C, N, F], int64; -1 where a frame has no code. The codes of a frame are its first `n_codes`.
        levels: band levels in steps, [C, bands, W], int8; None if there are none.
    """

    header: Header
    codes: Tensor
    levels: Tensor | None = None

    @property
    def n_codes(self) -> Tensor:
        """Number of codes of each frame, [C, F], int64."""
        return (self.codes >= 0).sum(1)

    def __eq__(self, other: object) -> bool:
        """Whether header, codes and levels are equal."""
        if not isinstance(other, DacFile):
            return NotImplemented
        same_levels = (self.levels is None) == (other.levels is None)
        if self.levels is not None and other.levels is not None:
            same_levels = torch.equal(self.levels.cpu(), other.levels.cpu())
        return same_levels and self.header == other.header and torch.equal(self.codes.cpu(), other.codes.cpu())

    def __hash__(self) -> int:
        return hash((self.header, self.codes.shape))

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the original audio in Hz."""
        return self.header.sample_rate

    @property
    def channels(self) -> int:
        """Number of channels of the original audio."""
        return self.header.channels

    @property
    def n_samples(self) -> int:
        """Samples of each channel of the original audio."""
        known = self.header.n_samples
        return self.header.covered_samples(self.codes.shape[-1]) if known is None else known

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate

    @property
    def bitrate(self) -> float:
        """Mean bitrate of the codes of all channels in bit/s, at ceil(log2(codebook_size)) bits each."""
        if self.codes.numel() == 0:
            return self.header.bitrate
        return self.header.bitrate * float((self.codes >= 0).double().mean())

    @property
    def model_id(self) -> str:
        """Name and fingerprint of the weights that wrote the codes, as `name@fingerprint`."""
        return model_id(self.header)

    def to_bytes(self, model: str | os.PathLike[str] | DAC | None = None) -> bytes:
        """The content of a .dac file.

        Args:
            model: where to find the context model of the codes, if the header names one: beside the weights of this
                model. None: of the bundled or published model that the header names.

        Raises:
            BitstreamError: the codes don't match the header.
            ModelMismatchError: there is no such context model.
        """
        header = replace(self.header, n_samples=self.n_samples)
        context = None if header.context_fingerprint is None else find_context(model, header)
        levels = None if self.levels is None else self.levels.numpy()
        return bitstream.dumps(header, self.codes.numpy(), levels, context)

    @classmethod
    def from_bytes(
        cls, data: bytes, allow_truncated: bool = False, model: str | os.PathLike[str] | DAC | None = None
    ) -> DacFile:
        """Read the content of a .dac file.

        Args:
            data: the bytes.
            allow_truncated: whether to read a truncated file up to its last complete chunk.
            model: as for `to_bytes`.

        Raises:
            TruncatedBitstreamError: the file is truncated and `allow_truncated` is False.
            ModelMismatchError: the context model of the codes is not found.
            BitstreamError: the bytes are not a .dac file, or are damaged.
        """
        if bitstream.is_legacy(data):
            raise BitstreamError(
                "a file of descript-audio-codec: use decompress() to decode it, or `dac-codec convert` to convert it"
            )
        header, codes, levels = bitstream.loads(data, allow_truncated, partial(find_context, model))
        return cls(
            header, torch.from_numpy(codes.astype(np.int64)), None if levels is None else torch.from_numpy(levels)
        )

    def save(self, path: str | os.PathLike[str], model: str | os.PathLike[str] | DAC | None = None) -> None:
        """Write to a file atomically. `model` is as for `to_bytes`.

        Raises:
            DacError: the file can't be written.
        """
        write_bytes(path, self.to_bytes(model))

    @classmethod
    def load(
        cls, path: PathOrFile | bytes, allow_truncated: bool = False, model: str | os.PathLike[str] | DAC | None = None
    ) -> DacFile:
        """Read a file, bytes or a binary file object.

        Raises the errors of `from_bytes`, or a DacError if the file can't be opened.
        """
        with open_for_reading(path) as stream:
            return cls.from_bytes(read_rest(stream), allow_truncated, model)


class MemoryReader:
    """A DacFile with the interface of `bitstream.Reader`, for files without gaps."""

    complete = True

    def __init__(self, file: DacFile) -> None:
        self.header: Header = file.header
        self.n_samples: int = file.n_samples
        codes, self._first_frame = np.asarray(file.codes), 0
        check_codes(file.header, codes)
        self._codes = codes.astype(np.int32)
        self._levels = None if file.levels is None else np.asarray(file.levels)
        if self._levels is not None:
            check_levels(file.header, self._levels)
        elif file.header.levels is not None:
            raise BitstreamError("the levels of the file are missing")
        n_samples, n_frames = file.header.n_samples, self._codes.shape[-1]
        if n_samples is not None and n_frames < min(file.header.possible_frames(n_samples)):
            file.header.check_length(n_samples, n_frames)

    def seek_frame(self, frame: int) -> int:
        self._first_frame = min(frame, self._codes.shape[-1])
        return self._first_frame

    def __iter__(self) -> Iterator[Chunk]:
        n_frames = self._codes.shape[-1]
        size = -(-n_frames // 100)  # steps of the progress bar
        whole = Chunk(0, self._codes, self._levels)
        for start in range(self._first_frame, n_frames, max(1, size)):
            yield whole.part(start, min(start + size, n_frames), self.header.levels)


def load(
    source: PathOrFile | bytes, allow_truncated: bool = False, model: str | os.PathLike[str] | DAC | None = None
) -> DacFile | LegacyFile:
    """Read a .dac file of this package or of descript-audio-codec. `model` is as for `DacFile.to_bytes`.

    Raises:
        BitstreamError: the file is neither, or is damaged.
        DacError: the file can't be opened.
    """
    with open_for_reading(source) as stream:
        data = read_rest(stream)
        if bitstream.is_legacy(data):
            return bitstream.read_legacy(data)
        return DacFile.from_bytes(data, allow_truncated, model)


def thin(
    source: PathOrFile,
    target: PathOrFile,
    n_quantizers: int | None = None,
    bitrate: float | None = None,
    order: Literal["time", "layers"] | None = None,
    levels: bool = True,
) -> int:
    """Write a .dac file with fewer codebooks, or in another order, without decoding its codes. Needs no model.

    Args:
        source: a file or a binary file object.
        target: as for `write_bytes`.
        n_quantizers: codebooks to keep. A file with fewer keeps all.
        bitrate: highest mean bitrate of the codes of each channel in bit/s, instead of `n_quantizers`.
        order: "time"; or "layers": the coarse codes of the whole piece come first, so that the beginning of the file is
            the whole piece. None: that of the file.
        levels: whether to keep the band levels.

    Returns:
        The size of the new file in bytes.

    Raises:
        BitstreamError: the source is not a .dac file of this package, or is truncated or damaged.
        DacError: an argument is out of range, or a file can't be opened or written.
    """
    with open_for_reading(source) as stream:
        data = read_rest(stream)
        if bitstream.is_legacy(data):
            raise BitstreamError("a file of descript-audio-codec can't be thinned: convert it first")
        thinned = bitstream.thin(data, n_quantizers, bitrate, None if order is None else bitstream.Order(order), levels)
    write_bytes(target, thinned)
    return len(thinned)


def write_bytes(target: PathOrFile, data: bytes) -> None:
    """Write a file atomically, or to a binary stream.

    Raises:
        DacError: it can't be written; nothing is left behind.
    """
    with open_for_writing(target) as stream:
        write_all(stream, data)


@contextmanager
def open_for_reading(source: PathOrFile | bytes) -> Iterator[BinaryIO]:
    """A path opened for reading; bytes as a stream; a binary stream as it is. A BitstreamError gets the path prefixed.

    Raises a DacError if the file can't be opened, or `source` is none of these.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):
        if not hasattr(source, "read"):
            raise DacError(f"the file is a {type(source).__name__}, expected a path, bytes or a binary file object")
        yield source
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise DacError(f"can't read {os.fspath(source)}: {error.strerror or error}") from error
        with prefix_errors(source):
            yield stream


@contextmanager
def open_for_writing(target: PathOrFile, keep_partial: bool = False) -> Iterator[BinaryIO]:
    """A path opened for writing: the file appears when the block ends without an error. A binary stream as it is.

    `keep_partial` is as for `atomic_write`; an error then names the file that is left. A device or a named pipe is
    written directly. Raises a DacError if the file can't be written.
    """
    if not isinstance(target, (str, os.PathLike)):
        yield target
        return
    path = file = Path(target)
    try:
        with (
            nullcontext(path) if is_device(path) else atomic_write(path, keep_partial) as file,
            file.open("wb") as stream,
        ):
            yield stream
    except (OSError, DacError) as error:
        left = f"; what was written before is in {file}" if file != path and file.exists() else ""
        if isinstance(error, OSError):
            raise DacError(f"can't write {os.fspath(target)}: {error.strerror or error}{left}") from error
        if left:
            raise type(error)(f"{error}{left}") from error
        raise


@contextmanager
def prefix_errors(source: object) -> Iterator[None]:
    """Prefix the message of a BitstreamError with `source`, if that is a path."""
    try:
        yield
    except BitstreamError as error:
        if isinstance(source, (str, os.PathLike)):
            raise type(error)(f"{os.fspath(source)}: {error}") from error
        raise
