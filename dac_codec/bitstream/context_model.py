"""Entropy coding of codes with probabilities from the codes around them, by a network in integers.

A code of plane i (codebook i) at frame t is predicted from the coarser planes at t - 1, t and t + 1, and from the past
of those and of its own plane; finer planes can be dropped:

    plane 0     . . x x x            x: is looked at
    plane 1     . . x x x            o: the code that is predicted, here of plane 2
    plane 2     x x x o              further left: moving averages over planes 0..i

A network of two hidden layers with weights of 8 bits gives the logits of the code's group, and those of its place in
the group. Inputs, weights and sums are integers below 2^24: float32 holds them exactly, in whatever order a machine
adds them up. Each chunk starts without context. ENTROPY.md has the arithmetic.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from dac_codec.bitstream import range_coder
from dac_codec.bitstream.code_model import INVALID, Codes, presence, split, stacked, streams_of, symbols_of
from dac_codec.bitstream.fields import FINGERPRINT_BYTES
from dac_codec.bitstream.range_coder import Bounds, Integers, batched, bounds_of, parts
from dac_codec.common.errors import BitstreamError, CheckpointError

FILE = "context.safetensors"
"""Name of the file beside the weights of a codec."""

HIDDEN_LIMIT = 127
"""Highest value of a hidden unit."""

N_DIRECT = 5
"""Contexts before the moving averages: sums of coarser planes at t - 1, t and t + 1, own codes at t - 1 and t - 2."""

_MOST_EXACT = 1 << 24
_MOST_LANES = 64
_MOST_FRAMES = 1 << 15
_MOST_ROWS = 512
_MOST_SYMBOLS = 1 << 12
_MOST_SHIFT = 16
_STEPS = 256

Floats = npt.NDArray[np.float32]


def _exponentials() -> npt.NDArray[np.float64]:
    """About 2^16 exp(-j / 16) for j = 0..255, by a recurrence in integers."""
    table = [1 << 16]
    for _ in range(_STEPS - 1):
        table.append(table[-1] * 61565 >> 16)
    return np.array(table, np.float64)


EXPONENTIALS = _exponentials()


class ContextModel:
    """A network that predicts codes.

    Letters: N planes, K entries of a codebook, E width of an embedding, A moving averages, C = 5 + A contexts, H and R
    units of the hidden layers, G groups of S codes.

    Args:
        arrays: by name, integers:
            embeddings: [N, K, E], int8.
            averages: [A], the shifts of the moving averages: their time constants are 2^shift frames.
            hidden.weight: [N, C E, H], int8; hidden.bias: [N, H].
            features.weight: [N, H, R], int8; features.bias: [N, R].
            first.weight: [N, R, G + 1], int8; first.bias: [N, G + 1]. The last symbol: as in the frame before.
            second.weight: [N, G, R, S], int8; second.bias: [N, G, S].
            places: [N, K], the place of each code: its group times S plus its place in the group.
            shifts: [3], bits that sums lose after the first hidden layer, the second, and in the logits.
        origin: what the arrays were read from, for error messages.

    Raises:
        CheckpointError: the arrays are not those of such a model, or sums could exceed what float32 holds exactly.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], origin: str = "the context model") -> None:
        self._arrays = _checked(arrays, origin)
        self._digest = _digest(self._arrays)
        floats = {name: array.astype(np.float32) for name, array in self._arrays.items()}
        # The last row is that of no code.
        self._embeddings: Floats = np.pad(floats["embeddings"], ((0, 0), (0, 1), (0, 0)))
        self._width = self._embeddings.shape[2]
        self._averages = np.ldexp(np.float32(1), -self._arrays["averages"])[:, None]
        scales = np.ldexp(np.float32(1), -self._arrays["shifts"]).astype(np.float32)

        def layer(name: str, scale: np.float32) -> Floats:
            """Weights and, as those of an input that is always 1, biases."""
            both = (floats[f"{name}.weight"], floats[f"{name}.bias"][..., None, :])
            return np.concatenate(both, -2) * scale

        names = ("hidden", "features", "first", "second")
        self._hidden, self._features, self._first, self._second = map(layer, names, scales[[0, 1, 2, 2]])
        self._places = self._arrays["places"].astype(np.int64)
        self.n_codebooks: int = self._places.shape[0]
        self.codebook_size: int = self._places.shape[1]
        self._n_groups, self._group_size = self._second.shape[1], self._second.shape[3]
        self._codes = np.full((self.n_codebooks, self._n_groups * self._group_size), -1, np.int64)
        np.put_along_axis(self._codes, self._places, np.arange(self.codebook_size)[None], 1)
        self._check_sums(floats, origin)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ContextModel:
        """Read a model. Raises CheckpointError if the file can't be read or is not valid."""
        try:
            return cls.from_bytes(Path(path).read_bytes(), str(path))
        except OSError as error:
            raise CheckpointError(f"{path} can't be read: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes, origin: str = "the context model") -> ContextModel:
        """The model whose `to_bytes` returned `data`. Raises CheckpointError if it is not valid."""
        try:
            arrays = safetensors.numpy.load(data)
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{origin} is not a readable safetensors file: {error}") from error
        return cls(arrays, origin)

    def to_bytes(self) -> bytes:
        """The model as a safetensors file."""
        return safetensors.numpy.save(self._arrays)

    @property
    def fingerprint(self) -> bytes:
        """The identity of the arrays, 8 bytes."""
        return self._digest[:FINGERPRINT_BYTES]

    def encode(self, chunks: Sequence[Codes]) -> list[list[bytes]]:
        """As `CodeModel.encode`."""
        coded: list[list[bytes]] = []
        self._check_planes(chunks)
        longest = max((chunk.shape[1] for chunk in chunks), default=0)
        lanes = min(_MOST_LANES, max(1, _MOST_FRAMES // max(1, longest)))
        for some in batched(chunks, lanes):
            codes = stacked(some, self.codebook_size)
            n_planes, n_frames, n_chunks = codes.shape
            starts = np.zeros((n_frames, 2, n_planes, n_chunks), np.int64)
            frequencies = np.zeros_like(starts)
            for plane, x in enumerate(self._contexts(codes)):
                places = self._places[plane][codes[plane]]
                symbols = symbols_of(codes[plane], places, self._group_size, self._n_groups)
                frame, chunk = np.nonzero(codes[plane] >= 0)
                first, second = (symbol[frame, chunk] for symbol in symbols)
                features = _units(_units(x[frame, chunk], self._hidden[plane]), self._features[plane])
                at = frame, 0, plane, chunk
                starts[at], frequencies[at] = parts(_bounds(np.floor(features @ self._first[plane])), first)
                new = np.flatnonzero(first < self._n_groups)
                for rows in np.split(new, range(_MOST_ROWS, len(new), _MOST_ROWS)):
                    weights = self._second[plane, first[rows]]
                    logits = np.floor(np.matmul(features[rows, None], weights)[:, 0])
                    at = frame[rows], 1, plane, chunk[rows]
                    starts[at], frequencies[at] = parts(_bounds(logits), second[rows])
            shape = 2 * n_frames, n_planes * n_chunks
            streams = range_coder.encode(starts.reshape(shape), frequencies.reshape(shape))
            coded += [streams[index::n_chunks][: len(chunk)] for index, chunk in enumerate(some)]
        return coded

    def decode(self, chunks: Sequence[Sequence[bytes]], n_codes: Sequence[npt.NDArray[np.integer]]) -> list[Codes]:
        """As `CodeModel.decode`."""
        decoded: list[Codes] = []
        self._check_planes(chunks)
        for some, counts in zip(batched(chunks, _MOST_LANES), batched(n_codes, _MOST_LANES), strict=True):
            present = presence(some, counts)
            decoder = range_coder.Decoder(streams_of(some, present.shape[0]))
            codes = self._decode(decoder, present)
            decoder.check_end()
            decoded += split(codes, some, counts)
        return decoded

    def _check_planes(self, chunks: Iterable[Sized]) -> None:
        if (n_planes := max(map(len, chunks), default=0)) > self.n_codebooks:
            raise BitstreamError(f"the context model has {self.n_codebooks} codebooks, found codes of {n_planes}")

    def _contexts(self, codes: Integers) -> Iterator[Floats]:
        """The network's inputs [F, n, C E + 1] for each plane of codes [n_planes, F, n], in one array."""
        n_frames, n_chunks = codes.shape[1:]
        x = self._no_context(n_frames, n_chunks)
        contexts = np.split(x[..., :-1], N_DIRECT + len(self._averages), -1)  # views [F, n, E]
        earlier, now, later, own_1, own_2, *averages = contexts
        coarser = np.zeros(now.shape, np.float32)
        for plane, plane_codes in enumerate(codes):
            own = self._embeddings[plane][plane_codes]
            earlier[1:], now[:], later[:-1] = coarser[:-1], coarser, coarser[1:]
            own_1[1:], own_2[2:] = own[:-1], own[:-2]
            coarser += own
            memory = np.zeros((n_chunks, len(averages), self._width), np.float32)
            average = np.zeros_like(memory)
            joined = x[..., N_DIRECT * self._width : -1].reshape(n_frames, *memory.shape)
            for frame in range(n_frames):
                joined[frame] = average
                self._update(memory, average, coarser[frame, :, None])
            yield x

    def _decode(self, decoder: range_coder.Decoder, present: npt.NDArray[np.bool_]) -> Integers:
        """Decode codes [n_planes, F, n]: plane i at frame t together with plane i - 1 at frame t + 2, and so on."""
        n_planes, n_frames, n_chunks = present.shape
        codes = np.full((n_planes, n_frames, n_chunks), -1, np.int64)
        x = self._no_context(n_planes, n_chunks)
        last = np.full((n_planes, n_chunks), -1, np.int64)
        memory = np.zeros((n_planes, n_chunks, len(self._averages), self._width), np.float32)
        for step in range(n_frames + 2 * (n_planes - 1)):
            active = slice(max(0, -(-(step - n_frames + 1) // 2)), min(n_planes - 1, step // 2) + 1)
            planes = np.arange(active.start, active.stop)
            frames = step - 2 * planes
            here = present[planes, frames]
            features = _units(_units(x[active], self._hidden[active]), self._features[active])
            streams = slice(active.start * n_chunks, active.stop * n_chunks)
            first = _decoded(decoder, features @ self._first[active], here, streams)
            repeated = first == self._n_groups
            group = np.minimum(first, self._n_groups - 1)
            weights = self._second[planes[:, None], group]
            logits = np.matmul(features[:, :, None], weights)[:, :, 0]
            second = _decoded(decoder, logits, here & ~repeated, streams)
            found = self._codes[planes[:, None], group * self._group_size + second]
            found = np.where(repeated, last[active], found)
            if (found < 0)[here].any():
                raise BitstreamError(INVALID)
            found[~here] = -1
            last[active] = found
            codes[planes, frames] = found
            self._move_on(x, memory, active, self._embeddings[planes[:, None], found])
        return codes

    def _move_on(self, x: Floats, memory: Floats, active: slice, own: Floats) -> None:
        """Change the inputs [n_planes, n, C E + 1] to those of the next frame, given the embeddings of this one."""
        width = self._width
        sums = x[active, :, width : 2 * width] + own
        x[active, :, 4 * width : 5 * width] = x[active, :, 3 * width : 4 * width]
        x[active, :, 3 * width : 4 * width] = own
        average = x[active, :, N_DIRECT * width : -1].reshape(*sums.shape[:2], *memory.shape[2:])
        self._update(memory[active], average, sums[:, :, None])
        x[1:, :, : 2 * width] = x[1:, :, width : 3 * width]
        later = x[1:, :, 2 * width : 3 * width]
        later[:] = 0
        stop = min(active.stop, len(later))
        later[active.start : stop] = sums[: stop - active.start]

    def _no_context(self, *shape: int) -> Floats:
        """Inputs [..., C E + 1] at a chunk's beginning; the last one is always 1."""
        x = np.zeros((*shape, self._hidden.shape[1]), np.float32)
        x[..., -1] = 1
        return x

    def _update(self, memory: Floats, average: Floats, sums: Floats) -> None:
        """Add the sums [..., 1, E] of a frame to moving averages [..., A, E], in place."""
        memory += sums - average
        np.floor(memory * self._averages, out=average)

    def _check_sums(self, floats: Mapping[str, Floats], origin: str) -> None:
        """Raise a CheckpointError if float32 could round a sum, whatever the codes are."""
        largest = np.abs(floats["embeddings"]).max(1)
        sums = largest.cumsum(0)
        inputs = np.concatenate((*[sums] * 3, *[largest] * 2, *[sums] * len(self._averages)), 1)
        most = [(sums.max() + 1) / self._averages.min(initial=1)]
        for name in ("hidden", "features", "first", "second"):
            products = np.abs(floats[f"{name}.weight"].astype(np.float64))
            products *= inputs[..., None] if name == "hidden" else HIDDEN_LIMIT
            most.append((products.sum(-2) + np.abs(floats[f"{name}.bias"])).max())
        if max(most) > _MOST_EXACT:
            raise CheckpointError(f"{origin} has sums of up to {max(most):.0f}; float32 is exact up to {_MOST_EXACT}")


def _units(x: Floats, weights: Floats) -> Floats:
    """Hidden units [..., H + 1] of inputs [..., n], and the 1 for the next layer's biases."""
    units = np.ones((*x.shape[:-1], weights.shape[-1] + 1), np.float32)
    values = units[..., :-1]
    np.matmul(x, weights, out=values)
    np.floor(values, out=values)
    np.maximum(values, 0, out=values)
    np.minimum(values, HIDDEN_LIMIT, out=values)
    return units


def _bounds(logits: Floats) -> Bounds:
    """Bounds of symbols with logits [..., K] in sixteenths."""
    below = np.minimum(logits.max(-1, keepdims=True) - logits, _STEPS - 1)
    return bounds_of(EXPONENTIALS[below.astype(np.intp)])


def _decoded(decoder: range_coder.Decoder, logits: Floats, present: npt.NDArray[np.bool_], streams: slice) -> Integers:
    """The next symbols [P, n] of streams, with logits [P, n, K] that are not rounded yet."""
    bounds = _bounds(np.floor(logits))
    symbols = decoder.decode(bounds.reshape(-1, bounds.shape[-1]), present.reshape(-1), streams)
    return symbols.reshape(present.shape)


def _checked(arrays: Mapping[str, npt.NDArray[Any]], origin: str) -> dict[str, npt.NDArray[Any]]:
    """The arrays in the types in which they are stored. Raises a CheckpointError if they do not fit together."""
    types = {"averages": np.int32, "shifts": np.int32, "places": np.int32, "embeddings": np.int8}
    for name in ("hidden", "features", "first", "second"):
        types |= {f"{name}.weight": np.int8, f"{name}.bias": np.int32}
    if arrays.keys() != types.keys():
        raise CheckpointError(f"{origin} is not a context model: found {sorted(arrays)}, expected {sorted(types)}")
    for name, array in arrays.items():
        if array.dtype != types[name]:
            raise CheckpointError(f"{origin}: {name} has the type {array.dtype}, expected {np.dtype(types[name])}")
    shapes = {name: array.shape for name, array in arrays.items()}
    try:
        (n, k, e), (a,), h = shapes["embeddings"], shapes["averages"], shapes["hidden.bias"][1]
        r, (g, s) = shapes["features.bias"][1], shapes["second.bias"][1:]
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{origin} has arrays of unexpected shapes: {shapes}") from error
    expected = {
        "embeddings": (n, k, e),
        "averages": (a,),
        "hidden.weight": (n, (N_DIRECT + a) * e, h),
        "hidden.bias": (n, h),
        "features.weight": (n, h, r),
        "features.bias": (n, r),
        "first.weight": (n, r, g + 1),
        "first.bias": (n, g + 1),
        "second.weight": (n, g, r, s),
        "second.bias": (n, g, s),
        "places": (n, k),
        "shifts": (3,),
    }
    if shapes != expected or 0 in (n, k, e, h, r, g, s) or max(g + 1, s) > _MOST_SYMBOLS:
        raise CheckpointError(f"{origin} has arrays of unexpected shapes: {shapes}")
    places = np.sort(arrays["places"], 1)
    if places[:, 0].min() < 0 or places[:, -1].max() >= g * s or (places[:, 1:] == places[:, :-1]).any():
        raise CheckpointError(f"{origin}: places must be different numbers in 0..{g * s - 1}")
    for name in ("averages", "shifts"):
        if arrays[name].size and not 0 <= arrays[name].min() <= arrays[name].max() <= _MOST_SHIFT:
            raise CheckpointError(f"{origin}: {name} must be in 0..{_MOST_SHIFT}, found {arrays[name].tolist()}")
    return {name: np.ascontiguousarray(arrays[name]) for name in sorted(types)}


def _digest(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """SHA-256 of, for each array, sorted by name, "\\n<name> [<sizes>]\\n" and its values, little-endian."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name} {list(array.shape)}\n".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.digest()
