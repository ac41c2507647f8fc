"""Files of coding 1: round trips, layers, thinning, order, damage and redundancy."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec.bitstream import (
    Chunk,
    Coding,
    Gap,
    GapReason,
    Header,
    LevelParameters,
    Loaded,
    Order,
    Reader,
    Writer,
    dumps,
    loads,
    thin,
)
from dac_codec.bitstream.context_model import ContextModel
from dac_codec.bitstream.counts import decode_counts, encode_counts
from dac_codec.bitstream.describe import as_text, describe
from dac_codec.bitstream.layers import CodedChunk, join_planes, split_planes
from dac_codec.common.errors import BitstreamError, DacError, TruncatedBitstreamError
from tests.bitstream.test_container import Pipe
from tests.bitstream.test_entropy import N_CODES, N_PLANES, context_arrays

CONTEXT = ContextModel(context_arrays())
HEADER = Header(
    bytes(8), "tiny", 16000, 2, 60 * 320, -3.5, 16000, 320, 6, 50, coding=Coding.LAYERED, layers=(2, 3, 1)
)  # fmt: skip
LEVELS = LevelParameters(hop=4, bands=3, step_db=1.5, lowest=-4, highest=2)


def random_codes(header: Header, n_frames: int, seed: int = 0, lowest: int = 0) -> np.ndarray:
    """Codes [C, N, F], of `lowest`..N codebooks in each frame."""
    rng = np.random.default_rng(seed)
    shape = header.channels, header.n_codebooks, n_frames
    codes = rng.integers(0, header.codebook_size, shape)
    repeats = rng.random(max(0, n_frames - 1)) < 0.3
    codes[..., 1:] = np.where(repeats, codes[..., :-1], codes[..., 1:])
    counts = rng.integers(lowest, header.n_codebooks + 1, (shape[0], 1, n_frames))
    codes[np.broadcast_to(np.arange(shape[1])[:, None] >= counts, shape)] = -1
    return codes


def random_levels(header: Header, n_frames: int, seed: int = 0) -> np.ndarray | None:
    parameters = header.levels
    if parameters is None:
        return None
    shape = header.channels, parameters.bands, parameters.n_windows(n_frames)
    return np.random.default_rng(seed).integers(parameters.lowest, parameters.highest + 1, shape).astype(np.int8)


CODES = random_codes(HEADER, 60)


def parts(header: Header = HEADER, chunk_frames: int = 10, redundancy: bool = False) -> list[bytes]:
    """The header, the bytes of each chunk with what precedes it, and the rest of a file with CODES."""
    stream = io.BytesIO()
    writer = Writer(stream, header, chunk_frames, redundancy=redundancy)
    marks = [0, stream.tell()]
    for start in range(0, CODES.shape[-1], chunk_frames):
        writer.write(CODES[..., start : start + chunk_frames])
        writer.flush()
        marks.append(stream.tell())
    writer.close(60 * 320)
    data = stream.getvalue()
    return [data[a:b] for a, b in zip(marks, [*marks[1:], len(data)], strict=True)]


def limited(codes: np.ndarray, n_codebooks: int) -> np.ndarray:
    """The codes of the first codebooks only."""
    kept = codes.copy()
    kept[:, n_codebooks:] = -1
    return kept


def events_of(data: bytes) -> tuple[list[Chunk | Gap], Reader]:
    reader = Reader(io.BytesIO(data))
    events = []
    try:
        for event in reader.events():
            events.append(event)
    except TruncatedBitstreamError:
        pass
    return events, reader


def check_equal(found: Loaded, header: Header, codes: np.ndarray, levels: np.ndarray | None = None) -> None:
    assert found.header == header
    assert found.codes.dtype == np.int32
    np.testing.assert_array_equal(found.codes, codes)
    assert (found.levels is None) == (levels is None)
    if levels is not None:
        np.testing.assert_array_equal(found.levels, levels)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    n_codebooks = draw(st.integers(1, 9))
    cuts = draw(st.sets(st.integers(1, max(1, n_codebooks - 1)), max_size=min(4, n_codebooks - 1)))
    edges = [0, *sorted(cuts), n_codebooks]
    levels = LevelParameters(
        hop=draw(st.integers(1, 12)), bands=draw(st.integers(1, 4)),
        lowest=-draw(st.integers(0, 6)), highest=draw(st.integers(0, 3)),
    )  # fmt: skip
    return replace(
        HEADER,
        channels=draw(st.integers(1, 3)),
        n_codebooks=n_codebooks,
        codebook_size=draw(st.sampled_from([2, 3, 1000, 1024, 65536])),
        layers=tuple(b - a for a, b in pairwise(edges)),
        levels=draw(st.none() | st.just(levels)),
    )


# --- round trips ------------------------------------------------------------------------------------------------------


@given(
    headers(),
    st.lists(st.integers(0, 30), max_size=5),
    st.integers(1, 40),
    st.booleans(),
    st.booleans(),
    st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_round_trip(
    header: Header, sizes: list[int], chunk_frames: int, known: bool, redundancy: bool, seed: int
) -> None:
    """Any numbers of channels, codebooks, frames and codes, layers, levels and chunk sizes, over a pipe and a file."""
    n_frames = sum(sizes)
    codes = random_codes(header, n_frames, seed)
    levels = random_levels(header, n_frames, seed)
    whole = replace(header, n_samples=n_frames * 320)
    pipe = Pipe(most=1000)
    declared = whole if known else replace(header, n_samples=None)
    with Writer(pipe, declared, chunk_frames, redundancy=redundancy) as writer:  # type: ignore[arg-type]
        position = 0
        for size in sizes:
            writer.write(codes[..., position : position + size])
            position += size
        if levels is not None:
            writer.write(codes[..., :0], levels)
        writer.close(n_frames * 320)
    data = bytes(pipe.data)
    check_equal(loads(data), whole, codes, levels)
    chunks = list(Reader(pipe))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.concatenate([codes[..., :0], *(chunk.codes for chunk in chunks)], -1), codes)
    assert [chunk.first_frame for chunk in chunks] == list(range(0, n_frames, chunk_frames))
    events, reader = events_of(data)
    assert reader.complete
    for event, chunk in zip(events, chunks, strict=True):
        assert isinstance(event, Chunk)
        np.testing.assert_array_equal(event.codes, chunk.codes)
    for order in Order:
        check_equal(loads(thin(data, order=order)), whole, codes, levels)
    for n_codebooks in {1, header.n_codebooks // 2, header.n_codebooks} - {0}:
        thinned = loads(thin(data, n_codebooks))
        np.testing.assert_array_equal(thinned.codes, codes[:, :n_codebooks])


def test_a_context_model_codes_the_codes() -> None:
    header = replace(HEADER, n_codebooks=N_PLANES, codebook_size=N_CODES, layers=(1, 2))
    codes = random_codes(header, 60)
    named = replace(header, context_fingerprint=CONTEXT.fingerprint)
    data = dumps(named, codes, model=CONTEXT)
    check_equal(loads(data, find_context=lambda found: CONTEXT if found == named else None), named, codes)  # type: ignore[arg-type, return-value]
    thinned = replace(named, n_codebooks=1, layers=(1,))
    check_equal(loads(thin(data, 1), find_context=lambda _: CONTEXT), thinned, codes[:, :1])
    assert describe(data)["context_model"] == CONTEXT.fingerprint.hex()
    with pytest.raises(BitstreamError, match=f"the context model {CONTEXT.fingerprint.hex()}, which is not given"):
        loads(data)
    other = ContextModel(context_arrays(1))
    with pytest.raises(BitstreamError, match=f"found the model {other.fingerprint.hex()}"):
        loads(data, find_context=lambda _: other)
    with pytest.raises(BitstreamError, match="names the context model of adaptive counts, found"):
        dumps(header, codes, model=CONTEXT)
    with pytest.raises(BitstreamError, match="which is not given"):
        dumps(named, codes)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=50), max_size=6))
@settings(max_examples=60, deadline=None)
def test_counts_round_trip(rows: list[list[int]]) -> None:
    arrays = [np.array(row, np.int32) for row in rows]
    coded = encode_counts(arrays, 9)
    for row, found in zip(rows, decode_counts(coded, list(map(len, rows)), 9), strict=True):
        assert found.tolist() == row
    if coded:
        with pytest.raises(BitstreamError):
            decode_counts([coded[0] + b"\x01\x02"], [len(rows[0])], 9)


def test_counts_that_change_slowly_are_cheap() -> None:
    counts = np.repeat([9, 6, 7, 3, 4, 9], 50).astype(np.int32)
    assert len(encode_counts([counts], 9)[0]) < 20
    assert len(encode_counts([np.full(300, 9, np.int32)], 9)[0]) < 6


@given(st.lists(st.tuples(st.binary(max_size=9), st.integers(0, 40)), min_size=1, max_size=5), st.integers(1, 16))
def test_planes_of_a_layer(planes: list[tuple[bytes, int]], bits: int) -> None:
    sizes = [n_codes for _, n_codes in planes]
    data = [plane if n_codes else b"" for plane, n_codes in planes]
    assert split_planes(join_planes(data, sizes, bits), sizes, bits) == data


@pytest.mark.parametrize(("name", "limit"), [("constant", 157), ("varying", 260)])
def test_overhead_of_ten_seconds(name: str, limit: int) -> None:
    """All bytes of a mono clip but its planes: header, heads, lengths, checksums, and numbers of codes."""
    header = replace(
        HEADER, model_name="dac-mini-44khz", sample_rate=44100, channels=1, n_samples=441_000, model_sample_rate=44100,
        hop_length=512, n_codebooks=9, codebook_size=1024, layers=(),
    )  # fmt: skip
    codes = random_codes(header, 862, lowest=9)
    if name == "varying":
        counts = np.clip(np.cumsum(np.random.default_rng(0).integers(-1, 2, 216)) + 6, 1, 9).repeat(4)[:862]
        codes[0][np.arange(9)[:, None] >= counts] = -1
    data = dumps(header, codes)
    chunks = list(Reader(io.BytesIO(data)).coded())
    assert [chunk.n_frames for chunk in chunks] == [304, 304, 254]
    bits = describe(data)["bits_by_codebook"]
    planes = sum(bit * n for bit, n in zip(bits, (codes[0] >= 0).sum(1), strict=True)) / 8
    assert len(data) - planes <= limit


# --- writer and header ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (2, 3)}, "layers"),
        ({"layers": (2, 4, 0)}, "layers"),
        ({"layers": (1,) * 33, "n_codebooks": 33}, "layers"),
        ({"n_codebooks": 65, "layers": ()}, "n_codebooks"),
        ({"context_fingerprint": b"1234567"}, "context_fingerprint"),
        ({"coding": 2}, "coding"),
        ({"coding": Coding.FIXED}, "need the coding LAYERED"),
        ({"coding": Coding.FIXED, "layers": (), "levels": LEVELS}, "need the coding LAYERED"),
    ],
)
def test_header_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BitstreamError, match=message):
        replace(HEADER, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"hop": 65}, {"bands": 65}, {"top": 0}, {"lowest": 1}, {"highest": 16}, {"step_db": 0.0}, {"step_db": -1.0}],
)
def test_level_parameters_refuse(changes: dict[str, Any]) -> None:
    with pytest.raises(BitstreamError, match=f"levels: {next(iter(changes))}"):
        replace(LEVELS, **changes)


def test_writer_refuses() -> None:
    stream = io.BytesIO()
    with pytest.raises(BitstreamError, match=r"chunk_frames must be in 1\.\.1024"):
        Writer(stream, HEADER, 1025)
    fixed = replace(HEADER, coding=Coding.FIXED, layers=())
    with pytest.raises(BitstreamError, match="redundancy"):
        Writer(stream, fixed, redundancy=True)
    assert not stream.getvalue()
    writer = Writer(stream, HEADER)
    for code, message in ((-2, "codes must be in -1"), (50, "codes must be in -1"), (-1, "after a -1")):
        codes = np.zeros((2, 6, 5), int)
        codes[1, 2, 3] = code
        with pytest.raises(BitstreamError, match=message):
            writer.write(codes)
    with pytest.raises(BitstreamError, match="no parameters"):
        writer.write(CODES, np.zeros((2, 3, 1), np.int8))
    with_levels = Writer(stream, replace(HEADER, levels=LEVELS))
    for levels in (np.zeros((2, 2, 1), int), np.zeros((2, 3, 1)), np.full((2, 3, 1), 3), np.full((2, 3, 1), -5)):
        with pytest.raises(BitstreamError, match="levels must"):
            with_levels.write(CODES, levels)
    with_levels.write(CODES, np.zeros((2, 3, 14), int))
    with pytest.raises(BitstreamError, match="levels of the last 4 frames"):
        with_levels.close()


def test_full_chunks_are_held_until_many_can_be_coded_together() -> None:
    stream = io.BytesIO()
    writer = Writer(stream, replace(HEADER, n_samples=None), 10)
    size = stream.tell()
    writer.write(CODES)
    assert stream.tell() == size
    writer.flush()
    flushed = stream.tell()
    assert flushed > size
    for _ in range(6):
        writer.write(CODES)
    assert stream.tell() > flushed


def test_levels_may_come_later_than_their_codes() -> None:
    header = replace(HEADER, levels=LEVELS)
    levels = random_levels(header, 60)
    assert levels is not None
    stream = io.BytesIO()
    with Writer(stream, header, 10) as writer:
        for frame in range(0, 60, 5):
            writer.write(
                CODES[..., frame : frame + 5], levels[..., max(0, frame // 4 - 3) : max(0, (frame + 5) // 4 - 3)]
            )
            writer.flush()
        writer.write(CODES[..., :0], levels[..., 12:])
    check_equal(loads(stream.getvalue()), header, CODES, levels)


# --- thinning and order -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_thinned_files_are_those_of_fewer_codebooks(levels: LevelParameters | None) -> None:
    header = replace(HEADER, levels=levels)
    given_levels = random_levels(header, 60)
    data = dumps(header, CODES, given_levels)
    for n_codebooks, layers in ((1, (1,)), (2, (2,)), (3, (2, 1)), (5, (2, 3)), (6, (2, 3, 1)), (9, (2, 3, 1))):
        expected = replace(header, n_codebooks=min(6, n_codebooks), layers=layers)
        assert thin(data, n_codebooks) == dumps(expected, CODES[:, :n_codebooks], given_levels)
    without = replace(header, levels=None)
    assert thin(data, levels=False) == dumps(without, CODES)


def test_thinned_files_of_fixed_width_are_those_of_fewer_codebooks() -> None:
    header = replace(HEADER, coding=Coding.FIXED, layers=())
    codes = random_codes(header, 60, lowest=6)
    data = dumps(header, codes)
    for n_codebooks in range(1, 7):
        assert thin(data, n_codebooks) == dumps(replace(header, n_codebooks=n_codebooks), codes[:, :n_codebooks])
    check_equal(
        loads(thin(data, 5, order=Order.LAYERS)), replace(header, n_codebooks=5, coding=Coding.LAYERED), codes[:, :5]
    )


def test_thinning_keeps_the_chunks_and_fills_in_the_length() -> None:
    for header in (HEADER, replace(HEADER, coding=Coding.FIXED, layers=())):
        stream = io.BytesIO()
        codes = random_codes(header, 60, lowest=6)
        writer = Writer(stream, replace(header, n_samples=None), 7)
        writer.write(codes)
        writer.close(60 * 320 - 5)
        reader = Reader(io.BytesIO(thin(stream.getvalue(), 4)))
        assert reader.header.n_samples == 60 * 320 - 5
        assert [chunk.n_frames for chunk in reader] == [7] * 8 + [4]


@pytest.mark.parametrize("coding", list(Coding))
def test_thinning_to_a_bitrate(coding: Coding) -> None:
    header = replace(HEADER, channels=1, coding=coding, layers=())
    data = dumps(header, random_codes(header, 60, lowest=6))
    per_codebook = 6 * 50 if coding is Coding.FIXED else 8 * sum(len(plane) for plane in planes(data)) / 6 / 1.2
    for n_codebooks in range(1, 7):
        thinned = loads(thin(data, bitrate=per_codebook * (n_codebooks + 0.2))).codes
        assert thinned.shape[1] == n_codebooks
    with pytest.raises(DacError, match=r"too low: one codebook takes 0\.3"):
        thin(data, bitrate=100)
    for arguments in ({"n_codebooks": 2, "bitrate": 500.0}, {"n_codebooks": 0}):
        with pytest.raises(DacError, match="n_codebooks"):
            thin(data, **arguments)  # type: ignore[arg-type]


def planes(data: bytes) -> list[bytes]:
    """The coded codes of a mono file whose frames have all codes."""
    found = []
    for chunk in Reader(io.BytesIO(data)).coded():
        for layer in chunk.layers:
            assert layer is not None
            found += split_planes(layer, [chunk.n_frames] * 2, 6)
    return found


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_half_of_a_file_ordered_by_layers_is_the_whole_piece(levels: LevelParameters | None) -> None:
    header = replace(HEADER, levels=levels)
    given_levels = random_levels(header, 60)
    codes = random_codes(header, 60, lowest=6)
    stream = io.BytesIO()
    with Writer(stream, header, 10) as writer:
        writer.write(codes, given_levels)
    data = thin(stream.getvalue(), order=Order.LAYERS)
    assert thin(data, order=Order.TIME) == stream.getvalue()
    assert thin(data) == data
    assert len(data) < len(stream.getvalue()) + 6 * 3 * 10
    n_codes = []
    for size in range(0, len(data), 5):
        with pytest.raises(TruncatedBitstreamError):
            loads(data[:size])
        try:
            found = loads(data[:size], allow_truncated=True)
        except TruncatedBitstreamError:
            continue
        n_frames = found.codes.shape[-1]
        some = found.codes >= 0
        np.testing.assert_array_equal(found.codes[some], codes[..., :n_frames][some])
        n_codes.append(int(some.sum()))
        if n_frames == 60:
            assert found.header == header
        assert describe(data[:size])["truncated"]
    assert n_codes == sorted(n_codes)
    half = loads(data[: len(data) // 2], allow_truncated=True)
    assert half.codes.shape[-1] == 60
    assert (half.codes[:, :2] >= 0).all()


def test_a_cut_within_the_finer_layers_says_so() -> None:
    data = thin(dumps(HEADER, CODES), order=Order.LAYERS)
    with pytest.raises(TruncatedBitstreamError, match="within its finer layers"):
        loads(data[:-20])
    events, reader = events_of(data[:-20])
    assert [event.missing_layers for event in events if isinstance(event, Chunk)] == [(3,)]
    assert not reader.complete


def test_a_file_that_lacks_a_layer_is_damaged() -> None:
    data = thin(dumps(HEADER, CODES), order=Order.LAYERS)
    layer_3 = next(Reader(io.BytesIO(data)).coded()).layers[2]
    assert layer_3 is not None
    at = data.index(layer_3)
    without = data[: at - 4] + data[at + len(layer_3) + 4 :]
    with pytest.raises(BitstreamError, match="lacks layer 3 of the chunk at frame 0"):
        loads(without)
    events, reader = events_of(without)
    assert not reader.complete
    (chunk,) = events
    assert isinstance(chunk, Chunk)
    np.testing.assert_array_equal(chunk.codes, limited(CODES, 5))
    assert chunk.missing_layers == (3,)


@pytest.mark.parametrize("order", list(Order))
def test_seeking(order: Order) -> None:
    header = replace(HEADER, levels=LEVELS)
    levels = random_levels(header, 60)
    assert levels is not None
    stream = io.BytesIO()
    with Writer(stream, header, 9) as writer:
        writer.write(CODES, levels)
    reader = Reader(io.BytesIO(thin(stream.getvalue(), order=order)))
    for frame in (59, 0, 8, 9, 30):
        first = reader.seek_frame(frame)
        assert first == frame // 9 * 9
        chunks = list(reader)
        assert chunks[0].first_frame == first
        np.testing.assert_array_equal(np.concatenate([chunk.codes for chunk in chunks], -1), CODES[..., first:])
        found = np.concatenate([chunk.levels for chunk in chunks if chunk.levels is not None], -1)
        np.testing.assert_array_equal(found, levels[..., LEVELS.n_windows(first) :])
    with pytest.raises(BitstreamError, match="frame 60 asked for"):
        reader.seek_frame(60)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(Order))
@pytest.mark.parametrize("levels", [None, LEVELS])
def test_every_flipped_byte_is_detected_and_costs_little(order: Order, levels: LevelParameters | None) -> None:
    header = replace(HEADER, levels=levels)
    stream = io.BytesIO()
    with Writer(stream, header, 20) as writer:
        writer.write(CODES, random_levels(header, 60))
    data = thin(stream.getvalue(), order=order)
    start = data[5] + 10
    n_reduced = n_gaps = 0
    for place in range(start, len(data), 2):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(BitstreamError):
            loads(bytes(damaged))
        events, reader = events_of(bytes(damaged))
        assert not reader.complete or place >= len(data) - 5
        assert len(events) == 3
        position = 0
        for event in events:
            assert event.first_frame == position
            position += event.n_frames
            if isinstance(event, Chunk):
                usable = [number not in event.missing_layers for number in range(1, 4)]
                n_codebooks = sum(HEADER.layers[: usable.index(False) if False in usable else 3])
                expected = CODES[..., event.first_frame : position]
                np.testing.assert_array_equal(event.codes, limited(expected, n_codebooks))
        n_reduced += sum(isinstance(event, Chunk) and bool(event.missing_layers) for event in events)
        n_gaps += sum(isinstance(event, Gap) for event in events)
    assert n_reduced + n_gaps <= len(data) - start
    assert n_reduced > 0


def test_damaged_layers_are_named() -> None:
    chunks = parts()
    layers = next(Reader(io.BytesIO(b"".join(chunks))).coded()).layers
    for number in (2, 3):
        data = bytearray(b"".join(chunks))
        layer = layers[number - 1]
        assert layer is not None
        data[bytes(data).index(layer)] ^= 1
        with pytest.raises(BitstreamError, match=f"layer {number} of the chunk at frame 0 is damaged"):
            loads(bytes(data))
        first = events_of(bytes(data))[0][0]
        assert isinstance(first, Chunk)
        assert first.missing_layers == tuple(range(number, 4))


def test_lost_chunks_are_gaps_and_others_arrive() -> None:
    head, *chunks, end = parts()
    events, reader = events_of(head + chunks[0] + b"".join(chunks[2:4]) + chunks[5] + end)
    assert [event.first_frame for event in events] == [0, 10, 20, 30, 40, 50]
    assert [event for event in events if isinstance(event, Gap)] == [
        Gap(10, 10, GapReason.LOST), Gap(40, 10, GapReason.LOST),
    ]  # fmt: skip
    assert not reader.complete


def test_the_smallest_chunk_is_found_behind_damage_at_the_end_of_a_file_without_end() -> None:
    header = replace(HEADER, channels=1, n_codebooks=1, layers=(1,), codebook_size=2)
    stream = io.BytesIO()
    writer = Writer(stream, header, 1)
    head = stream.tell()
    writer.write(np.zeros((1, 1, 1), np.int32))
    writer.flush()
    data = stream.getvalue()
    assert len(data) - head < 11
    events, _ = events_of(data[:head] + bytes([0xFF] * 5) + data[head:])
    assert [event.first_frame for event in events] == [0]


@pytest.mark.parametrize("kind", ["lost", "damaged", "cut"])
def test_redundancy_bridges_single_chunks(kind: str) -> None:
    head, *chunks, end = parts(redundancy=True)
    assert loads(head + b"".join(chunks) + end).codes.tolist() == CODES.tolist()
    for lost in range(6):
        received = list(chunks)
        piece = bytearray(chunks[lost])
        if kind == "lost":
            piece.clear()
        elif kind == "damaged":
            piece[-10:-5] = b"#####"
            piece[len(piece) // 4] ^= 255
            piece[5] ^= 1
        else:
            del piece[len(piece) // 3 :]
        received[lost] = bytes(piece)
        events, reader = events_of(head + b"".join(received) + end)
        # A chunk takes the copy of the one before with it.
        assert [event.first_frame for event in events] == [0, 10, 20, 30, 40, 50]
        assert not reader.complete
        for index, event in enumerate(events):
            assert isinstance(event, Chunk)
            expected = CODES[..., 10 * index : 10 * index + 10]
            is_lost = index == lost and event.missing_layers != ()
            np.testing.assert_array_equal(event.codes, limited(expected, 2) if is_lost else expected)
            assert event.missing_layers == ((2, 3) if is_lost else ())


def test_redundancy_adds_a_third() -> None:
    header = replace(HEADER, channels=1, n_codebooks=9, codebook_size=1024, layers=(), n_samples=None)
    codes = np.random.default_rng(0).integers(0, 1024, (1, 9, 320))
    sizes = []
    for redundancy in (False, True):
        stream = io.BytesIO()
        with Writer(stream, header, 16, redundancy=redundancy) as writer:
            writer.write(codes)
            writer.close(320 * 320)
        sizes.append(stream.tell())
    assert 1.3 < sizes[1] / sizes[0] < 1.4


def test_redundancy_after_two_lost_chunks() -> None:
    head, *chunks, end = parts(redundancy=True)
    events, _ = events_of(head + chunks[0] + chunks[1] + b"".join(chunks[4:]) + end)
    assert [(type(event), event.first_frame) for event in events] == [
        (Chunk, 0), (Chunk, 10), (Gap, 20), (Chunk, 30), (Chunk, 40), (Chunk, 50),
    ]  # fmt: skip
    assert isinstance(events[3], Chunk)
    assert events[3].missing_layers == (2, 3)
    events, _ = events_of(head + b"".join(chunks[:5]) + end)
    assert isinstance(events[4], Chunk)
    assert isinstance(events[5], Chunk)
    assert events[5].missing_layers == (2, 3)


@pytest.mark.parametrize("redundancy", [False, True])
def test_a_chunk_comes_with_its_last_byte(redundancy: bool) -> None:
    head, *chunks, _ = parts(redundancy=redundancy)

    class Live(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.rest = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            piece = self.rest.read(size)
            if not piece:
                raise InterruptedError("would wait")
            return piece

    for events in (False, True):
        for n_chunks in (1, 2, 4):
            reader = Reader(Live(head + b"".join(chunks[:n_chunks])))  # type: ignore[arg-type]
            found = []
            with pytest.raises(InterruptedError):
                found.extend(reader.events() if events else iter(reader))
            assert [chunk.first_frame for chunk in found] == list(range(0, 10 * n_chunks, 10))


def test_a_damaged_length_does_not_make_the_reader_wait() -> None:
    head, *chunks, _ = parts()
    for place in range(4):
        damaged = bytearray(chunks[1])
        damaged[place] ^= 0x41
        events, _ = events_of(head + chunks[0] + bytes(damaged) + chunks[2] + chunks[3])
        assert [event.first_frame for event in events] == [0, 10, 20, 30]


# --- info -------------------------------------------------------------------------------------------------------------


def test_description() -> None:
    header = replace(HEADER, levels=LEVELS)
    data = dumps(header, CODES, random_levels(header, 60))
    found = describe(data)
    assert (found["coding"], found["layers"], found["order"]) == ("layered", [2, 3, 1], "time")
    assert (found["context_model"], found["n_codebooks"], found["n_frames"]) == ("adaptive", 6, 60)
    assert found["codes_per_frame"] == pytest.approx((CODES >= 0).sum() / 120)
    assert found["levels"] == {"hop": 4, "bands": 3, "top": 16000, "step_db": 1.5, "lowest": -4, "highest": 2}
    assert found["bitrate"] == pytest.approx(8 * len(data) / 1.2, rel=0.2)
    assert found["peak_bitrate"] == pytest.approx(found["bitrate"])
    assert len(found["bits_by_codebook"]) == 6
    assert all(2 < bits < 12 for bits in found["bits_by_codebook"])
    text = as_text(found)
    for line in (
        "2 + 3 + 1 codebooks",
        "by time",
        "3 bands up to 16000 Hz, -6 to +3 dB in steps of 1.5 dB, every 4 frames",
    ):
        assert line in text
    assert describe(thin(data, order=Order.LAYERS))["order"] == "layers"


def test_coded_chunks_know_their_missing_layers() -> None:
    assert CodedChunk(0, 1, (1,), (b"", None, b""), 3).missing_layers == (2,)
