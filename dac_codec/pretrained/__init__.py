"""Bundled and published models: names, files and verified weights."""

from dac_codec.pretrained.models import (
    DEFAULT_MODEL,
    ModelInfo,
    available,
    cache_folder,
    canonical,
    fingerprint,
    folder_of,
    load,
    save,
)

__all__ = [
    "DEFAULT_MODEL",
    "ModelInfo",
    "available",
    "cache_folder",
    "canonical",
    "fingerprint",
    "folder_of",
    "load",
    "save",
]
