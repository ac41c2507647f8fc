"""The whole network: encoder, quantizer and decoder."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dac_codec.model.checks import check_audio, check_latents
from dac_codec.model.config import DACConfig
from dac_codec.model.decoder import Decoder, pad_to_length
from dac_codec.model.encoder import Encoder
from dac_codec.model.layers import convolutions
from dac_codec.model.quantizer import Encoded, ResidualVectorQuantize


class EncodedRows(NamedTuple):
    """Result of `DAC.encode` for waveforms of different lengths.

    Attributes:
        codes: [B, N, F] of the longest, int64, zeros after a row's end.
        mask: which frames are a row's [B, F], bool.
    """

    codes: Tensor
    mask: Tensor


class DAC(nn.Module):
    """The Descript Audio Codec network (Kumar et al., 2023, arXiv 2306.06546).

    Attributes:
        config: shape of the network.
        name: name of the weights; "unnamed" until they are loaded.
        weights_file: the file that they were read from; None if they were not.
    """

    def __init__(self, config: DACConfig) -> None:
        super().__init__()
        self.config: DACConfig = config
        self.name: str = "unnamed"
        self.weights_file: Path | None = None
        self.encoder: Encoder = Encoder(config)
        self.quantizer: ResidualVectorQuantize = ResidualVectorQuantize(config)
        self.decoder: Decoder = Decoder(config)

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> DAC:
        """Load a model by name, from a folder, a `.pth` file or the Hub; see `dac_codec.pretrained.load`.

        Raises:
            CheckpointError: the model does not exist or is not valid.
            DacError: the device can't be used.
        """
        # This package imports from higher floors only in this class: users expect these names on it.
        from dac_codec import pretrained

        return pretrained.load(name_or_path, device)

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: Literal["float32", "float16"] = "float32") -> None:
        """Write the model to a folder for `from_pretrained`, without a context model; see `dac_codec.pretrained.save`.

        Raises:
            CheckpointError: a weight isn't finite or exceeds the range of `dtype`, or the files can't be written.
        """
        from dac_codec import pretrained

        pretrained.save(self, folder, dtype=dtype)

    def push_to_hub(
        self,
        repository: str,
        license: str | None = None,
        report: str | os.PathLike[str] | None = None,
        private: bool | None = None,
        message: str = "Upload model",
        token: str | None = None,
    ) -> str:
        """Upload the model to the Hugging Face Hub, with a model card; see `dac_codec.pretrained.push`.

        Raises:
            CheckpointError: huggingface_hub is not installed, the report is not valid, or the upload fails.
            ValueError: `repository` is not "owner/name".
        """
        from dac_codec import pretrained

        return pretrained.push(self, repository, license, report, private, message, token)

    @property
    def sample_rate(self) -> int:
        """Sampling rate in Hz."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    @property
    def n_codebooks(self) -> int:
        """Number N of codebooks."""
        return self.config.n_codebooks

    @property
    def codebook_size(self) -> int:
        """Entries of each codebook."""
        return self.config.codebook_size

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    def preprocess(self, audio: Tensor, sample_rate: int | None = None) -> Tensor:
        """Convert audio [B, 1, T] to the parameters' type and zero-pad its end to a multiple of the hop length.

        Raises:
            ValueError: the shape is not [B, 1, T] with B, T > 0, the samples are integers, or `sample_rate` is given
                and not the model's.
        """
        check_audio(audio)
        self._check_rate(sample_rate)
        return F.pad(audio.to(next(self.parameters()).dtype), (0, -audio.shape[-1] % self.hop_length))

    def _check_rate(self, sample_rate: int | None) -> None:
        if sample_rate is not None and sample_rate != self.sample_rate:
            raise ValueError(f"this model works at {self.sample_rate} Hz and the audio is at {sample_rate} Hz")

    @overload
    def encode(
        self,
        audio: Tensor,
        n_quantizers: int | None = None,
        generator: torch.Generator | None = None,
        lengths: None = None,
    ) -> Encoded: ...

    @overload
    def encode(self, audio: Sequence[Tensor], n_quantizers: int | None = None) -> EncodedRows: ...

    @overload
    def encode(
        self, audio: Tensor, n_quantizers: int | None = None, *, lengths: Sequence[int] | Tensor
    ) -> EncodedRows: ...

    def encode(
        self,
        audio: Tensor | Sequence[Tensor],
        n_quantizers: int | None = None,
        generator: torch.Generator | None = None,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> Encoded | EncodedRows:
        """Encode audio [B, 1, T], zero-padded at its end to F = ceil(T / hop_length) frames.

        Waveforms of different lengths, in a list or padded with their `lengths`, give codes and a mask, each row with
        the codes that it has alone up to rounding; without a gradient, and as in evaluation.

        Args:
            audio: samples in [-1, 1] at the model's rate, of any floating-point type: [B, 1, T], or a list of waveforms
                [T] or [1, T].
            n_quantizers: codebooks to use, in training mode too; None means all (in training mode: a number chosen by
                quantizer dropout).
            generator: source of the dropout's randomness, on the CPU.
            lengths: samples of each row of [B, 1, T]; the values after them are ignored.

        Raises:
            ValueError: a wrong shape, integer samples, or `n_quantizers` or a length out of range.
        """
        if isinstance(audio, Tensor) and lengths is None:
            return self._encode(audio, n_quantizers, generator)
        # From a higher floor, too: the rows need the look-ahead that `inference` computes.
        from dac_codec import inference

        codes, mask = inference.encode_padded(self, audio, lengths, n_quantizers)
        return EncodedRows(codes.to(self.device), mask.to(self.device))

    def _encode(self, audio: Tensor, n_quantizers: int | None, generator: torch.Generator | None) -> Encoded:
        """`encode` of rows of one length."""
        encoded: Encoded = self.quantizer(self.encoder(self.preprocess(audio)), n_quantizers, generator)
        return encoded

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents [B, D, F] to audio [B, 1, F * hop_length].

        The reference returns a few samples less, one at its own rate per odd decoder stride (8 of every file with rates
        8-5-4-2). Here the last sample is repeated instead; all others are the reference's. A causal network loses none.

        Raises:
            ValueError: a wrong shape, or no frames.
        """
        check_latents(z, self.config.latent_width)
        return pad_to_length(self.decoder(z), z.shape[-1] * self.hop_length)

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Decode codes [B, n, F] to audio [B, 1, F * hop_length]; n may be less than the number of codebooks.

        Raises:
            ValueError: a wrong shape, no frames, or codes that are not integers or outside their codebook.
        """
        return self.decode(self.quantizer.from_codes(codes)[0])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle configuration, weights, names and modes: PyTorch does not pickle weight-normalized layers."""
        merged = [index for index, conv in enumerate(convolutions(self)) if not parametrize.is_parametrized(conv)]
        frozen = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        state, file = self.state_dict(), self.weights_file and str(self.weights_file)
        return _rebuilt, (type(self), self.config, self.name, state, merged, frozen, self.training, file)

    def __deepcopy__(self, memo: dict[int, Any]) -> DAC:
        """A copy of everything, where pickling is selective."""
        copied: DAC = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self._copied_state(), memo))
        return copied

    def _copied_state(self) -> dict[str, Any]:
        return self.__dict__

    def forward(
        self,
        audio: Tensor,
        sample_rate: int | None = None,
        n_quantizers: int | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Encode and decode audio [B, 1, T].

        Returns:
            `audio` [B, 1, T], `z` [B, D, F], `codes` [B, N, F], `latents` [B, N * codebook_dim, F] and the scalars
            `vq/commitment_loss` and `vq/codebook_loss`.

        Raises:
            ValueError: as `encode` does, or `sample_rate` is given and not the model's.
        """
        self._check_rate(sample_rate)
        encoded = self.encode(audio, n_quantizers, generator)
        return {
            "audio": self.decode(encoded.z)[..., : audio.shape[-1]],
            "z": encoded.z,
            "codes": encoded.codes,
            "latents": encoded.latents,
            "vq/commitment_loss": encoded.commitment_loss,
            "vq/codebook_loss": encoded.codebook_loss,
        }


def _rebuilt(
    kind: type[DAC],
    config: DACConfig,
    name: str,
    state: dict[str, Tensor],
    merged: list[int],
    frozen: list[str],
    training: bool,
    weights_file: str | None = None,
) -> DAC:
    """A pickled model. Convolutions with a number in `merged` have no weight norm; `frozen` parameters don't learn."""
    with torch.device("meta"):
        model = kind(config)
    for index, conv in enumerate(list(convolutions(model))):
        if index in merged:
            parametrize.remove_parametrizations(conv, "weight")
    model.load_state_dict(state, assign=True)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key not in frozen)
    model.name, model.weights_file = name, Path(weights_file) if weights_file else None
    return model.train(training)
