"""Look-ahead of a stream, and the frames around a frame that it depends on.

Encoder: the codes of frame i need `encoder_look_ahead` samples after the frame's end.

        samples   |- frame i-1 -|-- frame i --|== look-ahead ==|
                                                               ^ codes of frame i are known here

Decoder: the last `decoder_look_ahead` samples of the frames so far need later frames.

        frames    |   0   |   1   |   2   |   3   |
        samples   |------ known ------|== owed ===|

Context: frame i depends on `before` frames before it and `after` frames after it.

        frames    | . | . | b | b | i | a | . | . |       before = 2, after = 1
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from dac_codec.model import DAC
from dac_codec.model.layers import convolutions, padding_of


class Context(NamedTuple):
    """Numbers of frames before and after a frame that it depends on."""

    before: int
    after: int


def encoder_look_ahead(model: DAC) -> int:
    """Samples after a frame's end that its codes depend on; 0 if the model is causal."""
    latest = 0  # The last input that output 0 depends on, from the last layer to the first.
    for conv in reversed(list(convolutions(model.encoder))):
        span = conv.dilation[0] * (conv.kernel_size[0] - 1)
        latest = latest * conv.stride[0] + span - padding_of(conv)[0]
    return latest - (model.hop_length - 1)


def decoder_look_ahead(model: DAC) -> int:
    """Samples by which the decoder's output is shorter than its F * hop so far; 0 if the model is causal.

    The last sample of a frame is known after ceil(look-ahead / hop) more frames.
    """
    delay = 0  # In samples of the layer's input, from the first layer to the last.
    for conv in convolutions(model.decoder):
        if isinstance(conv, nn.ConvTranspose1d):
            delay = delay * conv.stride[0] + padding_of(conv)[0]
        else:
            delay += conv.dilation[0] * (conv.kernel_size[0] - 1) - padding_of(conv)[0]
    return delay


def encoder_context(model: DAC) -> Context:
    """Frames of samples before and after a frame that its codes depend on."""
    first = 0  # The first input that output 0 depends on, from the last layer to the first.
    for conv in reversed(list(convolutions(model.encoder))):
        first = first * conv.stride[0] - padding_of(conv)[0]
    return Context(-(first // model.hop_length), -(-encoder_look_ahead(model) // model.hop_length))


def decoder_context(model: DAC) -> Context:
    """Frames before and after a frame that its samples depend on."""
    first, last = 0, model.hop_length - 1  # The inputs that frame 0 depends on, from the last layer to the first.
    for conv in reversed(list(convolutions(model.decoder))):
        left, stride, span = padding_of(conv)[0], conv.stride[0], conv.dilation[0] * (conv.kernel_size[0] - 1)
        if isinstance(conv, nn.ConvTranspose1d):
            # Input i contributes to the outputs from i * stride - left to i * stride - left + span.
            first, last = -((span - left - first) // stride), (last + left) // stride
        else:
            first, last = first - left, last - left + span
    return Context(-first, last)
