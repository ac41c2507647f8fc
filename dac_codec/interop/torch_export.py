"""Models as exported programs of PyTorch (`torch.export`, `.pt2`)."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm import tqdm

from dac_codec.common.errors import CheckpointError
from dac_codec.common.files import expanded
from dac_codec.model import DAC
from dac_codec.model.layers import convolutions

PROGRAM_FILES = ("encoder_model.pt2", "decoder_model.pt2")


class Encoder(nn.Module):
    """`DAC.encode` to codes. Frames are not flattened over the batch: a batch of 1 would need a graph of its own."""

    def __init__(self, model: DAC) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_values: Tensor) -> Tensor:
        residual = self.model.encoder(self.model.preprocess(input_values))
        codes = []
        for stage in self.model.quantizer.stages():
            points, entries = stage.inputs(residual), stage.codebook.weight
            if stage.lookup == "cosine":
                points, entries = F.normalize(points), F.normalize(entries)
            products = F.conv1d(points, entries[:, :, None])
            distance = points.pow(2).sum(1, keepdim=True) - 2 * products + entries.pow(2).sum(1)[:, None]
            codes.append(distance.argmin(1))
            if not self.model.quantizer.is_finite_scalar:
                residual = residual - stage.outputs(stage.entries(codes[-1]))
        return torch.stack(codes, 1)


class Decoder(nn.Module):
    """`DAC.decode_codes`."""

    def __init__(self, model: DAC) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio_codes: Tensor) -> Tensor:
        return self.model.decode_codes(audio_codes)


def export_torch(model: DAC, folder: str | os.PathLike[str], progress: bool = False) -> None:
    """Write `encoder_model.pt2` and `decoder_model.pt2` for `torch.export.load`, of any batch size and length.

    - `encoder_model.pt2`: `input_values` [B, 1, T] -> codes [B, N, F], for two frames or more.
    - `decoder_model.pt2`: `audio_codes` [B, N, F] -> audio [B, 1, F * hop]. A code of -1 adds nothing.

    Weight norm is multiplied out. `torch._inductor.aoti_compile_and_package` compiles them for use without Python.

    Args:
        model: the model; the programs run on its device.
        folder: created if it does not exist; the files are replaced atomically.
        progress: show a progress bar, if standard error is a terminal.

    Raises:
        CheckpointError: PyTorch is older than 2.6, the quantizer is additive, or the files can't be written.
    """
    if model.quantizer.is_additive:
        raise CheckpointError("a model with quantizer 'additive' can't be exported")
    if not hasattr(torch.export.Dim, "DYNAMIC"):
        raise CheckpointError(f"torch.export of this model needs PyTorch 2.6 or newer, not {torch.__version__}")
    network = merged(model)
    examples = (
        torch.zeros(2, 1, 8 * model.hop_length, device=model.device),
        torch.zeros(2, model.n_codebooks, 8, dtype=torch.int64, device=model.device),
    )
    parts = list(zip(PROGRAM_FILES, (Encoder(network), Decoder(network)), examples, strict=True))
    free = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},)
    target = expanded(folder).absolute()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=target) as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, module, example in tqdm(
                parts, desc="export", unit="program", leave=False, disable=None if progress else True
            ):
                with torch.no_grad():
                    program = torch.export.export(module.eval(), (example,), dynamic_shapes=free, strict=False)
                torch.export.save(program, Path(temporary, name))
            for name in PROGRAM_FILES:
                Path(temporary, name).replace(target / name)
    except OSError as error:
        raise CheckpointError(f"{target} can't be written: {error}") from error


def merged(model: DAC) -> DAC:
    """The model with its weight norm multiplied out.

    Not by a deep copy: it shares the classes of parametrized layers, which `remove_parametrizations` changes.
    """
    rebuild, (_, *state) = DAC.__reduce__(model)
    network: DAC = rebuild(DAC, *state)
    for conv in convolutions(network):
        if parametrize.is_parametrized(conv):
            parametrize.remove_parametrizations(conv, "weight")
    return network.eval().requires_grad_(False)
