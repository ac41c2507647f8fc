"""The trainable network, from tensors to tensors."""

from dac_codec.model.config import PRESETS, DACConfig
from dac_codec.model.dac import DAC, EncodedRows
from dac_codec.model.quantizer import Encoded

__all__ = ["DAC", "PRESETS", "DACConfig", "Encoded", "EncodedRows"]
