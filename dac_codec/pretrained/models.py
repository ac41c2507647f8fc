"""Names to verified weights: find, fetch, read, check and save the weights of a `DAC`.

Four kinds of source hold the same network:

- a bundled model, by name (`DEFAULT_MODEL` is one);
- a published model, by name ("44khz", "44khz-16kbps", "24khz", "16khz"), fetched once into `cache_folder()`;
- a folder with `config.json` and `model.safetensors`, as `save` writes it;
- a `.pth` file in the layout of the published weights: `{"state_dict": ..., "metadata": {"kwargs": ...}}`.

Nothing in a file is trusted: pickles are read with `weights_only=True`, and the names, shapes and values of all tensors
are checked against the configuration, on the meta device, before any memory is given to a network. Whatever is wrong
ends in a `CheckpointError`.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.resources
import json
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from email.message import Message
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import platformdirs
import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from dac_codec.common.errors import CheckpointError, DacError
from dac_codec.common.files import atomic_write, expanded
from dac_codec.model import DAC, PRESETS, DACConfig

DEFAULT_MODEL = "dac-mini-44khz"
"""Name of the bundled model that is used where none is named."""

DOWNLOAD_URL = "https://github.com/descriptinc/descript-audio-codec/releases/download"
"""Where the published weights are. The environment variable DAC_CODEC_DOWNLOAD_URL names a mirror of it."""

PUBLISHED = {
    "44khz": "0.0.1/weights.pth",
    "44khz-16kbps": "1.0.0/weights_44khz_16kbps.pth",
    "24khz": "0.0.4/weights_24khz.pth",
    "16khz": "0.0.5/weights_16khz.pth",
}
"""The published models: release tag and file below `DOWNLOAD_URL`, by name."""

_FORMAT = 1

# Fields of a configuration that came after the first files were written.
_VARIATIONS = frozenset(("activation", "lookup", "codebook_learning", "causal"))
_CONFIG_FILE = "config.json"
_WEIGHTS_FILE = "model.safetensors"
_MOST_NAME_BYTES = 64  # What the header of a .dac file has room for.
_STORED_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TIMEOUT_S = 30.0
_RETRY_WAITS_S = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be loaded by name.

    Attributes:
        name: what `load` takes.
        sample_rate: in Hz.
        bitrate: of one channel with all codebooks, in bits per second.
        n_codebooks: number N of codebooks.
        where: "bundled" with the package, "cached" on disk, or "downloadable".
    """

    name: str
    sample_rate: int
    bitrate: float
    n_codebooks: int
    where: Literal["bundled", "cached", "downloadable"]


