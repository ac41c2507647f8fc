"""Predictive vector quantization: the quantizer sees what past decoded vectors do not predict."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dac_codec.quantization.base import Quantizer


class SequenceQuantizer(Quantizer):
    """A quantizer with memory: the rows of x [n, D] are successive vectors. The memory is reset at every `length` rows,
    so that decoding can start there; the sequences between resets are computed side by side.

    ```
    rows      0 1 2 3 | 4 5 6 7 | 8 9 - -        length = 4, the last sequence is padded
    sequences ---->     ---->     ---->
    ```

    Args:
        dim: width D.
        sizes: values of each code.
        length: rows of a sequence.
    """

    def __init__(self, dim: int, sizes: tuple[int, ...], length: int) -> None:
        super().__init__(dim, sizes)
        self.length = length

    def to_steps(self, x: Tensor) -> Tensor:
        """Rows [n, ...] as [length, sequences, ...], padded with zeros."""
        padding = -len(x) % self.length
        padded = torch.cat([x, x.new_zeros(padding, *x.shape[1:])])
        return padded.view(-1, self.length, *x.shape[1:]).transpose(0, 1)

    @staticmethod
    def to_rows(steps: Tensor, n: int) -> Tensor:
        """The first n rows of [length, sequences, ...]."""
        return steps.transpose(0, 1).flatten(0, 1)[:n]

    def past(self, x: Tensor, order: int = 1) -> Tensor:
        """The `order` rows before each row [n, order * D], the last one first; zeros before a sequence starts."""
        steps = self.to_steps(x)
        shifted = [F.pad(steps, (0, 0, 0, 0, lag, 0))[: self.length] for lag in range(1, order + 1)]
        return self.to_rows(torch.cat(shifted, 2), len(x))


class PredictiveQuantizer(SequenceQuantizer):
    """Linear prediction from past decoded vectors y, in a closed loop:

        y_t = p_t + q(x_t - p_t),    p_t = m + sum_{i=1..order} (y_{t-i} - m) A_i

    Encoder and decoder predict from the same decoded vectors, so that errors do not add up. The first round fits q
    without prediction. In each later one, A_i are fitted to the past vectors decoded before by least squares, and q to
    what they do not predict. The round with the least training error is kept, so that prediction never makes it worse.
    Costs beside q: order * D^2 products and numbers.

    Sources: Cuperman & Gersho, "Vector predictive coding of speech at 16 kbits/s", 1985; the training on the decoded
    vectors of the round before: Khalil, Rose & Regunathan, "The asymptotic closed-loop approach to predictive vector
    quantizer design", 2001.

    >>> from dac_codec.quantization import UniformQuantizer
    >>> quantizer = PredictiveQuantizer(UniformQuantizer([2]))  # delta modulation: one more or one less than before
    >>> quantizer.inner.place(torch.tensor([[-1.0, 1.0]]))
    >>> _ = quantizer.weights.fill_(1.0)
    >>> quantizer(torch.tensor([[0.8], [2.1], [2.9], [1.6]])).flatten().tolist()
    [1.0, 2.0, 3.0, 2.0]

    Args:
        inner: q, a quantizer without memory.
        order: number of past vectors.
        length: rows after which the memory is reset.
        rounds: of fitting.
    """

    mean: Tensor
    weights: Tensor

    def __init__(self, inner: Quantizer, order: int = 1, length: int = 256, rounds: int = 4) -> None:
        super().__init__(inner.dim, inner.sizes, length)
        self.inner = inner
        self._order, self._rounds = order, rounds
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("weights", torch.zeros(order * self.dim, self.dim))

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        self.mean.copy_(x.mean(0))
        centred = x - self.mean
        past, best, kept = self.past(torch.zeros_like(x), self._order), float("inf"), self.state_dict()
        for number in range(self._rounds):
            if number:
                ridge = 1e-4 * past.square().mean() * len(x) * torch.eye(past.shape[1]).to(x)
                self.weights.copy_(torch.linalg.solve(past.t() @ past + ridge, past.t() @ centred))
            else:
                self.weights.zero_()
            self.inner.fit(centred - past @ self.weights, generator)
            decoded = self(x)
            past = self.past(decoded - self.mean, self._order)
            error = float((x - decoded).square().sum())
            if error < best:
                best, kept = error, {name: value.clone() for name, value in self.state_dict().items()}
        self.load_state_dict(kept)

    def encode(self, x: Tensor) -> Tensor:
        steps, codes = self.to_steps(x), []
        memory = steps.new_zeros(steps.shape[1], self._order * self.dim)
        for vectors in steps:
            predicted = self.mean + memory @ self.weights
            codes.append(self.inner.encode(vectors - predicted))
            memory = self._next(memory, predicted + self.inner.decode(codes[-1]))
        return self.to_rows(torch.stack(codes), len(x))

    def decode(self, codes: Tensor) -> Tensor:
        steps, decoded = self.to_steps(codes), []
        memory = self.mean.new_zeros(steps.shape[1], self._order * self.dim)
        for chosen in steps:
            decoded.append(self.mean + memory @ self.weights + self.inner.decode(chosen))
            memory = self._next(memory, decoded[-1])
        return self.to_rows(torch.stack(decoded), len(codes))

    def _next(self, memory: Tensor, decoded: Tensor) -> Tensor:
        """The memory [sequences, order * D] after a decoded vector."""
        return torch.cat([decoded - self.mean, memory[:, : -self.dim]], 1)
