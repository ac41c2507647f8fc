"""The network: tensors in, tensors out."""

from dac_codec.model.config import PRESETS, DACConfig
from dac_codec.model.dac import DAC, Encoded

__all__ = ["DAC", "PRESETS", "DACConfig", "Encoded"]