def load(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu", progress: bool = False) -> DAC:
    """Load a model, in evaluation mode, with float32 weights whatever they were stored as.

    Args:
        name_or_path: a name from `available()`, a folder that `save` wrote, or a `.pth` file in the published layout.
            A name goes before a file or folder that is called the same; write "./44khz" to mean the latter.
        device: where the parameters shall be.
        progress: show a progress bar of a download, if standard error is a terminal.

    Raises:
        CheckpointError: there is no such model, it can't be fetched, or what was found isn't a valid one.
        DacError: the device can't be used.
    """
    model = _load(name_or_path, progress)
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise DacError(f"can't use the device {str(device)!r}: {error}") from error


def folder_of(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The folder that `load` finds a model in, where there may be more than its own files; None if it is no folder.

    Raises:
        CheckpointError: the disk can't be asked.
    """
    if isinstance(name_or_path, str):
        if (bundled := _bundled_folders().get(name_or_path)) is not None:
            return bundled
        if name_or_path in PUBLISHED:
            return None
    path = expanded(name_or_path)
    try:
        if path.name in (_CONFIG_FILE, _WEIGHTS_FILE) and path.is_file():
            return path.parent
        return path if path.is_dir() else None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error


def _load(name_or_path: str | os.PathLike[str], progress: bool) -> DAC:
    """The model on the CPU."""
    if (folder := folder_of(name_or_path)) is not None:
        return _build(_read_folder(folder))
    if isinstance(name_or_path, str) and name_or_path in PUBLISHED:
        return _load_published(name_or_path, progress)
    path = expanded(name_or_path)
    if path.is_file():
        return _build(_read_pth(path))
    names = ", ".join(info.name for info in available())
    raise CheckpointError(f"There is no model, file or folder called {str(path)!r}; the models' names are {names}")


def save(
    model: DAC,
    folder: str | os.PathLike[str],
    name: str | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write a model to `folder` as `config.json` and `model.safetensors`, for `load` to read.

    Each file replaces an older one in one step, the weights first. The tensors have the names of the published layout.

    Args:
        model: what to save; its device doesn't matter. It is left as it is, its name too.
        folder: made if it isn't there.
        name: what is loaded from the folder shall be called, 1 to 64 bytes of printable UTF-8, as `.dac` files have
            room for; None means the model's name, or what fits of the folder's where it has none.
        dtype: how the weights are stored. float16 takes half the room and rounds to 11 significant bits.

    Raises:
        CheckpointError: a weight isn't finite or doesn't fit into `dtype`, the name isn't one, or the files can't be
            written.
        ValueError: an unknown `dtype`.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', not {dtype!r}")
    folder = expanded(folder).absolute()
    if name is None:
        name = _fitting_name(folder.name) if model.name == "unnamed" else model.name
    try:
        name = checked_name(name)
    except ValueError as error:
        raise CheckpointError(f"{folder} was not written: {error}; give save() another name") from error
    tensors = {}
    for key, tensor in canonical(model.state_dict()).items():
        tensors[key] = tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
        if not tensors[key].isfinite().all():
            raise CheckpointError(f"{folder} was not written: {key} has values that are no finite {dtype} numbers")
    config = {"format": _FORMAT, "name": name, "model": model.config.to_dict()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            weights_file, config_file = Path(temporary, _WEIGHTS_FILE), Path(temporary, _CONFIG_FILE)
            # Not save_file: it makes a file that only its owner can read.
            weights_file.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
            config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            weights_file.replace(folder / _WEIGHTS_FILE)
            config_file.replace(folder / _CONFIG_FILE)
    except OSError as error:
        raise CheckpointError(f"{folder} can't be written: {error}") from error


def checked_name(name: object) -> str:
    """A model's name, if it is one that a `.dac` file can hold and a line can show.

    Raises:
        ValueError: it isn't printable text of 1 to 64 bytes in UTF-8.
    """
    # What is printable has no lone surrogates, which UTF-8 can't hold.
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name.encode()) <= _MOST_NAME_BYTES:
        raise ValueError(f"the name {name!r} is not 1 to {_MOST_NAME_BYTES} bytes of printable text in UTF-8")
    return name


def _fitting_name(stem: str) -> str:
    """The name of a model that has none but its file's or folder's: as much of that as can be one."""
    printable = "".join(character if character.isprintable() else "_" for character in stem)
    return printable.encode()[:_MOST_NAME_BYTES].decode(errors="ignore") or "unnamed"


def fingerprint(model: DAC) -> bytes:
    """The identity of a model, 32 bytes: equal for equal weights and configuration, however they were stored.

    It is the SHA-256 of the configuration as JSON (keys sorted, no spaces; without `quantizer_dropout`, which makes no
    difference once a model is trained, and without those of `activation`, `lookup`, `codebook_learning` and `causal`
    that are as in every published model), followed for each tensor, sorted by its published name, by the line
    "\\n<name> [<sizes>]\\n" and the values as little-endian float32, all in UTF-8.

    It is worked out again where checksums tell that weights have changed since the last time, however they were.
    """
    shape = _shape(model)
    state = _state(model)
    memory = StorageWeakRef(next(model.parameters()).untyped_storage())
    known = _fingerprints.get(memory)
    if known is not None and known[:2] == (shape, state):
        return known[2]
    digest = _digest(shape, model)
    for other in [other for other in list(_fingerprints) if other.expired()]:
        _fingerprints.pop(other, None)
    _fingerprints[memory] = shape, state, digest
    return digest


_fingerprints: dict[StorageWeakRef, tuple[bytes, list[tuple[object, ...]], bytes]] = {}
"""Configuration, state and fingerprint of models, by their first parameter's memory: those that `prepare` makes share
it."""


def _shape(model: DAC) -> bytes:
    """The part of a configuration that makes a difference, as JSON."""
    config = model.config.to_dict()
    del config["quantizer_dropout"]
    for field in fields(model.config):
        if field.name in _VARIATIONS and config[field.name] == field.default:
            del config[field.name]
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def _state(model: DAC) -> list[tuple[object, ...]]:
    """What is another one when a model's weights are others: a checksum of each tensor, far quicker than a SHA-256.

    PyTorch's own counters of changes don't tell: a fused optimizer's step leaves them as they were.
    """
    state: list[tuple[object, ...]] = []
    for name, tensor in model.state_dict().items():
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        state.append((name, tensor.shape, tensor.dtype, google_crc32c.value(values)))
    return state


def _digest(shape: bytes, model: DAC) -> bytes:
    digest = hashlib.sha256(shape)
    for key, tensor in sorted(canonical(model.state_dict()).items()):
        digest.update(f"\n{key} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4", copy=False).data)
    return digest.digest()


def available() -> list[ModelInfo]:
    """The models that `load` knows by name: bundled ones first, then the published ones."""

    def info(name: str, config: DACConfig, where: Literal["bundled", "cached", "downloadable"]) -> ModelInfo:
        return ModelInfo(name, config.sample_rate, config.bitrate(), config.n_codebooks, where)

    models = []
    for name, folder in _bundled_folders().items():
        with suppress(CheckpointError):  # `load` says what is wrong with it; a list shouldn't fail.
            models.append(info(name, _read_config(folder)[1], "bundled"))
    for name in PUBLISHED:
        models.append(info(name, PRESETS[name], "cached" if _cached_file(name).exists() else "downloadable"))
    return models


def cache_folder() -> Path:
    """Where downloads are kept: DAC_CODEC_CACHE from the environment, or else the platform's place for caches."""
    chosen = os.environ.get("DAC_CODEC_CACHE")
    return expanded(chosen) if chosen else Path(platformdirs.user_cache_dir("dac_codec"))


# ----------------------------------------------------------------------------------------------------------------------
# From files to a network
# ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Checkpoint:
    """What a file says a model is, not yet compared with what the configuration needs.

    Attributes:
        path: file of the tensors, for messages and for its size.
        name: the model's name.
        config: shape of the network.
        tensors: whatever the file has as its state dict.
    """

    path: Path
    name: str
    config: DACConfig
    tensors: Mapping[str, Tensor]


def _bundled_folders() -> dict[str, Path]:
    """The bundled models' folders by name: in the package, or beside it in a checkout."""
    package = Path(str(importlib.resources.files("dac_codec")))
    folders: dict[str, Path] = {}
    for root in (package / "checkpoints", package.parent / "checkpoints"):
        for config_file in sorted(root.glob(f"*/{_CONFIG_FILE}")):
            folders.setdefault(config_file.parent.name, config_file.parent)
    return folders


def _read_config(folder: Path) -> tuple[str, DACConfig]:
    """Name and configuration of the model in a folder that `save` wrote."""
    file = folder / _CONFIG_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {_CONFIG_FILE}: expected it and {_WEIGHTS_FILE}") from error
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{file} describes no model: expected an object with 'format', 'name' and 'model'")
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{file} has format {content.get('format')!r} and this version reads {_FORMAT}; update dac_codec to read it"
        )
    name = content.get("name", _fitting_name(folder.absolute().name))
    try:
        name = checked_name(name)
    except ValueError as error:
        raise CheckpointError(f'{file}: {error}; write another "name" there') from error
    return name, _parse_config(content["model"], file)


def _read_folder(folder: Path) -> _Checkpoint:
    """The model in a folder that `save` wrote."""
    name, config = _read_config(folder)
    file = folder / _WEIGHTS_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {_WEIGHTS_FILE} beside its {_CONFIG_FILE}")
    try:
        tensors = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error
    return _Checkpoint(file, name, config, tensors)


def _read_pth(path: Path) -> _Checkpoint:
    """The model in a file of the published layout."""
    content = _unpickle(path)
    metadata = content.get("metadata") if isinstance(content, dict) else None
    kwargs = metadata.get("kwargs") if isinstance(metadata, dict) else None
    if not isinstance(kwargs, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(
            f"{path} is not a model in the published layout: expected a dict with 'state_dict' and 'metadata', and "
            "'kwargs' in the latter"
        )
    kwargs = dict(kwargs)
    widths = kwargs.get("codebook_dim")
    if isinstance(widths, (list, tuple)):  # The reference takes one width for each codebook.
        if not widths or len(widths) != kwargs.get("n_codebooks") or any(width != widths[0] for width in widths):
            raise CheckpointError(f"{path} has codebook_dim {widths}: expected the same width for each codebook")
        kwargs["codebook_dim"] = widths[0]
    return _Checkpoint(path, _fitting_name(path.stem), _parse_config(kwargs, path), content["state_dict"])


def _unpickle(path: Path) -> Any:
    """What `torch.save` wrote to `path`: tensors and plain values only, on the CPU.

    Takes only the zip layout, which every torch since 1.6 writes: the older ones say in a header how much to allocate.
    """
    # torch itself doesn't compare the checksums, and inflates entries that it would never have deflated.
    try:
        with zipfile.ZipFile(path) as archive:
            inflated = sum(entry.file_size for entry in archive.infolist())
            damaged = archive.testzip() if inflated <= path.stat().st_size else "its size"
    except Exception as error:  # zipfile lets half a dozen types through, depending on where the damage is.
        raise CheckpointError(f"{path} is not a readable PyTorch checkpoint: {error}") from error
    if damaged:
        raise CheckpointError(f"{path} is not a readable PyTorch checkpoint: {damaged} is wrong; fetch it again")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # As above: a malformed pickle can fail in any way.
        raise CheckpointError(
            f"{path} was refused: it is damaged, or holds more than tensors and plain values, which could run code"
        ) from error


def _parse_config(values: dict[str, Any], file: Path) -> DACConfig:
    try:
        return DACConfig.from_dict(values)
    except (ValueError, OverflowError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def _build(checkpoint: _Checkpoint) -> DAC:
    """The network of a checkpoint, in evaluation mode, after every check that its tensors need."""
    path = checkpoint.path
    found = canonical(checkpoint.tensors)
    model = _blueprint(checkpoint)
    expected = canonical(model.state_dict())
    if len(found) < len(checkpoint.tensors):
        raise CheckpointError(f"{path} has the same tensor twice, under weight norm's old and new names")
    if missing := expected.keys() - found.keys():
        raise CheckpointError(f"{path} lacks tensors that its configuration needs: {_some(missing)}")
    if unexpected := found.keys() - expected.keys():
        raise CheckpointError(f"{path} has tensors that its configuration has no place for: {_some(unexpected)}")
    for name, tensor in found.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.dtype not in _STORED_TYPES:
            raise CheckpointError(f"{path}: {name} is not a tensor of floating-point numbers")
        if tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {name} has no values")
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {list(tensor.shape)}, and its configuration needs "
                f"{list(expected[name].shape)}"
            )
    # A pickle can make a large tensor of a small storage, by a stride of 0.
    if sum(tensor.nbytes for tensor in found.values()) > path.stat().st_size:
        raise CheckpointError(f"{path} has tensors that are larger than the file; it was not written by torch.save")
    weights = {}
    for name, tensor in found.items():
        # A copy, so that neither a mapped file nor a storage that several tensors share is left underneath.
        weights[name] = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not weights[name].isfinite().all():
            raise CheckpointError(f"{path}: {name} has values that are not finite; the file is damaged")
    model.load_state_dict(weights, assign=True)
    model.name = checkpoint.name
    return model.eval()


class _WithoutValues(TorchFunctionMode):
    """Builds networks on the meta device without asking it to compute values that nobody will see.

    The meta versions of what initialisation uses are written in Python, and their first use imports the compiler:
    1.3 s for the 44 kHz model, against 0.1 s this way.
    """

    _FILLING = frozenset(
        ("uniform_", "normal_", "kaiming_uniform_", "erfinv_", "mul_", "add_", "clamp_", "zero_", "fill_")
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self._FILLING:
            return args[0] if args else kwargs["tensor"]
        if func is torch.norm_except_dim:  # Of weight norm: all sizes become 1, save that of one dimension.
            tensor, _, kept = args
            return tensor.new_empty([size if dim == kept else 1 for dim, size in enumerate(tensor.shape)])
        return func(*args, **kwargs)


def _blueprint(checkpoint: _Checkpoint) -> DAC:
    """The network of a configuration, on the meta device: shapes, and no memory."""
    config, path = checkpoint.config, checkpoint.path
    # Modules cost memory on any device, so a hostile number of them has to be caught before.
    if config.n_codebooks + len(config.encoder_rates) + len(config.decoder_rates) > len(checkpoint.tensors):
        raise CheckpointError(f"{path} has {len(checkpoint.tensors)} tensors, too few for its configuration")
    try:
        with torch.device("meta"), _WithoutValues():
            return DAC(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} has a configuration with impossible sizes: {config}") from error


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with weight norm's tensors named as in the published weights, whichever way they are."""
    renamed = {}
    for name, tensor in tensors.items():
        name = str(name).replace(".parametrizations.weight.original0", ".weight_g")
        renamed[name.replace(".parametrizations.weight.original1", ".weight_v")] = tensor
    return renamed


def _some(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, for a message."""
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")


# ----------------------------------------------------------------------------------------------------------------------
# The published weights
# ----------------------------------------------------------------------------------------------------------------------


def _cached_file(name: str) -> Path:
    """Where a published model is kept, downloaded or put there by hand."""
    return cache_folder() / PUBLISHED[name].rpartition("/")[2]


def _load_published(name: str, progress: bool) -> DAC:
    """Load a published model from the cache, fetching it first if need be.

    The SHA-256 of the file is written down when it is first used; from then on another file is refused.
    """
    file = _cached_file(name)
    url = f"{os.environ.get('DAC_CODEC_DOWNLOAD_URL') or DOWNLOAD_URL}/{PUBLISHED[name]}"
    if not file.exists():
        _download(url, file, lambda part: _build_published(part, name), progress)
    digest = _sha256(file)
    record_file = file.with_name(file.name + ".json")
    recorded = _read_record(record_file).get("sha256")
    if recorded not in (None, digest):
        raise CheckpointError(
            f"{file} has changed since it was first used: its SHA-256 is {digest}, and was {recorded}. Delete it to "
            f"download it again, or delete {record_file} if you trust the file as it is now"
        )
    model = _build_published(file, name)
    if recorded is None:
        with suppress(OSError):  # A cache that can only be read is a cache all the same.
            _write_record(record_file, {"url": url, "sha256": digest})
    return model


def _build_published(file: Path, name: str) -> DAC:
    """The published model `name` from a file that must hold that one and no other."""
    checkpoint = _read_pth(file)
    # Dropout is how a model was trained, not what it is.
    found, expected = (replace(config, quantizer_dropout=0.0) for config in (checkpoint.config, PRESETS[name]))
    if found != expected:
        raise CheckpointError(f"{file} is another model than {name}: found {found}, expected {expected}")
    return _build(replace(checkpoint, name=name))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error}") from error
    return digest.hexdigest()


def _read_record(file: Path) -> dict[str, Any]:
    """A small JSON object beside a cached file; empty where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} can't be read ({error}); delete it if you trust the file beside it") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a JSON object; delete it if you trust the file beside it")
    return content


def _write_record(file: Path, content: dict[str, Any]) -> None:
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _download(url: str, target: Path, check: Callable[[Path], object], progress: bool) -> None:
    """Fetch `url` to `target`, which appears only when it is complete and `check` has found nothing to raise.

    What has arrived is kept in a `.part` file, by this process or another that continues it later; one at a time.

    Raises:
        CheckpointError: the download failed, or what arrived is not what it should be (and is removed).
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.exists():  # Another process had the lock before.
                return
            if reason := _receive_patiently(url, part, progress):
                raise CheckpointError(
                    f"{url} can't be downloaded: {reason}. Check the network and try again (what has arrived is kept), "
                    f"or fetch the file on another machine and put it at {target}"
                )
            try:
                check(part)
            except CheckpointError as error:
                _discard(part)
                raise CheckpointError(
                    f"{url} sent something else than the model and it was removed: {error}"
                ) from error
            part.replace(target)
            _discard(part)
    except OSError as error:
        raise CheckpointError(f"{target} can't be written: {error}") from error


def _receive_patiently(url: str, part: Path, progress: bool) -> str | None:
    """Fetch `url` to `part`, trying again where that may help; returns why it failed, or None."""
    reason = ""
    for attempt, wait in enumerate((0.0, *_RETRY_WAITS_S)):
        time.sleep(wait)
        try:
            _receive(url, part, progress)
            return None
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answered {error.code} {error.reason}"
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                _discard(part)
            elif error.code < 500 and error.code not in (
                http.client.REQUEST_TIMEOUT,
                http.client.TOO_MANY_REQUESTS,
            ):
                break
        except urllib.error.URLError as error:
            reason = f"no connection ({error.reason})"
            if attempt == 0:  # A network that isn't there at all won't be there in a second.
                break
        except (OSError, http.client.HTTPException) as error:
            reason = f"the connection broke ({error})"
        except ValueError as error:
            reason = f"it is no address ({error})"
            break
    return reason


def _receive(url: str, part: Path, progress: bool) -> None:
    """Append to `part` what it lacks of `url` (RFC 9110, section 14), or start over where the server wants that.

    Raises:
        OSError, http.client.HTTPException: no connection, or it broke; what has arrived is in `part`.
    """
    record_file = part.with_name(part.name + ".json")
    try:
        record = _read_record(record_file)
    except CheckpointError:
        record = {}
    have = part.stat().st_size if part.exists() and record.get("url") == url else 0
    if have and have == record.get("size"):
        return
    known = record.get("validator")
    request = urllib.request.Request(url, headers={"User-Agent": "dac_codec", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if known:
            request.add_header("If-Range", known)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        validator = _validator(response.headers)
        if response.status == http.client.PARTIAL_CONTENT:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            start, size = map(int, match.groups()) if match else (None, None)
            # Not every server heeds If-Range.
            if start != have or record.get("size") not in (None, size) or validator not in (None, known):
                _discard(part)
                raise ConnectionError("the file on the server is not the one that the download began with")
        else:
            have, size = 0, _content_length(response.headers)
            part.write_bytes(b"")  # Before the record: old bytes must never meet a new validator.
            _write_record(record_file, {"url": url, "size": size, "validator": validator})
        with (
            part.open("ab") as file,
            tqdm(
                desc=url.rpartition("/")[2],
                total=size,
                initial=have,
                unit="B",
                unit_scale=True,
                disable=None if progress else True,  # None: unless it is a terminal.
            ) as bar,
        ):
            while block := response.read1(1 << 16):
                bar.update(file.write(block))
                file.flush()  # A killed process shall leave all that it got.
    arrived = part.stat().st_size
    if size is not None and arrived != size:
        raise ConnectionError(f"{arrived} of {size} bytes arrived")


def _validator(headers: Message) -> str | None:
    """What tells one version of a remote file from another: its strong ETag, or else its date."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _content_length(headers: Message) -> int | None:
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _discard(part: Path) -> None:
    """Remove a partial download and its record."""
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".json").unlink(missing_ok=True)
