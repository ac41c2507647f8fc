"""Waveforms to the inputs of a model, with the names that transformers has for them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dac_codec.model import DAC


class DACProcessor:
    """Inputs as from transformers' `DacFeatureExtractor`, called like it, and codes with a mask.

        processor = DACProcessor(model)
        inputs = processor(waveforms, sampling_rate=44100, padding=True, return_tensors="pt")
        outputs = processor.encode(**inputs)  # audio_codes [B, N, F], audio_codes_mask [B, F]

    Args:
        model: any model; waveforms are at its rate and padded to its hop length.
    """

    def __init__(self, model: DAC) -> None:
        self.model = model

    def __call__(
        self,
        raw_audio: np.ndarray | Tensor | Sequence[float] | Sequence[np.ndarray | Tensor | Sequence[float]],
        sampling_rate: int | None = None,
        padding: bool = True,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> dict[str, Any]:
        """One waveform, or several.

        Args:
            raw_audio: mono samples [T], or a list of them.
            sampling_rate: of the waveforms, in Hz; without it, a warning says that it can't be checked.
            padding: append zeros to the longest waveform and to a multiple of the hop length. Without it, rows in
                tensors must have equal lengths.
            return_tensors: "pt" or "np" for tensors or arrays; None for lists of arrays.

        Returns:
            `input_values` [B, 1, T], float32, and with padding `padding_mask` [B, T], 1 for samples and 0 for padding.

        Raises:
            ValueError: another rate than the model's, waveforms that are empty, not mono, not of floating point, or of
                different lengths without padding.
        """
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"return_tensors must be 'pt', 'np' or None, not {return_tensors!r}")
        if sampling_rate is None:
            warnings.warn("pass sampling_rate, so that it can be compared with the model's", stacklevel=2)
        elif sampling_rate != self.model.sample_rate:
            raise ValueError(f"this model works at {self.model.sample_rate} Hz and the audio is at {sampling_rate} Hz")
        several = isinstance(raw_audio, (list, tuple)) and len(raw_audio) > 0 and np.ndim(raw_audio[0]) > 0
        rows = [_waveform(one) for one in (raw_audio if several else [raw_audio])]
        lengths = [len(row) for row in rows]
        found: dict[str, list[np.ndarray]] = {"input_values": [row[None] for row in rows]}
        if padding:
            longest = -(-max(lengths) // self.model.hop_length) * self.model.hop_length
            found["input_values"] = [np.pad(row, (0, longest - len(row)))[None] for row in rows]
            found["padding_mask"] = [(np.arange(longest) < length).astype(np.int32) for length in lengths]
        elif return_tensors is not None and len(set(lengths)) > 1:
            raise ValueError(
                f"waveforms of {sorted(set(lengths))[:5]} samples need padding=True to be rows of a tensor"
            )
        if return_tensors is None:
            return found
        arrays = {name: np.stack(values) for name, values in found.items()}
        return arrays if return_tensors == "np" else {name: torch.from_numpy(one) for name, one in arrays.items()}

    def encode(
        self,
        input_values: Tensor | np.ndarray,
        padding_mask: Tensor | np.ndarray | None = None,
        n_quantizers: int | None = None,
    ) -> dict[str, Tensor]:
        """Codes of the tensors or arrays that a call returned; each row has its codes alone, up to rounding.

        Returns:
            `audio_codes` [B, N, F], and `audio_codes_mask` [B, F], True for frames and False for padding.

        Raises:
            ValueError: as `DAC.encode` does, or zeros of `padding_mask` before a row's end.
        """
        audio = torch.as_tensor(input_values)
        shape = audio.shape[0], audio.shape[-1]
        mask = torch.ones(shape, dtype=torch.bool) if padding_mask is None else torch.as_tensor(padding_mask).bool()
        lengths = mask.sum(1)
        if mask.shape != shape or not mask.equal(torch.arange(mask.shape[1]) < lengths[:, None]):
            raise ValueError(f"padding_mask must be [B, T], ones and then zeros, for input_values {list(audio.shape)}")
        codes, valid = self.model.encode(audio, n_quantizers, lengths=lengths)
        return {"audio_codes": codes, "audio_codes_mask": valid}


def _waveform(samples: Any) -> np.ndarray:
    """A waveform [T] in float32."""
    array = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"a waveform must be mono samples [T], at least one, not {list(array.shape)}")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"a waveform must be of floating point in [-1, 1], not {array.dtype}")
    return array.astype(np.float32)
