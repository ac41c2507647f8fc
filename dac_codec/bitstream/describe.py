"""The metadata of a .dac file, for `dac-codec info`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dac_codec.bitstream.container import loads
from dac_codec.bitstream.header import VERSION, Header
from dac_codec.bitstream.legacy import LegacyFile, is_legacy, read_legacy
from dac_codec.common.errors import TruncatedBitstreamError
from dac_codec.common.speakers import describe_mask


def describe(data: bytes) -> dict[str, Any]:
    """The metadata of a .dac file of this package or of descript-audio-codec, ready for JSON.

    Raises:
        BitstreamError: `data` is neither, or is damaged. A truncated file is described up to its last complete chunk.
    """
    if is_legacy(data):
        fields = _legacy_fields(read_legacy(data))
    else:
        truncated = False
        try:
            header, codes, _ = loads(data)
        except TruncatedBitstreamError:
            truncated = True
            header, codes, _ = loads(data, allow_truncated=True)
        fields = _fields(header, codes.shape[-1], truncated)
    pcm_size = 2 * fields["channels"] * fields["n_samples"]
    return {**fields, "size": len(data), "pcm_size": pcm_size, "ratio": pcm_size / len(data)}


def _fields(header: Header, n_frames: int, truncated: bool) -> dict[str, Any]:
    assert header.n_samples is not None
    return {
        "format": "dac_codec",
        "version": VERSION,
        "truncated": truncated,
        "model_id": f"{header.model_name}@{header.model_fingerprint.hex()}",
        "sample_rate": header.sample_rate,
        "channels": header.channels,
        **({} if header.channel_mask is None else {"channel_mask": header.channel_mask}),
        "n_samples": header.n_samples,
        "duration": header.n_samples / header.sample_rate,
        "n_frames": n_frames,
        "bitrate": header.bitrate,
        "n_codebooks": header.n_codebooks,
        "codebook_size": header.codebook_size,
        "bits_per_code": header.bits_per_code,
        "model_sample_rate": header.model_sample_rate,
        "hop_length": header.hop_length,
        "gain_db": header.gain_db,
        "bandwidth": header.bandwidth,
    }


def _legacy_fields(file: LegacyFile) -> dict[str, Any]:
    return {
        "format": "descript-audio-codec",
        "version": file.dac_version,
        "truncated": False,
        "sample_rate": file.sample_rate,
        "channels": file.channels,
        "n_samples": file.original_length,
        "duration": file.original_length / file.sample_rate,
        "n_frames": file.codes.shape[-1],
        "n_codebooks": file.codes.shape[1],
        "bits_per_code": 8 * file.codes.itemsize,
        "chunk_frames": file.chunk_length,
        "padding": file.padding,
        "loudness_db": np.ravel(file.input_db).tolist(),
    }


def as_text(fields: dict[str, Any]) -> str:
    """The fields of `describe`, and perhaps more, as lines of labels and values with units."""
    units: dict[str, Callable[[Any], str]] = {
        "truncated": lambda value: "yes, described up to the last complete chunk" if value else "no",
        "sample_rate": lambda value: f"{value} Hz",
        "duration": lambda value: f"{value:.3f} s",
        "bitrate": lambda value: f"{value / 1000:.2f} kbit/s",
        "model_sample_rate": lambda value: f"{value} Hz",
        "gain_db": lambda value: f"{value:+.2f} dB",
        "channel_mask": lambda value: f"{value:#x} ({describe_mask(value)})",
        "bandwidth": lambda value: "unknown" if value is None else f"{value} Hz",
        "loudness_db": lambda value: ", ".join(f"{one:.2f} LUFS" for one in value),
        "padding": lambda value: "yes" if value else "no",
        "size": lambda value: f"{format_size(value)} ({value} bytes)",
        "pcm_size": lambda value: f"{format_size(value)} as 16-bit PCM",
        "ratio": lambda value: f"{value:.1f} times smaller",
    }
    labels = {key: key.removeprefix("n_").removesuffix("_db").replace("_", " ") for key in fields}
    return "\n".join(f"{labels[key]:<17}  {units.get(key, str)(value)}" for key, value in fields.items())


def format_size(n_bytes: int) -> str:
    """A number of bytes in decimal units.

    >>> format_size(999), format_size(9_800), format_size(1_234_567)
    ('999 B', '9.8 kB', '1.2 MB')
    """
    if n_bytes < 1000:
        return f"{n_bytes} B"
    size = n_bytes / 1000
    units = ["kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.1f} {units[0]}"
