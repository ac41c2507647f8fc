"""Compressed audio in memory (`DacFile`), and opening the files it is read from and written to."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from dac_codec import bitstream
from dac_codec.bitstream import Header, LegacyFile
from dac_codec.codec.models import model_id
from dac_codec.common.errors import BitstreamError, DacError
from dac_codec.common.files import atomic_write, is_device
from dac_codec.common.streams import PathOrFile as PathOrFile


@dataclass(frozen=True, eq=False)
class DacFile:
    """Compressed audio in memory: all that is needed to decode it except the model.

    Attributes:
        header: metadata of the file.
        codes: [C, N, F], int64.
    """

    header: Header
    codes: Tensor

    def __eq__(self, other: object) -> bool:
        """Whether header and codes are equal."""
        if not isinstance(other, DacFile):
            return NotImplemented
        return self.header == other.header and torch.equal(self.codes.cpu(), other.codes.cpu())

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
        if self.header.n_samples is not None:
            return self.header.n_samples
        return int(self.codes.shape[-1] * self.sample_rate / self.header.frame_rate)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate

    @property
    def bitrate(self) -> float:
        """Bitrate of the codes of all channels, in bit/s."""
        return self.header.bitrate

    @property
    def model_id(self) -> str:
        """Name and fingerprint of the weights that wrote the codes, as `name@fingerprint`."""
        return model_id(self.header)

    def to_bytes(self) -> bytes:
        """The content of a .dac file.

        Raises:
            BitstreamError: the codes don't match the header.
        """
        return bitstream.dumps(replace(self.header, n_samples=self.n_samples), self.codes.numpy())

    @classmethod
    def from_bytes(cls, data: bytes, allow_truncated: bool = False) -> DacFile:
        """Read the content of a .dac file.

        Args:
            data: the bytes.
            allow_truncated: whether to read a truncated file up to its last complete chunk.

        Raises:
            TruncatedBitstreamError: the file is truncated and `allow_truncated` is False.
            BitstreamError: the bytes are not a .dac file, or are damaged.
        """
        if bitstream.is_legacy(data):
            raise BitstreamError(
                "a file of descript-audio-codec: use decompress() to decode it, or `dac-codec convert` to convert it"
            )
        header, codes = bitstream.loads(data, allow_truncated)
        return cls(header, torch.from_numpy(codes.astype(np.int64)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file atomically.

        Raises:
            DacError: the file can't be written.
        """
        write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: PathOrFile | bytes, allow_truncated: bool = False) -> DacFile:
        """Read a file, bytes or a binary file object.

        Raises the errors of `from_bytes`, or a DacError if the file can't be opened.
        """
        with open_for_reading(path) as stream:
            return cls.from_bytes(stream.read(), allow_truncated)


def load(source: PathOrFile | bytes, allow_truncated: bool = False) -> DacFile | LegacyFile:
    """Read a .dac file of this package or of descript-audio-codec.

    Raises:
        BitstreamError: the file is neither, or is damaged.
        DacError: the file can't be opened.
    """
    with open_for_reading(source) as stream:
        data = stream.read()
        return bitstream.read_legacy(data) if bitstream.is_legacy(data) else DacFile.from_bytes(data, allow_truncated)


def write_bytes(target: PathOrFile, data: bytes) -> None:
    """Write a file atomically, or to a binary stream.

    Raises:
        DacError: it can't be written; nothing is left behind.
    """
    with open_for_writing(target) as stream:
        stream.write(data)


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

    `keep_partial` is as for `atomic_write`. A device or a named pipe is written directly. Raises a DacError if the file
    can't be written.
    """
    if not isinstance(target, (str, os.PathLike)):
        yield target
        return
    path = Path(target)
    try:
        with (
            nullcontext(path) if is_device(path) else atomic_write(path, keep_partial) as file,
            file.open("wb") as stream,
        ):
            yield stream
    except OSError as error:
        raise DacError(f"can't write {os.fspath(target)}: {error.strerror or error}") from error


@contextmanager
def prefix_errors(source: object) -> Iterator[None]:
    """Prefix the message of a BitstreamError with `source`, if that is a path."""
    try:
        yield
    except BitstreamError as error:
        if isinstance(source, (str, os.PathLike)):
            raise type(error)(f"{os.fspath(source)}: {error}") from error
        raise
