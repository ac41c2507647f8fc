"""Signals in blocks equal the whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dac_codec import inference
from dac_codec.common import threads
from dac_codec.inference import blocks, decoder_context, network
from dac_codec.model import DAC
from tests.inference.networks import TINY, lively, noise, pieces

MODEL = lively(replace(TINY, encoder_rates=(3, 5), decoder_rates=(5, 3)))
CAUSAL = lively(replace(TINY, encoder_rates=(3, 5), decoder_rates=(5, 3), causal=True))


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "block_samples", lambda device: 1)


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("model", [MODEL, CAUSAL])
@pytest.mark.parametrize("n_samples", [1, 16 * 15, 1000])
@torch.no_grad()
def test_files_in_blocks(model: DAC, n_samples: int) -> None:
    audio = noise(2, 1, n_samples)
    whole = model.encode(audio, 2).codes
    assert torch.equal(inference.encode(model, audio, 2), whole)
    assert torch.allclose(inference.decode(model, whole), model.decode_codes(whole), atol=1e-12)


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("sizes", [[1], [7, 0, 1000], [10_000]])
@torch.no_grad()
def test_blocks_are_regrouped(sizes: list[int]) -> None:
    audio = noise(1, 1, 50 * 15)
    whole = MODEL.encode(audio).codes
    codes = list(inference.encode_blocks(MODEL, pieces(audio, sizes)))
    decoded = list(inference.decode_blocks(MODEL, pieces(whole, sizes)))
    assert torch.equal(torch.cat(codes, -1), whole)
    assert torch.allclose(torch.cat(decoded, -1), MODEL.decode_codes(whole), atol=1e-12)
    for parts, steps in ((codes, 1), (decoded, MODEL.hop_length)):
        assert min(part.shape[-1] for part in parts) > 0
        assert [part.shape[-1] for part in parts[1:-2]] == [16 * steps] * (len(parts) - 3)
        assert len(parts) >= 4


def test_blocks_are_read_lazily(short_blocks: None) -> None:
    n_read = 0

    def endless() -> object:
        nonlocal n_read
        while True:
            n_read += 1
            yield noise(1, 1, 15)

    codes = inference.encode_blocks(MODEL, endless())  # type: ignore[arg-type]
    next(codes)
    assert n_read <= 32


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads within an operation, as on two cores; all others have ended at the end."""
    before, running = torch.get_num_threads(), set(threading.enumerate())
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert set(threading.enumerate()) <= running


@pytest.mark.usefixtures("short_blocks", "two_threads")
@pytest.mark.parametrize("model", [MODEL, CAUSAL])
@pytest.mark.parametrize(("n_blocks", "more"), [(-1, 0), (0, -1), (3, 5)])
@torch.inference_mode()
def test_a_thread_for_each_block_of_the_network(
    model: DAC, n_blocks: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_samples = 16 * 15 * (blocks.MIN_BLOCKS + n_blocks) + more
    n_pipelines = 0

    def pipeline(*arguments: Any) -> Any:
        nonlocal n_pipelines
        n_pipelines += 1
        return threads.pipeline(*arguments)

    monkeypatch.setattr(network, "pipeline", pipeline)
    monkeypatch.setattr(network, "_IDLE", 1e9)
    audio = noise(2, 1, n_samples)
    found = list(inference.encode_frames(model, pieces(audio, [700]), n_paths=2))
    codes = torch.cat([frames.codes for frames in found], -1)
    decoded = inference.decode(model, codes)
    assert n_pipelines == (0 if n_blocks < 0 else 2)
    torch.set_num_threads(1)
    expected = list(inference.encode_frames(model, pieces(audio, [700]), n_paths=2))
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one, other))
    assert torch.equal(decoded, inference.decode(model, codes))
    torch.set_num_threads(2)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("n_threads", "n_cores", "in_threads", "expected"),
    [(8, 6, True, 3), (2, 8, True, 1), (8, 1, True, 1), (2, 8, False, 2)],
)
def test_threads_within_operations(
    n_threads: int, n_cores: int, in_threads: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "available_cores", lambda: n_cores)
    torch.set_num_threads(n_threads)
    numbers = [lambda _: [torch.get_num_threads()], lambda found: [*found, torch.get_num_threads()]]
    with network.pipelined(range(2), numbers, in_threads) as found:
        assert list(found) == [[expected] * 2] * 2
        assert torch.get_num_threads() == n_threads
    torch.set_num_threads(2)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(("waits_at", "expected"), [(2, [2, 2, 2, 1, 1]), (9, [2] * 5)])
