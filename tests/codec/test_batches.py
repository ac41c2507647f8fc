"""Files that go through the network together are what they are alone, whatever becomes of those beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dac_codec import codec, inference
from dac_codec.codec import Batches, batches
from dac_codec.common.threads import parallel_map
from dac_codec.inference import prepare
from dac_codec.inference.quantizer import FoldedQuantizer
from dac_codec.model import DAC
from dac_codec.model.quantizer import ResidualVectorQuantize
from tests.inference.networks import TINY, lively, noise, pieces

MODEL = lively(replace(TINY, encoder_rates=(3, 5), decoder_rates=(5, 3)))
OTHER = lively(TINY)
HOP = MODEL.hop_length
MOST = 200 * HOP
"""Samples of a batch in these tests; a file of more than a quarter of that is long."""

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "block_samples", lambda device: MOST)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())  # PyTorch's compiler keeps some, if a test before had it
    yield
    assert {thread for thread in threading.enumerate() if not thread.daemon} <= before


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and samples of each batch that is encoded, filling included."""
    found: list[tuple[int, int]] = []
    encode_batch = inference.encode_batch

    def counting(model: DAC, signals: Sequence[Tensor], n_quantizers: int | None = None) -> list[Tensor]:
        found.append((sum(len(signal) for signal in signals), max(signal.shape[-1] for signal in signals)))
        return encode_batch(model, signals, n_quantizers)

    monkeypatch.setattr(inference, "encode_batch", counting)
    return found


def sounds(*shapes: tuple[int, int]) -> list[Tensor]:
    """Sounds of so many channels and samples, another one each."""
    return [noise(channels, 1, n_samples, seed=seed) for seed, (channels, n_samples) in enumerate(shapes)]


def all_of(signals: Sequence[Tensor], work: Callable[[int, codec.Coder], Tensor]) -> list[Tensor]:
    """What comes of work for each signal, in their order."""
    together = Batches(len(signals))

    def one(index: int) -> Tensor:
        with together.member(index) as coder:
            return work(index, coder)

    return list(parallel_map(one, range(len(signals)), together.n_at_once))


def encoded(signals: Sequence[Tensor]) -> list[Tensor]:
    def work(index: int, coder: codec.Coder) -> Tensor:
        return torch.cat(list(coder.encode_blocks(MODEL, pieces(signals[index], [70]), 2)), -1)

    return all_of(signals, work)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, MOST // 3)), min_size=1, max_size=8), st.integers(1, 9))
def test_files_are_what_they_are_alone(shapes: list[tuple[int, int]], n_that_meet: int) -> None:
    signals = sounds(*shapes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "block_samples", lambda device: MOST)
        patch.setattr(batches, "FILES_THAT_MEET", n_that_meet)
        found = encoded(signals)
        for signal, codes in zip(signals, found, strict=True):
            assert torch.equal(codes, inference.encode(MODEL, signal, 2))
        heard = all_of(found, lambda index, coder: torch.cat(list(coder.decode_blocks(MODEL, [found[index]])), -1))
    for codes, audio in zip(found, heard, strict=True):
        assert torch.allclose(audio, inference.decode(MODEL, codes), rtol=0, atol=1e-10)


def test_a_batch_is_no_larger_than_what_a_device_does_at_once(computed: list[tuple[int, int]]) -> None:
    shapes = [(1 + index % 3, (5 + index % 11) * HOP) for index in range(40)]
    encoded(sounds(*shapes))
    assert all(rows * n_samples <= MOST for rows, n_samples in computed)
    assert sum(rows for rows, _ in computed) == sum(channels for channels, _ in shapes)
    assert len(computed) <= 10


