"""Load the model for a file, and check that it matches the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from dac_codec import pretrained
from dac_codec.audio.samples import MAX_CHANNELS
from dac_codec.bitstream import CodeModel, Header, LegacyFile
from dac_codec.bitstream.fields import FINGERPRINT_BYTES as FINGERPRINT_BYTES
from dac_codec.common.errors import BitstreamError, CheckpointError, DacError, ModelMismatchError, is_out_of_memory
from dac_codec.inference.prepared import is_on, prepare_cached
from dac_codec.model import DAC

MOST_GAIN_DB = 700
"""Largest gain between the network's input and the original; float32 overflows at 770 dB."""


def choose_quantizers(model: DAC, n_quantizers: int | None, bitrate: float | None) -> int:
    """The number of codebooks for `n_quantizers`, for a bitrate of one channel in bit/s, or by default.

    Raises:
        DacError: both are given, or one is out of the model's range.
    """
    if bitrate is not None:
        if n_quantizers is not None:
            raise DacError("give n_quantizers or bitrate, not both")
        lowest = model.config.bitrate(1)
        if isinstance(bitrate, bool) or not isinstance(bitrate, (int, float)):
            raise DacError(f"the bitrate is {bitrate!r}, expected a number of bit/s")
        if not bitrate >= lowest:
            kbps = lowest / 1000
            raise DacError(f"a bitrate of {bitrate / 1000:g} kbit/s is too low: one codebook takes {kbps:.2f} kbit/s")
        n_quantizers = sum(model.config.bitrate(n) <= bitrate * (1 + 1e-9) for n in range(1, model.n_codebooks + 1))
    return _checked(model, n_quantizers)


def _checked(model: DAC, n_quantizers: int | None) -> int:
    try:
        return model.quantizer.checked(n_quantizers)
    except ValueError as error:
        raise DacError(str(error)) from error


def model_of(
    header: Header,
    model: str | os.PathLike[str] | DAC | None,
    device: str | torch.device = "auto",
    progress: bool = False,
    fast: bool = False,
    ask: Callable[[str], bool] = lambda name: False,
) -> DAC:
    """The model for a file: the given one, else the one that the file names; checked against the file.

    Args:
        header: of the file.
        model: a loaded model, or an argument of `DAC.from_pretrained`, which may download it.
        device, progress, fast: as for `load_model`.
        ask: whether a published model may be downloaded because the file names it, given its name.

    Raises:
        ModelMismatchError: other weights wrote the file, or it names no bundled or published model.
        CheckpointError: the model that the file names would have to be downloaded, and `ask` refuses.
    """
    if model is None:
        model = header.model_name
        # The name is untrusted: it must not be used as a path.
        known = {info.name: info.where for info in pretrained.available()}
        if model not in known:
            raise ModelMismatchError(
                f"the file was written with {model_id(header)}, which is neither bundled nor published: pass its model"
            )
        if known[model] == "downloadable" and not ask(model):
            raise CheckpointError(
                f"the file was written with {model_id(header)}, whose weights (about 300 MB) are not on this machine: "
                f"pass the model {model!r} to download them"
            )
    loaded = load_model(model, device, progress, fast)
    check_model(header, loaded)
    return loaded


def load_model(
    model: str | os.PathLike[str] | DAC, device: str | torch.device = "auto", progress: bool = False, fast: bool = False
) -> DAC:
    """A model on its device, prepared for inference (`inference.prepare`), if it is not yet.

    Args:
        model: a loaded model, or an argument of `DAC.from_pretrained`.
        device: "auto" leaves a loaded model where it is, and loads others on a CUDA device if there is one. Any other
            value moves a loaded model there.
        progress: whether to show the progress of a download.
        fast: whether it may compute in bfloat16 where the device is faster at that.

    Raises:
        CheckpointError: the model can't be loaded.
        DacError: the device can't be used.
    """
    loaded = model if isinstance(model, DAC) else pretrained.load(model, progress=progress)
    if device == "auto":
        device = loaded.device if isinstance(model, DAC) else best_device()
    try:
        if not is_on(loaded, device):
            loaded = loaded.to(device)
        return prepare_cached(loaded, exact=not fast)
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise DacError("not enough memory for this model on this device") from error
        raise DacError(f"can't use the device {str(device)!r}: {error}") from error


