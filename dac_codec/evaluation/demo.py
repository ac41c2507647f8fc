"""The bundled clip, there and back."""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from dac_codec import audio as sound
from dac_codec.codec import compress, decompress, load_model
from dac_codec.common.errors import DacError
from dac_codec.evaluation import metrics
from dac_codec.pretrained import DEFAULT_MODEL

CLIP = "demo.flac"
"""A few seconds of sound, CC0 (see NOTICE.md beside it)."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo did.

    Attributes:
        original, compressed, decoded: the files that it left.
        seconds: length of the clip.
        compressed_bytes: size of the .dac file.
        pcm_bytes: size of the clip as 16-bit PCM.
        bitrate: of the .dac file, in bits per second, headers included.
        ratio: `pcm_bytes / compressed_bytes`.
        encode_speed, decode_speed: seconds of audio per second of work.
        stft_distance, si_sdr: see `metrics`.
    """

    original: Path
    compressed: Path
    decoded: Path
    seconds: float
    compressed_bytes: int
    pcm_bytes: int
    bitrate: float
    ratio: float
    encode_speed: float
    decode_speed: float
    stft_distance: float
    si_sdr: float


def run_demo(
    output: str | os.PathLike[str], model: str | os.PathLike[str] | None = None, device: str = "auto"
) -> DemoResult:
    """Compress and decompress the bundled clip, leaving `original.wav`, `compressed.dac` and `decoded.wav` in a folder.

    Args:
        output: the folder; made if it is missing.
        model: a name or path; None means the bundled default.
        device: "auto", "cpu" or "cuda".

    Raises:
        DacError: the folder can't be written, or the model can't be loaded.
    """
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DacError(f"can't make the folder {folder}: {error.strerror}") from error
    clip = resources.files("dac_codec.evaluation").joinpath(CLIP)
    waveform, rate = sound.read(io.BytesIO(clip.read_bytes()), name=CLIP)
    loaded = load_model(model or DEFAULT_MODEL, device)
    original, compressed, decoded = (folder / name for name in ("original.wav", "compressed.dac", "decoded.wav"))
    sound.write(original, waveform, rate)

    # The first call pays for what PyTorch sets up once.
    decompress(compress((waveform[:, : rate // 2], rate), loaded, device=device), loaded, device=device)
    started = time.perf_counter()
    dac_file = compress((waveform, rate), loaded, device=device)
    encoded_at = time.perf_counter()
    heard, _ = decompress(dac_file, loaded, device=device)
    decoded_at = time.perf_counter()
    dac_file.save(compressed)
    sound.write(decoded, heard.numpy(), rate)

    seconds = waveform.shape[-1] / rate
    n_bytes, pcm_bytes = compressed.stat().st_size, waveform.size * 2
    measured = heard.numpy(), waveform, rate
    return DemoResult(
        original=original,
        compressed=compressed,
        decoded=decoded,
        seconds=seconds,
        compressed_bytes=n_bytes,
        pcm_bytes=pcm_bytes,
        bitrate=n_bytes * 8 / seconds,
        ratio=pcm_bytes / n_bytes,
        encode_speed=seconds / (encoded_at - started),
        decode_speed=seconds / (decoded_at - encoded_at),
        stft_distance=metrics.stft_distance(*measured),
        si_sdr=metrics.si_sdr(*measured),
    )
