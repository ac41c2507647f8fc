"""Small models in the layout of the published weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dac_codec.model import DACConfig

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = GOLDEN / "dac_44khz_tiny.pth"
TINY_BYTES = TINY.read_bytes()
TINY_CONFIG = DACConfig(encoder_dim=8, latent_dim=128, decoder_dim=64, quantizer_dropout=0.0)


def published(
    path: Path,
    tensors: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
    kwargs: Callable[[dict[str, Any]], object] = lambda kwargs: None,
) -> Path:
    """A copy of the golden checkpoint at `path`, after the two functions have changed its parts."""
    content = torch.load(TINY, weights_only=True)
    tensors(content["state_dict"])
    kwargs(content["metadata"]["kwargs"])
    torch.save(content, path)
    return path
