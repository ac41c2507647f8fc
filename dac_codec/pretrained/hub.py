"""Models of the Hugging Face Hub, by huggingface_hub: its cache, its tokens, its mirror in HF_ENDPOINT."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from dac_codec.bitstream.context_model import FILE as CONTEXT_FILE
from dac_codec.common.errors import CheckpointError, in_one_line
from dac_codec.model import DAC
from dac_codec.pretrained.card import LIBRARY, card
from dac_codec.pretrained.checkpoints import CONFIG_FILE, WEIGHTS_FILE, save

_CARD_FILE = "README.md"
_REFERENCE = (".pth", ".safetensors")
"""Suffixes of files in the layout of the reference."""


def is_repository(name: object) -> bool:
    """Whether a name can be that of a repository, "owner/name"."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) is not None


def fetch(repository: str, progress: bool) -> Path:
    """The folder of the cache with a repository's configuration, weights and, if it has one, context model.

    They are of the commit that "main" names, or without a network of the one that is in the cache. With `progress`,
    bars are shown if standard error is a terminal. For a repository without a configuration, the path of its file
    in the layout of the reference.

    Raises:
        CheckpointError: huggingface_hub is not installed, there is no such repository, it lacks a model's files,
            or they can't be downloaded.
    """
    hub = _imported(f"There is no file or folder {repository!r}; to look for it on the Hugging Face Hub")
    from huggingface_hub import utils

    silenced = not (progress and sys.stderr.isatty()) and not utils.are_progress_bars_disabled()
    if silenced:
        utils.disable_progress_bars()
    try:
        try:
            config = _download_if_there(repository, CONFIG_FILE)
        except utils.LocalEntryNotFoundError:  # no network
            if (cached := cached_weights(repository)) is None:
                raise
            return cached
        if config is None:
            return _fetch_reference(repository)
        folder = config.parent
        commit = folder.name
        _download(repository, WEIGHTS_FILE, commit)
        if hub.try_to_load_from_cache(repository, CONTEXT_FILE, revision=commit) is None:  # not known to be absent
            _download_if_there(repository, CONTEXT_FILE, commit)
    except Exception as error:  # of huggingface_hub, httpx or requests, and the file system
        raise CheckpointError(
            f"There is no file or folder {repository!r}, and no model of the Hub could be loaded: {in_one_line(error)}"
        ) from error
    finally:
        if silenced:
            utils.enable_progress_bars()
    return folder


def _fetch_reference(repository: str) -> Path:
    """The weights of a repository without a configuration: `weights.pth`, or the only `.pth` or `.safetensors` file."""
    import huggingface_hub as hub

    info = hub.HfApi().model_info(repository)
    found = [file.rfilename for file in info.siblings or () if file.rfilename.endswith(_REFERENCE)]
    chosen = ["weights.pth"] if "weights.pth" in found else found
    if len(chosen) != 1:
        listed = ", ".join(found) or "no weights"
        raise CheckpointError(f"it has no {CONFIG_FILE}, and {listed}: expected one file {' or '.join(_REFERENCE)}")
    return _download(repository, chosen[0], info.sha)


def _download(repository: str, name: str, revision: str | None = None) -> Path:
    """The path of a repository's file in the cache, downloaded if it is not there; a broken connection is retried."""
    import huggingface_hub as hub
    from huggingface_hub.utils import EntryNotFoundError, HfHubHTTPError

    for _ in range(2):
        try:
            return Path(hub.hf_hub_download(repository, name, revision=revision))
        except (EntryNotFoundError, HfHubHTTPError):
            raise
        except Exception:  # of httpx or requests; huggingface_hub 0.36 does not retry by itself
            continue
    return Path(hub.hf_hub_download(repository, name, revision=revision))


def _download_if_there(repository: str, name: str, revision: str | None = None) -> Path | None:
    """As `_download`; None if the repository has no such file."""
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return _download(repository, name, revision)
    except LocalEntryNotFoundError:  # no network; it is an EntryNotFoundError too
        raise
    except EntryNotFoundError:
        return None


