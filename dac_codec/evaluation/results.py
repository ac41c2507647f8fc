"""The result of one codec on one clip, cached in a file of its own."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.codec import write_bytes
from dac_codec.evaluation.clips import Clip

_FORMAT = 3
_MOST = 2**53  # above all counts and amounts: integers up to here are exact as float
_CODES = np.dtype("<i4")  # type of the codes in a file
_MOST_ENTRIES = 2**16  # of a codebook, at most: how often each is used is counted in memory


@dataclass(frozen=True)
class Result:
    """Measurements of one clip, codec and setting.

    Attributes:
        seconds: length of the clip.
        n_bytes, payload_bytes, encode_seconds, decode_seconds, codebook_size, code_bits: see `Coded`.
        measures: by the metrics' names; None if undefined.
        codes: base64 of `Coded.codes` as int32, little-endian, row by row; None if there are none.
        sound: base64 of the decoded clip as 16-bit FLAC; None if the page does not play it.
        sources: of the clip.
    """

    clip: str
    domain: str
    seconds: float
    codec: str
    setting: str
    n_bytes: int
    payload_bytes: float
    encode_seconds: float
    decode_seconds: float
    measures: dict[str, float | None]
    codes: str | None = None
    n_codebooks: int = 0
    codebook_size: int = 0
    sound: str | None = None
    sources: list[str] = field(default_factory=list)
    code_bits: list[float] = field(default_factory=list)

    @property
    def kbps(self) -> float:
        """Kilobits per second of the file, headers included."""
        return self.n_bytes * 8 / self.seconds / 1000

    @property
    def payload_kbps(self) -> float:
        """Kilobits per second without headers and framing."""
        return self.payload_bytes * 8 / self.seconds / 1000

    def counts(self) -> np.ndarray | None:
        """How often each entry of each codebook was used [N, codebook_size]; None without codes."""
        if self.codes is None:
            return None
        return np.stack([np.bincount(stage[stage >= 0], minlength=self.codebook_size) for stage in self._codes()])

    def n_codes(self) -> np.ndarray | None:
        """Number of codes of each frame [F]; None without codes."""
        return None if self.codes is None else (self._codes() >= 0).sum(0)

    def _codes(self) -> np.ndarray:
        """Codes [N, F], -1 where a frame has none."""
        assert self.codes is not None
        return np.frombuffer(base64.b64decode(self.codes, validate=True), _CODES).reshape(self.n_codebooks, -1)

    def save(self, path: Path) -> None:
        """Write to a file, atomically. Raises a DacError if the file can't be written."""
        write_bytes(path, json.dumps(asdict(self), allow_nan=False).encode())

    @classmethod
    def load(cls, path: Path) -> Result | None:
        """Read from a file; None if it is missing, damaged or makes no sense."""
        try:
            values = json.loads(path.read_bytes())
            result = cls(**{one.name: values[one.name] for one in fields(cls)})
            return result if result._makes_sense() else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _makes_sense(self) -> bool:
        """Whether the values have the types and ranges of a measurement. May raise a ValueError if not."""
        texts = (self.clip, self.domain, self.codec, self.setting)
        counts = (self.n_bytes, self.n_codebooks, self.codebook_size)
        amounts = (self.seconds, self.payload_bytes, self.encode_seconds, self.decode_seconds)
        if not (
            all(isinstance(value, str) for value in texts)
            and all(type(value) is int and 0 <= value < _MOST for value in counts)
            and all(_is_number(value) and 0 <= value < _MOST for value in amounts)
            and self.seconds > 0
            and isinstance(self.measures, dict)
            and all(value is None or _is_number(value) for value in self.measures.values())
            and isinstance(self.sources, list)
            and all(isinstance(value, str) for value in self.sources)
            and isinstance(self.code_bits, list)
            and all(_is_number(value) and value >= 0 for value in self.code_bits)
            and (self.sound is None or base64.b64decode(self.sound, validate=True)[:4] == b"fLaC")
        ):
            return False
        if self.codes is None:
            return not self.code_bits
        if self.codebook_size > _MOST_ENTRIES or (self.code_bits and len(self.code_bits) != self.n_codebooks):
            return False
        codes = self._codes()
        present = codes >= 0
        return bool(
            codes.size > 0
            and codes.min() >= -1
            and codes.max() < self.codebook_size
            and present[0].all()
            and (present[:-1] >= present[1:]).all()  # the codes of a frame are its first ones
            and (not self.code_bits or sum(self.code_bits) > 0)
        )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -_MOST < value < _MOST  # type: ignore[operator]


def key(clip: Clip, sample_rate: int, common: str, codec: str, setting: str, metrics: str, with_sound: bool) -> str:
    """The name of a result: a hash of everything that it depends on, which includes all fields of the clip."""
    waveform = hashlib.sha256(np.ascontiguousarray(clip.waveform, "<f4").tobytes()).hexdigest()
    place = [clip.name, clip.domain, list(clip.sources)]
    parts = [_FORMAT, place, waveform, sample_rate, common, codec, setting, metrics, with_sound]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def packed(codes: np.ndarray) -> str:
    """`Result.codes` of codes [N, F]."""
    return base64.b64encode(codes.astype(_CODES).tobytes()).decode()


def flac(waveform: Audio, sample_rate: int) -> str:
    """Base64 of a signal [1, T] as 16-bit FLAC: lossless, and playable by browsers."""
    stream = io.BytesIO()
    audio.write(stream, waveform, sample_rate, "flac", "PCM_16")
    return base64.b64encode(stream.getvalue()).decode()
