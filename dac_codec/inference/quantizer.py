"""The residual quantizer with everything precomputed that does not depend on the signal."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dac_codec.inference.precision import pinned_precision
from dac_codec.model.checks import check_codes, check_whole
from dac_codec.model.direct_sum import projections
from dac_codec.model.quantizer import Encoded, MovingAverageQuantize, ResidualVectorQuantize
from dac_codec.model.search import AdditiveSearch

_FRAMES_AT_ONCE = 4096
"""Frames compared with a codebook at once: each takes memory for every entry."""


class _Codebook(NamedTuple):
    """Tables of one codebook, dim being `codebook_dim`.

    Attributes:
        entries: [K, dim].
        keys: entries as columns [dim, K], L2-normalized for cosine look-up.
        offset: half of the keys' squared lengths, negative [K].
        outputs: entries projected to latents [K + 1, D], and zeros for no code.
        corrections: what choosing an entry subtracts from the look-up inputs of all codebooks [K, N * dim].
    """

    entries: Tensor
    keys: Tensor
    offset: Tensor
    outputs: Tensor
    corrections: Tensor


class FoldedQuantizer:
    """A residual quantizer that works in the codebooks' few dimensions.

    With P_i the input projection of codebook i, Q_j the output projection of codebook j and e_j the entries chosen
    there, the look-up input of codebook i is

        P_i (z - sum_{j < i} Q_j e_j) = P_i z - sum_{j < i} (P_i Q_j) e_j

    One matrix product gives P_i z for all codebooks, and (P_i Q_j) e_j is a table look-up. (Section 3.2 of the DAC
    paper with the linear maps multiplied out.) In additive quantization, `AdditiveSearch` finds the codes.

    The module's weights are copied; `exact` is as for `pinned_precision`.
    """

    def __init__(self, quantizer: ResidualVectorQuantize, exact: bool = False) -> None:
        self._device, self._is_exact = next(quantizer.parameters()).device, exact
        stages = quantizer.stages()
        self._sizes, self._is_finite_scalar = quantizer.sizes, quantizer.is_finite_scalar
        self.codebook_dim: int = quantizer.codebook_dim
        self._is_cosine = stages[0].lookup == "cosine"
        self._additive = AdditiveSearch(copy.deepcopy(quantizer)) if quantizer.is_additive else None
        self._unfolded: ResidualVectorQuantize | None = None
        if any(isinstance(stage, MovingAverageQuantize) for stage in stages):
            self._unfolded = copy.deepcopy(quantizer).eval()  # It has no projections.
            return
        self._dtype = stages[0].codebook.weight.dtype
        dtype = torch.float32 if self._dtype in (torch.bfloat16, torch.float16) else self._dtype
        ins, outs = zip(*map(projections, stages), strict=True)
        weight = torch.cat([weight for weight, _ in ins])
        self._projection = weight.to(dtype)
        self._bias = torch.cat([bias for _, bias in ins]).to(dtype)
        self._codebooks = []
        for stage, (out_weight, out_bias) in zip(stages, outs, strict=True):
            entries = stage.codebook.weight.detach().double()
            outputs = entries @ out_weight.t() + out_bias
            keys = F.normalize(entries) if self._is_cosine else entries
            self._codebooks.append(
                _Codebook(
                    entries.to(dtype, copy=True),
                    keys.t().to(dtype).contiguous(),
                    (keys.pow(2).sum(1) / -2).to(dtype),
                    F.pad(outputs, (0, 0, 0, 1)).to(dtype),
                    (outputs @ weight.t()).to(dtype),
                )
            )

    def encode(self, z: Tensor, n_quantizers: int) -> Encoded:
        """Quantize latents [B, D, F], as `ResidualVectorQuantize` does.

        In single precision a code may differ where two entries are equally near within rounding.
        """
        with pinned_precision(self._device, self._is_exact):
            if self._unfolded is not None:
                encoded: Encoded = self._unfolded(z, n_quantizers)
                return encoded
            codes, latents = self._look_up(z, n_quantizers)
            error = latents.new_zeros(())
            stages = zip(codes.unbind(1), latents.split(self.codebook_dim, 1), self._codebooks, strict=False)
            for stage_codes, inputs, codebook in stages:
                entries = rearrange(F.embedding(stage_codes, codebook.entries), "b f d -> b d f")
                error = error + F.mse_loss(inputs, entries)
            z, latents, error = (tensor.to(self._dtype) for tensor in (self.decode(codes), latents, error))
            return Encoded(z, codes, latents, error, error.clone())

    @property
    def has_paths(self) -> bool:
        """Whether `PathSearch` applies: not without projections, nor to finite scalars and additive quantization."""
        return self._unfolded is None and not self._is_finite_scalar and self._additive is None

    def codes(self, z: Tensor, n_quantizers: int) -> Tensor:
        """Codes [B, n_quantizers, F] of latents [B, D, F]."""
        with pinned_precision(self._device, self._is_exact):
            if self._unfolded is not None:
                codes: Tensor = self._unfolded(z, n_quantizers).codes
                return codes
            return self._look_up(z, n_quantizers)[0]

    def errors(self, z: Tensor, codes: Tensor) -> Tensor:
        """Squared errors [B, n, F] of latents [B, D, F] with the first 1 to n of their codes [B, n, F]."""
        with pinned_precision(self._device, self._is_exact):
            errors = []
            for index, stage_codes in enumerate(codes.unbind(1)):
                z = z - rearrange(F.embedding(stage_codes, self._outputs(index)), "b f d -> b d f")
                errors.append(z.square().sum(1))
            return torch.stack(errors, 1)

    @property
    def scale(self) -> float:
        """Unit of errors of any model: a^0.4 b^0.6 for variances a, b of the outputs of the first and last codebook."""
        outputs = [self._outputs(index)[: self._sizes[index]].double() for index in (0, -1)]
        first, last = (float((one - one.mean(0)).square().sum(1).mean()) for one in outputs)
        return math.pow(first, 0.4) * math.pow(last, 0.6) or 1.0

    def _outputs(self, index: int) -> Tensor:
        """What each entry of a codebook adds to the latents, [K, D] or more rows."""
        if self._unfolded is not None:
            return self._unfolded.stages()[index].codebook.weight.detach()
        return self._codebooks[index].outputs

    def decode(self, codes: Tensor) -> Tensor:
        """Latents [B, D, F] of codes [B, n, F], -1 for no code. Raises ValueError as `check_codes` does."""
        with pinned_precision(self._device, self._is_exact):
            if self._unfolded is not None:
                return self._unfolded.from_codes(codes)[0]
            check_codes(codes, self._sizes)
            if self._is_finite_scalar:
                check_whole(codes.shape[1], self._sizes)
            tables = [codebook.outputs for codebook in self._codebooks[: codes.shape[1]]]
            parts = zip(codes.long().unbind(1), tables, strict=True)
            rows = [(own.remainder(len(table)), table) for own, table in parts]  # -1 is the last row
            z = F.embedding(*rows[0])
            for row, table in rows[1:]:
                z += F.embedding(row, table)
            return rearrange(z, "b f d -> b d f")

    def _look_up(self, z: Tensor, n_quantizers: int) -> tuple[Tensor, Tensor]:
        """Codes [B, n, F] of latents [B, D, F], and the look-up inputs [B, n * codebook_dim, F]."""
        batch, _, n_frames = z.shape
        width = n_quantizers * self.codebook_dim
        points = rearrange(z.to(self._bias.dtype), "b d f -> (b f) d")
        inputs = F.linear(points, self._projection[:width], self._bias[:width])
        if self._is_finite_scalar:
            inputs = inputs.tanh()
        codes = torch.empty(n_quantizers, batch * n_frames, dtype=torch.int64, device=z.device)
        if self._additive is not None:
            codes = rearrange(self._additive.codes(z, n_quantizers), "b n f -> n (b f)").contiguous()
        # Parts of equal size: products of a short remainder might round differently.
        n_parts = max(1, -(-codes.shape[1] // _FRAMES_AT_ONCE))
        for part, found in zip(inputs.tensor_split(n_parts), codes.tensor_split(n_parts, 1), strict=True):
            self._search(part, found)
        return (
            rearrange(codes, "n (b f) -> b n f", b=batch).contiguous(),
            rearrange(inputs, "(b f) d -> b d f", b=batch),
        )

    def _search(self, inputs: Tensor, codes: Tensor) -> None:
        """Write the nearest entries of [n, n_quantizers * codebook_dim] to codes [n_quantizers, n].

        Additive codes are there already. The entries' corrections are subtracted from `inputs` in place.
        """
        width = self.codebook_dim
        for index, codebook in enumerate(self._codebooks[: len(codes)]):
            points = inputs[:, index * width : (index + 1) * width]
            if self._is_cosine:
                points = F.normalize(points)
            # The nearest entry, since |p - e|^2 = |p|^2 - 2 (p e - |e|^2 / 2).
            if self._additive is None:
                torch.argmax(torch.addmm(codebook.offset, points, codebook.keys), 1, out=codes[index])
            if self._is_finite_scalar:
                continue
            later = slice((index + 1) * width, inputs.shape[1])
            inputs[:, later] -= F.embedding(codes[index], codebook.corrections[:, later])
