"""Additive quantization: sums of entries, without an order of the codebooks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dac_codec.quantization.base import blocks
from dac_codec.quantization.least_squares import least_squares
from dac_codec.quantization.residual import ResidualQuantizer, search


class AdditiveQuantizer(ResidualQuantizer):
    """Decoding adds up one entry of each codebook, as in residual quantization; the encoder treats all codebooks alike.

    Finding the best sum is NP-hard. M-search is followed by iterated conditional modes (ICM): each code in turn becomes
    the best one with the others fixed. Then some codes are changed at random, ICM runs again, and what is better is
    kept. Fitting starts from a residual quantizer; codebooks by least squares, and codes, which continue from the codes
    before, take turns.

    Encoding costs K D M products for each of the (1 + perturbations) * sweeps of ICM, beside the M-search; storage is
    K D M numbers. Sources: Babenko & Lempitsky, "Additive quantization for extreme vector compression", 2014; Martinez
    et al., "Revisiting additive quantization", 2016, and "LSQ++", 2018.

    >>> quantizer = AdditiveQuantizer(1, [2, 2])
    >>> _ = quantizer.entries.copy_(torch.tensor([[0.0], [10.0], [0.0], [-6.0]]))
    >>> quantizer(torch.tensor([[4.2]])).item()  # greedy encoding gives 0 + 0
    4.0

    Args:
        dim: width D.
        sizes: entries K of each of the M codebooks.
        beam: paths of the M-search.
        rounds: of codebooks and codes in fitting.
        perturbations: times that codes are changed at random when encoding.
        sweeps: of ICM over all codes, for each of them.
        ridge: as for `ResidualQuantizer`.
    """

    def __init__(
        self,
        dim: int,
        sizes: Sequence[int],
        beam: int = 8,
        rounds: int = 20,
        perturbations: int = 8,
        sweeps: int = 2,
        ridge: float = 1.0,
    ) -> None:
        super().__init__(dim, sizes, beam, "interleaved", rounds, ridge, all_paths=True)
        self._perturbations, self._sweeps = perturbations, sweeps

    def encode(self, x: Tensor) -> Tensor:
        """Codes [n, M]; the random changes come from a generator with a fixed seed."""
        codes = self.modes(x, search(x, self.codebooks, self.beam))
        return self.improve(x, codes, self._perturbations, torch.Generator().manual_seed(0))

    def improve(self, x: Tensor, codes: Tensor, perturbations: int, generator: torch.Generator) -> Tensor:
        """Codes that are never worse than `codes`: random changes of up to 4 codes, each followed by ICM."""
        changed = min(4, max(1, len(self.sizes) // 2))
        for _ in range(perturbations):
            others = codes.clone()
            for _ in range(changed):
                stage = torch.randint(len(self.sizes), (len(x), 1), generator=generator)
                size = torch.tensor(self.sizes)[stage]
                code = (torch.rand(len(x), 1, generator=generator) * size).long()
                others.scatter_(1, stage.to(codes.device), code.to(codes.device))
            codes = self.better(x, codes, self.modes(x, others))
        return codes

    def modes(self, x: Tensor, codes: Tensor) -> Tensor:
        """Codes after sweeps of ICM from `codes` [n, M]."""
        parts = zip(blocks(x, max(self.sizes)), blocks(codes, max(self.sizes)), strict=True)
        return torch.cat([self._block_modes(part, own.clone()) for part, own in parts])

    def _block_modes(self, x: Tensor, codes: Tensor) -> Tensor:
        total = self.decode(codes)
        for _ in range(self._sweeps):
            for stage, codebook in enumerate(self.codebooks):
                others = total - codebook[codes[:, stage]]
                codes[:, stage] = self.costs(x, others, codebook, codes, stage).argmin(1)
                total = others + codebook[codes[:, stage]]
        return codes

    def costs(self, x: Tensor, others: Tensor, codebook: Tensor, codes: Tensor, stage: int) -> Tensor:
        """What each entry [K, D] of one stage costs beside the sum of the others [n, D], up to a constant: [n, K]."""
        return torch.addmm(codebook.square().sum(1), x - others, codebook.t(), alpha=-2)

    def refine(self, x: Tensor, generator: torch.Generator) -> None:
        """Fit codebooks and codes in turns, from the present entries."""
        codes = self.modes(x, search(x, self.codebooks, self.beam))
        for _ in range(self._rounds):
            self.update(x, codes)
            codes = self.improve(x, self.modes(x, codes), max(1, self._perturbations // 4), generator)
        self.update(x, codes)

    def update(self, x: Tensor, codes: Tensor) -> None:
        """Fit the entries to codes [n, M]."""
        self.entries.copy_(least_squares(x, self.rows(codes), self.entries, self._ridge))
