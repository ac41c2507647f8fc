"""The quantizer with all that doesn't depend on the signal worked out beforehand."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.inference.precision import pinned_precision
from dac_codec.model.checks import check_codes
from dac_codec.model.quantizer import MovingAverageQuantize, ResidualQuantized, ResidualVectorQuantize

_FRAMES_AT_ONCE = 4096
"""Frames that are compared with the entries of a codebook at once: each takes memory for every entry."""


class _Codebook(NamedTuple):
    """What a look-up needs.

    Attributes:
        own: the entries as they are [K, codebook_dim].
        entries: [codebook_dim, K], normalized if the look-up is by angle.
        offset: half of their squared lengths, negative [K].
        answers: what the entries add to the quantized latents [K, D].
        corrections: what choosing an entry takes from what is looked up in all codebooks [K, N * codebook_dim].
    """

    own: Tensor
    entries: Tensor
    offset: Tensor
    answers: Tensor
    corrections: Tensor


class FoldedQuantizer:
    """A residual quantizer that never leaves the codebooks' few dimensions.

    The projection of what earlier codebooks left is the projection of the latents less that of the entries chosen: one
    matrix product projects for all codebooks, and the entries' projections are tables. A codebook then costs one
    product with its entries. (Section 3.2 of the DAC paper, with the linear maps multiplied out.)

    Args:
        quantizer: its weights are taken as they are now: nothing of it is kept.
        exact: whether products in single precision are made in nothing less (`pinned_precision`).
    """

    def __init__(self, quantizer: ResidualVectorQuantize, exact: bool = False) -> None:
        self._device, self._is_exact = next(quantizer.parameters()).device, exact
        stages = quantizer.stages()
        self.n_codebooks, self.codebook_size = quantizer.n_codebooks, quantizer.codebook_size
        self.codebook_dim = quantizer.codebook_dim
        self._by_angle = stages[0].lookup == "cosine"
        self._plain: ResidualVectorQuantize | None = None
        if any(isinstance(stage, MovingAverageQuantize) for stage in stages):
            self._plain = copy.deepcopy(quantizer).eval()  # There are no projections to be folded.
            return
        self._dtype = stages[0].codebook.weight.dtype
        dtype = torch.float32 if self._dtype in (torch.bfloat16, torch.float16) else self._dtype
        into = [_projection(stage.in_proj) for stage in stages]
        self._projection = torch.cat([weight for weight, _ in into]).to(dtype)
        self._bias = torch.cat([bias for _, bias in into]).to(dtype)
        joined = torch.cat([weight for weight, _ in into])
        self._codebooks = []
        for stage in stages:
            weight, bias = _projection(stage.out_proj)
            entries = stage.codebook.weight.detach().double()
            answers = entries @ weight.t() + bias
            own = entries.to(dtype, copy=True)
            if self._by_angle:
                entries = F.normalize(entries)
            self._codebooks.append(
                _Codebook(
                    own,
                    entries.t().to(dtype).contiguous(),
                    (entries.pow(2).sum(1) / -2).to(dtype),
                    answers.to(dtype),
                    (answers @ joined.t()).to(dtype),
                )
            )

    def encode(self, z: Tensor, n_quantizers: int) -> ResidualQuantized:
        """Quantize latents [B, F, D].

        Returns:
            What `ResidualVectorQuantize` returns, of its types, with its z [B, D, F]; in single precision a code may
            differ where two entries are equally near to its rounding.
        """
        with pinned_precision(self._device, self._is_exact):
            if self._plain is not None:
                quantized: ResidualQuantized = self._plain(z.transpose(1, 2), n_quantizers)
                return quantized
            codes, latents = self._look_up(z, n_quantizers)
            error = latents.new_zeros(())
            width = self.codebook_dim
            for index in range(n_quantizers):
                entries = F.embedding(codes[:, index], self._codebooks[index].own).transpose(1, 2)
                error = error + F.mse_loss(latents[:, index * width : (index + 1) * width], entries)
            z, latents, error = (found.to(self._dtype) for found in (self.decode(codes), latents, error))
            return ResidualQuantized(z.transpose(1, 2), codes, latents, error, error.clone())

    def codes(self, z: Tensor, n_quantizers: int) -> Tensor:
        """Codes [B, n_quantizers, F] of latents [B, F, D]."""
        with pinned_precision(self._device, self._is_exact):
            if self._plain is not None:
                codes: Tensor = self._plain(z.transpose(1, 2), n_quantizers).codes
                return codes
            return self._look_up(z, n_quantizers)[0]

    def decode(self, codes: Tensor) -> Tensor:
        """Latents [B, F, D] of codes [B, n, F].

        Raises:
            ValueError: as of `ResidualVectorQuantize.check_codes`.
        """
        with pinned_precision(self._device, self._is_exact):
            if self._plain is not None:
                return self._plain.from_codes(codes)[0].transpose(1, 2)
            check_codes(codes, self.n_codebooks, self.codebook_size)
            z = F.embedding(codes[:, 0].long(), self._codebooks[0].answers)
            for index in range(1, codes.shape[1]):
                z += F.embedding(codes[:, index].long(), self._codebooks[index].answers)
            return z

    def _look_up(self, z: Tensor, n_quantizers: int) -> tuple[Tensor, Tensor]:
        """Codes [B, n, F] and what was looked up [B, n * codebook_dim, F]."""
        batch, n_frames, _ = z.shape
        width = n_quantizers * self.codebook_dim
        z = z.to(self._bias.dtype)
        left = F.linear(z.flatten(0, 1), self._projection[:width], self._bias[:width])
        codes = torch.empty(n_quantizers, batch * n_frames, dtype=torch.int64, device=z.device)
        # Parts of equal size: of a small rest, products may be rounded in another way.
        n_parts = max(1, -(-codes.shape[1] // _FRAMES_AT_ONCE))
        for part, found in zip(left.tensor_split(n_parts), codes.tensor_split(n_parts, 1), strict=True):
            self._search(part, found)
        return (
            codes.view(n_quantizers, batch, n_frames).transpose(0, 1).contiguous(),
            left.view(batch, n_frames, -1).transpose(1, 2),
        )

    def _search(self, left: Tensor, codes: Tensor) -> None:
        """Write the nearest entries of points [n, n_quantizers * codebook_dim] to codes [n_quantizers, n].

        Of what is looked up in later codebooks, what the earlier ones' entries give is taken in place.
        """
        width = self.codebook_dim
        for index, codebook in enumerate(self._codebooks[: len(codes)]):
            points = left[:, index * width : (index + 1) * width]
            if self._by_angle:
                points = F.normalize(points)
            # The nearest entry: |p - e|^2 is |p|^2 - 2 (p e - |e|^2 / 2).
            torch.argmax(torch.addmm(codebook.offset, points, codebook.entries), 1, out=codes[index])
            later = slice((index + 1) * width, left.shape[1])
            left[:, later] -= F.embedding(codes[index], codebook.corrections[:, later])


def _projection(conv: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight [O, I] and bias [O] of a convolution of width 1, in double precision."""
    assert isinstance(conv, nn.Conv1d)
    assert conv.bias is not None
    return conv.weight.detach().double().squeeze(2), conv.bias.detach().double()
