"""The same network, fast."""

from dac_codec.engine.prepared import PreparedDAC, prepare

__all__ = ["PreparedDAC", "prepare"]
