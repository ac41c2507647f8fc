"""Models of this package, through the file format, by number of codebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from dac_codec import pretrained
from dac_codec.audio import Audio
from dac_codec.bitstream.describe import describe
from dac_codec.codec import DacFile, compress, decompress, load_model
from dac_codec.codec.rate import DEFAULT_QUALITY
from dac_codec.evaluation.codecs.interface import Codec, Coded, MissingCodecError, Setting, computed_by, nearest, timed
from dac_codec.model import DAC


@dataclass(frozen=True)
class Ours(Codec):
    """A model of this package.

    Args:
        model: name, folder or file.
        device: "auto", "cpu" or "cuda".
        effort: as for `compress`.
        by: what the settings are: numbers of codebooks, the same in every frame; mean bitrates; or the default quality.
    """

    model: str
    device: str = "auto"
    effort: int = 0
    by: Literal["codebooks", "bitrate", "quality"] = "codebooks"

    @property
    def about(self) -> str:
        model = load(self.model, self.device)
        about = f"{model.name}, {model.sample_rate} Hz, {model.n_codebooks} codebooks of {model.codebook_size}"
        if self.effort:
            about += f", effort {self.effort}"
        if self.by != "codebooks":
            about += ", entropy coded codes whose number varies from frame to frame"
            about += ", band levels" if self._has_levels else ""
        return about

    @property
    def _has_levels(self) -> bool:
        return self.effort > 0 and self.by != "codebooks"

    @property
    def fingerprint(self) -> str:
        model = load(self.model, self.device)
        parts = [self.name, pretrained.fingerprint(model).hex()]
        if self.by != "codebooks":
            context = pretrained.context_model(model)
            parts.append("None" if context is None else context.fingerprint.hex())
        if self.effort:
            parts.append(f"effort {self.effort}")
        if self._has_levels:
            parts.append("levels")
        return " ".join([*parts, computed_by(self.device)])

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        model = load(self.model, self.device)
        rates = [model.config.bitrate(n) / 1000 for n in range(1, model.n_codebooks + 1)]
        if self.by == "quality":
            return [Setting(f"quality {DEFAULT_QUALITY:g}", DEFAULT_QUALITY)]
        if self.by == "bitrate":
            return [Setting(f"{rate:g} kbit/s", rate) for rate in sorted(set(bitrates)) if rate >= rates[0]]
        if model.quantizer.is_finite_scalar:
            return [Setting(f"{model.n_codebooks} codebooks", model.n_codebooks)]
        counts = [index + 1 for index in nearest(bitrates, rates)]
        return [Setting(f"{n} codebook{'s' if n > 1 else ''}", n) for n in counts]

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        model, constant = load(self.model, self.device), self.by == "codebooks"

        def encode() -> bytes:
            file = compress(
                (clip, sample_rate),
                model,
                n_quantizers=int(setting.value) if constant else None,
                bitrate=1000 * setting.value if self.by == "bitrate" else None,
                device=self.device,
                effort=self.effort,
                quality=setting.value if self.by == "quality" else None,
                constant=constant,
                levels=self._has_levels,
            )
            return file.to_bytes(model)

        data, encode_seconds = timed(encode)
        (decoded, _), decode_seconds = timed(
            lambda: decompress(DacFile.from_bytes(data, model=model), model, device=self.device)
        )
        file = DacFile.from_bytes(data, model=model)
        codes = file.codes[0].numpy()
        return Coded(
            decoded=decoded.numpy(),
            n_bytes=len(data),
            payload_bytes=codes.shape[1] * sum(file.header.widths) / 8 if constant else len(data),
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
            codes=codes,
            codebook_size=file.header.codebook_size,
            code_bits=() if constant else _code_bits(data, codes),
        )


def _code_bits(data: bytes, codes: np.ndarray) -> list[float]:
    """Bits of the codes [N, F] of each codebook in their entropy coded file."""
    per_code = describe(data)["bits_by_codebook"]
    return [(bits or 0.0) * n for bits, n in zip(per_code, (codes >= 0).sum(1).tolist(), strict=True)]


def published(device: str) -> Ours:
    """The reference's published weights at 44.1 kHz. Raises a MissingCodecError if they were not downloaded yet."""
    if any((info.name, info.where) == ("44khz", "downloadable") for info in pretrained.available()):
        raise MissingCodecError(
            "its weights are not downloaded: `dac-codec compress --model 44khz` of any file downloads them"
        )
    return Ours("dac", "44khz", device)


@lru_cache(maxsize=2)
def load(model: str, device: str) -> DAC:
    """The model, loaded once per process."""
    return load_model(model, device)