def best_device() -> torch.device:
    """The default device: a CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def find_context(model: str | os.PathLike[str] | DAC | None, header: Header) -> CodeModel:
    """The context model that a header names: beside `model`, else beside the model that the file names.

    Raises a ModelMismatchError if there is none.
    """
    assert header.context_fingerprint is not None
    if model is None and header.model_name in {info.name for info in pretrained.available()}:
        model = header.model_name
    found = None if model is None else pretrained.context_model(model, header.context_fingerprint)
    if found is None:
        raise ModelMismatchError(
            f"the codes of {model_id(header)} were coded with the context model {header.context_fingerprint.hex()}, "
            "which is not beside the weights: pass the model whose folder contains it"
        )
    return found


def model_id(header: Header) -> str:
    """Name and fingerprint of a file's model, as `name@fingerprint`."""
    return f"{header.model_name}@{header.model_fingerprint.hex()}"


def check_model(header: Header, model: DAC) -> None:
    """Raise a ModelMismatchError unless these weights wrote a file, a BitstreamError if the file is out of range."""
    fingerprint = pretrained.fingerprint(model)[:FINGERPRINT_BYTES]
    if header.model_fingerprint != fingerprint:
        raise ModelMismatchError(
            f"the file was written with {model_id(header)}, but the model is {model.name}@{fingerprint.hex()}"
        )
    _check_codes(header.codebook_sizes or (header.codebook_size,) * header.n_codebooks, model)
    if (header.model_sample_rate, header.hop_length) != (model.sample_rate, model.hop_length):
        raise ModelMismatchError(
            f"the file states {header.model_sample_rate} Hz and {header.hop_length} samples per frame for the model "
            f"{model.name}, expected {model.sample_rate} Hz and {model.hop_length}: the file is wrong"
        )
    _check_channels(header.channels)
    check_gain(header.gain_db)


def check_gain(gain_db: float) -> None:
    """Raise a BitstreamError if a gain in dB is out of range."""
    if not abs(gain_db) <= MOST_GAIN_DB:
        raise BitstreamError(f"the file has a gain of {gain_db:g} dB, expected {-MOST_GAIN_DB} to {MOST_GAIN_DB} dB")


def check_legacy(file: LegacyFile, model: DAC) -> None:
    """Raise a ModelMismatchError if these weights can't have written a file of descript-audio-codec.

    Raises a BitstreamError if the file has too many channels.
    """
    check_legacy_network(model)
    _check_channels(file.channels)
    _check_codes((int(file.codes.max()) + 1,) * file.codes.shape[1], model)


def check_legacy_network(model: DAC) -> None:
    """Raise a ModelMismatchError for a network that descript-audio-codec does not have."""
    if model.config.causal:
        raise ModelMismatchError(f"the model {model.name} is causal, which descript-audio-codec does not support")
    if model.config.quantizer != "residual" or model.config.codebook_sizes:
        raise ModelMismatchError(f"the quantizer of the model {model.name} is not one of descript-audio-codec")


def _check_channels(channels: int) -> None:
    if channels > MAX_CHANNELS:
        raise BitstreamError(f"the file has {channels} channels, expected at most {MAX_CHANNELS}")


def _check_codes(sizes: Sequence[int], model: DAC) -> None:
    own = model.config.sizes
    if len(sizes) > len(own) or any(size > its for size, its in zip(sizes, own, strict=False)):
        raise ModelMismatchError(
            f"the file has {len(sizes)} codebooks of {_listed(sizes)} entries, but the model {model.name} has "
            f"{len(own)} codebooks of {_listed(own)}"
        )
    _checked(model, len(sizes))


def _listed(sizes: Sequence[int]) -> str:
    """Sizes of codebooks, or one for all."""
    return ", ".join(map(str, sizes if len(set(sizes)) > 1 else sizes[:1]))


@contextmanager
def network_errors() -> Iterator[None]:
    """Raise a DacError in place of PyTorch's errors for a lack of memory or a failing GPU."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise DacError("not enough memory for this audio on this device") from error
        if _is_of_a_gpu(error):
            reason = str(error).strip().splitlines()[0]
            raise DacError(f"the GPU can't compute this ({reason}): use the device cpu instead") from error
        raise


def _is_of_a_gpu(error: RuntimeError) -> bool:
    """Whether an error is of a CUDA device, its driver or its libraries."""
    accelerator_error = getattr(torch, "AcceleratorError", None)  # since PyTorch 2.8
    if accelerator_error is not None and isinstance(error, accelerator_error) and str(error).strip():
        return True
    return str(error).startswith(("CUDA error", "cuDNN error")) or "no kernel image" in str(error)
