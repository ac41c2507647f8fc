"""Entropy coding of symbols with known frequencies: a range coder (rANS) whose streams are coded side by side.

A symbol takes the part [start, start + frequency) of 2^16. Coding it turns the state x of a stream into

    (x // frequency) 2^16 + x mod frequency + start

and decoding reverses that: the low 16 bits of the state are in the symbol's part. States stay below 2^32; words of 16
bits are moved out before the state would exceed that, and back in when it falls below 2^16. The encoder works from the
last symbol to the first, so that the decoder works from the first to the last. Source: J. Duda, "Asymmetric numeral
systems" (arXiv 1311.2540). Everything is integer arithmetic: every machine gives the same bytes. ENTROPY.md is the
specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dac_codec.common.errors import BitstreamError

BITS = 16
"""Frequencies of a symbol's alternatives sum to 2^BITS."""

MOST_COUNTS = 1 << 22
"""Adaptive counts in memory at once: 32 MiB."""

_TOTAL = 1 << BITS
_WORD = _TOTAL - 1
_STATE_BYTES = 4
_FEW_STREAMS = 40

Integers = npt.NDArray[np.int64]
Bounds = npt.NDArray[np.float64]
"""Integers of at most 2^16, as float64: numpy divides those faster."""

Item = TypeVar("Item")


def batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Runs of `size` items, which are coded side by side; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def bounds_of(weights: npt.NDArray[Any]) -> Bounds:
    """The parts of 2^16 in proportion to integer weights [..., K]: symbol k has [b_k, b_(k + 1)), none empty.

    b_k = floor(C_k (2^16 - K) / C_K) + k, where C_k is the sum of the first k weights. Float64 computes it exactly for
    1 <= C_K < 2^36.

    Returns:
        b_0 .. b_K [..., K + 1].
    """
    n_symbols = weights.shape[-1]
    bounds = np.zeros((*weights.shape[:-1], n_symbols + 1))
    cumulative = bounds[..., 1:]
    np.cumsum(weights, -1, out=cumulative)
    total = cumulative[..., -1:].copy()
    cumulative *= _TOTAL - n_symbols
    cumulative /= total
    np.floor(cumulative, out=cumulative)
    cumulative += np.arange(1.0, n_symbols + 1)
    return bounds


def parts(bounds: Bounds, symbols: Integers) -> tuple[Integers, Integers]:
    """Starts and frequencies [n] of symbols [n] with bounds [n, K + 1]."""
    at = np.arange(len(symbols)) * bounds.shape[1] + symbols
    flat = bounds.reshape(-1)
    starts = flat[at].astype(np.int64)
    return starts, flat[at + 1].astype(np.int64) - starts


def encode(starts: Integers, frequencies: Integers) -> list[bytes]:
    """Code the symbols of L streams.

    Args:
        starts: [S, L], in the order in which they will be decoded.
        frequencies: [S, L]; 0 where a stream has no symbol at that step.

    Returns:
        The bytes of each stream; none for a stream without symbols.
    """
    n_steps, n_streams = frequencies.shape
    if n_streams < _FEW_STREAMS:
        return [_encode_one(*both) for both in zip(starts.T.tolist(), frequencies.T.tolist(), strict=True)]
    states = np.zeros(n_streams, np.int64)
    words = np.zeros((n_streams, n_steps), ">u2")
    first_word = np.full(n_streams, n_steps)
    for step in range(n_steps - 1, -1, -1):
        frequency = frequencies[step]
        present = frequency > 0
        full = np.flatnonzero((states >> BITS >= frequency) & present)
        first_word[full] -= 1
        words[full, first_word[full]] = states[full] & _WORD
        states[full] >>= BITS
        quotient, rest = np.divmod(states, np.maximum(frequency, 1))
        np.copyto(states, (quotient << BITS) + rest + starts[step], where=present)
    return [
        state.to_bytes(_STATE_BYTES, "big").lstrip(b"\0") + row[at:].tobytes()
        for state, row, at in zip(states.tolist(), words, first_word, strict=True)
    ]