def test_threads_within_operations_until_they_wait(
    waits_at: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wall, processor = 0.0, 0.0
    clocks = SimpleNamespace(perf_counter=lambda: wall, process_time=lambda: processor)
    monkeypatch.setattr(network, "time", clocks)
    monkeypatch.setattr(network, "available_cores", lambda: 2)

    def work(item: int) -> int:
        nonlocal wall, processor
        wall += 1.0
        processor += 1.5 if item == waits_at else 1.9
        return torch.get_num_threads()

    with network.pipelined(range(5), [work], True, tries_layers=True) as found:
        assert list(found) == expected


@pytest.mark.usefixtures("short_blocks", "two_threads")
def test_errors_and_ends_of_threads() -> None:
    def failing() -> Iterator[torch.Tensor]:
        yield noise(1, 1, 16 * 15 * 9)
        raise OSError("cut off")

    found = []
    with pytest.raises(OSError, match="cut off"):  # noqa: PT012
        for codes in inference.encode_blocks(MODEL, failing()):
            found.append(codes)
    assert sum(codes.shape[-1] for codes in found) > 100
    for _ in inference.decode_blocks(MODEL, [torch.cat(found, -1)]):
        break
    with pytest.raises(ValueError, match="codes must be"):
        list(inference.decode_blocks(MODEL, [torch.full((1, 3, 200), 10_000)]))


def test_no_blocks() -> None:
    assert list(inference.encode_blocks(MODEL, [])) == []
    assert list(inference.decode_blocks(MODEL, [torch.zeros(1, 3, 0).long()])) == []


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        inference.encode(MODEL, torch.zeros(1, 1, 0))
    with pytest.raises(ValueError, match="at least one frame"):
        inference.decode(MODEL, torch.zeros(1, 3, 0).long())
    with pytest.raises(ValueError, match="last size only"):
        list(inference.encode_blocks(MODEL, [torch.zeros(1, 1, 5), torch.zeros(2, 1, 5)]))
    with pytest.raises(ValueError, match="last size only"):
        list(inference.encode_blocks(MODEL, [torch.zeros(5)]))


@given(st.sampled_from([MODEL, CAUSAL]), st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=40)
@torch.no_grad()
def test_a_range_equals_a_slice_of_the_whole(model: DAC, n_frames: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, n_frames - 1))
    last = data.draw(st.integers(first + 1, n_frames))
    codes = torch.randint(1024, (2, 3, n_frames), generator=torch.Generator().manual_seed(0))
    hop = model.hop_length
    part = inference.decode_range(model, codes, first, last)
    assert part.shape == (2, 1, (last - first) * hop)
    assert torch.allclose(part, model.decode_codes(codes)[..., first * hop : last * hop], atol=1e-12)


def test_a_range_reads_nothing_beyond_its_context() -> None:
    before, after = decoder_context(MODEL)
    codes = torch.full((1, 3, 100), -2)  # Invalid codes, which must not be read.
    codes[..., 50 - before : 52 + after] = 1
    assert inference.decode_range(MODEL, codes, 50, 52).shape == (1, 1, 30)
    with pytest.raises(ValueError, match="between 0"):
        inference.decode_range(MODEL, codes, 49, 52)


@pytest.mark.parametrize(("first", "last"), [(-1, 3), (3, 3), (3, 2), (0, 11)])
def test_empty_and_outside_ranges(first: int, last: int) -> None:
    with pytest.raises(ValueError, match=f"from {first} to {last}"):
        inference.decode_range(MODEL, torch.zeros(1, 3, 10).long(), first, last)
