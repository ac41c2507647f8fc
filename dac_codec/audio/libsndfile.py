"""What libsndfile and its wrapper `soundfile` do unexpectedly, and the workarounds: one function or class each."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import numpy as np
import soundfile

from dac_codec.audio.samples import Audio

UNKNOWN_FRAMES = 2**63 - 1
"""libsndfile's frame count for a file whose header gives no length (SF_COUNT_MAX)."""

SYSTEM_ERROR = 2
"""libsndfile's error code where the operating system refused (SF_ERR_SYSTEM). The reason is not passed on."""

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


def read_block(file: soundfile.SoundFile, buffer: Audio) -> tuple[Audio, str]:
    """Read the next samples [t, C] into `buffer`; also return why the decoder stopped, "" if it did not.

    soundfile raises an error without the number of samples decoded before it: NaN mark the rest of the buffer.
    """
    buffer.fill(np.nan)
    try:
        return buffer[: len(file.read(out=buffer))], ""
    except soundfile.SoundFileError as error:
        return buffer[: int(np.count_nonzero(~np.isnan(buffer).all(axis=1)))], reason(error)
