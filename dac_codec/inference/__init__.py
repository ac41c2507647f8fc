"""Fast inference on whole signals and on streams, with the same result."""

from dac_codec.inference.batches import decode_batch, encode_frames_batch, encode_padded
from dac_codec.inference.blocks import (
    decode,
    decode_blocks,
    decode_each,
    decode_range,
    encode,
    encode_blocks,
    encode_frames,
    uses_threads,
)
from dac_codec.inference.decoder import StreamingDecoder
from dac_codec.inference.encoder import Frames, StreamingEncoder
from dac_codec.inference.look_ahead import (
    Context,
    decoder_context,
    decoder_look_ahead,
    encoder_context,
    encoder_look_ahead,
)
from dac_codec.inference.prepared import PreparedDAC, prepare, prepare_cached

__all__ = [
    "Context",
    "Frames",
    "PreparedDAC",
    "StreamingDecoder",
    "StreamingEncoder",
    "decode",
    "decode_batch",
    "decode_blocks",
    "decode_each",
    "decode_range",
    "decoder_context",
    "decoder_look_ahead",
    "encode",
    "encode_blocks",
    "encode_frames",
    "encode_frames_batch",
    "encode_padded",
    "encoder_context",
    "encoder_look_ahead",
    "prepare",
    "prepare_cached",
    "uses_threads",
]
