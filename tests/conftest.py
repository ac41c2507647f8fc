"""What several tests need."""

from __future__ import annotations

import os
from pathlib import Path

# Two tests run at a time: more threads than cores would wait for each other. What a test starts inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from dac_codec.model import DAC, DACConfig

GOLDEN = Path(__file__).parent / "golden"


def golden_model(name: str) -> DAC:
    """One of the two small networks whose numbers the reference implementation produced."""
    checkpoint = torch.load(GOLDEN / f"dac_{name}_tiny.pth", weights_only=True)
    model = DAC(DACConfig.from_dict(checkpoint["metadata"]["kwargs"]))
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()
