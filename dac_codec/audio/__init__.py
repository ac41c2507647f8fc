"""Sound files, sample rates and loudness: everything between a file or pipe and a float32 array [C, T].

Shape letters: C channels, T samples per channel. Full scale is 1.0. Sample rates are positive integers in Hz. Every
error that a caller can cause is an `AudioError`.
"""

from dac_codec.audio.dsp import BandwidthMeter, LowPass, leaves_room, low_pass_reach
from dac_codec.audio.folders import find_audio, find_unreadable, has_sound_suffix
from dac_codec.audio.metering import SILENCE_LUFS, LoudnessMeter, apply_gain, gain_to, loudness
from dac_codec.audio.reading import RAW_ENCODINGS, Reader, read
from dac_codec.audio.resampling import Resampler, check_windowed_sinc, resample, resample_windowed_sinc
from dac_codec.audio.samples import Audio, check
from dac_codec.audio.writing import Writer, write

__all__ = [
    "RAW_ENCODINGS",
    "SILENCE_LUFS",
    "Audio",
    "BandwidthMeter",
    "LoudnessMeter",
    "LowPass",
    "Reader",
    "Resampler",
    "Writer",
    "apply_gain",
    "check",
    "check_windowed_sinc",
    "find_audio",
    "find_unreadable",
    "gain_to",
    "has_sound_suffix",
    "leaves_room",
    "loudness",
    "low_pass_reach",
    "read",
    "resample",
    "resample_windowed_sinc",
    "write",
]
