"""Codecs behind one interface: ours, those that anyone can install, and reference points."""

from dac_codec.evaluation.codecs.interface import Codec, Coded, MissingCodecError, Setting
from dac_codec.evaluation.codecs.registry import NAMES, make_codecs

__all__ = ["NAMES", "Codec", "Coded", "MissingCodecError", "Setting", "make_codecs"]
