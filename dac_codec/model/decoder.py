"""The decoder: latents to waveform."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.model.config import Activation
from dac_codec.model.layers import ResidualUnit, activation, conv1d, convolutions, up_sampling


def pad_to_length(audio: Tensor, n_samples: int) -> Tensor:
    """Extend audio [B, 1, t] to [B, 1, n_samples] by repeating its last sample.

    A decoder that isn't causal loses one sample, at its own rate, per odd stride.
    """
    return F.pad(audio, (0, n_samples - audio.shape[-1]), mode="replicate")


class DecoderBlock(nn.Module):
    """Activation and a transposed convolution, then three residual units with dilations 1, 3 and 9.

    Shapes:
        [B, in_channels, T] -> [B, out_channels, T * stride], one sample less if the stride is odd and not causal
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, kind: Activation = "snake", causal: bool = False
    ) -> None:
        super().__init__()
        self.block = nn.Sequential(
            activation(kind, in_channels),
            up_sampling(in_channels, out_channels, stride, causal),
            *(ResidualUnit(out_channels, dilation, kind, causal) for dilation in (1, 3, 9)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


class Decoder(nn.Module):
    """Convolutional decoder of the paper (section 3.1 and appendix A): the encoder's mirror, ending in tanh.

    Args:
        latent_dim: width D of the input.
        channels: channels after the first convolution; halved by each block.
        rates: stride of each block.
        kind: activation.
        causal: whether a frame's samples depend on no later frame.

    Shapes:
        latents [B, D, F] -> audio [B, 1, F * hop], a few samples less if a rate is odd and it isn't causal
    """

    def __init__(
        self, latent_dim: int, channels: int, rates: tuple[int, ...], kind: Activation = "snake", causal: bool = False
    ) -> None:
        super().__init__()
        self.causal = causal
        layers: list[nn.Module] = [conv1d(latent_dim, channels, 7, causal, padding=3)]
        for rate in rates:
            layers.append(DecoderBlock(channels, channels // 2, rate, kind, causal))
            channels //= 2
        layers += [activation(kind, channels), conv1d(channels, 1, 7, causal, padding=3), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        audio: Tensor = self.model(z)
        return audio

    def without_padding(self) -> Decoder:
        """The same decoder (parameters shared, not copied) with the padding of every convolution set to zero.

        The reference decodes its chunked files with it: each chunk of latents includes its context, and the output is
        shorter than F * hop by the context on both sides.

        Raises:
            ValueError: the decoder is causal; the reference has neither such networks nor such files.
        """
        if self.causal:
            raise ValueError(
                "a causal decoder can't run without its padding: chunked files of the reference need another model"
            )
        shared = {id(parameter): parameter for parameter in self.parameters()}
        unpadded = copy.deepcopy(self, memo=shared)
        for conv in convolutions(unpadded):
            conv.padding = (0,)
        return unpadded
