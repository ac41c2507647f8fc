"""The network as a training step calls it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dac_codec.model import DAC
from dac_codec.model.layers import convolutions
from dac_codec.training.config import TrainConfig


def build_model(config: TrainConfig) -> DAC:
    """A network with random weights, initialized as the configuration says."""
    model = DAC(config.model)
    if config.trainer.fan_in_init:
        for conv in convolutions(model):
            conv.weight = nn.init.kaiming_uniform_(torch.empty_like(conv.weight), a=math.sqrt(5))
    for stage in model.quantizer.stages():
        stage.rotates = config.trainer.rotation_trick
    return model


class Generated(NamedTuple):
    """Result of a generator pass. Without the quantizer, `codes` and `latents` are empty."""

    audio: Tensor  # decoded [B, 1, T]
    codes: Tensor  # [B, N, F], int64
    latents: Tensor  # inputs of the codebook look-ups [B, N * codebook_dim, F], detached
    commitment_loss: Tensor  # scalar
    codebook_loss: Tensor  # scalar


class Generator(nn.Module):
    """Encoder, quantizer and decoder as one module, for DDP and autocast to wrap."""

    def __init__(self, model: DAC, compile: bool) -> None:
        super().__init__()
        self.model = model
        if compile:
            model.encoder.compile()
            model.decoder.compile()

    def forward(self, real: Tensor, quantize: float, generator: torch.Generator) -> Generated:
        """Encode and decode audio [B, 1, T], a random share `quantize` of it from quantized latents.

        The generator of random numbers is on the CPU.
        """
        z = self.model.encoder(self.model.preprocess(real))
        commitment_loss = codebook_loss = z.new_zeros(())
        codes = latents = z.new_zeros(0)
        if quantize:
            quantized, codes, latents, commitment_loss, codebook_loss = self.model.quantizer(z, generator=generator)
            chosen = torch.rand(z.shape[0], 1, 1, generator=generator) < quantize
            z = torch.where(chosen.to(z.device), quantized, z)
        audio = self.model.decode(z)[..., : real.shape[-1]]
        return Generated(audio, codes, latents.detach(), commitment_loss, codebook_loss)
