"""The exceptions of dac_codec. Whatever a user can cause is a `DacError` with a message of one sentence."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

_MOST_NAMES = 10
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


class DacError(Exception):
    """Base class of all errors that dac_codec raises deliberately."""


class BitstreamError(DacError):
    """The bytes are not a readable .dac file."""


class TruncatedBitstreamError(BitstreamError):
    """A .dac file ends early; everything before the cut is readable."""


class ModelMismatchError(DacError):
    """A .dac file was written with other weights than the given ones."""


class AudioError(DacError):
    """Audio can't be read, written or encoded."""


class CheckpointError(DacError):
    """Weights can't be found, downloaded, read or trusted."""


def first_names(names: Iterable[object]) -> str:
    """The first of some names from a file, shortened, and how many more there are: for a message of one sentence."""
    found = [_SHORT.repr(str(name))[1:-1] for name in names]
    more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    return ", ".join(found[:_MOST_NAMES]) + more


def in_one_line(error: object) -> str:
    """The beginning of another package's message in one line."""
    return " ".join(str(error).split())[:300]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error of PyTorch or of the interpreter is for a lack of memory."""
    texts = (
        "out of memory",
        "allocate memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "bad_alloc",
        "could not create a primitive",  # of oneDNN, which gives no reason
        "can't start new thread",
    )
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
