"""Audio to .dac and back: the one place where sound files, the network and the bitstream meet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from dac_codec import audio as sound
from dac_codec import bitstream, pretrained, streaming
from dac_codec.bitstream import Header, LegacyFile
from dac_codec.errors import BitstreamError, DacError, ModelMismatchError
from dac_codec.files import replacing
from dac_codec.model import DAC

TARGET_LUFS = -16.0
"""Loudness at which the network hears everything (BS.1770), as in the reference."""

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
        return f"{self.header.model_name}@{self.header.model_fingerprint.hex()}"

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
        with _naming(path):
            return cls.from_bytes(_read_bytes(path), allow_truncated)


def compress(
    source: PathOrFile | tuple[Tensor | np.ndarray, int],
    model: str | os.PathLike[str] | DAC = pretrained.DEFAULT_MODEL,
    n_quantizers: int | None = None,
    bitrate: float | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> DacFile:
    """Compress audio.

    The audio is brought to the model's rate and to -16 LUFS, lowered where its peaks would exceed full scale, and each
    channel is encoded on its own. The gain is stored and undone by `decompress`.

    Args:
        source: a sound file's path, a binary file object, or (waveform [C, T] or [T], sample rate in Hz).
        model: a loaded model, or what `DAC.from_pretrained` takes.
        n_quantizers: codebooks to use; fewer make a smaller file. None: all.
        bitrate: highest bits per second of each channel, instead of `n_quantizers`.
        device: "auto" takes a CUDA device if there is one.
        progress: whether to show a progress bar (on a terminal).

    Raises:
        AudioError: the audio can't be read, is empty, or is not finite.
        CheckpointError: the model can't be loaded.
        DacError: `n_quantizers` or `bitrate` is out of the model's range.
    """
    model = _model(model, device, progress)
    n_quantizers = choose_quantizers(model, n_quantizers, bitrate)
    if isinstance(source, tuple):
        waveform, sample_rate = source
        array = waveform.detach().cpu().numpy() if isinstance(waveform, Tensor) else waveform
        original = sound.check(array, sample_rate)
    else:
        original, sample_rate = sound.read(source)
    normalized, gain_db = sound.normalize(
        sound.resample(original, sample_rate, model.sample_rate), model.sample_rate, TARGET_LUFS
    )
    with torch.inference_mode(), _network_errors():
        codes = streaming.encode(model, torch.from_numpy(normalized)[:, None], n_quantizers, progress)
    header = Header(
        model_fingerprint=pretrained.fingerprint(model)[:8],
        model_name=model.name,
        sample_rate=sample_rate,
        channels=original.shape[0],
        n_samples=original.shape[1],
        gain_db=gain_db,
        model_sample_rate=model.sample_rate,
        hop_length=model.hop_length,
        n_codebooks=n_quantizers,
        codebook_size=model.codebook_size,
    )
    return DacFile(header, codes.clone())


def choose_quantizers(model: DAC, n_quantizers: int | None, bitrate: float | None) -> int:
    """How many codebooks a user's wish comes to.

    Raises:
        DacError: both are given, or one is out of the model's range.
    """
    if bitrate is not None:
        if n_quantizers is not None:
            raise DacError("give n_quantizers or bitrate, not both")
        lowest = model.config.bitrate(1)
        if not bitrate >= lowest:
            raise DacError(
                f"a bitrate of {bitrate:g} bit/s is below what this model can do: one codebook takes {lowest:.0f} bit/s"
            )
        return int(min(model.n_codebooks, bitrate / lowest + 1e-9))
    if n_quantizers is None:
        return model.n_codebooks
    if not 1 <= n_quantizers <= model.n_codebooks:
        raise DacError(f"this model has {model.n_codebooks} codebooks: n_quantizers can't be {n_quantizers}")
    return n_quantizers


def decompress(
    file: DacFile | LegacyFile | PathOrFile,
    model: str | os.PathLike[str] | DAC | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> tuple[Tensor, int]:
    """Decompress audio: exactly the original's length, rate and channels.

    Args:
        file: compressed audio, in memory or as a path or binary file object; the files of descript-audio-codec too.
        model: a loaded model, or what `DAC.from_pretrained` takes. None: the one that the file names, where it is
            bundled or published. Files of descript-audio-codec name none.
        device: "auto" takes a CUDA device if there is one.
        progress: whether to show a progress bar (on a terminal).

    Returns:
        Waveform [C, T], float32, on the CPU; and its sample rate in Hz.

    Raises:
        BitstreamError: not a .dac file, or a damaged one.
        ModelMismatchError: the file was written with other weights.
        CheckpointError: the model can't be loaded.
    """
    if not isinstance(file, (DacFile, LegacyFile)):
        file = load(file)
    if isinstance(file, LegacyFile):
        if model is None:
            raise ModelMismatchError("a file of descript-audio-codec does not say which model wrote it: name the model")
        return _decode_legacy(file, _model(model, device, progress)), file.sample_rate
    if file.codes.shape[-1] == 0:
        raise BitstreamError("the file holds no audio")
    model = model_of(file, model, device, progress)
    decoded = _decode(file, model, progress)
    audio = sound.resample(decoded, model.sample_rate, file.sample_rate, n_samples=file.n_samples)
    return torch.from_numpy(sound.apply_gain(audio, -file.header.gain_db)), file.sample_rate


def load(source: PathOrFile, allow_truncated: bool = False) -> DacFile | LegacyFile:
    """Read a .dac file of either kind, ours or descript-audio-codec's.

    Raises:
        BitstreamError: neither, or a damaged one.
        DacError: the file can't be opened.
    """
    with _naming(source):
        data = _read_bytes(source)
        return bitstream.read_legacy(data) if bitstream.is_legacy(data) else DacFile.from_bytes(data, allow_truncated)


def to_legacy(file: DacFile, model: DAC) -> LegacyFile:
    """The same codes as a file that descript-audio-codec reads.

    It brings what it decodes to the loudness that the file states, channel by channel, so that the loudness of the
    decoded channels is what has to be written, and the model is needed to know it.
    """
    _check_model(file, model)
    decoded = _decode(file, model, progress=False)
    loudness = [sound.loudness(channel[None], model.sample_rate) for channel in decoded]
    return LegacyFile(
        codes=file.codes.numpy().astype(np.uint16),
        chunk_length=file.codes.shape[-1],
        original_length=file.n_samples,
        input_db=tuple(value - file.header.gain_db for value in loudness),
        channels=file.channels,
        sample_rate=file.sample_rate,
        padding=True,
    )


def from_legacy(file: LegacyFile, model: DAC) -> DacFile:
    """The same codes in our container, decoding to the loudness that the file states.

    descript-audio-codec brings each channel to that loudness; here all channels together are, as they were measured.

    Raises:
        BitstreamError: the file was written in windows whose codes overlap: only compressing it again can help.
    """
    if not file.padding:
        raise BitstreamError(
            "the file was written in overlapping windows, which can't be converted; decompress it and compress it again"
        )
    codes = torch.from_numpy(file.codes.astype(np.int64))
    _check_legacy(file, model)
    with torch.inference_mode():
        decoded = streaming.decode(model, codes)[:, 0].numpy()
    header = Header(
        model_fingerprint=pretrained.fingerprint(model)[:8],
        model_name=model.name,
        sample_rate=file.sample_rate,
        channels=file.channels,
        n_samples=file.original_length,
        gain_db=sound.loudness(decoded, model.sample_rate) - float(np.mean(file.input_db)),
        model_sample_rate=model.sample_rate,
        hop_length=model.hop_length,
        n_codebooks=codes.shape[1],
        codebook_size=model.codebook_size,
    )
    return DacFile(header, codes)


def model_of(
    file: DacFile,
    model: str | os.PathLike[str] | DAC | None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> DAC:
    """The model that a file needs: the given one, else the one that the file names; checked against the file.

    Raises:
        ModelMismatchError: the file was written with other weights, or names weights that are not known here.
    """
    if model is None:
        model = file.header.model_name
        # A name in a file may come from anyone: it must never be taken for a path.
        if model not in {info.name for info in pretrained.available()}:
            raise ModelMismatchError(
                f"the file was written with {file.model_id}, which is neither bundled nor published: name its weights"
            )
    loaded = _model(model, device, progress)
    _check_model(file, loaded)
    return loaded


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file; it is there whole or not at all.

    Raises:
        DacError: it can't be written; nothing is left behind.
    """
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise DacError(f"can't write {os.fspath(path)}: {error.strerror or error}") from error


