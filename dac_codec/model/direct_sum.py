"""The codebooks of a quantizer as one sum of entries.

With r_i the residual before stage i, P_i and Q_i its projections, p_i and b_i their biases, e_i the chosen entry and c
the weight of the latents' error, codes of latents z are ranked by

    sum_i |P_i r_i + p_i - e_i|^2 + c |r_N|^2,    r_0 = z,    r_{i+1} = r_i - Q_i e_i - b_i

the squared distances of all look-ups, and the error. All terms are linear in the entries: stacked, they are
|W z + w - sum_j M_j e_j|^2. (Codebooks of a direct sum: Barnes & Frost, "Vector quantizers with direct sum codebooks",
1993.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from dac_codec.model.quantizer import ResidualVectorQuantize, VectorQuantize

LATENT_WEIGHT = 5.0
"""Weight of the latents' error against the look-up's, once both have the scale of a look-up."""


class DirectSum(NamedTuple):
    """The cost of codes as |z W^T + w - sum_j e_j M_j|^2, up to terms that no entry changes.

    Attributes:
        weight: W^T [D, R].
        bias: w [R].
        maps: M_j [codebook_dim, R] of each stage.
    """

    weight: Tensor
    bias: Tensor
    maps: tuple[Tensor, ...]

    @classmethod
    def of(cls, quantizer: ResidualVectorQuantize, n_quantizers: int | None = None) -> DirectSum:
        """The cost of codes of the first codebooks, None meaning all, which have projections.

        With cosine look-up, it is the latents' error alone.
        """
        stages, dim = quantizer.stages(), quantizer.codebook_dim
        dtype = torch.float64 if stages[0].codebook.weight.dtype == torch.float64 else torch.float32
        ins, outs = zip(*map(projections, stages), strict=True)
        c = error_weight([weight for weight, _ in ins])
        identity = torch.eye(ins[0][0].shape[1]).to(c)
        ins, outs = ins[:n_quantizers], outs[:n_quantizers]
        weights, biases, maps = [], [], [[] for _ in outs]  # type: ignore[var-annotated]
        before = torch.zeros_like(outs[0][1])
        for index, ((weight, bias), (_, out_bias)) in enumerate(zip(ins, outs, strict=True)):
            if stages[0].lookup == "euclidean":
                weights.append(weight)
                biases.append(bias - weight @ before)
                for other, (out, _) in enumerate(outs):
                    own = (torch.eye if other == index else torch.zeros)(dim, dim).to(c)
                    maps[other].append(weight @ out if other < index else own)
            before = before + out_bias
        for own_maps, (out, _) in zip(maps, outs, strict=True):
            own_maps.append(c.sqrt() * out)
        weight, bias = torch.cat([*weights, c.sqrt() * identity]), torch.cat([*biases, -c.sqrt() * before])
        # What lies outside of the span of all entries is the same for all of them.
        basis, triangle = torch.linalg.qr(torch.cat([torch.cat(own) for own in maps], 1))
        reduced = tuple(part.t().to(dtype).contiguous() for part in triangle.split(dim, 1))
        return cls((weight.t() @ basis).to(dtype), (bias @ basis).to(dtype), reduced)

    def target(self, z: Tensor) -> Tensor:
        """What the sum of mapped entries approximates [n, R] for latents [n, D]."""
        return torch.addmm(self.bias, z.to(self.bias), self.weight)

    def errors(self, target: Tensor, rows: Tensor, entries: Tensor) -> Tensor:
        """Squared error [n] of the entries [K, codebook_dim] in `rows` [n, N]."""
        left = target
        for own, mapped in zip(rows.unbind(1), self.maps, strict=True):
            left = left - F.embedding(own, entries @ mapped)
        return left.square().sum(1)

    @property
    def unit(self) -> float:
        """Mean square of what a unit vector of the look-up space is mapped to."""
        return float(torch.stack([mapped.square().sum(1).mean() for mapped in self.maps]).mean())


def error_weight(weights: Sequence[Tensor]) -> Tensor:
    """Weight c of the latents' error beside the squared distances of look-ups with the input projections P [dim, D]."""
    # On average over directions, |P r|^2 = |r|^2 * |P|^2 / D with the Frobenius norm of P.
    return LATENT_WEIGHT * torch.stack([weight.square().sum() / weight.shape[1] for weight in weights]).mean()


def projections(stage: VectorQuantize) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Weights and biases of a stage's input projection [dim, D], [dim] and output projection [D, dim], [D].

    They have double precision.
    """
    both = []
    for conv in (stage.in_proj, stage.out_proj):
        assert isinstance(conv, nn.Conv1d)
        assert conv.bias is not None
        both.append((conv.weight.detach().double().squeeze(2), conv.bias.detach().double()))
    (weight, bias), (out_weight, out_bias) = both
    margins = stage.margins
    return (F.pad(weight, margins), bias), (F.pad(out_weight, (0, 0, *margins)), F.pad(out_bias, margins))
