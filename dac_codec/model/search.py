"""M-search through the codebooks of a quantizer: several paths are kept, where the greedy look-up keeps one.

With M = 2 (Barnes, Rizvi & Nasrabadi, "Advances in Residual Vector Quantization: A Review", 1996, section IV):

    stage 1          stage 2                  stage 3
            .-- 17 --+-- 3   (kept)  ----+--- 900   (best: its path 17, 3, 900 is the result)
    input --+        `-- 250             `--- 41
            `-- 5 ---+-- 77  (kept)  ----+--- 12
                     `-- 8               `--- 310

A path is ranked by the squared distances of all its look-ups so far plus `LATENT_WEIGHT` times the squared error of the
latents. The look-up alone is what the decoder was trained with, the error alone is not: docs/notes has the comparison.

Only one product, at the start, has the width D of the latents. With r the residual, e an entry, q = Q e + b its
projection to latents, P and Q the projections of a stage and c the weight, a path's cost grows at a stage by

    |P r - e|^2 + c (|r - q|^2 - |r|^2) = |p|^2 - 2 c b r + [|e|^2 + c |q|^2 - 2 (p e + u e)],   p = P r, u = c Q^T r

p, u and c b r of all stages are linear in r: choosing an entry subtracts a row of a table from them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from dac_codec.model.direct_sum import DirectSum, error_weight, projections
from dac_codec.quantization import AdditiveQuantizer

if TYPE_CHECKING:
    from dac_codec.model.quantizer import ResidualVectorQuantize

_ROWS_AT_ONCE = 512
"""Paths that are compared with a codebook at once: their scores stay in the cache."""

_GROUP = 32
"""Entries whose best is found before the entries are compared singly."""


class _Stage(NamedTuple):
    """Tables of one stage; rows = 2 * codebook_dim + 1 numbers p, u and c b r for each of N stages.

    Attributes:
        entries: what multiplies p and u [2 * codebook_dim, K].
        offset: half of the entry's own cost, negative [K].
        corrections: what choosing an entry subtracts from the numbers of all stages [K, N * rows].
    """

    entries: Tensor
    offset: Tensor
    corrections: Tensor


class PathSearch:
    """M-search for a quantizer with projections, whose weights are copied.

    With cosine look-up, the distance is that of the normalized vectors, times |p|^2, so that each stage counts by what
    it quantizes.
    """

    def __init__(self, quantizer: ResidualVectorQuantize) -> None:
        stages = quantizer.stages()
        weights = stages[0].codebook.weight
        dtype = torch.float32 if weights.dtype in (torch.bfloat16, torch.float16) else weights.dtype
        self._dim, self._is_cosine = quantizer.codebook_dim, stages[0].lookup == "cosine"
        ins, outs = zip(*map(projections, stages), strict=True)
        c = error_weight([weight for weight, _ in ins])
        rows = [
            torch.cat([weight, c * out.t(), c * out_bias[None]])
            for (weight, _), (out, out_bias) in zip(ins, outs, strict=True)
        ]
        weight = torch.cat(rows)
        self._weight = weight.to(dtype)
        self._bias = torch.cat([F.pad(bias, (0, self._dim + 1)) for _, bias in ins]).to(dtype)
        self._stages = []
        for stage, (out, out_bias) in zip(stages, outs, strict=True):
            entries = stage.codebook.weight.detach().double()
            outputs = entries @ out.t() + out_bias
            keys = F.normalize(entries) if self._is_cosine else entries
            offset = c * outputs.square().sum(1) + (0 if self._is_cosine else entries.square().sum(1))
            self._stages.append(
                _Stage(
                    torch.cat([keys, entries], 1).t().to(dtype).contiguous(),
                    (offset / -2).to(dtype),
                    (outputs @ weight.t()).to(dtype),
                )
            )

    def codes(self, z: Tensor, n_quantizers: int, n_paths: int = 1) -> Tensor:
        """Codes [B, n_quantizers, F] of the best of `n_paths` paths for latents [B, D, F]."""
        points = rearrange(z.to(self._bias.dtype), "b d f -> (b f) d")
        width = n_quantizers * (2 * self._dim + 1)
        inputs = F.linear(points, self._weight[:width], self._bias[:width])
        # Parts of equal size: products of a short remainder might round differently.
        n_parts = max(1, math.ceil(len(inputs) * n_paths / _ROWS_AT_ONCE))
        found = [self._search(part, n_quantizers, n_paths) for part in inputs.tensor_split(n_parts)]
        return rearrange(torch.cat(found), "(b f) n -> b n f", b=z.shape[0]).contiguous()

    def _search(self, inputs: Tensor, n_quantizers: int, n_paths: int) -> Tensor:
        """Codes [n, n_quantizers] of the best path for the numbers of all stages [n, n_quantizers * rows]."""
        n, d = len(inputs), self._dim
        gains = inputs.new_zeros(n, 1)  # half of the paths' costs, negative, best first
        codes = torch.empty(n, 1, 0, dtype=torch.int64, device=inputs.device)
        left = inputs[:, None]  # [n, paths, numbers of the stages left]
        for stage in self._stages[:n_quantizers]:
            points, power = left[..., : 2 * d], left[..., :d].square().sum(-1)
            if self._is_cosine:
                points = torch.cat([points[..., :d] * power.sqrt()[..., None], points[..., d:]], -1)
                power = 2 * power
            base = gains + left[..., 2 * d] - power / 2
            scores = torch.addmm(stage.offset, points.flatten(0, 1), stage.entries).view(n, -1, len(stage.offset))
            scores += base[..., None]
            chosen = largest(scores.flatten(1).float(), n_paths)
            gains = scores.flatten(1).gather(1, chosen)
            parents, entries = chosen // len(stage.offset), chosen % len(stage.offset)
            codes = torch.cat([_of_paths(codes, parents), entries[..., None]], -1)
            left = _of_paths(left[..., 2 * d + 1 :], parents)
            later = slice(inputs.shape[1] - left.shape[-1], inputs.shape[1])
            left = left - F.embedding(entries, stage.corrections[:, later])
        return codes[:, 0]


class AdditiveSearch:
    """M-search, then iterated conditional modes: each code in turn becomes the best one with the others fixed.

    Both minimize the cost of `DirectSum`. See `quantization.AdditiveQuantizer`; codes are not changed at random here.
    The quantizer has projections and euclidean look-up; its weights must not change.
    """

    _PATHS, _SWEEPS = 4, 2

    def __init__(self, quantizer: ResidualVectorQuantize) -> None:
        self._quantizer, self._paths = quantizer, PathSearch(quantizer)
        self._sums: dict[int, tuple[DirectSum, AdditiveQuantizer]] = {}  # by number of codebooks

    @torch.no_grad()
    def codes(self, z: Tensor, n_quantizers: int) -> Tensor:
        """Codes [B, n_quantizers, F] of latents [B, D, F]."""
        if n_quantizers not in self._sums:
            self._sums[n_quantizers] = self._sum(n_quantizers)
        system, sums = self._sums[n_quantizers]
        points, codes = (
            rearrange(one, "b d f -> (b f) d") for one in (z, self._paths.codes(z, n_quantizers, self._PATHS))
        )
        return rearrange(sums.modes(system.target(points), codes), "(b f) n -> b n f", b=len(z)).contiguous()

    def _sum(self, n_quantizers: int) -> tuple[DirectSum, AdditiveQuantizer]:
        """The cost, and its quantizer of the vectors that `DirectSum.target` gives."""
        system = DirectSum.of(self._quantizer, n_quantizers)
        stages = self._quantizer.stages()[:n_quantizers]
        tables = [stage.codebook.weight.to(one) @ one for stage, one in zip(stages, system.maps, strict=True)]
        sums = AdditiveQuantizer(len(system.bias), [len(table) for table in tables], sweeps=self._SWEEPS)
        sums.entries = torch.cat(tables)
        return system, sums


def largest(scores: Tensor, n: int) -> Tensor:
    """Indices [rows, n] of the n largest scores [rows, m], or of all; of equal ones the lower index comes first.

    The scores have single precision.
    """
    m = scores.shape[1]
    if m > 2 * _GROUP * n and m % _GROUP == 0:
        # The n best are in the n groups with the best maxima.
        groups = scores.unflatten(1, (-1, _GROUP))
        best = largest(groups.amax(2), n).sort(1).values
        places = (best[..., None] * _GROUP + torch.arange(_GROUP, device=scores.device)).flatten(1)
        return places.gather(1, largest(scores.gather(1, places), n))
    bits = scores.view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # integers in the order of the scores
    return ((ordered << 32) - torch.arange(m, device=scores.device)).topk(min(n, m), 1).indices


def _of_paths(values: Tensor, parents: Tensor) -> Tensor:
    """Values [n, paths, ...] of the chosen paths [n, paths']."""
    return values.gather(1, parents[..., None].expand(-1, -1, values.shape[2]))
