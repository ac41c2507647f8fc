"""Learning vector quantization: codebooks that are updated by one example after the other."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dac_codec.quantization.base import nearest
from dac_codec.quantization.kmeans import Codebook, k_means

Rule: TypeAlias = Literal["lvq1", "lvq2.1", "lvq3"]

_BATCH = 16  # examples whose updates are added up


class CompetitiveQuantizer(Codebook):
    """Competitive learning: the entry nearest to an example moves a share of the way to it, e += a (x - e), with a
    falling linearly to 0. It is k-means as stochastic gradient descent. Costs as for a codebook.

    Source: Kohonen, "Self-Organizing Maps", 3rd ed., 2001, section 1.5.1.

    Args:
        dim: width D.
        size: number K of entries, which start as random training vectors.
        rate: the first a.
        epochs: passes over the training vectors.
    """

    def __init__(self, dim: int, size: int, rate: float = 0.1, epochs: int = 10) -> None:
        super().__init__(dim, size)
        self._rate, self._epochs = rate, epochs

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        self.entries.copy_(k_means(x, self.sizes[0], generator, iterations=0))  # random vectors
        order = _epochs(len(x), self._epochs, generator)
        for number, part in enumerate(order):
            winners = nearest(x[part], self.entries)
            rate = self._rate * (1 - number / len(order))
            self.entries.index_add_(0, winners, rate * (x[part] - self.entries[winners]))


class LearningVectorQuantizer(Codebook):
    """Entries with labels, which move towards examples of their class and away from others: a classifier.

    - LVQ1: the nearest entry moves by +a (x - e) if its label is right, else by -a (x - e).
    - LVQ2.1: of the two nearest entries, if one is right and one is wrong and x lies near the middle between them
      (min(d1 / d2, d2 / d1) > (1 - w) / (1 + w)), the right one moves towards x and the wrong one away.
    - LVQ3: LVQ2.1, and if both are right, both move towards x by 0.2 a (x - e).

    LVQ2.1 and LVQ3 start with half of their epochs as LVQ1. Encoding costs K D products; storage is K D numbers and K
    labels. Source: Kohonen, "Self-Organizing Maps", 3rd ed., 2001, chapter 6.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.cat([torch.randn(100, 2, generator=generator), torch.randn(100, 2, generator=generator) + 6.0])
    >>> quantizer = LearningVectorQuantizer(2, 4)
    >>> quantizer.fit(x, generator, torch.arange(2).repeat_interleave(100))
    >>> quantizer.classify(torch.tensor([[0.0, 0.0], [6.0, 6.0]])).tolist()
    [0, 1]

    Args:
        dim: width D.
        size: number K of entries; classes get equally many.
        rule: "lvq1", "lvq2.1" or "lvq3".
        rate: the first a, which falls linearly to 0.
        epochs: passes over the training vectors.
        window: w, the relative width of the window.
    """

    labels: Tensor

    def __init__(
        self, dim: int, size: int, rule: Rule = "lvq1", rate: float = 0.05, epochs: int = 20, window: float = 0.25
    ) -> None:
        super().__init__(dim, size)
        self._rule, self._rate, self._epochs, self._window = rule, rate, epochs, window
        self.register_buffer("labels", torch.zeros(size, dtype=torch.long))

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator, labels: Tensor | None = None) -> None:
        """Fit to x [n, D] with labels [n], integers.

        Raises:
            ValueError: no labels, more classes than entries, or fewer vectors of a class than its entries.
        """
        classes = torch.zeros(0) if labels is None else labels.unique()
        if labels is None or len(classes) > self.sizes[0]:
            raise ValueError(f"{self.sizes[0]} entries need labels of at most as many classes, not {len(classes)}")
        self.labels.copy_(classes[torch.arange(self.sizes[0]) % len(classes)])
        for label in classes:
            rows, own = torch.where(labels == label)[0], torch.where(self.labels == label)[0]
            if len(rows) < len(own):
                raise ValueError(f"{len(rows)} vectors of class {int(label)} are too few for {len(own)} entries")
            self.entries[own] = x[rows[torch.randperm(len(rows), generator=generator)[: len(own)]]]
        order = _epochs(len(x), self._epochs, generator)
        for number, part in enumerate(order):
            rate = self._rate * (1 - number / len(order))
            if self._rule == "lvq1" or 2 * number < len(order):
                self._lvq1(x[part], labels[part], rate)
            else:
                self._lvq2(x[part], labels[part], rate)

    def _lvq1(self, x: Tensor, labels: Tensor, rate: float) -> None:
        winners = nearest(x, self.entries)
        sign = torch.where(self.labels[winners] == labels, rate, -rate)[:, None]
        self.entries.index_add_(0, winners, sign * (x - self.entries[winners]))

    def _lvq2(self, x: Tensor, labels: Tensor, rate: float) -> None:
        distances, pair = torch.cdist(x, self.entries).topk(2, largest=False)
        right = self.labels[pair] == labels[:, None]
        near = distances[:, 0] > distances[:, 1] * (1 - self._window) / (1 + self._window)
        rates = torch.where(right, rate, -rate) * (near & (right[:, 0] != right[:, 1]))[:, None]
        if self._rule == "lvq3":
            rates = torch.where(right.all(1, keepdim=True), 0.2 * rate, rates)
        moves = rates[..., None] * (x[:, None] - self.entries[pair])
        self.entries.index_add_(0, pair.flatten(), moves.flatten(0, 1))

    def classify(self, x: Tensor) -> Tensor:
        """Labels [n] of the entries nearest to x [n, D]."""
        return self.labels[nearest(x, self.entries)]


def _epochs(n: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Indices of n examples in random order, once for each epoch, in small batches."""
    return [part for _ in range(epochs) for part in torch.randperm(n, generator=generator).split(_BATCH)]
