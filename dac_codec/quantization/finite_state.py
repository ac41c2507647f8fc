"""Finite-state vector quantization: past codes choose the codebook."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dac_codec.quantization.base import Quantizer, nearest
from dac_codec.quantization.kmeans import k_means
from dac_codec.quantization.predictive import SequenceQuantizer


class FiniteStateQuantizer(SequenceQuantizer):
    """S states with a quantizer each: switched by a next-state function of the past codes.

        y_t = q_s(x_t),    s = f(y_{t-1}): which of S class centres is nearest to the vector decoded before

    y_{t-1} is known from the codes, so that the decoder follows without side information. Each state has entries for
    what usually comes next: S small codebooks work like a large one, at the rate of a small one. The classes come from
    k-means; states are fitted to the vectors after input vectors of their class ("omniscient" design), then after
    decoded ones, and a state with fewer of them than entries to all vectors. The round with the least training error is
    kept. Costs beside those of one quantizer: S D products, and S times its storage.

    Sources: Foster, Gray & Dunham, "Finite-state vector quantization for waveform coding", 1985; Gersho & Gray,
    chapter 14.

    >>> from dac_codec.quantization import UniformQuantizer
    >>> quantizer = FiniteStateQuantizer([UniformQuantizer([2]), UniformQuantizer([2])])  # three values at one bit
    >>> for state, values in zip(quantizer.states, ([0.0, 1.0], [1.0, 2.0])):
    ...     state.place(torch.tensor([values]))
    >>> _ = quantizer.classes.copy_(torch.tensor([[0.0], [1.5]]))
    >>> quantizer(torch.tensor([[0.9], [2.1], [1.2], [0.1]])).flatten().tolist()
    [1.0, 2.0, 1.0, 1.0]

    Args:
        states: a quantizer for each state, all of the same width and sizes.
        length: rows after which the state is reset, to that of a vector of zeros.
        rounds: of fitting.
    """

    classes: Tensor

    def __init__(self, states: Sequence[Quantizer], length: int = 256, rounds: int = 3) -> None:
        super().__init__(states[0].dim, states[0].sizes, length)
        self.rounds = rounds
        self._states = nn.ModuleList(states)
        self.register_buffer("classes", torch.zeros(len(states), self.dim))

    @property
    def states(self) -> list[Quantizer]:
        """The quantizers, in the order of the states."""
        return [state for state in self._states if isinstance(state, Quantizer)]

    @torch.no_grad()
    def fit(self, x: Tensor, generator: torch.Generator) -> None:
        self.classes.copy_(k_means(x, len(self.classes), generator, start="k-means++"))
        past, best, kept = self.past(x), float("inf"), self.state_dict()
        for _ in range(self.rounds):
            state = nearest(past, self.classes)
            for index, quantizer in enumerate(self.states):
                own = x[state == index]
                quantizer.fit(own if len(own) >= max(self.sizes) else x, generator)
            decoded = self(x)
            past = self.past(decoded)
            error = float((x - decoded).square().sum())
            if error < best:
                best, kept = error, {name: value.clone() for name, value in self.state_dict().items()}
        self.load_state_dict(kept)

    def encode(self, x: Tensor) -> Tensor:
        steps, codes = self.to_steps(x), []
        decoded = torch.zeros_like(steps[0])
        for vectors in steps:
            state = nearest(decoded, self.classes)
            codes.append(torch.zeros(len(state), len(self.sizes), dtype=torch.long, device=x.device))
            decoded = torch.zeros_like(decoded)
            for index in state.unique().tolist():
                own = state == index
                codes[-1][own] = self.states[index].encode(vectors[own])
                decoded[own] = self.states[index].decode(codes[-1][own])
        return self.to_rows(torch.stack(codes), len(x))

    def decode(self, codes: Tensor) -> Tensor:
        steps = self.to_steps(codes)
        decoded = [self.classes.new_zeros(steps.shape[1], self.dim)]
        for chosen in steps:
            state = nearest(decoded[-1], self.classes)
            decoded.append(torch.zeros_like(decoded[-1]))
            for index in state.unique().tolist():
                own = state == index
                decoded[-1][own] = self.states[index].decode(chosen[own])
        return self.to_rows(torch.stack(decoded[1:]), len(codes))
