"""The exceptions of dac_codec. Whatever a user can cause is a `DacError` with a message of one sentence."""

from __future__ import annotations


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
