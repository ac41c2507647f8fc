"""The same network on a signal that comes in pieces, with the same result."""

from dac_codec.streaming.batches import decode_batch, encode_batch
from dac_codec.streaming.blocks import decode, decode_blocks, decode_range, encode, encode_blocks
from dac_codec.streaming.decoder import StreamingDecoder
from dac_codec.streaming.encoder import StreamingEncoder
from dac_codec.streaming.look_ahead import (
    Context,
    decoder_context,
    decoder_look_ahead,
    encoder_context,
    encoder_look_ahead,
)

__all__ = [
    "Context",
    "StreamingDecoder",
    "StreamingEncoder",
    "decode",
    "decode_batch",
    "decode_blocks",
    "decode_range",
    "decoder_context",
    "decoder_look_ahead",
    "encode",
    "encode_batch",
    "encode_blocks",
    "encoder_context",
    "encoder_look_ahead",
]
