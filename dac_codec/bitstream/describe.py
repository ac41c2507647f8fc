"""The metadata of a .dac file, for `dac-codec info`."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dac_codec.bitstream.coded import bits_by_codebook, decoded_counts
from dac_codec.bitstream.container import with_length
from dac_codec.bitstream.header import VERSION, Coding, Header
from dac_codec.bitstream.layers import CodedChunk, encode_payload
from dac_codec.bitstream.legacy import LegacyFile, is_legacy, read_legacy
from dac_codec.bitstream.reader import Reader
from dac_codec.bitstream.thinning import order_of
from dac_codec.common.errors import TruncatedBitstreamError
from dac_codec.common.speakers import describe_mask


def describe(data: bytes) -> dict[str, Any]:
    """The metadata of a .dac file of this package or of descript-audio-codec, ready for JSON.

    Raises:
        BitstreamError: `data` is neither, or is damaged. A truncated file is described up to its last complete chunk.
    """
    fields = _legacy_fields(read_legacy(data)) if is_legacy(data) else _container_fields(data)
    pcm_size = 2 * fields["channels"] * fields["n_samples"]
    return {**fields, "size": len(data), "pcm_size": pcm_size, "ratio": pcm_size / len(data)}


def _container_fields(data: bytes) -> dict[str, Any]:
    reader = Reader(io.BytesIO(data))
    layered = reader.header.coding is Coding.LAYERED
    chunks: list[Any] = []  # CodedChunk or Chunk
    truncated = False
    try:
        for chunk in reader.coded() if layered else reader:
            chunks.append(chunk)
    except TruncatedBitstreamError:
        truncated = True
    n_frames = sum(chunk.n_frames for chunk in chunks)
    header = with_length(reader.header, None if truncated else reader.n_samples, n_frames)
    return {**_fields(header, n_frames, truncated), **(_layered_fields(header, chunks) if layered else {})}


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
        **({"codebook_sizes": list(header.codebook_sizes)} if header.codebook_sizes else {}),
        "bits_per_code": header.bits_per_code,
        "model_sample_rate": header.model_sample_rate,
        "hop_length": header.hop_length,
        "gain_db": header.gain_db,
        "bandwidth": header.bandwidth,
        "coding": "layered" if header.coding is Coding.LAYERED else "fixed width",
    }


def _layered_fields(header: Header, chunks: Sequence[CodedChunk]) -> dict[str, Any]:
    """Further fields of a file of coding 1. Its bitrate is the mean of all bytes of its chunks but their checksums."""
    sizes = np.array([len(encode_payload(chunk, len(chunk.layers))[0]) for chunk in chunks])
    seconds = np.array([chunk.n_frames for chunk in chunks]) / header.frame_rate
    n_codes = np.zeros(header.n_codebooks, int)
    for counts in decoded_counts(header, chunks):
        n_codes += (counts[None] > np.arange(header.n_codebooks)[:, None, None]).sum((1, 2))
    bits = bits_by_codebook(header, chunks)
    n_frames = sum(chunk.n_frames for chunk in chunks)
    return {
        "bitrate": float(8 * sizes.sum() / max(seconds.sum(), 1e-9)),
        "peak_bitrate": float((8 * sizes / seconds).max(initial=0)),
        "layers": list(header.layers),
        "order": order_of(chunks).value,
        "context_model": "adaptive" if header.context_fingerprint is None else header.context_fingerprint.hex(),
        "codes_per_frame": float(n_codes.sum() / max(1, n_frames * header.channels)),
        "bits_by_codebook": [round(bit / n, 3) if bit else None for bit, n in zip(bits, n_codes.tolist(), strict=True)],
        "levels": None if header.levels is None else asdict(header.levels),
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
        "peak_bitrate": lambda value: f"{value / 1000:.2f} kbit/s",
        "layers": lambda value: f"{' + '.join(map(str, value))} codebooks",
        "codebook_sizes": lambda value: " ".join(map(str, value)),
        "order": lambda value: "layer by layer" if value == "layers" else "by time",
        "codes_per_frame": lambda value: f"{value:.2f} on average",
        "bits_by_codebook": lambda value: " ".join("-" if bits is None else f"{bits:.2f}" for bits in value),
        "levels": lambda value: "none" if value is None else _levels_as_text(**value),
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


def _levels_as_text(hop: int, bands: int, top: int, step_db: float, lowest: int, highest: int) -> str:
    decibels = f"{lowest * step_db:g} to {highest * step_db:+g} dB in steps of {step_db:g} dB"
    return f"{bands} bands up to {top} Hz, {decibels}, every {hop} frames"


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
