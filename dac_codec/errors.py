"""The exceptions of dac_codec. Everything a user can cause is a `DacError` with one clear sentence in it."""

from __future__ import annotations


class DacError(Exception):
    """Base of every error that dac_codec raises on purpose."""


class BitstreamError(DacError):
    """Bytes that are not a readable .dac file."""


class TruncatedBitstreamError(BitstreamError):
    """A .dac file that ends early: everything before the cut is readable."""


class ModelMismatchError(DacError):
    """A .dac file that was written with other weights than those at hand."""


class AudioError(DacError):
    """Sound that can't be read, written or encoded."""


class CheckpointError(DacError):
    """Weights that can't be found, fetched, read or trusted."""
