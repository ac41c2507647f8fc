"""Models as ONNX graphs, with the file and tensor names of the public ONNX conversions of DAC (onnx-community)."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from dac_codec.common.errors import CheckpointError
from dac_codec.common.files import expanded, to_json, write_files
from dac_codec.common.spectral import Spectra, mel_distance
from dac_codec.inference import prepare_cached
from dac_codec.interop.transformers import EXTRACTOR_FILE, config_of, extractor_of
from dac_codec.model import DAC
from dac_codec.pretrained import fingerprint
from dac_codec.pretrained.checkpoints import CONFIG_FILE

if TYPE_CHECKING:
    from dac_codec.interop.onnx_graph import Precision

OPSETS = range(13, 22)
"""Versions of the operators that the graphs can be written for: in all of them they have the same form."""

MAX_MEL_INCREASE = 0.1
"""By how much the mel distance to the original may grow before `export_onnx` refuses a graph."""

_PARTS = ("encoder_model", "decoder_model", "encoder_step", "decoder_step")


@dataclass(frozen=True)
class Agreement:
    """How close exported graphs are to the model, on a clip.

    Attributes:
        codes: share of equal codes, 0 to 1.
        audio: largest difference of samples decoded from the same codes.
        mel_distance: of the clip encoded and decoded by the model, to the clip; None if librosa is not installed.
        exported_mel_distance: the same with the graphs.
    """

    codes: float
    audio: float
    mel_distance: float | None
    exported_mel_distance: float | None

    def __str__(self) -> str:
        text = f"{100 * self.codes:.2f}% of the codes are equal, audio of the same codes to {self.audio:.1e}"
        if self.mel_distance is None or self.exported_mel_distance is None:
            return text
        return f"{text}, mel distance to the original {self.exported_mel_distance:.3f} ({self.mel_distance:.3f} before)"


def graph_files(precision: Precision = "fp32") -> list[str]:
    """The names of the graphs that `export_onnx` writes."""
    suffix = "" if precision == "fp32" else f"_{precision}"
    return [f"{part}{suffix}.onnx" for part in _PARTS]


def export_onnx(
    model: DAC,
    folder: str | os.PathLike[str],
    precision: Precision = "fp32",
    opset: int = 17,
    clip: np.ndarray | None = None,
    accept: bool = False,
    progress: bool = False,
) -> Agreement | None:
    """Write a model as ONNX graphs of standard operators.

    - `encoder_model.onnx`: `input_values` [B, 1, T] -> `audio_codes` [B, N, F], int64.
    - `decoder_model.onnx`: `audio_codes` [B, n, F] -> `audio_values` [B, 1, F * hop]. n may be less than N, and a code
      of -1 adds nothing.
    - `encoder_step.onnx`, `decoder_step.onnx`: the same for the chunks of a stream, each a whole number of frames.
      Inputs are also the state, `past.position` and `past.0`, ..., zeros at first and then the outputs `present.*` of
      the call before, and `n_frames` [1], the frames of the whole signal: any larger number until they are known.
      Outputs are late by the `delay` in `config.json`, in frames or samples. Drop the first `delay` of them, and give
      chunks of any values after the end to get the last ones.
    - `config.json`: what `DacModel` of transformers.js reads, and under `dac_codec` name, fingerprint and delays.
      `preprocessor_config.json`: for the feature extractor.

    With another precision than fp32 the graphs have its suffix, as in `encoder_model_fp16.onnx`.

    Args:
        model: the model.
        folder: created if it does not exist; all graphs are made before the first file is replaced.
        precision: "fp16": weights and arithmetic of convolutions in half precision; "int8": weights of convolutions in
            8 bits for each output channel, arithmetic in single precision. Convolutions of fewer than 32 channels and
            the quantizer stay in single precision.
        opset: version of the operators, in `OPSETS`.
        clip: sound [T] at the model's rate to compare the graphs with the model on, by onnxruntime; None: they are not
            run.
        accept: whether to write graphs that increase the mel distance of the clip by more than `MAX_MEL_INCREASE`.
        progress: show a progress bar, if standard error is a terminal.

    Returns:
        How close the graphs are; None without a clip.

    Raises:
        CheckpointError: the quantizer is fsq or additive, onnx or onnxruntime is not installed, the files can't be
            written, or without `accept` the graphs are too far from the model, or int8 can't be compared because there
            is no clip or no librosa.
        ValueError: an unknown precision or opset.
    """
    if precision not in ("fp32", "fp16", "int8"):
        raise ValueError(f"precision must be 'fp32', 'fp16' or 'int8', not {precision!r}")
    if opset not in OPSETS:
        raise ValueError(f"opset must be between {OPSETS[0]} and {OPSETS[-1]}, not {opset}")
    if (kind := model.config.quantizer) in ("fsq", "additive"):
        hint = "; torch.export can" if kind == "fsq" else ""
        raise CheckpointError(f"a model with quantizer {kind!r} can't be exported as ONNX{hint}")
    try:
        from dac_codec.interop import onnx_graph
    except ImportError as error:
        raise CheckpointError(f"{error.name} is not installed: pip install 'dac_codec[onnx]'") from error
    parts = {}
    delays = {}
    for part in tqdm(_PARTS, desc="export", unit="graph", leave=False, disable=None if progress else True):
        made = getattr(onnx_graph, part)(model, precision, opset)
        if part.endswith("step"):
            made, delays[part] = made
        parts[part] = made.SerializeToString()
    agreement = None if clip is None else _compare(model, parts["encoder_model"], parts["decoder_model"], clip)
    if not accept:
        _check(agreement, precision)
    folder = expanded(folder).absolute()
    config = {**config_of(model), "dac_codec": _description(model, delays)}
    files = dict(zip(graph_files(precision), parts.values(), strict=True))
    files |= {EXTRACTOR_FILE: to_json(extractor_of(model)), CONFIG_FILE: to_json(config)}
    try:
        write_files(folder, files)
    except OSError as error:
        raise CheckpointError(f"{folder} can't be written: {error}") from error
    return agreement


def _description(model: DAC, delays: dict[str, int]) -> dict[str, Any]:
    """What a program needs to know of a model beside what transformers.js reads."""
    return {
        "name": model.name,
        "fingerprint": fingerprint(model).hex(),
        "sample_rate": model.sample_rate,
        "hop_length": model.hop_length,
        "n_codebooks": model.n_codebooks,
        "codebook_size": model.codebook_size,
        **{part: {"delay": delay} for part, delay in delays.items()},
    }


def _check(agreement: Agreement | None, precision: Precision) -> None:
    """Raise a CheckpointError if graphs are too far from the model, or in int8 were not compared with it."""
    before, after = (None, None) if agreement is None else (agreement.mel_distance, agreement.exported_mel_distance)
    if before is None or after is None:
        if precision == "int8":
            raise CheckpointError(
                "int8 is only written after a comparison of mel distances, which takes a clip and librosa (pip install "
                "librosa)"
            )
    elif not np.isfinite(before + after):
        whose = f"graphs in {precision}" if np.isfinite(before) else "model"
        raise CheckpointError(f"the output of the {whose} for the clip is not finite")
    elif after - before > MAX_MEL_INCREASE:
        raise CheckpointError(
            f"in {precision} the mel distance to the original grows from {before:.3f} to {after:.3f}, by more than "
            f"{MAX_MEL_INCREASE}"
        )


@torch.no_grad()
def _compare(model: DAC, encoder: bytes, decoder: bytes, clip: np.ndarray) -> Agreement:
    """Run graphs beside the model."""
    try:
        import onnxruntime
    except ImportError as error:
        raise CheckpointError("onnxruntime is not installed: pip install 'dac_codec[onnx]'") from error
    audio = torch.from_numpy(np.array(clip, np.float32))[None, None]

    def run(graph: bytes, values: np.ndarray) -> torch.Tensor:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: values})[0])

    prepared = prepare_cached(model)
    codes = prepared.encode(audio).codes.cpu()
    decoded = prepared.decode_codes(codes).float().cpu()
    found = run(encoder, audio.numpy())
    difference = float((run(decoder, codes.numpy()) - decoded).abs().max())
    round_trip = run(decoder, found.numpy())
    distances: list[float | None] = [None, None]
    with suppress(ModuleNotFoundError):  # librosa
        distance, original = mel_distance(model.sample_rate), Spectra(audio)
        distances = [float(distance(Spectra(one[..., : audio.shape[-1]]), original)) for one in (decoded, round_trip)]
    return Agreement((found == codes).float().mean().item(), difference, *distances)
