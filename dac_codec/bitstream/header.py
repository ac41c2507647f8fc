"""The header of a .dac file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from dac_codec.bitstream.fields import (
    FINGERPRINT_BYTES,
    FLOAT32,
    MAX_VARINT,
    FieldReader,
    StreamReader,
    check_fingerprint,
    check_model_name,
    checked_float32,
    checked_integer,
    encode_varint,
    with_crc,
)
from dac_codec.bitstream.packing import MAX_BITS
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError

MAGIC = b"\x8aDAC"
"""The first four bytes of every file. 0x8A cannot begin UTF-8 text, and a 7-bit transfer clears its high bit."""

VERSION = 1
"""The only version of the format that is written and read."""

_REQUIRED_FEATURES = 1  # bit 0, positioned checksums, is set in every file of version 1
_FEATURE_SIZES = 2  # bit 1: codebooks of different sizes
_MAX_HEADER_BODY = 4096
_MAX_SAMPLE_RATE = (1 << 24) - 1
_MAX_PLANES = 1 << 16
_EXTENSION_MODEL_NAME = 1
_EXTENSION_GAIN_SOURCE = 2
_EXTENSION_BANDWIDTH = 3
_EXTENSION_CONTEXT = 4
_EXTENSION_LAYERS = 5
_EXTENSION_LEVELS = 6
_EXTENSION_CHANNEL_MASK = 7
_EXTENSION_SIZES = 8
_EXTENSIONS = {
    0: (_EXTENSION_MODEL_NAME, _EXTENSION_GAIN_SOURCE, _EXTENSION_BANDWIDTH, _EXTENSION_CHANNEL_MASK),
    1: range(_EXTENSION_MODEL_NAME, _EXTENSION_CHANNEL_MASK + 1),
}  # by coding
_MAX_LAYERS = 32
_MAX_SIZED_CODEBOOKS = 1024
_FRAME_TOLERANCE = 1


class Coding(IntEnum):
    """How chunks store codes."""

    FIXED = 0
    """Fixed width: every frame has a code of every codebook."""
    LAYERED = 1
    """Layers of entropy-coded codes, coarse first; the number of codes may vary from frame to frame."""


class GainSource(IntEnum):
    """What the single gain of a file was computed from."""

    WHOLE = 0
    """The loudness and peak of the whole signal."""
    BEGINNING = 1
    """The beginning of a stream. The loudness of the rest may differ."""


@dataclass(frozen=True)
class LevelParameters:
    """Resolution of the band levels of a file. Validated on construction. LEVELS.md has their meaning.

    Attributes:
        hop: frames from one window to the next, 1..64. Window j is centred on the first sample of frame j * hop, and
            2 * hop frames long.
        bands: number of bands, 1..256, at most 16 * hop. They are equally wide on the Bark scale.
        top: upper edge of the last band in Hz, 1..2^24-1; the band also covers what is above.
        step_db: size of a step in dB, above 0. Rounded to float32, as stored.
        lowest: lowest level in steps, -15..0. `highest - lowest` is at most 15.
        highest: highest level in steps, 0..15.

    Raises:
        BitstreamError: a field is outside of its range.
    """

    hop: int = 4
    bands: int = 40
    top: int = 16000
    step_db: float = 3.0
    lowest: int = -10
    highest: int = 2

    def __post_init__(self) -> None:
        for field, low, high in (
            ("hop", 1, 64),
            ("bands", 1, 256),
            ("top", 1, _MAX_SAMPLE_RATE),
            ("lowest", -15, 0),
            ("highest", 0, 15),
        ):
            object.__setattr__(self, field, checked_integer(getattr(self, field), f"levels: {field}", low, high))
        if self.bands > (most := 16 * self.hop):
            raise BitstreamError(f"levels: bands must be at most {most} with a hop of {self.hop}, found {self.bands}")
        if self.highest - self.lowest > 15:
            raise BitstreamError(f"levels: there must be at most 16 levels, found {self.lowest}..{self.highest}")
        object.__setattr__(self, "step_db", checked_float32(self.step_db, "levels: step_db"))
        if self.step_db <= 0:
            raise BitstreamError(f"levels: step_db must be a positive number, found {self.step_db}")

    def n_windows(self, n_frames: int) -> int:
        """Windows of the first `n_frames` frames of a file: ceil(n_frames / hop)."""
        return -(-n_frames // self.hop)


def default_layers(n_codebooks: int) -> tuple[int, ...]:
    """Return the codebooks of each layer: three layers of about the same size.

    >>> default_layers(9), default_layers(7), default_layers(2)
    ((3, 3, 3), (3, 2, 2), (1, 1))
    """
    n_layers = min(3, n_codebooks)
    return tuple(n_codebooks // n_layers + (layer < n_codebooks % n_layers) for layer in range(n_layers))


@dataclass(frozen=True)
class Header:
    """The header of a .dac file. Its fields are validated on construction.

    Attributes:
        model_fingerprint: 8 bytes that identify the weights: the first bytes of a SHA-256 over them.
        model_name: name of the weights; at most 64 bytes of UTF-8 without control characters, may be empty.
        sample_rate: rate of the original audio, in Hz, 1..2^24-1, and not below `frame_rate`.
        channels: channels of the original audio, 1..65535. Each is coded on its own.
        n_samples: length of the original audio in samples per channel at `sample_rate`; None if END gives it.
        gain_db: gain in dB that was applied to the audio before encoding; a decoder applies `-gain_db`. Rounded
            to float32, as stored.
        model_sample_rate: rate at which the model works, in Hz, 1..2^24-1.
        hop_length: samples at `model_sample_rate` per frame, 1..model_sample_rate.
        n_codebooks: codes per frame and channel; the most of any frame if they vary. `channels * n_codebooks` is at
            most 65536; with the coding LAYERED, `n_codebooks` is at most 64.
        codebook_size: entries of each codebook, 2..65536; every code is below it.
        codebook_sizes: entries of each codebook, 2..codebook_size, if one has fewer; else empty.
        gain_source: what the gain was computed from; informative.
        bandwidth: frequency in Hz above which the original has no energy, 1..2^24-1; None if there is none or it is
            unknown.
        coding: how chunks store the codes. The fields after it are only for `Coding.LAYERED`.
        context_fingerprint: 8 bytes that identify the context model of the codes; None for adaptive statistics.
        layers: codebooks of each layer, coarse first; their sum is `n_codebooks`. Empty for `default_layers`.
        levels: resolution of the band levels; None if there are none.
        channel_mask: positions of the channels, one bit each, 1..2^32-1 (`common.speakers`); None if they are unknown,
            or mono or stereo.

    Raises:
        BitstreamError: a field is outside of its range.
    """

    model_fingerprint: bytes
    model_name: str
    sample_rate: int
    channels: int
    n_samples: int | None
    gain_db: float
    model_sample_rate: int
    hop_length: int
    n_codebooks: int
    codebook_size: int
    gain_source: GainSource = GainSource.WHOLE
    bandwidth: int | None = None
    coding: Coding = Coding.FIXED
    context_fingerprint: bytes | None = None
    layers: tuple[int, ...] = ()
    levels: LevelParameters | None = None
    channel_mask: int | None = None
    codebook_sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fingerprint("model_fingerprint", self.model_fingerprint)
        check_model_name(self.model_name)
        self._check_integer("sample_rate", 1, _MAX_SAMPLE_RATE)
        self._check_integer("channels", 1, (1 << 16) - 1)
        if self.n_samples is not None:
            self._check_integer("n_samples", 0, MAX_VARINT - 1)
        self._check_integer("model_sample_rate", 1, _MAX_SAMPLE_RATE)
        self._check_integer("hop_length", 1, self.model_sample_rate)
        self._check_integer("n_codebooks", 1, _MAX_PLANES)
        if self.channels * self.n_codebooks > _MAX_PLANES:
            raise BitstreamError(
                f"channels * n_codebooks must be at most {_MAX_PLANES}, found {self.channels} * {self.n_codebooks}"
            )
        self._check_integer("codebook_size", 2, 1 << MAX_BITS)
        sizes = tuple(checked_integer(size, "codebook_sizes", 2, self.codebook_size) for size in self.codebook_sizes)
        if sizes and not len(sizes) == self.n_codebooks <= _MAX_SIZED_CODEBOOKS:
            raise BitstreamError(
                f"codebook_sizes must be n_codebooks = {self.n_codebooks} numbers, at most {_MAX_SIZED_CODEBOOKS}, "
                f"found {len(sizes)}"
            )
        object.__setattr__(self, "codebook_sizes", sizes if min(sizes, default=0) < self.codebook_size else ())
        if self.sample_rate * self.hop_length < self.model_sample_rate:
            raise BitstreamError(
                f"sample_rate must not be below the frame rate of {self.frame_rate:g} Hz, found {self.sample_rate} Hz"
            )
        self._check_integer("gain_source", 0, max(GainSource))
        object.__setattr__(self, "gain_source", GainSource(self.gain_source))
        if self.bandwidth is not None:
            self._check_integer("bandwidth", 1, _MAX_SAMPLE_RATE)
        if self.channel_mask is not None:
            self._check_integer("channel_mask", 1, (1 << 32) - 1)
            if (n_positions := self.channel_mask.bit_count()) != self.channels:
                raise BitstreamError(f"channel_mask must have {self.channels} bits set, found {n_positions}")
        object.__setattr__(self, "gain_db", checked_float32(self.gain_db, "gain_db"))
        self._check_integer("coding", 0, max(Coding))
        object.__setattr__(self, "coding", Coding(self.coding))
        self._check_layers()

    def _check_layers(self) -> None:
        if self.coding is Coding.FIXED:
            if self.context_fingerprint is not None or self.layers or self.levels is not None:
                raise BitstreamError("context_fingerprint, layers and levels need the coding LAYERED")
            return
        self._check_integer("n_codebooks", 1, 64)
        if self.context_fingerprint is not None:
            check_fingerprint("context_fingerprint", self.context_fingerprint)
        layers = self.layers or default_layers(self.n_codebooks)
        layers = tuple(checked_integer(layer, "layers", 1, self.n_codebooks) for layer in layers)
        if len(layers) > _MAX_LAYERS or sum(layers) != self.n_codebooks:
            raise BitstreamError(
                f"layers must be at most {_MAX_LAYERS} numbers with the sum {self.n_codebooks} of n_codebooks, "
                f"found {layers}"
            )
        object.__setattr__(self, "layers", layers)

    def _check_integer(self, field: str, low: int, high: int) -> None:
        object.__setattr__(self, field, checked_integer(getattr(self, field), field, low, high))

    @property
    def bits_per_code(self) -> int:
        """Bits per code of the largest codebook, ceil(log2(codebook_size)): 1..16."""
        return (self.codebook_size - 1).bit_length()

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits per code of each codebook."""
        sizes = self.codebook_sizes or (self.codebook_size,) * self.n_codebooks
        return tuple((size - 1).bit_length() for size in sizes)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.model_sample_rate / self.hop_length

    @property
    def bitrate(self) -> float:
        """Bits per second of the codes of all channels, without header and chunk overhead."""
        return self.channels * sum(self.widths) * self.frame_rate

    def expected_frames(self, n_samples: int) -> int:
        """Frames needed for `n_samples` samples of the original audio: ceil(n * model_rate / rate / hop)."""
        return -(-n_samples * self.model_sample_rate // (self.sample_rate * self.hop_length))

    def covered_samples(self, n_frames: int) -> int:
        """Samples of the original audio that `n_frames` frames cover: floor(frames * hop * rate / model_rate)."""
        return n_frames * self.hop_length * self.sample_rate // self.model_sample_rate

    def possible_frames(self, n_samples: int) -> range:
        """Valid numbers of frames for `n_samples` samples: resampling may round to one more or less."""
        expected = self.expected_frames(n_samples)
        return range(max(expected - _FRAME_TOLERANCE, min(n_samples, 1)), expected + _FRAME_TOLERANCE + 1)

    def max_frames(self) -> float:
        """Maximum number of frames in a file with this header; infinite if the length is open."""
        return math.inf if self.n_samples is None else self.possible_frames(self.n_samples)[-1]

    def check_length(self, n_samples: int, n_frames: int) -> None:
        """Raise BitstreamError if `n_frames` is no valid number of frames for `n_samples` samples."""
        if n_frames not in self.possible_frames(n_samples):
            raise BitstreamError(
                f"{n_samples} samples per channel at {self.sample_rate} Hz take {self.expected_frames(n_samples)} "
                f"frames, found {n_frames}"
            )


def encode_header(header: Header) -> bytes:
    """Return the bytes of `header`, from the magic to the checksum."""
    body = b"".join(
        (
            encode_varint(_REQUIRED_FEATURES | (_FEATURE_SIZES if header.codebook_sizes else 0)),
            header.model_fingerprint,
            encode_varint(header.sample_rate),
            encode_varint(header.channels),
            encode_varint(0 if header.n_samples is None else header.n_samples + 1),
            FLOAT32.pack(header.gain_db),
            encode_varint(header.model_sample_rate),
            encode_varint(header.hop_length),
            encode_varint(header.n_codebooks),
            encode_varint(header.codebook_size),
            bytes([header.coding]),
        )
    )
    extensions = {
        _EXTENSION_MODEL_NAME: header.model_name.encode(),
        _EXTENSION_GAIN_SOURCE: bytes([header.gain_source]) if header.gain_source else b"",
        _EXTENSION_BANDWIDTH: b"" if header.bandwidth is None else encode_varint(header.bandwidth),
        _EXTENSION_CONTEXT: header.context_fingerprint or b"",
        _EXTENSION_LAYERS: b"".join(map(encode_varint, header.layers)),
        _EXTENSION_LEVELS: b"" if header.levels is None else _encode_levels(header.levels),
        _EXTENSION_CHANNEL_MASK: b"" if header.channel_mask is None else encode_varint(header.channel_mask),
        _EXTENSION_SIZES: b"".join(map(encode_varint, header.codebook_sizes)),
    }
    for tag, value in extensions.items():
        if value:
            body += encode_varint(tag) + encode_varint(len(value)) + value
    return with_crc(MAGIC + bytes([VERSION]) + encode_varint(len(body)) + body)


def read_header(source: StreamReader) -> Header:
    """Read a header. Raises as `Reader` does."""
    source.begin_checksum()
    magic = source.read_up_to(len(MAGIC))
    if not MAGIC.startswith(magic):
        legacy = ": a file of descript-audio-codec? read_legacy reads those" if magic == b"\x93NUM" else ""
        raise BitstreamError(f"not a .dac file: it must begin with {MAGIC!r}, found {magic!r}{legacy}")
    if magic != MAGIC:
        raise TruncatedBitstreamError(f"the file ends early, after {len(magic)} bytes")
    version = source.read(1, "the header")[0]
    if version != VERSION:
        raise BitstreamError(f"the file has version {version} of the .dac format, this package reads version {VERSION}")
    size = source.read_varint("the header")
    if size > _MAX_HEADER_BODY:
        raise BitstreamError(f"the header claims {size} bytes, the format allows {_MAX_HEADER_BODY}")
    fields = FieldReader(source.read(size, "the header"), "the header")
    source.check_checksum("the header")

    features = fields.varint()
    if features & ~_FEATURE_SIZES != _REQUIRED_FEATURES:
        known = _REQUIRED_FEATURES | _FEATURE_SIZES
        raise BitstreamError(
            f"the file requires features {features:#x}, this package reads features {known:#x}: "
            "another version may read it"
        )
    return Header(  # the arguments are read in this order
        model_fingerprint=fields.take(FINGERPRINT_BYTES),
        sample_rate=fields.varint(),
        channels=fields.varint(),
        n_samples=length - 1 if (length := fields.varint()) else None,
        gain_db=FLOAT32.unpack(fields.take(FLOAT32.size))[0],
        model_sample_rate=fields.varint(),
        hop_length=fields.varint(),
        n_codebooks=fields.varint(),
        codebook_size=fields.varint(),
        **_read_coding_and_extensions(fields, bool(features & _FEATURE_SIZES)),
    )


def _read_coding_and_extensions(fields: FieldReader, has_sizes: bool) -> dict[str, Any]:
    """Check the coding, and read the extensions to the end of the header.

    Unknown extensions are skipped. Without `has_sizes`, the codebook sizes are one of them.
    """
    coding = fields.take(1)[0]
    if coding > max(Coding):
        raise BitstreamError(
            f"the codes are stored with coding {coding}, this version reads codings 0 to {max(Coding):d}: "
            "a newer version of this package may read it"
        )
    known = (*_EXTENSIONS[coding], *([_EXTENSION_SIZES] if has_sizes else []))
    found: dict[int, bytes] = {}
    while fields.left:
        tag = fields.varint()
        value = fields.take(fields.varint())
        if tag in known and tag in found:
            raise BitstreamError(f"the header holds extension {tag} twice")
        found[tag] = value
    try:
        name = found.get(_EXTENSION_MODEL_NAME, b"").decode()
    except UnicodeDecodeError:
        raise BitstreamError("the model name in the header is not valid UTF-8") from None
    sources = {bytes([source]): source for source in GainSource}
    arguments: dict[str, Any] = {
        "model_name": name,
        "gain_source": sources.get(found.get(_EXTENSION_GAIN_SOURCE, b""), GainSource.WHOLE),
        "bandwidth": _varint_field(found.get(_EXTENSION_BANDWIDTH), "the bandwidth in the header"),
        "coding": coding,
        "channel_mask": _varint_field(found.get(_EXTENSION_CHANNEL_MASK), "the channel mask in the header"),
    }
    if has_sizes:
        arguments["codebook_sizes"] = _varint_fields(found, _EXTENSION_SIZES, "the sizes of its codebooks")
    if coding == Coding.LAYERED:
        arguments["context_fingerprint"] = found.get(_EXTENSION_CONTEXT)
        arguments["layers"] = _varint_fields(found, _EXTENSION_LAYERS, "the layers of its codes")
        if _EXTENSION_LEVELS in found:
            arguments["levels"] = _decode_levels(found[_EXTENSION_LEVELS])
    return arguments


def _varint_field(value: bytes | None, name: str) -> int | None:
    if value is None:
        return None
    field = FieldReader(value, name)
    number = field.varint()
    field.expect_end()
    return number


def _varint_fields(found: dict[int, bytes], tag: int, name: str) -> tuple[int, ...]:
    """The numbers in a required extension."""
    if not found.get(tag):
        raise BitstreamError(f"the header does not give {name}")
    field = FieldReader(found[tag], f"{name} in the header")
    numbers = []
    while field.left:
        numbers.append(field.varint())
    return tuple(numbers)


def _encode_levels(levels: LevelParameters) -> bytes:
    # The lowest level is not above 0, so its sign is not stored.
    integers = (levels.hop, levels.bands, levels.top, -levels.lowest, levels.highest)
    return b"".join(map(encode_varint, integers)) + FLOAT32.pack(levels.step_db)


def _decode_levels(data: bytes) -> LevelParameters:
    fields = FieldReader(data, "the extension for levels in the header")
    hop, bands, top, lowest, highest = (fields.varint() for _ in range(5))
    (step_db,) = FLOAT32.unpack(fields.take(FLOAT32.size))
    fields.expect_end()
    return LevelParameters(hop, bands, top, step_db, -lowest, highest)
