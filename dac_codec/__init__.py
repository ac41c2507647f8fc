"""dac_codec: neural audio compression at a few kilobits per second.

The public names are imported when they are first used, so that `import dac_codec` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dac_codec.codec import DacFile, DacStream, compress, compress_stream, decompress, decompress_stream
    from dac_codec.common.errors import (
        AudioError,
        BitstreamError,
        CheckpointError,
        DacError,
        ModelMismatchError,
        TruncatedBitstreamError,
    )
    from dac_codec.inference import StreamingDecoder, StreamingEncoder, prepare
    from dac_codec.model import DAC, PRESETS, DACConfig, Encoded

    __version__: str

_HOMES = {
    "dac_codec.codec": ("DacFile", "DacStream", "compress", "compress_stream", "decompress", "decompress_stream"),
    "dac_codec.common.errors": (
        "AudioError",
        "BitstreamError",
        "CheckpointError",
        "DacError",
        "ModelMismatchError",
        "TruncatedBitstreamError",
    ),
    "dac_codec.model": ("DAC", "PRESETS", "DACConfig", "Encoded"),
    "dac_codec.inference": ("StreamingDecoder", "StreamingEncoder", "prepare"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DAC",
    "PRESETS",
    "AudioError",
    "BitstreamError",
    "CheckpointError",
    "DACConfig",
    "DacError",
    "DacFile",
    "DacStream",
    "Encoded",
    "ModelMismatchError",
    "StreamingDecoder",
    "StreamingEncoder",
    "TruncatedBitstreamError",
    "compress",
    "compress_stream",
    "decompress",
    "decompress_stream",
    "prepare",
]


if not TYPE_CHECKING:  # for which a name that is missing above is an error

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("dac_codec")
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