def test_long_files_go_alone_and_only_some_at_a_time(
    computed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Lock()
    running = most = 0
    encode_blocks = inference.encode_blocks

    def slow(*args: object) -> Iterator[Tensor]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        yield from encode_blocks(*args)  # type: ignore[arg-type]
        with lock:
            running -= 1

    monkeypatch.setattr(batches, "LONG_AT_ONCE", 2)
    monkeypatch.setattr(inference, "encode_blocks", slow)
    signals = sounds(*[(1, MOST // 4 + 1)] * 6, (1, MOST // 4), (2, MOST // 8), (2, MOST // 8 + 1))
    found = encoded(signals)
    assert most == 2
    assert computed == [(3, MOST // 4)]
    monkeypatch.undo()
    for signal, codes in zip(signals, found, strict=True):
        assert torch.equal(codes, inference.encode(MODEL, signal, 2))


def test_what_goes_together_depends_on_the_files_alone(
    computed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = sounds(*[(1 + index % 2, (3 + 5 * index % 17) * HOP) for index in range(20)])
    encoded(signals)
    first = list(computed)
    come = batches._Member._come

    def late(member: batches._Member, *args: object) -> None:
        time.sleep(0.01 * (member._index * 7 % 5))
        come(member, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(batches._Member, "_come", late)
    computed.clear()
    encoded(signals)
    assert computed == first


def test_files_of_other_models_and_rates_go_apart() -> None:
    signals = sounds(*[(1, 100)] * 4)
    ways: list[tuple[DAC, int | None]] = [(MODEL, 1), (OTHER, 1), (MODEL, None), (OTHER, 3)]

    def work(index: int, coder: codec.Coder) -> Tensor:
        model, n_quantizers = ways[index]
        return torch.cat(list(coder.encode_blocks(model, [signals[index]], n_quantizers)), -1)

    for signal, (model, n_quantizers), codes in zip(signals, ways, all_of(signals, work), strict=True):
        assert torch.equal(codes, inference.encode(model, signal, n_quantizers))


def test_live_sound_waits_for_nobody() -> None:
    heard = threading.Event()

    def work(index: int, coder: codec.Coder) -> Tensor:
        if index == 0:
            live = coder.encode_blocks(MODEL, pieces(noise(1, 1, 400), [30]), None, 2)
            first = next(live)
            heard.set()
            return torch.cat([first, *live], -1)
        assert heard.wait(WAIT_S)
        return next(coder.encode_blocks(MODEL, [noise(1, 1, 50)]))

    assert [codes.shape[-1] for codes in all_of([noise(1, 1, 1)] * 2, work)] == [27, 4]


@pytest.mark.parametrize("where", ["before", "while reading", "after"])
def test_a_file_that_fails_is_waited_for_by_nobody(where: str) -> None:
    signals = sounds((1, 100), (2, 200), (1, 150))

    def work(index: int, coder: codec.Coder) -> Tensor:
        def read() -> Iterator[Tensor]:
            yield signals[index][..., :50]
            if index == 1 and where == "while reading":
                raise ValueError("bad")
            yield signals[index][..., 50:]

        if index == 1 and where == "before":
            raise ValueError("bad")
        codes = torch.cat(list(coder.encode_blocks(MODEL, read(), 2)), -1)
        if index == 1 and where == "after":
            raise ValueError("bad")
        return codes

    def forgiving(index: int, coder: codec.Coder) -> Tensor:
        try:
            return work(index, coder)
        except ValueError:
            return torch.empty(0)

    found = all_of(signals, forgiving)
    assert [len(codes) for codes in found] == [1, 0, 1]
    for index in (0, 2):
        assert torch.equal(found[index], inference.encode(MODEL, signals[index], 2))
    with pytest.raises(ValueError, match="bad"):  # also where `member` is left by the error
        all_of(signals, work)


def test_what_is_wrong_with_a_batch_is_said_of_each_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: DAC, signals: Sequence[Tensor], n_quantizers: int | None = None) -> list[Tensor]:
        if max(signal.shape[-1] for signal in signals) > 100:
            raise RuntimeError("out of memory")
        return [torch.ones(1)] * len(signals)

    def work(index: int, coder: codec.Coder) -> Tensor:
        try:
            return next(coder.encode_blocks(MODEL, [signals[index]]))
        except RuntimeError:
            return torch.zeros(1)

    monkeypatch.setattr(inference, "encode_batch", fail)
    signals = sounds((1, 400), (1, 50), (1, 500), (1, 60))
    assert [float(result) for result in all_of(signals, work)] == [0.0, 1.0, 0.0, 1.0]


def test_where_memory_is_short_files_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    encode_batch = inference.encode_batch

    def small(model: DAC, signals: Sequence[Tensor], n_quantizers: int | None = None) -> list[Tensor]:
        sizes.append(len(signals))
        if len(signals) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return encode_batch(model, signals, n_quantizers)

    monkeypatch.setattr(inference, "encode_batch", small)
    signals = sounds((1, 370), (1, 380), (2, 350))
    for signal, codes in zip(signals, encoded(signals), strict=True):
        assert torch.equal(codes, inference.encode(MODEL, signal, 2))
    assert sizes == [3, 1, 1, 1]


def test_a_batch_is_encoded_for_its_codes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decoded of them, and no loss is computed."""

    def unwanted(*arguments: object) -> None:
        raise AssertionError

    signals = sounds((1, 400), (2, 380))
    prepared = prepare(MODEL)
    expected = [model.encode(signal, 2).codes for model in (MODEL, prepared) for signal in signals]
    monkeypatch.setattr(FoldedQuantizer, "encode", unwanted)
    monkeypatch.setattr(FoldedQuantizer, "decode", unwanted)
    monkeypatch.setattr(ResidualVectorQuantize, "forward", unwanted)
    found = [codes for model in (MODEL, prepared) for codes in inference.encode_batch(model, signals, 2)]
    for mine, wanted in zip(found, expected, strict=True):
        assert torch.equal(mine, wanted)
    with pytest.raises(ValueError, match="between 1 and"):
        inference.encode_batch(MODEL, signals, 0)


@pytest.mark.parametrize("at_the_network", [False, True])
def test_an_interruption_ends_those_who_wait(at_the_network: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> list[Tensor]:
        raise KeyboardInterrupt

    def work(index: int, coder: codec.Coder) -> Tensor:
        if index == 2:
            time.sleep(0.1)
            if not at_the_network:
                raise KeyboardInterrupt
        return next(coder.encode_blocks(MODEL, [noise(1, 1, 100)]))

    if at_the_network:
        monkeypatch.setattr(inference, "encode_batch", interrupted)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        all_of([noise(1, 1, 1)] * 3, work)
    assert time.monotonic() - started < WAIT_S


def test_leaving_early_ends_those_who_wait() -> None:
    """As Ctrl-C does: what waits for a file that never comes gets an interruption."""
    together = Batches(3)
    waiting = threading.Event()

    def one(index: int) -> int:
        with together.member(index) as coder:
            if index == 0:
                return 0
            waiting.set()
            next(coder.encode_blocks(MODEL, [noise(1, 1, 100)]))
        return index

    with closing(parallel_map(one, range(3), 2)) as results:
        assert next(results) == 0
        assert waiting.wait(WAIT_S)


def test_several_files_go_together_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert codec.together("cpu", 9) is None
        assert (codec.together("auto", 9) is not None) is has_gpu
        assert codec.together("auto", 1) is None
    assert codec.together("cuda", 1) is None
    found = codec.together("cuda", 1000)
    assert found is not None
    assert found.n_at_once == 2 * batches.FILES_THAT_MEET
