"""Model folders and `.pth` files: read with every check, built into a `DAC`, and saved.

A folder has `config.json` and `model.safetensors`, ours or those of transformers. A `.pth` file has the layout of the
published weights, `{"state_dict": ..., "metadata": {"kwargs": ...}}`; a `.safetensors` file alone has the same tensors.

Files are not trusted: pickles are read with `weights_only=True`, and the names, shapes and values of all tensors are
checked against the configuration on the meta device before a network is allocated.
"""

from __future__ import annotations

import json
import os
import reprlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dac_codec.common.errors import CheckpointError, first_names, in_one_line
from dac_codec.common.files import expanded, to_json, write_files
from dac_codec.model import DAC, PRESETS, DACConfig
from dac_codec.pretrained import transformers_layout

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_FORMAT = 1
_MAX_NAME_BYTES = 64  # Of the name field in the header of a .dac file.
_STORED_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a model's files, not yet checked against its configuration; `path` has the tensors."""

    path: Path
    name: str
    config: DACConfig
    tensors: Mapping[str, Tensor]


def save(
    model: DAC,
    folder: str | os.PathLike[str],
    name: str | None = None,
    dtype: Literal["float32", "float16"] = "float32",
) -> None:
    """Write a model to `folder` as `config.json` and `model.safetensors`, for `load` to read.

    Each file is replaced atomically, the weights first. The tensors have the names of the published layout.

    Args:
        model: the model, on any device; it is not modified.
        folder: created if it does not exist.
        name: name of the model when it is loaded from the folder, 1 to 64 bytes of printable UTF-8 (the size of the
            name field of `.dac` files). None: the model's name, or the folder's, shortened, if it has none.
        dtype: how the weights are stored. float16 halves the size and rounds to 11 significant bits.

    Raises:
        CheckpointError: a weight is not finite in `dtype`, the name is invalid, or the files can't be written.
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
    for key, tensor in canonical_state(model).items():
        tensors[key] = tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
        if not tensors[key].isfinite().all():
            raise CheckpointError(f"{folder} was not written: {key} has values that are not finite in {dtype}")
    write_folder(folder, tensors, {CONFIG_FILE: {"format": _FORMAT, "name": name, "model": model.config.to_dict()}})


def write_folder(folder: Path, tensors: dict[str, Tensor], texts: Mapping[str, object]) -> None:
    """Write `model.safetensors` and JSON files into a folder, as `write_files` does.

    Raises a CheckpointError if the files can't be written.
    """
    # Not save_file: it creates files that only their owner can read.
    files = {WEIGHTS_FILE: safetensors.torch.save(tensors, metadata={"format": "pt"})}
    try:
        write_files(folder, files | {name: to_json(content) for name, content in texts.items()})
    except OSError as error:
        raise CheckpointError(f"{folder} can't be written: {error}") from error


def checked_name(name: object) -> str:
    """Return a model's name; raise a ValueError unless a `.dac` file can hold it: 1 to 64 bytes of printable UTF-8."""
    # Printable text has no lone surrogates, which UTF-8 can't encode.
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name.encode()) <= _MAX_NAME_BYTES:
        raise ValueError(
            f"the name {reprlib.repr(name)} is not 1 to {_MAX_NAME_BYTES} bytes of printable text in UTF-8"
        )
    return name


def _fitting_name(stem: str) -> str:
    """A valid model name from the name of its file or folder."""
    printable = "".join(character if character.isprintable() else "_" for character in stem)
    return printable.encode()[:_MAX_NAME_BYTES].decode(errors="ignore") or "unnamed"


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of the published weights: `weight_g` and `weight_v` for weight norm's tensors."""
    new = ".parametrizations.weight.original"
    return {str(name).replace(f"{new}0", ".weight_g").replace(f"{new}1", ".weight_v"): x for name, x in tensors.items()}


def canonical_state(model: DAC) -> dict[str, Tensor]:
    """The state dict of a model with the names of the published weights, also without weight norm.

    Weights without weight norm are stored as their two factors, see `factored`.
    """
    tensors = canonical(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) and f"{name}.weight" in tensors:
            tensors[f"{name}.weight_g"], tensors[f"{name}.weight_v"] = factored(tensors.pop(f"{name}.weight"))
    return tensors


