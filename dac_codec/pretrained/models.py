"""Names to verified weights: bundled models, published models, folders and `.pth` files."""

from __future__ import annotations

import difflib
import importlib.resources
import json
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from dac_codec.common.errors import CheckpointError, DacError
from dac_codec.common.files import expanded
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.pretrained import hub
from dac_codec.pretrained.checkpoints import CONFIG_FILE, WEIGHTS_FILE, build, read_config, read_file, read_folder
from dac_codec.pretrained.download import cache_folder, check_digest, download, record_digest, verified_digest

DEFAULT_MODEL = "dac-mini-44khz"
"""Name of the bundled model that is used by default."""

SHORT_NAMES = {"speech": "dac-mini-speech"}
"""Short names of bundled models."""

DOWNLOAD_URL = "https://github.com/descriptinc/descript-audio-codec/releases/download"
"""Where the published weights are. The environment variable DAC_CODEC_DOWNLOAD_URL overrides it with a mirror."""

PUBLISHED = {
    "44khz": "0.0.1/weights.pth",
    "44khz-16kbps": "1.0.0/weights_44khz_16kbps.pth",
    "24khz": "0.0.4/weights_24khz.pth",
    "16khz": "0.0.5/weights_16khz.pth",
}
"""The published models: release tag and file below `DOWNLOAD_URL`, by name."""

DIGESTS_FILE = "sha256.json"
"""File of this package: the SHA-256 of each published file by the model's name, or null where it is not known yet.
`scripts/record_digests.py` fills it in."""


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be loaded by name.

    Attributes:
        name: the argument of `load`.
        sample_rate: in Hz.
        bitrate: of one channel with all codebooks, in bits per second.
        n_codebooks: number N of codebooks.
        where: "bundled" with the package, "cached" on disk, or "downloadable".
        verified: whether this package knows the SHA-256 of its weights, or contains them.
    """

    name: str
    sample_rate: int
    bitrate: float
    n_codebooks: int
    where: Literal["bundled", "cached", "downloadable"]
    verified: bool = False


def available(with_hub: bool = False, online: bool = False) -> list[ModelInfo]:
    """The models that `load` knows by name: bundled ones first, then the published ones.

    With `with_hub`, those of the Hugging Face Hub that are in its cache follow, and with `online` also those on the Hub
    whose cards name this package as their library. Raises a CheckpointError if these can't be listed.
    """

    def info(name: str, config: DACConfig, where: Literal["bundled", "cached", "downloadable"]) -> ModelInfo:
        verified = where == "bundled" or digests.get(name) is not None
        return ModelInfo(name, config.sample_rate, config.bitrate(), config.n_codebooks, where, verified)

    digests = published_digests()
    models = []
    for name, folder in _bundled_folders().items():
        with suppress(CheckpointError):  # `load` reports what is wrong with it; a list should not fail.
            models.append(info(name, read_config(folder)[1], "bundled"))
    for name in PUBLISHED:
        models.append(info(name, PRESETS[name], "cached" if _cached_file(name).exists() else "downloadable"))
    listed = hub.listed_repositories() if online else {}
    cached = hub.cached_repositories() if with_hub else {}
    for name, folder in sorted({**listed, **cached}.items()):
        with suppress(CheckpointError):  # another kind of model
            models.append(info(name, read_config(folder)[1], "cached" if name in cached else "downloadable"))
    return models


def published_digests() -> dict[str, str | None]:
    """The SHA-256 of the published files in hexadecimal, by the models' names; None where it is not known yet."""
    content = importlib.resources.files("dac_codec.pretrained").joinpath(DIGESTS_FILE).read_text(encoding="utf-8")
    digests: dict[str, str | None] = json.loads(content)
    return digests


