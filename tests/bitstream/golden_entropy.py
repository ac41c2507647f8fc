"""Decode fixed bytes, and print what they are: run by `test_entropy_golden` in processes of their own.

Weights and codes come from a linear congruential generator (Knuth's MMIX), so that no library decides what they are.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.adaptive import AdaptiveModel
from dac_codec.bitstream.code_model import CodeModel, Codes
from dac_codec.bitstream.context_model import ContextModel

N, K, E, A, H, R, G, S = 4, 250, 16, 2, 96, 24, 16, 16


def _numbers() -> Iterator[int]:
    state = 1
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield state >> 33


NUMBERS = _numbers()


def numbers(limit: int, *shape: int) -> npt.NDArray[np.int64]:
    """Numbers in 0..limit-1."""
    count = int(np.prod(shape))
    return np.array([next(NUMBERS) % limit for _ in range(count)], np.int64).reshape(shape)


def model() -> ContextModel:
    """A context model."""
    shapes = {
        "embeddings": (N, K, E),
        "hidden.weight": (N, (5 + A) * E, H),
        "hidden.bias": (N, H),
        "features.weight": (N, H, R),
        "features.bias": (N, R),
        "first.weight": (N, R, G + 1),
        "first.bias": (N, G + 1),
        "second.weight": (N, G, R, S),
        "second.bias": (N, G, S),
    }
    arrays: dict[str, npt.NDArray[np.integer]] = {
        name: (numbers(61, *shape) - 30).astype(np.int32 if name.endswith("bias") else np.int8)
        for name, shape in shapes.items()
    }
    places = np.argsort(numbers(1 << 30, N, G * S), 1, kind="stable")[:, :K]
    averages, shifts = (1, 4), (8, 8, 5)
    return ContextModel(
        arrays
        | {
            "averages": np.array(averages, np.int32),
            "places": places.astype(np.int32),
            "shifts": np.array(shifts, np.int32),
        }
    )


def chunk(n_frames: int) -> Codes:
    """Codes with repetitions, fewer in some frames."""
    codes = numbers(K, N, n_frames)
    for frame in range(1, n_frames):
        if next(NUMBERS) % 3 == 0:
            codes[:, frame] = codes[:, frame - 1]
    return np.where(np.arange(N)[:, None] < numbers(N + 1, n_frames), codes, -1).astype(np.int32)


def digest(data: bytes) -> str:
    """The beginning of a SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def main() -> None:
    """Print the fingerprint, the coded bytes, and digests of what those of standard input decode to."""
    coders: dict[str, CodeModel] = {"context": model(), "adaptive": AdaptiveModel(K)}
    chunks = [chunk(n_frames) for n_frames in (6, 40, *[25] * 66)]
    n_codes = [(codes >= 0).sum(0) for codes in chunks]
    print("fingerprint", (coders["context"].fingerprint or b"").hex())
    print("codes", digest(b"".join(codes.astype("<i4").tobytes() for codes in chunks)))
    for name, coder in coders.items():
        coded = coder.encode(chunks)
        print(name, "first chunk", " ".join(plane.hex() for plane in coded[0]))
        print(name, "all chunks", digest(b"".join(plane for planes in coded for plane in planes)))
        decoded = coder.decode(coded, n_codes)
        print(name, "decoded", digest(b"".join(codes.astype("<i4").tobytes() for codes in decoded)))
    fixed = [[bytes.fromhex(plane) for plane in line.split()] for line in sys.stdin]
    for name, planes in zip(coders, fixed, strict=True):
        (found,) = coders[name].decode([planes], n_codes[:1])
        print(name, "fixed bytes", *found.tolist(), sep="\n")


if __name__ == "__main__":
    main()