def _encode_one(starts: list[int], frequencies: list[int]) -> bytes:
    """`encode` for one stream: faster than numpy for few of them."""
    state, words = 0, []
    for start, frequency in zip(reversed(starts), reversed(frequencies), strict=True):
        if frequency:
            if state >> BITS >= frequency:
                words.append(state & _WORD)
                state >>= BITS
            quotient, rest = divmod(state, frequency)
            state = (quotient << BITS) + rest + start
    return state.to_bytes(_STATE_BYTES, "big").lstrip(b"\0") + np.array(words[::-1], ">u2").tobytes()


def encode_adaptive(
    rows: Sequence[tuple[Integers, Integers]], first_counts: Integers, increment: int | Integers
) -> list[bytes]:
    """Code symbols by counts that adapt, as `counts_before` gives them; returns the bytes of each stream.

    `rows` has for each stream the contexts [n] and the symbols [n].
    """
    shape = max((len(symbols) for _, symbols in rows), default=0), len(rows)
    starts, frequencies = np.zeros((2, *shape), np.int64)
    for index, (contexts, symbols) in enumerate(rows):
        bounds = bounds_of(counts_before(contexts, symbols, first_counts, increment))
        at = slice(len(symbols)), index
        starts[at], frequencies[at] = parts(bounds, symbols)
    return encode(starts, frequencies)


def counts_before(contexts: Integers, symbols: Integers, first_counts: Integers, increment: int | Integers) -> Integers:
    """The counts [n, K] of all symbols at each of `symbols` [n] with `contexts` [n].

    They begin as `first_counts` [contexts, K]. A symbol adds `increment`, one number or one for each symbol [K], to its
    count in its context.
    """
    order = np.argsort(contexts, kind="stable")
    by_context = contexts[order]
    added = np.zeros((len(symbols) + 1, first_counts.shape[1]), np.int64)
    added[np.arange(1, len(symbols) + 1), symbols[order]] = 1
    np.cumsum(added, 0, out=added)
    counts = np.empty_like(added[1:])
    counts[order] = (added[:-1] - added[np.searchsorted(by_context, by_context)]) * increment
    counts += first_counts[contexts]
    return counts


class Decoder:
    """Decodes L streams side by side, a symbol of each at a time.

    Args:
        streams: the bytes of each, as `encode` returns them. Beyond its bytes, a stream decodes to arbitrary symbols:
            `check_end` detects that.

    Raises:
        BitstreamError: a stream starts with a zero byte.
    """

    def __init__(self, streams: Sequence[bytes]) -> None:
        if any(stream[:1] == b"\0" for stream in streams):
            raise BitstreamError("a coded plane starts with a zero byte")
        heads = [len(stream) if len(stream) <= _STATE_BYTES else _STATE_BYTES - len(stream) % 2 for stream in streams]
        states = [int.from_bytes(stream[:head], "big") for stream, head in zip(streams, heads, strict=True)]
        self._states = np.array(states, np.int64)
        bodies = [stream[head:] for stream, head in zip(streams, heads, strict=True)]
        # The word after the last one is read, but not used.
        self._words = np.frombuffer(b"".join(bodies) + bytes(2), ">u2").astype(np.int64)
        self._ends = np.cumsum([len(body) // 2 for body in bodies], dtype=np.int64)
        self._positions = np.concatenate((np.zeros(1, np.int64), self._ends[:-1]))[: len(bodies)]

    def decode(self, bounds: Bounds, present: npt.NDArray[np.bool_], streams: slice = slice(None)) -> Integers:
        """Decode the next symbol of each stream.

        Args:
            bounds: of the symbols [n, K + 1], as `bounds_of` returns them.
            present: [n], whether a stream has a symbol here.
            streams: which n streams.

        Returns:
            Symbols [n]; any of 0..K-1 where none is present.
        """
        states, positions = self._states[streams], self._positions[streams]
        slots = states & _WORD
        symbols: Integers = (bounds[:, 1:] <= slots[:, None]).sum(1)
        starts, frequencies = parts(bounds, symbols)
        updated = frequencies * (states >> BITS) + slots - starts
        empty = (updated < _TOTAL) & (positions < self._ends[streams]) & present
        updated = np.where(empty, updated << BITS | self._words[positions], updated)
        np.copyto(states, updated, where=present)
        positions += empty
        return symbols

    def check_end(self) -> None:
        """Raise a BitstreamError unless each stream ends with its last symbol."""
        if self._states.any() or (self._positions != self._ends).any():
            raise BitstreamError("a coded plane does not end with its last code")
