"""The encoder: waveform to latents."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from dac_codec.model.config import Activation, DACConfig
from dac_codec.model.layers import ResidualUnit, activation, conv1d


class EncoderBlock(nn.Module):
    """Residual units with dilations 1, 3 and 9, an activation and a strided convolution.

    Shapes:
        [B, in_channels, T] -> [B, out_channels, T / stride]
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kind: Activation, causal: bool) -> None:
        super().__init__()
        self.block: nn.Sequential = nn.Sequential(
            *(ResidualUnit(in_channels, dilation, kind, causal) for dilation in (1, 3, 9)),
            activation(kind, in_channels),
            conv1d(in_channels, out_channels, 2 * stride, causal, padding=math.ceil(stride / 2), stride=stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


class Encoder(nn.Module):
    """Convolutional encoder of the paper (section 3.1 and appendix A).

    Shapes:
        audio [B, 1, T], T a multiple of the product of the rates -> latents [B, D, F]
    """

    def __init__(self, config: DACConfig) -> None:
        super().__init__()
        kind, causal, channels = config.activation, config.causal, config.encoder_channels
        blocks = zip(pairwise(channels), config.encoder_rates, strict=True)
        self.block: nn.Sequential = nn.Sequential(
            conv1d(1, channels[0], 7, causal, padding=3),
            *(EncoderBlock(*width, rate, kind, causal) for width, rate in blocks),
            activation(kind, channels[-1]),
            conv1d(channels[-1], config.latent_width, 3, causal, padding=1),
        )

    def forward(self, audio: Tensor) -> Tensor:
        z: Tensor = self.block(audio)
        return z
