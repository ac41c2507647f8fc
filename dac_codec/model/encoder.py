"""The encoder: waveform to latents."""

from __future__ import annotations

from torch import Tensor, nn

from dac_codec.model.config import Activation
from dac_codec.model.layers import ResidualUnit, activation, conv1d, down_sampling


class EncoderBlock(nn.Module):
    """Three residual units with dilations 1, 3 and 9, an activation and a strided convolution to twice the channels.

    Shapes:
        [B, channels / 2, T] -> [B, channels, T / stride]
    """

    def __init__(self, channels: int, stride: int, kind: Activation = "snake", causal: bool = False) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualUnit(channels // 2, dilation, kind, causal) for dilation in (1, 3, 9)),
            activation(kind, channels // 2),
            down_sampling(channels // 2, channels, stride, causal),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


class Encoder(nn.Module):
    """Convolutional encoder of the paper (section 3.1 and appendix A).

    Args:
        channels: channels after the first convolution.
        rates: stride of each block.
        latent_dim: width D of the output.
        kind: activation.
        causal: whether a frame depends on nothing after its end.

    Shapes:
        audio [B, 1, T], T a multiple of the product of the rates -> latents [B, D, F]
    """

    def __init__(
        self, channels: int, rates: tuple[int, ...], latent_dim: int, kind: Activation = "snake", causal: bool = False
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv1d(1, channels, 7, causal, padding=3)]
        for rate in rates:
            channels *= 2
            layers.append(EncoderBlock(channels, rate, kind, causal))
        layers += [activation(kind, channels), conv1d(channels, latent_dim, 3, causal, padding=1)]
        self.block = nn.Sequential(*layers)

    def forward(self, audio: Tensor) -> Tensor:
        z: Tensor = self.block(audio)
        return z
