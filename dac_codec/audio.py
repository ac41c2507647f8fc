"""Sound files, sample rates and loudness: everything between a file on disk and a float32 array [C, T].

Shape letters: C channels, T samples per channel. Full scale is 1.0. Every error a caller can cause is an `AudioError`.
"""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from dac_codec.errors import AudioError
from dac_codec.files import replacing

Audio: TypeAlias = npt.NDArray[np.float32]
"""Samples [C, T], float32, full scale 1.0."""

SILENCE_LUFS = -70.0
"""The absolute gate of BS.1770-4: nothing is measured as quieter than this."""

_MAX_CHANNELS = 1024  # the most that libsndfile reads or writes
_MAX_RESAMPLING_RATIO = 1000  # beyond it, a sample rate is a mistake and the output would not fit in memory
_BLOCK_VALUES = 2**18  # samples over all channels that are read, written or filtered at a time
_MP3_TAIL_BYTES = 2**12  # tags and read-ahead that may follow the last frame that was decoded
_WAV_LIMIT_BYTES = 2**32 - 2**16  # sizes in a RIFF, AIFF or AU header are 32 bits; the rest is room for the header

# File extension -> container and default sample format, in libsndfile's names.
_WRITABLE = {
    "wav": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "aif": ("AIFF", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "oga": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
_BYTES_PER_SAMPLE = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}


def check(audio: npt.ArrayLike, sample_rate: int, name: str = "audio") -> Audio:
    """Turn an array that a caller handed in into a valid waveform.

    Args:
        audio: [C, T] or [T], any floating dtype, full scale 1.0.
        sample_rate: Hz, a positive integer.
        name: what error messages call the array.

    Returns:
        [C, T] float32, C-contiguous; shares memory with `audio` where that already fits.

    Raises:
        AudioError: another dtype or shape, no samples, NaN or infinite samples, or no usable sample rate.
    """
    _check_rate(sample_rate, name)
    array = np.asarray(audio)
    if array.dtype.kind != "f":
        raise AudioError(
            f"{name}: samples are {array.dtype}, expected floating point in [-1, 1]; "
            "divide integer PCM by its full scale (32768 for 16 bit) first"
        )
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2:
        raise AudioError(f"{name}: shape is {list(array.shape)}, expected [channels, samples] or [samples]")
    if array.size == 0:
        raise AudioError(f"{name}: shape is {list(array.shape)}, expected at least one channel and one sample")
    if array.shape[0] > _MAX_CHANNELS:
        raise AudioError(
            f"{name}: shape {list(array.shape)} means {array.shape[0]} channels, expected at most {_MAX_CHANNELS}; "
            "the order is [channels, samples], so transpose an array that is [samples, channels]"
        )
    with np.errstate(over="ignore"):  # float64 samples beyond float32's range become inf, which the next check reports
        waveform = np.ascontiguousarray(array, dtype=np.float32)
    _check_finite(waveform, sample_rate, name)
    return waveform


def _check_rate(sample_rate: int, name: str) -> None:
    """Raise an AudioError unless `sample_rate` is a positive integer."""
    is_integer = isinstance(sample_rate, int | np.integer) and not isinstance(sample_rate, bool)
    if not is_integer or sample_rate <= 0:
        raise AudioError(f"{name}: sample rate is {sample_rate!r}, expected a positive integer in Hz")


def _check_finite(audio: Audio, sample_rate: int, name: str) -> None:
    """Raise an AudioError that counts and locates the NaN and infinite samples of `audio` [C, T], if there are any."""
    finite = np.isfinite(audio)
    if finite.all():
        return
    first = int(np.argmin(finite.all(axis=0)))
    raise AudioError(
        f"{name}: {finite.size - np.count_nonzero(finite)} of {finite.size} samples are NaN or infinite, the first at "
        f"{first / sample_rate:.3f} s; export the sound again, or replace them (numpy.nan_to_num)"
    )


def read(source: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> tuple[Audio, int]:
    """Read a whole sound file.

    Nothing is allocated on the word of a header: the file is decoded block by block, and what was decoded counts. A
    file that is cut short or damaged gives the samples before the damage, with a warning where the decoder notices;
    so does an mp3 of variable bit rate that doesn't tell its length.

    Args:
        source: a path, or a binary stream, which is read from its position to its end and may be a pipe. Any format
            that libsndfile knows: wav, flac, ogg, opus, mp3, aiff and others.
        name: what messages call the source; by default its path, or the stream's name.

    Returns:
        The waveform [C, T], and its sample rate in Hz.

    Raises:
        AudioError: the source is missing, a folder, not permitted, not sound, without samples, or has NaN or infinite
            samples.
    """
    stream, name = _open_source(source, name)
    try:
        with stream, _ForwardReader(stream) as file:
            sample_rate = file.samplerate
            declared = file.frames
            blocks, failure = _decode(file)
            position = stream.tell()
            unread = stream.seek(0, os.SEEK_END) - position if file.format == "MP3" else 0
    except soundfile.SoundFileError as error:
        raise AudioError(
            f"{name}: not a sound file that can be read ({_reason(error)}); convert it to wav or flac first, "
            "for example with ffmpeg"
        ) from error
    except TypeError as error:  # soundfile takes any *.raw for headerless samples, and asks for their sample rate
        raise AudioError(f"{name}: headerless samples, with no sample rate; convert them to wav first") from error

    n_samples = sum(block.shape[1] for block in blocks)
    reason = f" ({failure})" if failure else ""
    if n_samples == 0:
        raise AudioError(f"{name}: the file holds no samples{reason}, expected at least one; check how it was made")
    if failure or n_samples < declared:
        warnings.warn(
            f"{name}: cut short, damaged or with a wrong header{reason}: read {n_samples} of {declared} declared "
            "samples",
            stacklevel=2,
        )
    elif unread > _MP3_TAIL_BYTES:
        # libsndfile guesses the length of an mp3 without a Xing header from its first frame, and stops there (its
        # issue 1001): right at a constant bit rate, too soon at a variable one.
        warnings.warn(
            f"{name}: read {n_samples} samples, but the mp3 goes on for {unread} bytes: its header doesn't give its "
            "length; convert it to wav or flac first, for example with ffmpeg",
            stacklevel=2,
        )
    audio = np.empty((blocks[0].shape[0], n_samples), np.float32)
    np.concatenate(blocks, axis=1, out=audio)
    _check_finite(audio, sample_rate, name)
    return audio, sample_rate


def _open_source(source: str | os.PathLike[str] | BinaryIO, name: str | None) -> tuple[BinaryIO, str]:
    """Return a seekable stream of the source's bytes, for the caller to close, and the name for messages."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        name = path if name is None else name
        try:
            stream = _SafeReader(io.FileIO(path))
            status = os.fstat(stream.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size > 0:
                return stream, name
            with stream:  # a named pipe can be opened only once, and not sought in
                content = stream.read()
        except FileNotFoundError as error:
            raise AudioError(f"{name}: no such file; check the path") from error
        except IsADirectoryError as error:
            raise AudioError(f"{name}: a folder, expected a sound file; name a file inside it") from error
        except PermissionError as error:
            raise AudioError(f"{name}: no permission to read it; check its access rights") from error
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise AudioError(f"{name}: can't be opened ({error}); check the path") from error
    else:
        name = str(getattr(source, "name", "<stream>")) if name is None else name
        try:
            content = source.read()
        except OSError as error:
            raise AudioError(f"{name}: can't be read ({error}); check where the stream comes from") from error
        if not isinstance(content, bytes):
            raise AudioError(
                f"{name}: the stream gives {type(content).__name__}, expected bytes; open it in binary mode"
            )
    if not content:
        raise AudioError(f"{name}: empty (0 bytes), expected a sound file; check how it was made")
    return _SafeReader(io.BytesIO(content)), name


class _SafeReader(io.BufferedReader):
    """A seekable stream for libsndfile to call back.

    An exception would be printed on its way out of a callback, and end there. A damaged header can make libsndfile
    seek to before the beginning, but it finds out for itself that it is not where it wanted to be. Anything else that
    happens during a read, such as Ctrl-C, is the end of the file for libsndfile, and raised when the stream is left.
    """

    interruption: BaseException | None = None

    def readinto(self, buffer: Any, /) -> int:
        try:
            return super().readinto(buffer)
        except BaseException as error:
            self.interruption = error
            return 0

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if self.interruption is not None:
            raise self.interruption

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


def _decode(file: soundfile.SoundFile) -> tuple[list[Audio], str]:
    """Decode to the end of the file or the first damage; return blocks [C, t] and the decoder's complaint, or ""."""
    blocks: list[Audio] = []
    block = np.empty((max(1, _BLOCK_VALUES // file.channels), file.channels), np.float32)
    failure = ""
    while not failure:
        # soundfile doesn't say how much of a block was decoded before an error: the NaN that are left over do.
        block.fill(np.nan)
        try:
            n_decoded = len(file.read(out=block))
        except soundfile.SoundFileError as error:
            failure = _reason(error)
            n_decoded = int(np.count_nonzero(~np.isnan(block).all(axis=1)))
        if n_decoded == 0:
            break
        blocks.append(block[:n_decoded].T.copy())
    return blocks, failure


def _reason(error: Exception) -> str:
    """libsndfile's own words for an error, without the file name that soundfile puts before them."""
    text = str(getattr(error, "error_string", error))
    return text.removeprefix("Error : ").strip().rstrip(".")


@contextmanager
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
        with _ForwardReader(name) as file:
            yield file
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{name}: {' '.join(_reason(error).split())}") from error


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """List the sound files in a folder and the folders below it, sorted by path.

    Files count by their extension. Hidden files and folders (a leading dot) don't. Links to folders are followed, but
    every folder is visited once, so that links can neither loop nor list a file twice.

    Raises:
        AudioError: the folder is missing, is not a folder, or part of it can't be listed.
    """
    extensions = {f".{extension}" for extension in _readable_extensions()}
    found: list[Path] = []
    visited: set[tuple[int, int]] = set()
    try:
        for parent, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
            status = Path(parent).stat()
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = (Path(parent, name) for name in files if not name.startswith("."))
            found.extend(path for path in paths if path.suffix.lower() in extensions and path.is_file())
    except OSError as error:
        raise AudioError(
            f"{error.filename or folder}: can't be listed ({error.strerror or error}), expected a folder; "
            "check the path and its access rights"
        ) from error
    return sorted(found)


def _raise(error: OSError) -> None:
    """Make os.walk report what it can't list."""
    raise error


def _readable_extensions() -> set[str]:
    """Lower-case file extensions, without dot, of what this libsndfile reads with a header."""
    containers = {container.lower() for container in soundfile.available_formats()} - {"raw"}
    return containers | set(_WRITABLE) | {"aifc"}


def write(
    target: str | os.PathLike[str] | BinaryIO,
    audio: npt.ArrayLike,
    sample_rate: int,
    fmt: str | None = None,
    subtype: str | None = None,
) -> None:
    """Write a sound file.

    A file appears whole or not at all: it is written under a temporary name beside the target, which then takes its
    place. Streams and devices, which may not be seekable, get all bytes at once after encoding.

    Samples of integer PCM are clipped to [-1, 1], so that a sample beyond full scale never wraps round; +1.0 becomes
    the largest integer. A wav file that would pass 4 GiB is written as RF64, its 64-bit form (EBU Tech 3306).

    Args:
        target: a path, or a binary stream.
        audio: [C, T] or [T], any floating dtype, full scale 1.0.
        sample_rate: Hz.
        fmt: a file extension that picks the format in place of the target's own; streams are wav by default.
        subtype: a sample format in libsndfile's names, such as "PCM_24" or "FLOAT"; by default 16-bit PCM for wav,
            flac, aiff, au, caf, w64 and rf64, and the codec of the same name for ogg (Vorbis), opus and mp3.

    Raises:
        AudioError: a format that can't be written, samples that `check` refuses, or a target that can't be written.
        BrokenPipeError: the reader of a stream went away.
    """
    if isinstance(target, str | os.PathLike):
        name, extension = os.fspath(target), Path(target).suffix
    else:
        name, extension = str(getattr(target, "name", "<stream>")), "wav"
    waveform = check(audio, sample_rate, name)
    container, subtype = _file_format(extension if fmt is None else fmt, subtype, waveform.size, name)

    try:
        if not isinstance(target, str | os.PathLike):
            target.write(_encode_to_bytes(waveform, sample_rate, container, subtype))
        elif _is_device(Path(target)):
            Path(target).write_bytes(_encode_to_bytes(waveform, sample_rate, container, subtype))
        else:
            with replacing(Path(target)) as temporary:
                _encode(str(temporary), waveform, sample_rate, container, subtype)
    except soundfile.LibsndfileError as error:
        if error.code == 2:  # SF_ERR_SYSTEM: the operating system refused; libsndfile keeps its reason to itself
            raise AudioError(f"{name}: can't be written to; check the free disk space and file size limits") from error
        raise AudioError(
            f"{name}: {waveform.shape[0]} channels at {sample_rate} Hz can't be written as {container} {subtype} "
            f"({_reason(error)}); choose another format, such as wav"
        ) from error
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, or a closed stream
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(
            f"{name}: can't be written ({reason}); check the path, its access rights and the free disk space"
        ) from error


def _file_format(fmt: str, subtype: str | None, n_values: int, name: str) -> tuple[str, str]:
    """Return libsndfile's names for the container and the sample format; `n_values` is C * T."""
    extension = fmt.lower().removeprefix(".")
    if extension not in _WRITABLE:
        found = f"file format {extension!r}" if extension else "no file extension"
        raise AudioError(f"{name}: {found}, expected one of {', '.join(sorted(_WRITABLE))}")
    container, default_subtype = _WRITABLE[extension]
    subtype = default_subtype if subtype is None else subtype.upper()
    if subtype not in soundfile.available_subtypes(container):
        known = ", ".join(sorted(soundfile.available_subtypes(container)))
        raise AudioError(f"{name}: {container} has no sample format {subtype!r}, expected one of {known}")
    if n_values * _BYTES_PER_SAMPLE.get(subtype, 1) > _WAV_LIMIT_BYTES:
        if container == "WAV":
            container = "RF64"
        elif container in ("AIFF", "AU"):
            raise AudioError(f"{name}: more than the 4 GiB that {container} can hold; write wav, w64, caf or flac")
    return container, subtype


def _is_device(path: Path) -> bool:
    """Whether something is there that must be written in place: a device or a named pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _encode_to_bytes(audio: Audio, sample_rate: int, container: str, subtype: str) -> memoryview:
    """Encode in memory."""
    buffer = io.BytesIO()
    _encode(buffer, audio, sample_rate, container, subtype)
    return buffer.getbuffer()


def _encode(target: str | io.BytesIO, audio: Audio, sample_rate: int, container: str, subtype: str) -> None:
    """Encode `audio` [C, T] block by block (libsndfile's Vorbis encoder overflows its stack on long ones)."""
    n_channels = audio.shape[0]
    with soundfile.SoundFile(target, "w", int(sample_rate), n_channels, subtype, format=container) as file:
        for block in _blocks(audio, max(1, _BLOCK_VALUES // n_channels)):
            file.write(np.ascontiguousarray(block.T))  # soundfile has libsndfile clip where the format is integer


def _blocks(audio: Audio, n_samples: int) -> Iterator[Audio]:
    """Views [C, n_samples] of `audio` [C, T], one after the other; the last may be shorter."""
    for start in range(0, audio.shape[1], n_samples):
        yield audio[:, start : start + n_samples]


def resample(audio: Audio, from_rate: int, to_rate: int, n_samples: int | None = None) -> Audio:
    """Change the sample rate with soxr (HQ: linear phase, aligned in time, 20-bit precision).

    Args:
        audio: [C, T].
        from_rate: Hz.
        to_rate: Hz.
        n_samples: length to trim or zero-pad the output to; by default ceil(T * to_rate / from_rate).

    Returns:
        [C, n_samples] float32; `audio` itself where nothing changes.

    Raises:
        AudioError: rates that are not positive integers or are more than a factor of 1000 apart, or a negative length.
    """
    from_rate, to_rate = _check_rates(from_rate, to_rate)
    n_channels, length = audio.shape
    natural = -(-length * to_rate // from_rate)
    wanted = natural if n_samples is None else n_samples
    if wanted < 0:
        raise AudioError(f"resample: {wanted} samples asked for, expected none or more")
    if from_rate == to_rate and wanted == length:
        return audio

    output = np.zeros((n_channels, wanted), np.float32)
    kept = min(natural, wanted)
    if from_rate == to_rate:
        output[:, :kept] = audio[:, :kept]
    elif kept > 0:
        # soxr rounds the length. A few zeros after the end, which it assumes there anyway, make it long enough.
        tail = np.zeros(-(-from_rate // to_rate) + 1, np.float32)
        for channel, resampled in zip(audio, output, strict=True):
            resampled[:kept] = soxr.resample(np.concatenate([channel, tail]), from_rate, to_rate, "HQ")[:kept]
    return output


def resample_windowed_sinc(audio: Audio, from_rate: int, to_rate: int) -> Audio:
    """Change the sample rate as the reference implementation of the codec does, number for number.

    Only what must agree with the reference wants it; `resample` has a flatter and wider pass band. The formula is that
    of `julius.resample_frac` with its defaults (https://github.com/adefossez/julius), which descript-audiotools calls:
    the output at time t is the sum over k of x[k] h(k / from_rate - t), where h is a sinc with its cut-off at 0.945 of
    the lower Nyquist frequency under a squared cosine that ends at its 24th zero, scaled to a sum of 1. The first and
    the last sample go on beyond the ends.

    Args:
        audio: [C, T], at least one sample.
        from_rate: Hz.
        to_rate: Hz.

    Returns:
        [C, floor(T * to_rate / from_rate)] float32; `audio` itself where the rates are equal.

    Raises:
        AudioError: rates that are not positive integers or are more than a factor of 1000 apart, or no samples.
    """
    zeros, rolloff = 24, 0.945
    from_rate, to_rate = _check_rates(from_rate, to_rate)
    if from_rate == to_rate:
        return audio
    n_channels, length = audio.shape
    if length == 0:
        raise AudioError("resample: no samples, expected at least one")
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    cutoff = min(old, new) * rolloff  # zeros of the sinc per `old` input samples
    width = math.ceil(zeros * old / cutoff)  # input samples on either side that the window reaches
    taps = np.arange(-width, width + 1)

    output = np.empty((n_channels, length * new // old), np.float32)
    padded = np.pad(audio, ((0, 0), (width, width + 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps), axis=1)  # [C, T + 1, taps], a view
    # Output n is at input sample n * old / new. Every `new` of them share a kernel, and are `old` input samples apart.
    for phase in range(min(new, output.shape[1])):
        start = phase * old // new
        # The reference computes the position in float32, in this order; exact positions would part from it by 1e-5.
        t = ((start + taps).astype(np.float32) / np.float32(old) + np.float32(-phase / new)) * np.float32(cutoff)
        t = np.clip(t, -zeros, zeros)
        kernel = np.sinc(t) * np.cos(np.pi * t / zeros / 2) ** 2
        kernel /= kernel.sum()
        n_outputs = -(-(output.shape[1] - phase) // new)
        output[:, phase::new] = windows[:, start::old][:, :n_outputs] @ kernel
    return output


def _check_rates(from_rate: int, to_rate: int) -> tuple[int, int]:
    """Return both rates as int; raise an AudioError unless they are positive and within a sensible factor."""
    _check_rate(from_rate, "resample")
    _check_rate(to_rate, "resample")
    if max(from_rate, to_rate) > _MAX_RESAMPLING_RATIO * min(from_rate, to_rate):
        raise AudioError(
            f"resample: from {from_rate} Hz to {to_rate} Hz, expected rates within a factor of "
            f"{_MAX_RESAMPLING_RATIO}; check the sample rate that the file declares"
        )
    return int(from_rate), int(to_rate)


def loudness(audio: npt.ArrayLike, sample_rate: int) -> float:
    """Measure the integrated loudness (ITU-R BS.1770-4: K-weighting, gates at -70 LUFS and 10 LU below the average).

    Details that the standard leaves open are those of the reference implementation of the codec, descript-audiotools:
    less than 0.5 s is padded with zeros to 0.5 s, a last block that is cut short counts as if zeros followed it, and
    nothing measures below -70 LUFS. Its channel weights apply as well: 1 for the first three channels, 1.41 (surround)
    for the fourth and fifth. Of more than five channels the order is unknown, and all weigh 1.

    A stage of the K-weighting whose corner lies at or above half the sample rate is left out: the shelf (1.5 kHz) at
    3 kHz and below, and also the high-pass (38 Hz) at 76 Hz and below.

    Args:
        audio: [C, T] or [T].
        sample_rate: Hz.

    Returns:
        LUFS, -70 or more.

    Raises:
        AudioError: samples that `check` refuses.
    """
    waveform = check(audio, sample_rate)
    n_channels = waveform.shape[0]
    weights = np.array([1.0, 1.0, 1.0, 1.41, 1.41])[:n_channels] if n_channels <= 5 else np.ones(n_channels)
    power = weights @ _block_power(waveform, sample_rate)
    power = power[power > 10 ** ((SILENCE_LUFS + 0.691) / 10)]
    if power.size == 0:
        return SILENCE_LUFS
    power = power[power > 0.1 * power.mean()]
    return max(SILENCE_LUFS, -0.691 + 10 * math.log10(power.mean()))


def _block_power(audio: Audio, sample_rate: int) -> npt.NDArray[np.float64]:
    """Mean square of K-weighted `audio` [C, T] in gating blocks of 0.4 s, every 0.1 s; returns [C, blocks]."""
    from scipy.signal import sosfilt  # takes longer to import than everything else here together

    n_channels, length = audio.shape
    hop = max(1, sample_rate // 10)
    hops_per_block = 4
    n_hops = max(5, -(-length // hop))
    if length < 5 * hop:
        audio = np.pad(audio, ((0, 0), (0, 5 * hop - length)))

    sections = _k_weighting(sample_rate)
    state = np.zeros((len(sections), n_channels, 2))
    energy = np.empty((n_channels, n_hops))
    hops_at_once = max(1, _BLOCK_VALUES // (n_channels * hop))
    for index, chunk in enumerate(_blocks(audio, hops_at_once * hop)):
        filtered, state = sosfilt(sections, chunk.astype(np.float64), zi=state)
        squares = np.square(filtered, out=filtered)
        if chunk.shape[1] % hop:
            squares = np.pad(squares, ((0, 0), (0, -chunk.shape[1] % hop)))
        sums = squares.reshape(n_channels, -1, hop).sum(axis=2)
        energy[:, index * hops_at_once :][:, : sums.shape[1]] = sums
    windows: npt.NDArray[np.float64] = np.lib.stride_tricks.sliding_window_view(energy, hops_per_block, axis=1)
    power: npt.NDArray[np.float64] = windows.mean(axis=2) / hop
    return power


@lru_cache(maxsize=16)
def _k_weighting(sample_rate: int) -> npt.NDArray[np.float64]:
    """The second-order sections [sections, 6] of the K-weighting that exist at this sample rate."""
    from pyloudnorm import IIRfilter

    stages = [(4.0, 1 / math.sqrt(2), 1500.0, "high_shelf"), (0.0, 0.5, 38.0, "high_pass")]
    sections = []
    for gain_db, quality, corner, kind in stages:
        if sample_rate > 2 * corner:
            stage = IIRfilter(gain_db, quality, corner, sample_rate, kind)
            sections.append([*stage.b, *stage.a])
    passes_everything = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    return np.array(sections or [passes_everything])


def normalize(audio: npt.ArrayLike, sample_rate: int, target_lufs: float = -16.0) -> tuple[Audio, float]:
    """Scale to a loudness, but never beyond full scale.

    As in the reference, the gain to the target comes first and is then lowered until no sample exceeds 1.0; here one
    gain holds for all channels, so that the stereo image stays. Silence (-70 LUFS) is not raised.

    Args:
        audio: [C, T] or [T].
        sample_rate: Hz.
        target_lufs: LUFS.

    Returns:
        The scaled audio [C, T], and its gain in dB, which float32 holds exactly. `apply_gain` with the negative gain
        gives the input back.

    Raises:
        AudioError: samples that `check` refuses, or a target that is not finite.
    """
    if not math.isfinite(target_lufs):
        raise AudioError(f"normalize: the target is {target_lufs} LUFS, expected a finite number")
    waveform = check(audio, sample_rate)
    measured = loudness(waveform, sample_rate)
    gain = 0.0 if measured <= SILENCE_LUFS else target_lufs - measured
    peak = max(float(waveform.max()), -float(waveform.min()))
    if peak > 0.0:
        gain = min(gain, -20 * math.log10(peak))
    stored = np.float32(gain)
    if np.float32(peak * 10 ** (float(stored) / 20)) > 1.0:  # rounded up, past full scale
        stored = np.nextafter(stored, np.float32(-np.inf))
    return apply_gain(waveform, float(stored)), float(stored)


def apply_gain(audio: Audio, gain_db: float) -> Audio:
    """Scale `audio` [C, T] by a gain in dB; returns a new array."""
    output = np.empty_like(audio)
    np.multiply(audio, 10 ** (gain_db / 20), out=output, dtype=np.float64, casting="same_kind")
    return output
