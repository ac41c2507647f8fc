"""Compress and decompress the bundled clip, and measure size, quality and speed."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from dac_codec import audio
from dac_codec.codec import compress, decompress, load_model
from dac_codec.common.errors import DacError
from dac_codec.evaluation import metrics
from dac_codec.evaluation.codecs.interface import timed
from dac_codec.pretrained import DEFAULT_MODEL

CLIP = "demo.flac"
"""A few seconds of stereo sound, CC0 (see NOTICE.md beside it)."""


@dataclass(frozen=True)
class DemoResult:
    """Files and measurements of the demo.

    Attributes:
        original, compressed, decoded: the files.
        seconds, channels: of the clip.
        compressed_bytes: size of the .dac file.
        pcm_bytes: size of the clip as 16-bit PCM.
        bitrate: of the .dac file with all channels, in bits per second, headers included.
        encode_speed, decode_speed: seconds of audio per second of computation, after a first run.
        si_sdr: see `metrics`, in dB.
        ratio: how many times smaller than PCM the .dac file is.
    """

    original: Path
    compressed: Path
    decoded: Path
    seconds: float
    channels: int
    compressed_bytes: int
    pcm_bytes: int
    bitrate: float
    encode_speed: float
    decode_speed: float
    si_sdr: float
    ratio: float


def run_demo(
    output: str | os.PathLike[str], model: str | os.PathLike[str] | None = None, device: str = "auto"
) -> DemoResult:
    """Compress and decompress the bundled clip to `original.wav`, `compressed.dac` and `decoded.wav` in a folder.

    Args:
        output: the folder, created if it does not exist.
        model: a name or path; None: the bundled default.
        device: "auto", "cpu" or "cuda".

    Raises:
        DacError: the folder can't be written, or the model can't be loaded.
    """
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DacError(f"can't create the folder {folder}: {error.strerror}") from error
    waveform, rate = _clip()
    loaded = load_model(model or DEFAULT_MODEL, device)
    original, compressed, decoded = (folder / name for name in ("original.wav", "compressed.dac", "decoded.wav"))
    audio.write(original, waveform, rate)

    # The first run of the whole clip includes the initialization of PyTorch and the caches for its shapes.
    decompress(compress((waveform, rate), loaded, device=device), loaded, device=device)
    dac_file, encode_seconds = timed(lambda: compress((waveform, rate), loaded, device=device))
    (result, _), decode_seconds = timed(lambda: decompress(dac_file, loaded, device=device))
    dac_file.save(compressed)
    audio.write(decoded, result.numpy(), rate)

    seconds = waveform.shape[-1] / rate
    n_bytes = compressed.stat().st_size
    return DemoResult(
        original=original,
        compressed=compressed,
        decoded=decoded,
        seconds=seconds,
        channels=len(waveform),
        compressed_bytes=n_bytes,
        pcm_bytes=waveform.size * 2,
        bitrate=n_bytes * 8 / seconds,
        encode_speed=seconds / encode_seconds,
        decode_speed=seconds / decode_seconds,
        si_sdr=metrics.si_sdr(result.numpy(), waveform, rate),
        ratio=waveform.size * 2 / n_bytes,
    )


def clip_at(sample_rate: int) -> np.ndarray:
    """The bundled clip [C, T] at a sample rate in Hz."""
    waveform, rate = _clip()
    return audio.resample(waveform, rate, sample_rate)


def _clip() -> tuple[np.ndarray, int]:
    """The bundled clip [C, T], and its sample rate."""
    clip = resources.files("dac_codec.evaluation").joinpath(CLIP)
    return audio.read(io.BytesIO(clip.read_bytes()), name=CLIP)
