"""Residual vector quantization: a vector is the sum of one entry of each codebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from dac_codec.quantization.base import Quantizer, blocks, cell_means
from dac_codec.quantization.kmeans import k_means
from dac_codec.quantization.least_squares import least_squares

_FITTED = 128  # residuals per entry that are used if there are several paths

Design: TypeAlias = Literal["greedy", "sequential", "interleaved"]


class ResidualQuantizer(Quantizer):
    """M stages: each codebook quantizes what the ones before it left, and decoding adds the entries up.

    Encoding costs K D products a stage and path: greedy encoding follows one path, the M-search `beam` of them, of
    which the best are kept at each stage. Storage is K D numbers a stage, for log2 K bits: K D M for K^M sums.

    Designs:

    - "greedy": each codebook is fitted by k-means to the residual of the greedy encoding before it (Juang & Gray,
      "Multiple stage vector quantization for speech coding", 1982). Later stages see residuals that look like noise.
    - "sequential": from there, one codebook after the other becomes the means of x - (entries of the other stages), and
      the vectors are encoded again after each (Chan, Gupta & Gersho, "Enhanced multistage vector quantizers by joint
      codebook design", 1992).
    - "interleaved": all codebooks at once by least squares (`least_squares`), and encoding, take turns (Barnes & Frost,
      "Vector quantizers with direct sum codebooks", 1993). The ridge keeps rarely used entries near the old ones.

    Joint design entangles the codebooks: a greedy encoder fits them badly, so use it with a beam. The entries with the
    least training error of all rounds are kept, those that it started from included. M-search compares its result with
    that of the greedy encoding, so that it is never worse. Decoding and encoding again may give another vector.

    >>> x = torch.tensor([[a + b] for a in (0.0, 10.0, 20.0) for b in (0.0, 1.0, 2.0)])
    >>> quantizer = ResidualQuantizer(1, [3, 3])
    >>> quantizer.fit(x, torch.Generator().manual_seed(0))
    >>> round((quantizer(x) - x).abs().max().item(), 4)
    0.0

    Args:
        dim: width D.
        sizes: entries K of each of the M codebooks.
        beam: paths of the M-search; 1 is greedy encoding.
        design: as above.
        rounds: of joint design. A round of "sequential" updates every codebook, and encodes M times.
        ridge: weight of an old entry in least squares, in vectors.
        all_paths: fit each codebook to the residuals of all paths of the M-search, as Faiss does, instead of the greedy
            ones: slower, with less error on vectors that were not used for fitting.
    """

    entries: Tensor

    def __init__(
        self,
        dim: int,
        sizes: Sequence[int],
        beam: int = 1,
        design: Design = "greedy",
        rounds: int = 8,
        ridge: float = 1.0,
        all_paths: bool = False,
    ) -> None:
        super().__init__(dim, sizes)
        self.beam = beam
        self._design, self._rounds, self._ridge, self._all_paths = design, rounds, ridge, all_paths
        self.register_buffer("entries", torch.zeros(sum(sizes), dim))
        self._starts = [sum(sizes[:index]) for index in range(len(sizes))]

    @property
    def codebooks(self) -> tuple[Tensor, ...]:
        """Views of the codebooks [K, D]."""
        return torch.split(self.entries, list(self.sizes))

    def rows(self, codes: Tensor) -> Tensor:
        """Rows [n, m] of `entries` that the codes [n, m] of the first m stages choose."""
        return codes + torch.tensor(self._starts[: codes.shape[1]], device=codes.device)

    def encode(self, x: Tensor) -> Tensor:
        greedy = search(x, self.codebooks, 1)
        return greedy if self.beam == 1 else self.better(x, greedy, search(x, self.codebooks, self.beam))

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors [n, D] of codes [n, m] of the first m stages."""
        return F.embedding_bag(self.rows(codes), self.entries, mode="sum")

    def errors(self, x: Tensor, codes: Tensor) -> Tensor:
        """Squared error [n] of codes of x."""
        return (x - self.decode(codes)).square().sum(1)

    def better(self, x: Tensor, codes: Tensor, others: Tensor) -> Tensor:
        """For each row of x, `others` where their error is smaller, else `codes`."""
        return torch.where((self.errors(x, others) < self.errors(x, codes))[:, None], others, codes)

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        residual, beam = x[:, None], self.beam if self._all_paths else 1
        for codebook in self.codebooks:
            size = len(codebook)
            points = residual.flatten(0, 1)
            if beam > 1:
                points = points[torch.randperm(len(points), generator=generator)[: max(len(x), _FITTED * size)]]
            codebook.copy_(k_means(points, size, generator, start="lbg"))
            residual = torch.cat([_step(part, codebook, beam)[0] for part in blocks(residual, beam * size)])
        if self._design != "greedy":
            self.refine(x, generator)

    def refine(self, x: Tensor, generator: torch.Generator) -> None:
        """Joint design, starting from the present entries. `generator` is for subclasses."""
        codes = self.encode(x)
        best, kept = float(self.errors(x, codes).sum()), self.entries.clone()
        for _ in range(self._rounds):
            if self._design == "sequential":
                for index in range(len(self.sizes)):
                    self._update_stage(x, codes, index)
                    codes = fresh = self.encode(x)
            else:
                self.entries.copy_(least_squares(x, self.rows(codes), self.entries, self._ridge))
                fresh = self.encode(x)
                codes = self.better(x, codes, fresh)  # for the next update; the encoder alone may miss the old codes
            error = float(self.errors(x, fresh).sum())
            if error < best:
                best, kept = error, self.entries.clone()
        self.entries.copy_(kept)

    def _update_stage(self, x: Tensor, codes: Tensor, index: int) -> None:
        """The codebook of one stage as means, the others fixed."""
        codebook = self.codebooks[index]
        target = x - self.decode(codes) + codebook[codes[:, index]]
        means, counts = cell_means(target, codes[:, index], len(codebook))
        codebook.copy_(torch.where(counts[:, None] > 0, means, codebook))


def search(x: Tensor, codebooks: Sequence[Tensor], beam: int) -> Tensor:
    """Codes [n, M] of x [n, D] by M-search: at each stage the `beam` paths with the least error go on.

    Also called beam search. Source: Jelinek & Anderson, "Instrumentable tree encoding of information sources", 1971.
    """
    width = beam * max(len(codebook) for codebook in codebooks)
    return torch.cat([_search(part, codebooks, beam) for part in blocks(x, width)])


def _search(x: Tensor, codebooks: Sequence[Tensor], beam: int) -> Tensor:
    residual, codes = x[:, None], x.new_zeros(len(x), 1, 0, dtype=torch.long)
    for codebook in codebooks:
        residual, path, code = _step(residual, codebook, beam)
        codes = torch.cat([codes.gather(1, path[..., None].expand(-1, -1, codes.shape[2])), code[..., None]], 2)
    best = residual.square().sum(2).argmin(1)
    return codes[torch.arange(len(x), device=x.device), best]


def _step(residual: Tensor, codebook: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of paths with residuals [n, P, D]: residuals [n, beam, D], paths and codes [n, beam]."""
    # |r - e|^2 for each path and entry [n, P, K]
    cost = torch.matmul(residual, codebook.t()).mul_(-2).add_(codebook.square().sum(1))
    cost = cost.add_(residual.square().sum(2, keepdim=True)).flatten(1)
    kept = cost.argmin(1, keepdim=True) if beam == 1 else cost.topk(min(beam, cost.shape[1]), largest=False).indices
    path, code = kept // len(codebook), kept % len(codebook)
    residual = residual.gather(1, path[..., None].expand(-1, -1, residual.shape[2])) - codebook[code]
    return residual, path, code
