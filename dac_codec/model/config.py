"""The configuration of a DAC network and the four published presets."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from dac_codec.common.errors import first_names

Activation = Literal["snake", "relu"]
Lookup = Literal["cosine", "euclidean"]
CodebookLearning = Literal["gradient", "moving_average"]
QuantizerKind = Literal["residual", "grouped", "additive", "fsq"]

_KINDS = {"activation": Activation, "lookup": Lookup, "codebook_learning": CodebookLearning, "quantizer": QuantizerKind}
_CHOICES = {name: get_args(kind) for name, kind in _KINDS.items()}

OURS_ONLY = ("activation", "lookup", "codebook_learning", "quantizer", "groups", "codebook_sizes", "causal")
"""Fields that have only one value, the default, in other implementations and the published models."""


@dataclass(frozen=True)
class DACConfig:
    """Shape of a DAC network, with the field names of the published checkpoints' metadata.

    Attributes:
        encoder_dim: channels after the encoder's first convolution; doubled by each block.
        encoder_rates: stride of each encoder block, 2 or more. Their product is the hop length.
        latent_dim: width D of the latents; None means `encoder_dim * 2 ** len(encoder_rates)`.
        decoder_dim: channels after the decoder's first convolution; halved by each block.
        decoder_rates: stride of each decoder block, 1 or more, with the same product as `encoder_rates`.
        n_codebooks: number N of residual quantizers.
        codebook_size: entries K of each codebook.
        codebook_dim: width of the look-up space.
        quantizer_dropout: share p of a training batch quantized with a random number of codebooks.
        sample_rate: sampling rate of the audio, in Hz.
        activation: "snake" as in the paper, or "relu" as in its ablation.
        lookup: distance for finding the nearest entry: "cosine" (the paper's L2-normalized look-up) or "euclidean".
        codebook_learning: "gradient" as in the paper, or "moving_average", the paper's baseline from SoundStream and
            EnCodec: no projections (`codebook_dim` equals `latent_dim`), euclidean look-up.
        quantizer: "residual": each codebook quantizes what the ones before it left; a single one is plain vector
            quantization. "grouped": the channels of the latents are divided into `groups`, each with residual codebooks
            of its own; codebook i is of group i modulo `groups`. As many groups as codebooks are product quantization.
            "additive": the network of "residual", and an encoder that searches for the best sum of all codebooks used.
            "fsq": finite scalar quantization (Mentzer et al., 2023): a code is one of `codebook_size` fixed values of
            one number, the tanh of a projection (`codebook_dim` 1). All codes of a frame are needed to decode it.
        groups: of a grouped quantizer; else 1.
        codebook_sizes: entries of each codebook where they differ, or numbers of values; `codebook_size` is then their
            largest. Empty: all have `codebook_size`.
        causal: whether every convolution pads at its start only: a frame's codes depend on audio up to the frame's end
            and a frame's audio on codes up to the frame. Names and shapes of the parameters are the same either way,
            but a network only works as it was trained.

    Raises:
        ValueError: a field is out of its range, or the two products of rates differ.
    """

    encoder_dim: int = 64
    encoder_rates: tuple[int, ...] = (2, 4, 8, 8)
    latent_dim: int | None = None
    decoder_dim: int = 1536
    decoder_rates: tuple[int, ...] = (8, 8, 4, 2)
    n_codebooks: int = 9
    codebook_size: int = 1024
    codebook_dim: int = 8
    quantizer_dropout: float = 0.5
    sample_rate: int = 44100
    activation: Activation = "snake"
    lookup: Lookup = "cosine"
    codebook_learning: CodebookLearning = "gradient"
    quantizer: QuantizerKind = "residual"
    groups: int = 1
    codebook_sizes: tuple[int, ...] = ()
    causal: bool = False

    def __post_init__(self) -> None:
        # With a stride of 1 an encoder block would add a sample: its kernel of 2 is padded by 1 at each end.
        for name, lowest in (("encoder_rates", 2), ("decoder_rates", 1)):
            object.__setattr__(self, name, _checked_integers(name, getattr(self, name), lowest))
        if not isinstance(self.quantizer_dropout, (int, float)):
            raise ValueError(f"quantizer_dropout must be a number, not {reprlib.repr(self.quantizer_dropout)}")
        # Published checkpoints write "no dropout" as False.
        object.__setattr__(self, "quantizer_dropout", float(self.quantizer_dropout))
        _check_positive("encoder_dim", self.encoder_dim)
        if self.latent_dim is None:
            object.__setattr__(self, "latent_dim", self.encoder_dim * 2 ** len(self.encoder_rates))
        for name in ("latent_dim", "decoder_dim", "n_codebooks", "codebook_dim", "sample_rate"):
            _check_positive(name, getattr(self, name))
        sizes = self.codebook_sizes if isinstance(self.codebook_sizes, (list, tuple)) else (self.codebook_sizes,)
        for size in (self.codebook_size, *sizes):
            if not isinstance(size, int) or isinstance(size, bool) or not 2 <= size <= 65536:
                raise ValueError(f"codebook_size must be between 2 and 65536, not {reprlib.repr(size)}")
        if sizes and len(sizes) != self.n_codebooks:
            raise ValueError(f"codebook_sizes has {len(sizes)} sizes, expected {self.n_codebooks} (n_codebooks)")
        object.__setattr__(self, "codebook_size", max(sizes, default=self.codebook_size))
        object.__setattr__(self, "codebook_sizes", tuple(sizes) if len(set(sizes)) > 1 else ())
        if math.prod(self.encoder_rates) != math.prod(self.decoder_rates):
            raise ValueError(
                f"encoder_rates {self.encoder_rates} and decoder_rates {self.decoder_rates} have different products"
            )
        if self.decoder_dim % 2 ** len(self.decoder_rates):
            raise ValueError(f"decoder_dim {self.decoder_dim} can't be halved {len(self.decoder_rates)} times")
        if not 0.0 <= self.quantizer_dropout <= 1.0:
            raise ValueError(f"quantizer_dropout must be between 0 and 1, not {self.quantizer_dropout}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, not {reprlib.repr(getattr(self, name))}")
        if not isinstance(self.causal, bool):
            raise ValueError(f"causal must be True or False, not {reprlib.repr(self.causal)}")
        if self.codebook_learning == "moving_average" and (
            self.lookup != "euclidean" or self.codebook_dim != self.latent_dim
        ):
            raise ValueError(
                'codebook_learning "moving_average" has no projections: it needs lookup "euclidean" and a '
                f"codebook_dim of latent_dim {self.latent_dim}, not {self.lookup!r} and {self.codebook_dim}"
            )
        self._check_quantizer()

    def _check_quantizer(self) -> None:
        _check_positive("groups", self.groups)
        if (self.groups > 1) != (self.quantizer == "grouped"):
            raise ValueError(f'quantizer "grouped" has 2 groups or more and others 1, not {self.groups}')
        if self.latent_width % self.groups or self.n_codebooks % self.groups:
            raise ValueError(
                f"latent_dim {self.latent_dim} and n_codebooks {self.n_codebooks} must be multiples of groups "
                f"{self.groups}"
            )
        if self.quantizer != "residual" and self.codebook_learning == "moving_average":
            raise ValueError(f'codebook_learning "moving_average" needs quantizer "residual", not {self.quantizer!r}')
        if self.quantizer == "additive" and self.lookup != "euclidean":
            raise ValueError(f'quantizer "additive" needs lookup "euclidean", not {self.lookup!r}')
        if self.quantizer == "fsq" and (self.codebook_dim != 1 or self.quantizer_dropout or self.lookup != "euclidean"):
            raise ValueError(
                'quantizer "fsq" needs codebook_dim 1, quantizer_dropout 0 and lookup "euclidean", not '
                f"{self.codebook_dim}, {self.quantizer_dropout:g} and {self.lookup!r}"
            )

    @property
    def latent_width(self) -> int:
        """Width D of the latents, with the default filled in."""
        assert self.latent_dim is not None
        return self.latent_dim

    @property
    def encoder_channels(self) -> tuple[int, ...]:
        """Channels before each encoder block and after the last."""
        return tuple(self.encoder_dim * 2**index for index in range(len(self.encoder_rates) + 1))

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Channels before each decoder block and after the last."""
        return tuple(self.decoder_dim // 2**index for index in range(len(self.decoder_rates) + 1))

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.encoder_rates)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def bits_per_code(self) -> int:
        """Bits of a packed code of the largest codebook: ceil(log2(codebook_size))."""
        return (self.codebook_size - 1).bit_length()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Entries of each codebook."""
        return self.codebook_sizes or (self.codebook_size,) * self.n_codebooks

    def bitrate(self, n_quantizers: int | None = None) -> float:
        """Bits per second and channel with `n_quantizers` codebooks (default: all), ceil(log2(entries)) bits a code."""
        return self.frame_rate * sum((size - 1).bit_length() for size in self.sizes[:n_quantizers])

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-compatible values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DACConfig:
        """The inverse of `to_dict`; also reads the `kwargs` of a published checkpoint.

        Raises:
            ValueError: an unknown field, or a value of the wrong type or range.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model configuration fields: {first_names(sorted(unknown, key=repr))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"bad model configuration: {error}") from error


def _checked_integers(name: str, values: object, lowest: int) -> tuple[int, ...]:
    """Strides as a tuple."""
    found = tuple(values) if isinstance(values, Sequence) and not isinstance(values, (str, bytes)) else ()
    if not found or any(not isinstance(value, int) or isinstance(value, bool) or value < lowest for value in found):
        raise ValueError(f"{name} must be integers of at least {lowest}, one or more, not {reprlib.repr(values)}")
    return found


def _check_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {reprlib.repr(value)}")


PRESETS: dict[str, DACConfig] = {
    "44khz": DACConfig(),
    "44khz-16kbps": DACConfig(latent_dim=128, n_codebooks=18),
    "24khz": DACConfig(encoder_rates=(2, 4, 5, 8), decoder_rates=(8, 5, 4, 2), n_codebooks=32, sample_rate=24000),
    "16khz": DACConfig(encoder_rates=(2, 4, 5, 8), decoder_rates=(8, 5, 4, 2), n_codebooks=12, sample_rate=16000),
}
"""The configurations of the published weights, by name."""
