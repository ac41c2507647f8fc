"""Which model codes a sound, and whether it is the one that a file needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dac_codec import pretrained
from dac_codec.audio.samples import MAX_CHANNELS
from dac_codec.bitstream import Header, LegacyFile
from dac_codec.common.errors import BitstreamError, DacError, ModelMismatchError
from dac_codec.inference.prepared import is_on, prepare_cached
from dac_codec.model import DAC
from dac_codec.model.checks import checked_quantizers

FINGERPRINT_BYTES = 8
"""What a file holds of a model's fingerprint."""

MOST_GAIN_DB = 700
"""Between the sound that the network hears and the original: float32 ends at 770 dB."""


def choose_quantizers(model: DAC, n_quantizers: int | None, bitrate: float | None) -> int:
    """How many codebooks a user's wish comes to.

    Raises:
        DacError: both are given, or one is out of the model's range.
    """
    if bitrate is not None:
        if n_quantizers is not None:
            raise DacError("give n_quantizers or bitrate, not both")
        lowest = model.config.bitrate(1)
        if not bitrate >= lowest:
            raise DacError(
                f"a bitrate of {bitrate:g} bit/s is below what this model can do: one codebook takes {lowest:.0f} bit/s"
            )
        return int(min(model.n_codebooks, bitrate / lowest + 1e-9))
    try:
        return checked_quantizers(n_quantizers, model.n_codebooks)
    except ValueError as error:
        raise DacError(str(error)) from error


def model_of(
    header: Header,
    model: str | os.PathLike[str] | DAC | None,
    device: str | torch.device = "auto",
    progress: bool = False,
    fast: bool = False,
    seconds: float = 0.0,
) -> DAC:
    """The model that a file needs: the given one, else the one that the file names; checked against the file.

    Raises:
        ModelMismatchError: the file was written with other weights, or names weights that are not known here.
    """
    if model is None:
        model = header.model_name
        # A name in a file may come from anyone: it must never be taken for a path.
        if model not in {info.name for info in pretrained.available()}:
            raise ModelMismatchError(
                f"the file was written with {model_id(header)}, which is neither bundled nor published: name its "
                "weights"
            )
    loaded = load_model(model, device, progress, fast, seconds)
    check_model(header, loaded)
    return loaded


def load_model(
    model: str | os.PathLike[str] | DAC,
    device: str | torch.device = "auto",
    progress: bool = False,
    fast: bool = False,
    seconds: float = 0.0,
) -> DAC:
    """A model on its device, made fast (see `engine.prepare`); one that is that already stays as it is.

    Args:
        model: a loaded model, or what `DAC.from_pretrained` takes.
        device: "auto" leaves a loaded model where it is; any other goes to a CUDA device if there is one. A loaded
            model that is elsewhere than on the device that is named is moved there.
        progress: whether to show a download.
        fast: whether it may compute in bfloat16, where the device is quicker at that.
        seconds: of audio that it is loaded for, as far as is known: `engine.prepare` compiles for long jobs.

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
        raise DacError(f"can't use the device {str(device)!r}: {error}") from error


def best_device() -> torch.device:
    """Where a model runs that is loaded without a word about where: on a CUDA device if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model_id(header: Header) -> str:
    """Name and fingerprint of the weights that wrote a file, as `name@fingerprint`."""
    return f"{header.model_name}@{header.model_fingerprint.hex()}"


def check_model(header: Header, model: DAC) -> None:
    """Raise unless these weights, and no others, decode a file.

    Raises:
        ModelMismatchError: it was written with others, or says that they have another rate or hop.
        BitstreamError: it holds more channels or is to be louder than any sound.
    """
    fingerprint = pretrained.fingerprint(model)[:FINGERPRINT_BYTES]
    if header.model_fingerprint != fingerprint:
        raise ModelMismatchError(
            f"the file was written with {model_id(header)} and the model at hand is {model.name}@{fingerprint.hex()}"
        )
    _check_codes(header.n_codebooks, header.codebook_size, model)
    said, is_so = (header.model_sample_rate, header.hop_length), (model.sample_rate, model.hop_length)
    if said != is_so:
        raise ModelMismatchError(
            f"the file says that {model.name} has {said[0]} Hz and {said[1]} samples a frame, and it has {is_so[0]} Hz "
            f"and {is_so[1]}: what wrote the file is wrong"
        )
    if header.channels > MAX_CHANNELS:
        raise BitstreamError(f"the file has {header.channels} channels, expected at most {MAX_CHANNELS}")
    check_gain(header.gain_db)


def check_gain(gain_db: float) -> None:
    """Raise a BitstreamError for a gain in dB that no sound can be brought back with."""
    if not abs(gain_db) <= MOST_GAIN_DB:
        raise BitstreamError(
            f"the file asks for a gain of {gain_db:g} dB, expected at most {MOST_GAIN_DB} dB either way"
        )


def check_legacy(file: LegacyFile, model: DAC) -> None:
    """Raise a ModelMismatchError if these weights can't have written a file of descript-audio-codec."""
    check_not_causal(model)
    _check_codes(file.codes.shape[1], int(file.codes.max()) + 1, model)


def check_not_causal(model: DAC) -> None:
    """Raise a ModelMismatchError for a causal model: descript-audio-codec has none, nor files of any."""
    if model.config.causal:
        raise ModelMismatchError(f"the model {model.name} is causal, and descript-audio-codec has no such models")


def _check_codes(n_codebooks: int, codebook_size: int, model: DAC) -> None:
    if n_codebooks > model.n_codebooks or codebook_size > model.codebook_size:
        raise ModelMismatchError(
            f"the file uses {n_codebooks} codebooks with codes below {codebook_size}, and the model {model.name} has "
            f"{model.n_codebooks} codebooks of {model.codebook_size}"
        )


@contextmanager
def network_errors() -> Iterator[None]:
    """Turns what PyTorch says when memory is short or a GPU fails into an error that a user can act on."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise DacError("there is not enough memory for this audio on this device") from error
        if _is_of_a_gpu(error):
            reason = str(error).strip().splitlines()[0]
            raise DacError(f"the GPU can't compute this ({reason}): use the device cpu instead") from error
        raise


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch says with an error that memory is short."""
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("out of memory", "allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def _is_of_a_gpu(error: RuntimeError) -> bool:
    """Whether an error is one of a CUDA device, its driver or its libraries."""
    accelerator_error = getattr(torch, "AcceleratorError", None)  # From PyTorch 2.8 on.
    if accelerator_error is not None and isinstance(error, accelerator_error) and str(error).strip():
        return True
    return str(error).startswith(("CUDA error", "cuDNN error")) or "no kernel image" in str(error)
