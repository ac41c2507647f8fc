"""The quantizer: latents to codes and back."""

from __future__ import annotations

import operator
from functools import reduce
from typing import NamedTuple, SupportsIndex

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, distributed, nn

from dac_codec.model.checks import check_codes, check_whole
from dac_codec.model.config import DACConfig, Lookup
from dac_codec.model.layers import conv1d, without_autocast
from dac_codec.model.search import AdditiveSearch


class Encoded(NamedTuple):
    """Result of `DAC.encode`, of `ResidualVectorQuantize` and of a single codebook.

    Attributes:
        z: quantized latents [B, D, F], summed over codebooks.
        codes: indices of the chosen entries [B, N, F], or [B, F] of a single codebook, int64.
        latents: look-up inputs, in the spaces of the codebooks [B, N * codebook_dim, F].
        commitment_loss: mean squared distance from latents to entries, summed over codebooks: a scalar, or one value
            per item [B] of a single codebook.
        codebook_loss: the same value with the gradient going to the entries.
    """

    z: Tensor
    codes: Tensor
    latents: Tensor
    commitment_loss: Tensor
    codebook_loss: Tensor


class VectorQuantize(nn.Module):
    """One factorized codebook with cosine look-up (section 3.2 of the paper).

    The input is projected to `codebook_dim` dimensions, the entry nearest in angle is chosen (input and entries
    L2-normalized), and the entry itself, not normalized, is projected back. The gradient is straight-through.

    Args:
        input_dim: width D of the input.
        codebook_size: number K of entries.
        codebook_dim: width of the look-up space.
        lookup: "cosine", or "euclidean" without the normalization.
        project: whether there are projections; if not, `codebook_dim` must be `input_dim`.
        channels: first and last channel, exclusive, that are quantized; the others of the output are 0. None: all.
    """

    def __init__(
        self,
        input_dim: int,
        codebook_size: int,
        codebook_dim: int,
        lookup: Lookup = "cosine",
        project: bool = True,
        channels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.lookup = lookup
        first, last = channels or (0, input_dim)
        self.margins: tuple[int, int] = first, input_dim - last
        """Channels before and after those that are quantized."""
        self.in_proj: nn.Conv1d | nn.Identity = conv1d(last - first, codebook_dim, 1) if project else nn.Identity()
        self.out_proj: nn.Conv1d | nn.Identity = conv1d(codebook_dim, last - first, 1) if project else nn.Identity()
        self.codebook: nn.Embedding = nn.Embedding(codebook_size, codebook_dim)
        self.rotates = False
        """Whether the gradient is that of the rotation trick (`rotated`), instead of straight-through."""

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Encoded:
        """Quantize z [B, D, F]; `generator` is for subclasses that learn with randomness."""
        latents = self.inputs(z)
        return self._encoded(latents, self.look_up(latents))

    def with_codes(self, z: Tensor, codes: Tensor) -> Encoded:
        """`forward` with given codes [B, F]; those below 0 are looked up."""
        latents = self.inputs(z)
        return self._encoded(latents, torch.where(codes < 0, self.look_up(latents), codes))

    def _encoded(self, latents: Tensor, codes: Tensor) -> Encoded:
        entries = self.entries(codes)
        commitment_loss = F.mse_loss(latents, entries.detach(), reduction="none").mean([1, 2])
        codebook_loss = F.mse_loss(entries, latents.detach(), reduction="none").mean([1, 2])
        passed = rotated(latents, entries) if self.rotates else latents + (entries - latents).detach()
        return Encoded(self.outputs(passed), codes, latents, commitment_loss, codebook_loss)

    def inputs(self, z: Tensor) -> Tensor:
        """Look-up inputs [B, codebook_dim, F] of z [B, D, F]."""
        before, after = self.margins
        projected: Tensor = self.in_proj(z[:, before : z.shape[1] - after])
        return projected

    def outputs(self, entries: Tensor) -> Tensor:
        """What entries [B, codebook_dim, F] add to the latents [B, D, F]."""
        projected: Tensor = self.out_proj(entries)
        return F.pad(projected, (0, 0, *self.margins)) if any(self.margins) else projected

    def look_up(self, latents: Tensor) -> Tensor:
        """Codes [B, F] of the entries nearest to latents [B, codebook_dim, F]."""
        points, entries = rearrange(latents, "b d f -> (b f) d"), self.codebook.weight
        if self.lookup == "cosine":
            points, entries = F.normalize(points), F.normalize(entries)
        with without_autocast(points.device):
            # All terms of the squared distance: without those that are constant for unit vectors, ties break otherwise.
            distance = points.pow(2).sum(1, keepdim=True) - 2 * points @ entries.t() + entries.pow(2).sum(1)[None]
        return rearrange(distance.argmin(1), "(b f) -> b f", b=latents.shape[0])

    def entries(self, codes: Tensor) -> Tensor:
        """Entries [B, codebook_dim, F] of codes [B, F]."""
        return rearrange(F.embedding(codes, self.codebook.weight), "b f d -> b d f")


class FiniteScalarQuantize(VectorQuantize):
    """One number, bounded by tanh and rounded to the nearest of `n_values` fixed values from -1 to 1.

    Only the projections learn, and there is no loss of its own. Source: Mentzer et al., "Finite scalar quantization:
    VQ-VAE made simple" (2023).
    """

    def __init__(self, input_dim: int, n_values: int) -> None:
        super().__init__(input_dim, n_values, 1, "euclidean")
        self.codebook.weight = nn.Parameter(torch.linspace(-1.0, 1.0, n_values)[:, None], requires_grad=False)

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Encoded:
        """Quantize z [B, D, F]; the losses are 0."""
        quantized = super().forward(z)
        nothing = torch.zeros_like(quantized.commitment_loss)
        return quantized._replace(commitment_loss=nothing, codebook_loss=nothing)

    def inputs(self, z: Tensor) -> Tensor:
        return super().inputs(z).tanh()


def rotated(latents: Tensor, entries: Tensor) -> Tensor:
    """Entries [B, d, F] with a gradient for the latents [B, d, F] that they were chosen for: the rotation trick.

    The entry is written as a rotation and scaling of the latent, which are constants to the gradient (Fifty et al.,
    "Restructuring vector quantization with the rotation trick", 2024, equations 4 and 5): with unit vectors u of the
    latent, v of the entry and w of u + v, x -> |entry| / |latent| (x - 2 w (w x) + 2 v (u x)).
    """
    with torch.no_grad():
        u, v = F.normalize(latents, dim=1), F.normalize(entries, dim=1)
        w = F.normalize(u + v, dim=1)
        scale = entries.norm(dim=1, keepdim=True) / latents.norm(dim=1, keepdim=True).clamp(min=1e-6)
    turned: Tensor = latents - 2 * w * (w * latents).sum(1, keepdim=True) + 2 * v * (u * latents).sum(1, keepdim=True)
    result: Tensor = scale * turned
    return result


class MovingAverageQuantize(VectorQuantize):
    """A codebook whose entries are moving averages of the inputs mapped to them, as in SoundStream and EnCodec.

    It has no projections and looks up by distance. Entries start as random input vectors, and rarely used ones are
    replaced by such. The DAC paper uses it as a baseline. Sources: van den Oord et al., "Neural Discrete Representation
    Learning" (2017), appendix A.1; Zeghidour et al., "SoundStream" (2021), section III-C.

    Args:
        input_dim: width D of the input and of the entries.
        codebook_size: number K of entries.
    """

    _DECAY = 0.99  # of the moving averages, per training step
    _LEAST_USED = 2.0  # vectors per step, on average, below which an entry is replaced

    counts: Tensor
    sums: Tensor

    def __init__(self, input_dim: int, codebook_size: int) -> None:
        super().__init__(input_dim, codebook_size, input_dim, "euclidean", project=False)
        self.codebook.weight.requires_grad_(False)
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, input_dim))

    def forward(self, z: Tensor, generator: torch.Generator | None = None) -> Encoded:
        """Quantize z [B, D, F]; in training mode with gradients enabled, update the entries afterwards.

        `generator` is the randomness of replaced entries, on the CPU.
        """
        points = rearrange(z.detach(), "b d f -> (b f) d").float()
        learns = self.training and torch.is_grad_enabled() and _are_finite(points)
        if learns and not self.counts.any():
            self._replace(torch.ones_like(self.counts, dtype=torch.bool), points, generator)
        quantized = super().forward(z)
        if learns:
            self._follow(points, quantized.codes.flatten(), generator)
        return quantized

    @torch.no_grad()
    def _follow(self, points: Tensor, codes: Tensor, generator: torch.Generator | None) -> None:
        """Update the averages with points [n, D] and their codes [n]."""
        new_counts = torch.bincount(codes, minlength=len(self.counts)).to(self.counts)
        new_sums = torch.zeros_like(self.sums).index_add_(0, codes, points.to(self.sums))
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(new_counts)
            distributed.all_reduce(new_sums)
        self.counts.lerp_(new_counts, 1 - self._DECAY)
        self.sums.lerp_(new_sums, 1 - self._DECAY)
        self.codebook.weight.copy_(self.sums / self.counts.clamp(min=1e-5)[:, None])
        self._replace(self.counts < self._LEAST_USED, points, generator)

    @torch.no_grad()
    def _replace(self, which: Tensor, points: Tensor, generator: torch.Generator | None) -> None:
        """Replace the entries in a mask [K] by random points [n, D], with counts of `_LEAST_USED`."""
        chosen = torch.randint(len(points), (len(which),), generator=generator).to(points.device)
        spare = points[chosen].to(self.codebook.weight)
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast(spare, 0)
        self.codebook.weight.copy_(torch.where(which[:, None], spare, self.codebook.weight))
        self.counts.copy_(torch.where(which, self._LEAST_USED, self.counts))
        self.sums.copy_(torch.where(which[:, None], self._LEAST_USED * spare, self.sums))