def _model(model: str | os.PathLike[str] | DAC, device: str | torch.device, progress: bool) -> DAC:
    """A loaded model on its device, in eval mode."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        loaded = model if isinstance(model, DAC) else pretrained.load(model, progress=progress)
        return loaded.to(device).eval()
    except (RuntimeError, AssertionError) as error:
        raise DacError(f"can't use the device {str(device)!r}: {error}") from error


def _check_model(file: DacFile, model: DAC) -> None:
    fingerprint = pretrained.fingerprint(model)[:8]
    if file.header.model_fingerprint != fingerprint:
        raise ModelMismatchError(
            f"the file was written with {file.model_id} and the model at hand is {model.name}@{fingerprint.hex()}"
        )
    _check_codes(file.codes.shape[1], file.header.codebook_size, model)


def _check_codes(n_codebooks: int, codebook_size: int, model: DAC) -> None:
    if n_codebooks > model.n_codebooks or codebook_size > model.codebook_size:
        raise ModelMismatchError(
            f"the file uses {n_codebooks} codebooks with codes below {codebook_size}, and the model {model.name} has "
            f"{model.n_codebooks} codebooks of {model.codebook_size}"
        )


def _check_legacy(file: LegacyFile, model: DAC) -> None:
    _check_codes(file.codes.shape[1], int(file.codes.max()) + 1, model)


def _decode(file: DacFile, model: DAC, progress: bool) -> np.ndarray:
    """What the network makes of a file's codes [C, F * hop], at the model's rate and the network's loudness."""
    with torch.inference_mode(), _network_errors():
        decoded: np.ndarray = streaming.decode(model, file.codes, progress)[:, 0].numpy()
    return decoded


