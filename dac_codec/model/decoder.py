"""The decoder: latents to waveform."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.model.config import Activation, DACConfig
from dac_codec.model.layers import ResidualUnit, activation, conv1d, convolutions, up_sampling


def pad_to_length(audio: Tensor, n_samples: int) -> Tensor:
    """Extend audio [B, 1, t] to [B, 1, n_samples] by repeating its last sample.

    A decoder that isn't causal loses one sample, at its own rate, per odd stride.
    """
    return F.pad(audio, (0, n_samples - audio.shape[-1]), mode="replicate")


class DecoderBlock(nn.Module):
    """Activation and a transposed convolution, then residual units with dilations 1, 3 and 9.

    Shapes:
        [B, in_channels, T] -> [B, out_channels, T * stride], one sample less if the stride is odd and not causal
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, kind: Activation, causal: bool) -> None:
        super().__init__()
        self.block: nn.Sequential = nn.Sequential(
            activation(kind, in_channels),
            up_sampling(in_channels, out_channels, stride, causal),
            *(ResidualUnit(out_channels, dilation, kind, causal) for dilation in (1, 3, 9)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return y


class Decoder(nn.Module):
    """Convolutional decoder of the paper (section 3.1 and appendix A): the encoder's mirror, ending in tanh.

    Shapes:
        latents [B, D, F] -> audio [B, 1, F * hop], a few samples less if a rate is odd and it isn't causal
    """

    def __init__(self, config: DACConfig) -> None:
        super().__init__()
        kind, channels, causal = config.activation, config.decoder_channels, config.causal
        self.causal: bool = causal
        blocks = zip(pairwise(channels), config.decoder_rates, strict=True)
        self.model: nn.Sequential = nn.Sequential(
            conv1d(config.latent_width, channels[0], 7, causal, padding=3),
            *(DecoderBlock(*width, rate, kind, causal) for width, rate in blocks),
            activation(kind, channels[-1]),
            conv1d(channels[-1], 1, 7, causal, padding=3),
            nn.Tanh(),
        )

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
