"""What libsndfile and its wrapper `soundfile` do unexpectedly, and the workarounds: one function or class each."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import numpy as np
import soundfile

from dac_codec.audio.samples import Audio
from dac_codec.common.streams import write_all

UNKNOWN_FRAMES = 2**63 - 1
"""libsndfile's frame count for a file whose header gives no length (SF_COUNT_MAX)."""

_OLD_FORMATS = ("AVR", "MAT4", "MAT5", "MPC2K", "SDS", "VOC", "WVE")
_LOGGED_LENGTH = re.compile(r"(?:Frames|Cols) *: (\d+)")


def is_cut_short(file: soundfile.SoundFile) -> bool:
    """Whether libsndfile's log says that a file of an old format is shorter than its header declares.

    By the format, it gives the length in the header, or says "should be" or "truncated". Of SDS it gives the length of
    what is there.
    """
    if file.format not in _OLD_FORMATS:
        return False
    log: str = file.extra_info
    logged = int([str(file.frames), *_LOGGED_LENGTH.findall(log)][-1])
    too_few = logged < file.frames if file.format == "SDS" else logged > file.frames
    return too_few or "truncated" in log or "should be" in log


def reason(error: Exception) -> str:
    """libsndfile's message for an error, without the file name and the "Error : " that are put before it."""
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").strip().rstrip(".")


class CallbackStream(io.BufferedReader):
    """A seekable stream that libsndfile reads through callbacks.

    An exception in a callback is printed and dropped. Therefore one that occurs in a read, such as KeyboardInterrupt,
    ends the file for libsndfile and is kept in `interruption`. A seek to before the beginning, which damaged
    headers cause, leaves the position unchanged: libsndfile notices.
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
        except (OSError, ValueError, OverflowError):
            return self.tell()


class OutputFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sound file that libsndfile writes to a seekable stream through callbacks.

    libsndfile ignores a failed write when it closes a file, and an exception in a callback is printed and dropped. Here
    exceptions, such as those of a full disk and KeyboardInterrupt, are appended to the list `dropped`.
    """

    def __init__(self, dropped: list[BaseException], *arguments: Any, **options: Any) -> None:
        self._dropped = dropped
        super().__init__(*arguments, **options)

    def _init_virtual_io(self, stream: Any) -> Any:
        def length(_: Any) -> int:
            position = stream.tell()
            size: int = stream.seek(0, os.SEEK_END)
            stream.seek(position)
            return size

        def write(data: Any, size: int, _: Any) -> int:
            write_all(stream, soundfile._ffi.buffer(data, size)[:])
            return size

        dropped = self._dropped  # `self` would make a cycle that keeps the stream in memory

        def keep(_kind: Any, error: Any, _traceback: Any) -> None:
            dropped.append(error)

        functions = {
            "get_filelen": length,
            "seek": lambda offset, whence, _: stream.seek(offset, whence),
            "read": lambda *_: 0,
            "write": write,
            "tell": lambda _: stream.tell(),
        }
        callback = soundfile._ffi.callback
        self._virtual_io = {  # kept alive as long as the file
            name: callback(f"sf_vio_{name}", function, onerror=keep) for name, function in functions.items()
        }
        return soundfile._ffi.new("SF_VIRTUAL_IO*", self._virtual_io)


def read_block(file: soundfile.SoundFile, buffer: Audio) -> tuple[Audio, str]:
    """Read the next samples [t, C] into `buffer`; also return why the decoder stopped, "" if it did not.

    soundfile raises an error without the number of samples decoded before it: NaN mark the rest of the buffer.
    """
    buffer.fill(np.nan)
    try:
        return buffer[: len(file.read(out=buffer))], ""
    except soundfile.SoundFileError as error:
        return buffer[: int(np.count_nonzero(~np.isnan(buffer).all(axis=1)))], reason(error)
