"""How far a frame and its samples are apart: what a stream has to wait for, and what a range of a file depends on."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from dac_codec.model import DAC
from dac_codec.model.layers import convolutions, padding_of


class Context(NamedTuple):
    """Frames that a frame depends on, beside itself.

    Attributes:
        before: frames before it.
        after: frames after it.
    """

    before: int
    after: int


def encoder_look_ahead(model: DAC) -> int:
    """Samples after a frame's end that its codes depend on: they are known when these are there. 0 if causal."""
    latest = 0  # The last input that output 0 depends on, from the last layer to the first.
    for conv in reversed(list(convolutions(model.encoder))):
        span = conv.dilation[0] * (conv.kernel_size[0] - 1)
        latest = latest * conv.stride[0] + span - padding_of(conv)[0]
    return latest - (model.hop_length - 1)


def decoder_look_ahead(model: DAC) -> int:
    """Samples by which the decoder stays behind its frames: after F of them, F * hop less these are known. 0 if causal.

    The last sample of a frame is known when ceil(this / hop) more frames are there.
    """
    behind = 0  # In samples of the layer that is looked at, from the first to the last.
    for conv in convolutions(model.decoder):
        if isinstance(conv, nn.ConvTranspose1d):
            behind = behind * conv.stride[0] + padding_of(conv)[0]
        else:
            behind += conv.dilation[0] * (conv.kernel_size[0] - 1) - padding_of(conv)[0]
    return behind


def encoder_context(model: DAC) -> Context:
    """Frames of samples before and after a frame that its codes depend on."""
    first = 0  # The first input that output 0 depends on, from the last layer to the first.
    for conv in reversed(list(convolutions(model.encoder))):
        first = first * conv.stride[0] - padding_of(conv)[0]
    return Context(-(first // model.hop_length), -(-encoder_look_ahead(model) // model.hop_length))


def decoder_context(model: DAC) -> Context:
    """Frames before and after a frame that its samples depend on."""
    first, last = 0, model.hop_length - 1  # Of what frame 0 depends on, from the last layer to the first.
    for conv in reversed(list(convolutions(model.decoder))):
        left, stride, span = padding_of(conv)[0], conv.stride[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        if isinstance(conv, nn.ConvTranspose1d):
            # Input i adds to the outputs from i * stride - left to i * stride - left + span.
            first, last = -((span - left - first) // stride), (last + left) // stride
        else:
            first, last = first - left, last - left + span
    return Context(-first, last)