def factored(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weight norm's factors of a weight w: the norm g = |w| and direction v = w of each output; where w is 0, v is 1.

    The norm is summed in the order of weight norm on the CPU, where v * (g / |v|) then equals w in every bit.
    """
    found = weight.detach().to("cpu", torch.float32).contiguous()
    norm = torch._weight_norm_interface(found, torch.norm_except_dim(found), 0)[1]
    norm = norm.view(-1, *[1] * (weight.ndim - 1)).to(weight)
    return norm, torch.where(norm == 0, torch.ones_like(weight), weight)


def read_config(folder: Path) -> tuple[str, DACConfig]:
    """Name and configuration of the model in a folder. Raises CheckpointError if its `config.json` is not valid."""
    file = folder / CONFIG_FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}: expected it and {WEIGHTS_FILE}") from error
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if isinstance(content, dict) and "model" not in content and isinstance(content.get("model_type"), str):
        return _fitting_name(folder.absolute().name), _parse_config(transformers_layout.parse(content, file), file)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{file} describes no model: expected an object with 'format', 'name' and 'model'")
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{file} has format {reprlib.repr(content.get('format'))} and this version reads {_FORMAT}; update "
            "dac_codec to read it"
        )
    name = content.get("name", _fitting_name(folder.absolute().name))
    try:
        name = checked_name(name)
    except ValueError as error:
        raise CheckpointError(f'{file}: {error}; change its "name"') from error
    return name, _parse_config(content["model"], file)


def read_folder(folder: Path) -> Checkpoint:
    """The model in a folder of ours or of transformers. Raises CheckpointError if a file is missing or unreadable."""
    name, config = read_config(folder)
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE} beside its {CONFIG_FILE}")
    return Checkpoint(file, name, config, transformers_layout.to_ours(_read_tensors(file), config, file))


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}") from error


def read_file(path: Path) -> Checkpoint:
    """The model in a file of the published layout: `.safetensors`, or else `.pth`.

    A `.safetensors` file has no configuration: its tensors must be those of a published network. Raises a
    CheckpointError if the file is unreadable, unsafe or not of that layout.
    """
    if path.suffix != ".safetensors":
        return read_pth(path)
    tensors = _read_tensors(path)
    shapes = {name: tensor.shape for name, tensor in canonical(tensors).items()}
    for config in PRESETS.values():
        if {name: one.shape for name, one in canonical(_on_meta(config).state_dict()).items()} == shapes:
            return Checkpoint(path, _fitting_name(path.stem), config, tensors)
    known = ", ".join(PRESETS)
    raise CheckpointError(f"{path} has no {CONFIG_FILE} beside it, and its tensors are not those of {known}")


def read_pth(path: Path) -> Checkpoint:
    """The model in a `.pth` file. Raises CheckpointError if it is unreadable, unsafe or not of the published layout."""
    content = unpickle(path)
    metadata = content.get("metadata") if isinstance(content, dict) else None
    kwargs = metadata.get("kwargs") if isinstance(metadata, dict) else None
    if not isinstance(kwargs, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(
            f"{path} is not a model in the published layout: expected a dict with 'state_dict' and 'metadata', and "
            "'kwargs' in the latter"
        )
    kwargs = dict(kwargs)
    widths = kwargs.get("codebook_dim")
    if isinstance(widths, (list, tuple)):  # The reference accepts one width per codebook.
        if not widths or len(widths) != kwargs.get("n_codebooks") or any(width != widths[0] for width in widths):
            raise CheckpointError(
                f"{path} has codebook_dim {reprlib.repr(widths)}: expected the same width for each codebook"
            )
        kwargs["codebook_dim"] = widths[0]
    return Checkpoint(path, _fitting_name(path.stem), _parse_config(kwargs, path), content["state_dict"])


def unpickle(path: Path) -> Any:
    """The contents of a file that `torch.save` wrote: tensors and plain values only, on the CPU.

    Only the zip layout of torch 1.6 and later is read: in older layouts a header declares how much to allocate. Raises
    a CheckpointError if the file is missing, damaged (its checksums are verified), or holds anything else.
    """
    # torch does not verify the checksums, and inflates entries that it would never have deflated.
    try:
        with zipfile.ZipFile(path) as archive:
            inflated = sum(entry.file_size for entry in archive.infolist())
            damaged = archive.testzip() if inflated <= path.stat().st_size else "its size"
            is_package = any(name.endswith("/.data/extern_modules") for name in archive.namelist())
    except Exception as error:  # zipfile raises half a dozen types, depending on where the damage is.
        raise CheckpointError(f"{path} is not a readable PyTorch checkpoint: {in_one_line(error)}") from error
    if damaged:
        found = in_one_line(damaged)
        raise CheckpointError(f"{path} is not a readable PyTorch checkpoint: {found} is wrong; fetch it again")
    if is_package:
        raise CheckpointError(f"{path} was refused: torch.package wrote it, with code; save it with package=False")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A malformed pickle can raise anything.
        raise CheckpointError(
            f"{path} was refused: it is damaged, or holds more than tensors and plain values, which could run code"
        ) from error


def _parse_config(values: dict[str, Any], file: Path) -> DACConfig:
    try:
        return DACConfig.from_dict(values)
    except (ValueError, OverflowError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def build(checkpoint: Checkpoint) -> DAC:
    """The network of a checkpoint, on the CPU, in evaluation mode, with float32 weights.

    Raises CheckpointError if the tensors do not match the configuration, or are not finite.
    """
    path = checkpoint.path
    found = canonical(checkpoint.tensors)
    model = _blueprint(checkpoint)
    expected = canonical(model.state_dict())
    merged = [name for name in found if name.endswith(".weight") and f"{name}_v" in expected]  # without weight norm
    for name in merged:
        expected[name] = expected.pop(f"{name}_v")
        del expected[f"{name}_g"]
    if len(found) < len(checkpoint.tensors):
        raise CheckpointError(f"{path} has the same tensor twice, under weight norm's old and new names")
    if missing := expected.keys() - found.keys():
        raise CheckpointError(f"{path} lacks tensors that its configuration needs: {first_names(sorted(missing))}")
    if unexpected := found.keys() - expected.keys():
        raise CheckpointError(
            f"{path} has tensors that its configuration does not have: {first_names(sorted(unexpected))}"
        )
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
    # A pickle can expand a small storage to a large tensor, with a stride of 0.
    if sum(tensor.nbytes for tensor in found.values()) > path.stat().st_size:
        raise CheckpointError(f"{path} has tensors that are larger than the file; it was not written by torch.save")
    weights = {}
    for name, tensor in found.items():
        # A copy, so that no mapped file or shared storage remains underneath.
        weights[name] = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not weights[name].isfinite().all():
            raise CheckpointError(f"{path}: {name} has values that are not finite; the file is damaged")
    for name in merged:
        weights[f"{name}_g"], weights[f"{name}_v"] = factored(weights.pop(name))
    model.load_state_dict(weights, assign=True)
    model.name, model.weights_file = checkpoint.name, path.absolute()  # its context model is found later
    return model.eval()


def _blueprint(checkpoint: Checkpoint) -> DAC:
    """The network of a configuration on the meta device: shapes without memory."""
    config, path = checkpoint.config, checkpoint.path
    # Modules cost memory on any device, so a hostile number of them is refused before.
    n_parts = config.n_codebooks + 4 * (len(config.encoder_rates) + len(config.decoder_rates))
    if n_parts > len(checkpoint.tensors):
        raise CheckpointError(f"{path} has {len(checkpoint.tensors)} tensors, too few for its configuration")
    try:
        return _on_meta(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} has a configuration with impossible sizes: {config}") from error


def _on_meta(config: DACConfig) -> DAC:
    with torch.device("meta"), SkippedInit():
        return DAC(config)


class SkippedInit(TorchFunctionMode):
    """Builds networks on the meta device without running their initialization.

    The meta versions of the initializers are written in Python, and their first use imports the compiler: 1.3 s for the
    44 kHz model instead of 0.1 s.
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
        if func is torch.norm_except_dim:  # Of weight norm: every size becomes 1, except that of one dimension.
            tensor, _, kept = args
            return tensor.new_empty([size if dim == kept else 1 for dim, size in enumerate(tensor.shape)])
        return func(*args, **kwargs)
