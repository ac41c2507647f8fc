"""Models of the Hugging Face Hub, by huggingface_hub: its cache, its tokens, its mirror in HF_ENDPOINT."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from dac_codec.common.errors import CheckpointError
from dac_codec.pretrained.checkpoints import CONFIG_FILE, WEIGHTS_FILE

_CONTEXT_FILE = "context.safetensors"


def is_repository(name: object) -> bool:
    """Whether a name can be that of a repository, "owner/name"."""
    return isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) is not None


def fetch(repository: str, progress: bool) -> Path:
    """The folder of the cache with a repository's configuration, weights and, if it has one, context model.

    They are of the commit that "main" names, or without a network of the one that is in the cache.

    Args:
        repository: "owner/name".
        progress: show progress bars, if standard error is a terminal.

    Raises:
        CheckpointError: huggingface_hub is not installed, there is no such repository, it has not the files of a model,
            or they can't be downloaded.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub import utils
    except ImportError as error:
        raise CheckpointError(
            f"There is no file or folder {repository!r}; to look for it on the Hugging Face Hub, install dac_codec[hub]"
        ) from error
    silenced = not (progress and sys.stderr.isatty()) and not utils.are_progress_bars_disabled()
    if silenced:
        utils.disable_progress_bars()
    try:
        folder = Path(hub.hf_hub_download(repository, CONFIG_FILE)).parent
        commit = folder.name
        hub.hf_hub_download(repository, WEIGHTS_FILE, revision=commit)
        if hub.try_to_load_from_cache(repository, _CONTEXT_FILE, revision=commit) is None:  # not known to be absent
            _fetch_if_there(repository, _CONTEXT_FILE, commit)
    except Exception as error:  # Of its own, of httpx or requests, and of the file system.
        found = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"There is no file or folder {repository!r}, and no model of the Hub could be loaded: {found}"
        ) from error
    finally:
        if silenced:
            utils.enable_progress_bars()
    return folder


def cached_weights(repository: str) -> Path | None:
    """The weights of a repository in the cache, of its newest commit there; None if there are none."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(repository, WEIGHTS_FILE)
    return Path(found) if isinstance(found, str) else None


def _fetch_if_there(repository: str, name: str, commit: str) -> None:
    """Download a file that a repository may not have."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        hub.hf_hub_download(repository, name, revision=commit)
    except errors.LocalEntryNotFoundError:  # It could not ask.
        raise
    except errors.EntryNotFoundError:
        return
