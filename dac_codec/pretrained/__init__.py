"""Bundled and published models: names, files and verified weights. `load` says what names a model."""

from dac_codec.pretrained.checkpoints import canonical, save
from dac_codec.pretrained.context import context_model
from dac_codec.pretrained.download import cache_folder
from dac_codec.pretrained.fingerprint import fingerprint
from dac_codec.pretrained.hub import push
from dac_codec.pretrained.models import DEFAULT_MODEL, ModelInfo, available, folder_of, load

__all__ = [
    "DEFAULT_MODEL",
    "ModelInfo",
    "available",
    "cache_folder",
    "canonical",
    "context_model",
    "fingerprint",
    "folder_of",
    "load",
    "push",
    "save",
]