def _are_finite(points: Tensor) -> bool:
    """Whether the points of all processes are finite; the trainer leaves other steps out."""
    smallest = points.isfinite().all().float()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(smallest, distributed.ReduceOp.MIN)
    return bool(smallest)


class ResidualVectorQuantize(nn.Module):
    """Residual vector quantizer: each codebook quantizes the error of the ones before it (section 3.2 of the paper).

    The other kinds of `DACConfig.quantizer` differ in what a codebook sees: with groups, some channels of that error;
    with finite scalar quantization, all of z. In additive quantization, the codes are those of the search for the best
    sum (`AdditiveSearch`), with as many codebooks as are used; all else is the same.

    It computes in the type of its weights, also within `torch.autocast`: the 8-bit mantissa of bfloat16 can't separate
    1024 entries.

    Args:
        config: of the network. With `quantizer_dropout` p, the first int(B * p) items of a training batch use a random
            number of codebooks, the others all of them (Zeghidour et al., SoundStream, section III-C, as in the DAC
            paper).
    """

    def __init__(self, config: DACConfig) -> None:
        super().__init__()
        self.n_codebooks: int = config.n_codebooks
        self.codebook_size: int = config.codebook_size
        self.sizes: tuple[int, ...] = config.sizes
        self.codebook_dim: int = config.codebook_dim
        self.quantizer_dropout: float = config.quantizer_dropout
        self.is_finite_scalar: bool = config.quantizer == "fsq"
        self.is_additive: bool = config.quantizer == "additive"
        self.quantizers: nn.ModuleList = nn.ModuleList(_codebook(config, index) for index in range(config.n_codebooks))

    def forward(self, z: Tensor, n_quantizers: int | None = None, generator: torch.Generator | None = None) -> Encoded:
        """Quantize z [B, D, F].

        Args:
            z: latents.
            n_quantizers: codebooks to use, in training mode too. None means all, or in training mode a number per
                item chosen by quantizer dropout.
            generator: source of randomness, on the CPU.

        Raises:
            ValueError: `n_quantizers` is not between 1 and the number of codebooks, or not all with finite scalars.
        """
        # Dropped codebooks are computed as well, so that codes have N rows, as in the reference.
        n_rows = self.checked(n_quantizers)
        used = torch.full(z.shape[:1], n_rows)  # codebooks of each item
        if self.training and n_quantizers is None:
            n_dropout = int(z.shape[0] * self.quantizer_dropout)
            used[:n_dropout] = torch.randint(1, n_rows + 1, (n_dropout,), generator=generator)
        used = used.to(z.device)
        residual = z = z.to(self._dtype)
        total = torch.zeros_like(z)
        commitment_loss = codebook_loss = z.new_zeros(())
        codes, latents = [], []
        with without_autocast(z.device):
            found = self._searched(z, used) if self.is_additive else None
            for index, stage in enumerate(self.stages()[:n_rows]):
                step: Encoded = (
                    stage(residual, generator) if found is None else stage.with_codes(residual, found[index])
                )
                in_use = (index < used).to(z.dtype)
                total = total + step.z * in_use[:, None, None]
                if not self.is_finite_scalar:
                    residual = residual - step.z
                commitment_loss = commitment_loss + (step.commitment_loss * in_use).mean()
                codebook_loss = codebook_loss + (step.codebook_loss * in_use).mean()
                codes.append(step.codes)
                latents.append(step.latents)
            return Encoded(total, torch.stack(codes, 1), torch.cat(latents, 1), commitment_loss, codebook_loss)

    def _searched(self, z: Tensor, used: Tensor) -> Tensor:
        """Codes [N, B, F] of the best sums of the first codebooks, `used` [B] for each item of z; -1 after them."""
        codes = torch.full((self.n_codebooks, len(z), z.shape[2]), -1, device=z.device)
        search = AdditiveSearch(self)
        for number in used.unique().tolist():
            codes[:number, used == number] = search.codes(z[used == number], number).transpose(0, 1)
        return codes

    def from_codes(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents of codes [B, n, F], n <= N.

        A code of -1 adds nothing: a frame with fewer codes has the latents that these have alone.

        Returns:
            z [B, D, F], the chosen entries [B, n * codebook_dim, F], 0 where there are none, and the codes.

        Raises:
            ValueError: as `check_codes` does.
        """
        check_codes(codes, self.sizes)
        if self.is_finite_scalar:
            check_whole(codes.shape[1], self.sizes)
        codes = codes.long()
        absent, present = codes < 0, codes.clamp(min=0)
        entries = [stage.entries(part) for stage, part in zip(self.stages(), present.unbind(1), strict=False)]
        with without_autocast(codes.device):
            parts = [stage.outputs(part) for stage, part in zip(self.stages(), entries, strict=False)]
        for found in (entries, parts):
            found[:] = [part.masked_fill(absent[:, index, None], 0) for index, part in enumerate(found)]
        return reduce(torch.add, parts), torch.cat(entries, 1), codes

    def from_latents(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize look-up inputs [B, n * codebook_dim, F]: latents already projected to the codebooks' spaces.

        Returns:
            z [B, D, F], the chosen entries [B, n * codebook_dim, F], and the codes [B, n, F].

        Raises:
            ValueError: the width is not a multiple of `codebook_dim`, or exceeds N codebooks; or additive quantization.
        """
        if self.is_additive:
            raise ValueError("a model with quantizer 'additive' has no codes of look-up inputs; encode the latents z")
        if latents.ndim != 3 or latents.shape[1] % self.codebook_dim or latents.shape[1] == 0:
            raise ValueError(f"latents must be [B, n * {self.codebook_dim}, F], not {list(latents.shape)}")
        parts = latents.to(self._dtype).split(self.codebook_dim, 1)
        if len(parts) > self.n_codebooks:
            raise ValueError(f"latents of {len(parts)} codebooks for a model that has {self.n_codebooks}")
        codes = torch.stack([stage.look_up(part) for stage, part in zip(self.stages(), parts, strict=False)], 1)
        return self.from_codes(codes)

    def checked(self, n_quantizers: SupportsIndex | None) -> int:
        """The number of codebooks to use, None meaning all; raises a ValueError unless it is possible."""
        if n_quantizers is None:
            return self.n_codebooks
        try:
            number = operator.index(n_quantizers)
        except TypeError:
            number = 0
        if isinstance(n_quantizers, bool) or not 1 <= number <= self.n_codebooks:
            raise ValueError(
                f"n_quantizers must be an integer between 1 and {self.n_codebooks}, the codebooks of this model, not "
                f"{n_quantizers!r}"
            )
        if self.is_finite_scalar:
            check_whole(number, self.sizes)
        return number

    def stages(self) -> list[VectorQuantize]:
        """The codebooks, in order."""
        return [stage for stage in self.quantizers if isinstance(stage, VectorQuantize)]

    @property
    def _dtype(self) -> torch.dtype:
        return self.stages()[0].codebook.weight.dtype


def _codebook(config: DACConfig, index: int) -> VectorQuantize:
    """A stage of the quantizer."""
    width, size = config.latent_width, config.sizes[index]
    if config.quantizer == "fsq":
        return FiniteScalarQuantize(width, size)
    if config.codebook_learning == "moving_average":
        return MovingAverageQuantize(width, size)
    part = width // config.groups
    first = index % config.groups * part
    return VectorQuantize(width, size, config.codebook_dim, config.lookup, channels=(first, first + part))