def load(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu", progress: bool = False) -> DAC:
    """Load a model, in evaluation mode, with float32 weights.

    Args:
        name_or_path: a name from `available()` (published models are downloaded once into `cache_folder()`) or
            `SHORT_NAMES`, a folder that `save` or transformers wrote, a `.pth` file in the published layout, or
            "owner/name" on the Hugging Face Hub. A name takes precedence over a file or folder of that name ("./44khz"
            means the latter), and these over the Hub.
        device: device of the parameters.
        progress: show a progress bar of a download, if standard error is a terminal.

    Raises:
        CheckpointError: there is no such model, it can't be downloaded, or it is not valid.
        DacError: the device can't be used.
    """
    model = _load(name_or_path, progress)
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise DacError(f"can't use the device {str(device)!r}: {error}") from error


def folder_of(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The folder from which `load` reads a model, which may hold other files too; None if it is not in a folder.

    Raises:
        CheckpointError: the path can't be examined.
    """
    if isinstance(name_or_path, str):
        if (bundled := _bundled_folders().get(SHORT_NAMES.get(name_or_path, name_or_path))) is not None:
            return bundled
        if name_or_path in PUBLISHED:
            return None
    path = expanded(name_or_path)
    try:
        if path.name in (CONFIG_FILE, WEIGHTS_FILE) and path.is_file() and (path.parent / CONFIG_FILE).is_file():
            return path.parent
        return path if path.is_dir() else None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error


def weights_file(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The file from which `load` reads a model's weights; None if there is none, or it is not downloaded yet."""
    if (folder := folder_of(name_or_path)) is not None:
        file = folder / WEIGHTS_FILE
    elif isinstance(name_or_path, str) and name_or_path in PUBLISHED:
        file = _cached_file(name_or_path)
    else:
        file = expanded(name_or_path)
        if hub.is_repository(name_or_path) and not file.exists():
            return hub.cached_weights(str(name_or_path))
    return file if file.is_file() else None


def _load(name_or_path: str | os.PathLike[str], progress: bool) -> DAC:
    """The model on the CPU."""
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise CheckpointError(f"the model is a {type(name_or_path).__name__}, expected a DAC, a name or a path")
    if (folder := folder_of(name_or_path)) is not None:
        return build(read_folder(folder))
    if isinstance(name_or_path, str) and name_or_path in PUBLISHED:
        return _load_published(name_or_path, progress)
    path = expanded(name_or_path)
    if path.is_file():
        return build(read_file(path))
    if hub.is_repository(name_or_path):
        found = hub.fetch(str(name_or_path), progress)
        checkpoint = read_folder(found) if found.is_dir() else read_file(found)
        # transformers and the reference keep no name for a model, and the folder has the commit's.
        is_named = found.is_dir() and checkpoint.name != found.name
        name = checkpoint.name if is_named else str(name_or_path).rpartition("/")[2]
        return build(replace(checkpoint, name=name))
    names = [info.name for info in available()]
    close = difflib.get_close_matches(str(name_or_path), names, 1)
    hint = f"did you mean {close[0]}? The" if close else "the"
    raise CheckpointError(
        f"There is no model, file or folder called {str(path)!r}; {hint} models' names are {', '.join(names)}"
    )


def _bundled_folders() -> dict[str, Path]:
    """The bundled models' folders by name: in the package, or beside it in a checkout."""
    package = Path(str(importlib.resources.files("dac_codec")))
    folders: dict[str, Path] = {}
    for root in (package / "checkpoints", package.parent / "checkpoints"):
        for config_file in sorted(root.glob(f"*/{CONFIG_FILE}")):
            folders.setdefault(config_file.parent.name, config_file.parent)
    return folders


def _cached_file(name: str) -> Path:
    """Path of a published model's weights, downloaded or put there by hand."""
    return cache_folder() / PUBLISHED[name].rpartition("/")[2]


def _load_published(name: str, progress: bool) -> DAC:
    """Load a published model from the cache, downloading it first if necessary.

    A file with another SHA-256 than the published one is refused. Where that is not known yet, a warning says so, the
    SHA-256 is recorded at the file's first use, and from then on any other file is refused.
    """
    file = _cached_file(name)
    url = f"{os.environ.get('DAC_CODEC_DOWNLOAD_URL') or DOWNLOAD_URL}/{PUBLISHED[name]}"
    expected = published_digests()[name]

    def check(part: Path) -> None:
        check_digest(part, expected)
        _build_published(part, name)

    if not file.exists():
        download(url, file, check, progress)
    digest = check_digest(file, expected) if expected else verified_digest(file)
    model = _build_published(file, name)
    if expected is None:
        warnings.warn(
            f"the weights of {name} are not verified: their published SHA-256 is not known yet; {file} has {digest}",
            stacklevel=4,
        )
    record_digest(file, url, digest)
    return model


def _build_published(file: Path, name: str) -> DAC:
    """The published model `name` from a file that must hold that model."""
    checkpoint = read_file(file)
    # Quantizer dropout only matters in training.
    found, expected = (replace(config, quantizer_dropout=0.0) for config in (checkpoint.config, PRESETS[name]))
    if found != expected:
        raise CheckpointError(f"{file} is another model than {name}: found {found}, expected {expected}")
    return build(replace(checkpoint, name=name))
