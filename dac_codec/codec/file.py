"""Compressed audio in memory, and the files that it is read from and written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
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

PathOrFile = str | os.PathLike[str] | BinaryIO


@dataclass(frozen=True)
class DacFile:
    """Compressed audio, with everything that is needed to decode it but the model.

    Attributes:
        header: what the file says of itself.
        codes: [C, N, F], int64.
    """

    header: Header
    codes: Tensor

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
        """Bits per second of the codes of all channels."""
        return self.header.bitrate

    @property
    def model_id(self) -> str:
        """Name and fingerprint of the weights that wrote the codes, as `name@fingerprint`."""
        return model_id(self.header)

    def to_bytes(self) -> bytes:
        """The content of a .dac file."""
        return bitstream.dumps(self.header, self.codes.numpy())

    @classmethod
    def from_bytes(cls, data: bytes, allow_truncated: bool = False) -> DacFile:
        """Read the content of a .dac file.

        Args:
            data: the bytes.
            allow_truncated: whether a file that was cut is read up to its last whole chunk.

        Raises:
            TruncatedBitstreamError: the file was cut and `allow_truncated` is False.
            BitstreamError: not a .dac file, or a damaged one.
        """
        if bitstream.is_legacy(data):
            raise BitstreamError(
                "this is a file of descript-audio-codec, which decompress() reads and `dac-codec convert` converts"
            )
        header, codes = bitstream.loads(data, allow_truncated)
        return cls(header, torch.from_numpy(codes.astype(np.int64)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a file; it is there whole or not at all.

        Raises:
            DacError: the file can't be written.
        """
        write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: PathOrFile, allow_truncated: bool = False) -> DacFile:
        """Read a file, or a binary file object. Raises what `from_bytes` raises, and DacError if it can't be opened."""
        with naming(path), opened(path) as stream:
            return cls.from_bytes(stream.read(), allow_truncated)


def load(source: PathOrFile, allow_truncated: bool = False) -> DacFile | LegacyFile:
    """Read a .dac file of either kind, ours or descript-audio-codec's.

    Raises:
        BitstreamError: neither, or a damaged one.
        DacError: the file can't be opened.
    """
    with naming(source), opened(source) as stream:
        data = stream.read()
        return bitstream.read_legacy(data) if bitstream.is_legacy(data) else DacFile.from_bytes(data, allow_truncated)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file; it is there whole or not at all.

    Raises:
        DacError: it can't be written; nothing is left behind.
    """
    with created(path) as stream:
        stream.write(data)


@contextmanager
def opened(source: PathOrFile) -> Iterator[BinaryIO]:
    """A file to read, open within the block; a binary stream as it is.

    Raises:
        DacError: the file can't be opened.
    """
    if not isinstance(source, (str, os.PathLike)):
        yield source
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(Path(source).open("rb"))
        except OSError as error:
            raise DacError(f"can't read {os.fspath(source)}: {error.strerror or error}") from error
        yield stream


@contextmanager
def created(target: PathOrFile) -> Iterator[BinaryIO]:
    """A file to write, there when the block ends well, whole, and not at all when it doesn't; a stream as it is.

    A device or a named pipe is written as a stream is.

    Raises:
        DacError: the file can't be written.
    """
    if not isinstance(target, (str, os.PathLike)):
        yield target
        return
    path = Path(target)
    try:
        in_place = is_device(path)
        with nullcontext(path) if in_place else atomic_write(path) as file, file.open("wb") as stream:
            yield stream
    except OSError as error:
        raise DacError(f"can't write {os.fspath(target)}: {error.strerror or error}") from error


@contextmanager
def naming(source: PathOrFile) -> Iterator[None]:
    """Puts a file's name in front of what is wrong with it."""
    try:
        yield
    except BitstreamError as error:
        if isinstance(source, (str, os.PathLike)):
            raise type(error)(f"{os.fspath(source)}: {error}") from error
        raise