def _decode_legacy(file: LegacyFile, model: DAC) -> Tensor:
    """Decode as descript-audio-codec does: window by window, then each channel to the loudness that the file states."""
    _check_legacy(file, model)
    decoder = model.decoder if file.padding else model.decoder.without_padding()
    codes = torch.from_numpy(file.codes.astype(np.int64))
    with torch.inference_mode():
        windows = [
            decoder(model.quantizer.from_codes(window.to(model.device))[0]).cpu()
            for window in codes.split(file.chunk_length, -1)
        ]
    decoded = torch.cat(windows, -1)[:, 0].numpy()
    levels = np.broadcast_to(file.input_db, (file.channels,))
    levelled = [
        sound.apply_gain(channel[None], float(level) - sound.loudness(channel[None], model.sample_rate))
        for channel, level in zip(decoded, levels, strict=True)
    ]
    audio = sound.resample_windowed_sinc(np.concatenate(levelled), model.sample_rate, file.sample_rate)
    # Odd strides can leave the end a few samples short; a length far beyond the codes is a lie.
    missing = file.original_length - audio.shape[-1]
    if missing > 2 * model.hop_length * max(1, file.sample_rate // model.sample_rate):
        raise BitstreamError(f"the file claims {file.original_length} samples and its codes give {audio.shape[-1]}")
    return torch.from_numpy(np.pad(audio[:, : file.original_length], ((0, 0), (0, max(0, missing)))))


def _read_bytes(source: PathOrFile) -> bytes:
    if isinstance(source, (str, os.PathLike)):
        try:
            return Path(source).read_bytes()
        except OSError as error:
            raise DacError(f"can't read {os.fspath(source)}: {error.strerror or error}") from error
    data = source.read()
    assert isinstance(data, bytes)
    return data


@contextmanager
def _network_errors() -> Iterator[None]:
    """Turns what PyTorch says when memory is short into an error that a user can act on."""
    try:
        yield
    except RuntimeError as error:
        if "out of memory" in str(error) or "allocate memory" in str(error):
            raise DacError("there is not enough memory for this audio on this device") from error
        raise


@contextmanager
def _naming(source: PathOrFile) -> Iterator[None]:
    """Puts a file's name in front of what is wrong with it."""
    try:
        yield
    except BitstreamError as error:
        if isinstance(source, (str, os.PathLike)):
            raise type(error)(f"{os.fspath(source)}: {error}") from error
        raise