def cached_weights(repository: str) -> Path | None:
    """The weights of a repository in the cache, of its newest commit there; None if there are none."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return None
    found = try_to_load_from_cache(repository, WEIGHTS_FILE)
    if isinstance(found, str):
        return Path(found)
    folder = Path(HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    with suppress(OSError):
        snapshot = folder / "snapshots" / (folder / "refs/main").read_text()
        files = [file for file in snapshot.iterdir() if file.suffix in _REFERENCE]
        return files[0] if len(files) == 1 else None
    return None


def cached_repositories() -> dict[str, Path]:
    """The folders of repositories in the cache that have weights, which need not be of this package."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return {}
    folders = Path(HF_HUB_CACHE).glob("models--*--*")
    names = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
    found = {name: cached_weights(name) for name in names if is_repository(name)}
    return {name: weights.parent for name, weights in found.items() if weights is not None}


def listed_repositories() -> dict[str, Path]:
    """The folders in the cache of the Hub's models whose cards name this package as their library.

    Only configurations are downloaded. A model whose configuration can't be is left out, with a warning. Raises a
    CheckpointError if huggingface_hub is not installed or the Hub can't be reached.
    """
    hub = _imported("To list the models of the Hugging Face Hub")
    try:
        commits = {model.id: model.sha for model in hub.HfApi().list_models(filter=LIBRARY, full=True)}
    except Exception as error:  # of huggingface_hub, httpx or requests
        raise CheckpointError(f"The models of the Hugging Face Hub can't be listed: {in_one_line(error)}") from error
    folders = {}
    for name, commit in commits.items():
        try:  # by commit: moving the branch would hide cached weights of an older commit
            folders[name] = _download(name, CONFIG_FILE, commit).parent
        except Exception as error:  # also of a model for which the user has no permission
            warnings.warn(f"{name} is left out: {in_one_line(error)}", stacklevel=2)
    return folders


def push(
    model: DAC,
    repository: str,
    license: str | None = None,
    report: str | os.PathLike[str] | None = None,
    private: bool | None = None,
    message: str = "Upload model",
    token: str | None = None,
) -> str:
    """Upload a model, and its context model if it was loaded with one, in one commit.

    Args:
        model: any model.
        repository: "owner/name", created if it does not exist.
        license: its identifier on the Hub, such as "mit", for the model card.
        report: folder or `report.json` of `dac-codec evaluate`, for the model card.
        private: of a new repository; None: as the owner's default is.
        message: of the commit.
        token: of the Hub; None: that of `hf auth login` or HF_TOKEN.

    Returns:
        The address of the commit. A model card (README.md) that is in the repository stays as it is.

    Raises:
        CheckpointError: huggingface_hub is not installed, the report is not valid, or the upload fails.
        ValueError: `repository` is not "owner/name".
    """
    if not is_repository(repository):
        raise ValueError(f"the repository must be 'owner/name', not {repository!r}")
    hub = _imported("To upload a model")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(model, folder, name=repository.rpartition("/")[2][:64] if model.name == "unnamed" else None)
        weights = model.weights_file
        if weights and weights.name == WEIGHTS_FILE and (context := weights.with_name(CONTEXT_FILE)).exists():
            shutil.copyfile(context, folder / CONTEXT_FILE)
        text = card(model, repository, license, report)
        try:
            api = hub.HfApi(token=token)
            visibility = {} if private is None else {"private": private}
            api.create_repo(repository, exist_ok=True, **visibility)
            if not api.file_exists(repository, _CARD_FILE):
                (folder / _CARD_FILE).write_text(text, encoding="utf-8")
            return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message).commit_url)
        except Exception as error:  # of huggingface_hub, httpx or requests, and the file system
            raise CheckpointError(f"{repository} could not be uploaded to the Hub: {in_one_line(error)}") from error


def _imported(purpose: str) -> Any:
    """The package huggingface_hub."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(f"{purpose}, install dac_codec[hub]") from error
    return huggingface_hub
