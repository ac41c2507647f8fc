"""Entropy coding: the range coder, the adaptive model and the context model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import range_coder
from dac_codec.bitstream.adaptive import AdaptiveModel
from dac_codec.bitstream.code_model import CodeModel, Codes
from dac_codec.bitstream.context_model import ContextModel
from dac_codec.common.errors import BitstreamError, CheckpointError, DacError

N_PLANES = 3
N_CODES = 20


def context_arrays(seed: int = 0, largest: int = 20) -> dict[str, npt.NDArray[np.integer]]:
    """A small context model with random weights."""
    random = np.random.default_rng(seed)
    n, k, e, a, h, r, g, s = N_PLANES, N_CODES, 4, 2, 8, 6, 4, 6
    shapes = {
        "embeddings": (n, k, e),
        "hidden.weight": (n, (5 + a) * e, h),
        "features.weight": (n, h, r),
        "first.weight": (n, r, g + 1),
        "second.weight": (n, g, r, s),
        "hidden.bias": (n, h),
        "features.bias": (n, r),
        "first.bias": (n, g + 1),
        "second.bias": (n, g, s),
    }
    return {
        name: random.integers(-largest, largest + 1, shape).astype(np.int32 if name.endswith("bias") else np.int8)
        for name, shape in shapes.items()
    } | {
        "averages": np.array([1, 3], np.int32),
        "places": np.stack([random.permutation(g * s)[:k] for _ in range(n)]).astype(np.int32),
        "shifts": np.array([4, 6, 4], np.int32),
    }


MODELS: dict[str, CodeModel] = {
    "adaptive": AdaptiveModel(N_CODES),
    "context": ContextModel(context_arrays()),
    "small": AdaptiveModel(2),
    "large": AdaptiveModel(1 << 16),
}
SIZES = {"adaptive": N_CODES, "context": N_CODES, "small": 2, "large": 1 << 16}


def random_chunks(random: np.random.Generator, n_codes: int, most_frames: int = 12) -> list[Codes]:
    """Chunks with repeated codes, and frames with fewer codes than others."""
    chunks = []
    for n_frames in random.integers(0, most_frames + 1, random.integers(1, 5)):
        codes = random.integers(0, n_codes, (N_PLANES, n_frames)).astype(np.int32)
        codes[:, 1:] = np.where(random.random(max(0, n_frames - 1)) < 0.3, codes[:, :-1], codes[:, 1:])
        codes[np.arange(N_PLANES)[:, None] >= random.integers(0, N_PLANES + 1, n_frames)] = -1
        chunks.append(codes)
    return chunks


def counts(chunks: Sequence[Codes]) -> list[npt.NDArray[np.integer]]:
    return [(chunk >= 0).sum(0) for chunk in chunks]


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), planes=st.integers(0, N_PLANES))
def test_decoding_reverses_encoding(name: str, seed: int, planes: int) -> None:
    chunks = random_chunks(np.random.default_rng(seed), SIZES[name])
    coded = MODELS[name].encode(chunks)
    decoded = MODELS[name].decode([streams[:planes] for streams in coded], counts(chunks))
    for chunk, found in zip(chunks, decoded, strict=True):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, chunk[:planes])


@pytest.mark.parametrize("name", ["adaptive", "context"])
def test_chunks_do_not_depend_on_those_beside_them(name: str) -> None:
    chunks = random_chunks(np.random.default_rng(1), SIZES[name]) * 30
    assert MODELS[name].encode(chunks) == [MODELS[name].encode([chunk])[0] for chunk in chunks]
    few = [chunk[:2] if index % 3 else chunk for index, chunk in enumerate(chunks)]
    assert MODELS[name].encode(few) == [MODELS[name].encode([chunk])[0] for chunk in few]


@pytest.mark.parametrize("name", ["adaptive", "context"])
def test_damaged_streams_decode_to_codes_or_raise(name: str) -> None:
    random = np.random.default_rng(0)
    failures = 0
    for _ in range(300):
        chunks = random_chunks(random, SIZES[name])
        coded = MODELS[name].encode(chunks)
        streams = coded[random.integers(len(coded))]
        plane = random.integers(len(streams))
        damaged = bytearray(streams[plane] + random.bytes(random.integers(3)))
        if damaged:
            damaged[random.integers(len(damaged))] ^= int(random.integers(1, 256))
        streams[plane] = bytes(damaged[: random.integers(len(damaged) + 1)])
        try:
            decoded = MODELS[name].decode(coded, counts(chunks))
        except BitstreamError:
            failures += 1
            continue
        for chunk, found in zip(chunks, decoded, strict=True):
            np.testing.assert_array_equal(found >= 0, chunk >= 0)
            assert found.max(initial=-1) < SIZES[name]
    assert failures > 150


@pytest.mark.parametrize("name", ["adaptive", "context"])
@pytest.mark.parametrize(
    "codes", [[[N_CODES]], [[-2]], [[-1], [3]]], ids=["too large", "too small", "without a coarser one"]
)
def test_invalid_codes_are_refused(name: str, codes: list[list[int]]) -> None:
    with pytest.raises(BitstreamError):
        MODELS[name].encode([np.array(codes, np.int32)])


def test_a_context_model_refuses_more_planes_than_it_has() -> None:
    with pytest.raises(BitstreamError, match="3 codebooks, found codes of 4"):
        MODELS["context"].encode([np.zeros((4, 2), np.int32)])
    with pytest.raises(BitstreamError, match="3 codebooks, found codes of 4"):
        MODELS["context"].decode([[b""] * 4], [np.ones(2, int)])


def test_silence_takes_few_bytes_without_a_model() -> None:
    (coded,) = AdaptiveModel(1024).encode([np.full((9, 304), 7, np.int32)])
    assert sum(map(len, coded)) < 300  # 3420 with 10 bits a code


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), n_symbols=st.integers(1, 40))
def test_range_coder(seed: int, n_symbols: int) -> None:
    random = np.random.default_rng(seed)
    shape = random.integers(0, 20), random.choice([1, 5, 39, 40, 60])
    weights = random.integers(0, 1 << random.integers(1, 17), (*shape, n_symbols))
    weights[..., 0] += 1
    symbols, present = random.integers(0, n_symbols, shape), random.random(shape) < 0.7
    bounds = range_coder.bounds_of(weights)
    parts = [range_coder.parts(*both) for both in zip(bounds, symbols, strict=True)]
    starts, frequencies = np.array(parts, np.int64).reshape(-1, 2, shape[1]).swapaxes(0, 1)
    streams = range_coder.encode(starts, frequencies * present)
    decoder = range_coder.Decoder(streams)
    for step in range(shape[0]):
        found = decoder.decode(bounds[step], present[step])
        np.testing.assert_array_equal(found[present[step]], symbols[step][present[step]])
    decoder.check_end()
    sizes = np.diff(bounds, axis=-1)[np.nonzero(present)[0], np.nonzero(present)[1], symbols[present]]
    ideal = -np.log2(sizes / (1 << range_coder.BITS)).sum() / 8
    assert sum(map(len, streams)) <= ideal * 1.001 + 3 * len(streams)


def test_counts_before_symbols() -> None:
    random = np.random.default_rng(0)
    contexts, symbols = random.integers(0, 4, 200), random.integers(0, 3, 200)
    first, increments = random.integers(1, 9, (4, 3)), np.array([2, 2, 7])
    counts = first.copy()
    for context, symbol, found in zip(
        contexts, symbols, range_coder.counts_before(contexts, symbols, first, increments), strict=True
    ):
        np.testing.assert_array_equal(found, counts[context])
        counts[context, symbol] += increments[symbol]


def test_bounds_are_exact() -> None:
    random = np.random.default_rng(0)
    weights = random.integers(0, 1 << 17, (500, 33)) >> random.integers(0, 17, (500, 33))
    weights[:, 5] += 1
    for row, bounds in zip(weights.tolist(), range_coder.bounds_of(weights).tolist(), strict=True):
        sums = [sum(row[:k]) for k in range(34)]
        assert bounds == [total * (2**16 - 33) // sums[-1] + k for k, total in enumerate(sums)]


def test_context_model_file() -> None:
    model = ContextModel(context_arrays())
    again = ContextModel.from_bytes(model.to_bytes())
    assert again.fingerprint == model.fingerprint
    assert len(model.fingerprint) == 8
    assert ContextModel(context_arrays(1)).fingerprint != model.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden.weight": None}, "is not a context model"),
        ({"more": np.zeros(1)}, "is not a context model"),
        ({"places": np.zeros((N_PLANES, N_CODES), np.int32)}, "different numbers"),
        ({"places": np.zeros((N_PLANES, N_CODES), np.int64)}, "has the type"),
        ({"shifts": np.array([4, 6, -1], np.int32)}, "must be in"),
        ({"shifts": np.array([4, 6], np.int32)}, "unexpected shapes"),
        ({"averages": np.array([1, 16], np.int32)}, "float32 is exact"),
        ({"hidden.bias": np.full((N_PLANES, 8), 1 << 24, np.int32)}, "float32 is exact"),
        ({"hidden.bias": np.full((N_PLANES, 8), -(1 << 31), np.int32)}, "float32 is exact"),
        ({"features.weight": np.zeros((N_PLANES, 9, 6), np.int8)}, "unexpected shapes"),
        ({"first.bias": np.int32(0)}, "unexpected shapes"),
    ],
)
def test_invalid_context_models_are_refused(change: dict[str, npt.NDArray[np.integer] | None], message: str) -> None:
    arrays = {name: array for name, array in (context_arrays() | change).items() if array is not None}
    if message == "float32 is exact" and "averages" in change:
        arrays["embeddings"] = np.full_like(arrays["embeddings"], 127)
    with pytest.raises(CheckpointError, match=message):
        ContextModel(arrays)


def test_damaged_context_files_raise_dac_errors() -> None:
    data = ContextModel(context_arrays()).to_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data[: random.integers(len(data) + 1)] if random.random() < 0.3 else data)
        for at in random.integers(0, min(1400, max(1, len(damaged))), 3):
            if at < len(damaged):
                damaged[at] = random.integers(256)
        try:
            ContextModel.from_bytes(bytes(damaged))
        except DacError:
            continue


@pytest.mark.filterwarnings("error")
@given(st.binary(min_size=4, max_size=40), st.sampled_from([(2, 2), (1000, 33), (40, 1024)]))
@settings(max_examples=40, deadline=None)
def test_random_bytes_of_smaller_codebooks(data: bytes, sizes: tuple[int, int]) -> None:
    """They decode to codes below the sizes, or are refused."""
    try:
        (codes,) = AdaptiveModel(1024, sizes).decode([[data, data]], [np.full(12, 2)])
    except BitstreamError:
        return
    assert (codes < np.array(sizes)[:, None]).all()


def test_smaller_codebooks_take_fewer_bytes() -> None:
    codes = np.random.default_rng(0).integers(0, 8, (1, 304)).astype(np.int32)
    n_bytes = [len(AdaptiveModel(1024, sizes).encode([codes])[0][0]) for sizes in ((), (1024,), (8,))]
    assert n_bytes[0] == n_bytes[1]
    assert n_bytes[2] < 0.9 * n_bytes[0]
