"""Models of this package, through the file format, by number of codebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dac_codec import pretrained
from dac_codec.audio import Audio
from dac_codec.codec import DacFile, compress, decompress, load_model
from dac_codec.evaluation.codecs.interface import Codec, Coded, MissingCodecError, Setting, computed_by, nearest, timed
from dac_codec.model import DAC


@dataclass(frozen=True)
class Ours(Codec):
    """A model of this package.

    Args:
        model: name, folder or file.
        device: "auto", "cpu" or "cuda".
    """

    model: str
    device: str = "auto"

    @property
    def about(self) -> str:
        model = load(self.model, self.device)
        return f"{model.name}, {model.sample_rate} Hz, {model.n_codebooks} codebooks of {model.codebook_size}"

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {pretrained.fingerprint(load(self.model, self.device)).hex()} {computed_by(self.device)}"

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        model = load(self.model, self.device)
        rates = [model.config.bitrate(n) / 1000 for n in range(1, model.n_codebooks + 1)]
        counts = [index + 1 for index in nearest(bitrates, rates)]
        return [Setting(f"{n} codebook{'s' if n > 1 else ''}", n) for n in counts]

    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        model = load(self.model, self.device)
        n_codebooks = int(setting.value)
        data, encode_seconds = timed(
            lambda: compress((clip, sample_rate), model, n_codebooks, device=self.device).to_bytes()
        )
        (decoded, _), decode_seconds = timed(lambda: decompress(DacFile.from_bytes(data), model, device=self.device))
        file = DacFile.from_bytes(data)
        codes = file.codes[0].numpy()
        return Coded(
            decoded=decoded.numpy(),
            n_bytes=len(data),
            payload_bytes=codes.size * file.header.bits_per_code / 8,
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
            codes=codes,
            codebook_size=file.header.codebook_size,
        )


def published(name: str, model: str, device: str) -> Ours:
    """The reference's published weights, whose codes this package reproduces.

    Raises:
        MissingCodecError: they were not downloaded yet.
    """
    where = {info.name: info.where for info in pretrained.available()}[model]
    if where == "downloadable":
        raise MissingCodecError(
            f"its weights are not downloaded: `dac-codec compress --model {model}` of any file downloads them"
        )
    return Ours(name, model, device)


@lru_cache(maxsize=2)
def load(model: str, device: str) -> DAC:
    """The model, loaded once per process."""
    return load_model(model, device)
