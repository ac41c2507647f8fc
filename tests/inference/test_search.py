"""M-search, and the errors that a number of codes per frame is chosen by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dac_codec import inference
from dac_codec.inference.quantizer import FoldedQuantizer
from dac_codec.model import DAC
from dac_codec.model.direct_sum import LATENT_WEIGHT
from dac_codec.model.search import AdditiveSearch, PathSearch, largest
from tests.inference.networks import TINY, lively, noise, pieces

EUCLIDEAN = lively(replace(TINY, lookup="euclidean", codebook_size=64))
COSINE = lively(replace(TINY, codebook_size=48))
MOVING_AVERAGE = lively(replace(TINY, codebook_learning="moving_average", lookup="euclidean", codebook_dim=6))


def costs(model: DAC, z: Tensor, codes: Tensor) -> Tensor:
    """What paths are ranked by [B, F], from the definition."""
    residual, total = z, torch.zeros(())
    stages = model.quantizer.stages()
    weights = [stage.in_proj.weight.square().sum() / z.shape[1] for stage in stages]
    weight = LATENT_WEIGHT * sum(weights) / len(weights)
    for stage, part in zip(stages, codes.unbind(1), strict=False):
        point, entry = stage.in_proj(residual), stage.entries(part)
        if stage.lookup == "cosine":
            angle = torch.nn.functional.normalize(point, dim=1) - torch.nn.functional.normalize(entry, dim=1)
            total = total + angle.square().sum(1) * point.square().sum(1)
        else:
            total = total + (point - entry).square().sum(1)
        residual = residual - stage.out_proj(entry)
    return total + weight * residual.square().sum(1)


@given(st.sampled_from([EUCLIDEAN, COSINE]), st.integers(1, 2), st.integers(1, 3), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_more_paths_cost_less(model: DAC, batch: int, n: int, seed: int) -> None:
    """On average over frames: the best path may begin with one that is dropped."""
    z = 5 * noise(batch, 6, 40, seed=seed)
    paths = PathSearch(model.quantizer)
    found = [FoldedQuantizer(model.quantizer).codes(z, n), *(paths.codes(z, n, n_paths) for n_paths in (1, 4, 16))]
    assert {codes.shape for codes in found} == {(batch, n, 40)}
    means = [float(costs(model, z, codes).mean()) for codes in found]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("model", [EUCLIDEAN, COSINE])
@torch.no_grad()
def test_the_best_path_of_all(model: DAC) -> None:
    """With every path kept, the result is the best of all pairs of codes."""
    z = 5 * noise(1, 6, 3)
    size = model.codebook_size
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size)).t()[None]  # [1, 2, pairs]
    best = [costs(model, z[..., f : f + 1].expand(-1, -1, pairs.shape[2]), pairs)[0].argmin() for f in range(3)]
    assert torch.equal(PathSearch(model.quantizer).codes(z, 2, size), pairs[0][:, best][None])


@given(st.integers(1, 2), st.integers(1, 3), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
@torch.no_grad()
def test_additive_search_never_costs_more(batch: int, n: int, seed: int) -> None:
    z = 5 * noise(batch, 6, 40, seed=seed)
    start, found = PathSearch(EUCLIDEAN.quantizer).codes(z, n, 4), AdditiveSearch(EUCLIDEAN.quantizer).codes(z, n)
    assert found.shape == (batch, n, 40)
    assert (costs(EUCLIDEAN, z, found) <= costs(EUCLIDEAN, z, start) + 1e-9).all()


@torch.no_grad()
def test_additive_search_leaves_no_better_entry() -> None:
    """The last code is the best of all entries beside the others."""
    z = 5 * noise(1, 6, 100)
    found = AdditiveSearch(EUCLIDEAN.quantizer).codes(z, 3)
    assert not torch.equal(found, PathSearch(EUCLIDEAN.quantizer).codes(z, 3, 4))
    others = found.expand(64, -1, -1).clone()
    others[:, 2] = torch.arange(64)[:, None]
    assert torch.equal(costs(EUCLIDEAN, z.expand(64, -1, -1), others).argmin(0), found[0, 2])


@torch.no_grad()
def test_additive_codes_of_items_with_fewer_codebooks() -> None:
    """In training, each item has the codes of the search with the codebooks that it uses, and then any."""
    model = lively(replace(TINY, quantizer="additive", lookup="euclidean", codebook_size=64, quantizer_dropout=1.0))
    z = 5 * noise(8, 6, 5)
    trained = model.quantizer.train()(z, generator=torch.Generator().manual_seed(0))
    model.eval()
    used = torch.randint(1, 4, (8,), generator=torch.Generator().manual_seed(0)).tolist()
    assert set(used) == {1, 2, 3}
    assert ((trained.codes >= 0) & (trained.codes < 64)).all()
    for item, n in enumerate(used):
        alone = model.quantizer(z[item : item + 1], n)
        assert torch.equal(trained.codes[item, :n], alone.codes[0])
        assert torch.allclose(trained.z[item], alone.z[0])
    with pytest.raises(ValueError, match="has no codes of look-up inputs"):
        model.quantizer.from_latents(trained.latents)


@given(st.integers(1, 3), st.integers(1, 300), st.integers(1, 6), st.data())
@settings(deadline=None, max_examples=60)
def test_largest(n_rows: int, m: int, n: int, data: st.DataObject) -> None:
    """A stable sort gives the same, also where scores are equal."""
    values = data.draw(st.lists(st.integers(-3, 3), min_size=n_rows * m, max_size=n_rows * m))
    scores = torch.tensor(values).view(n_rows, m).float() / 3
    expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :n]
    assert torch.equal(largest(scores, n), expected)


@pytest.mark.parametrize("model", [EUCLIDEAN, COSINE, MOVING_AVERAGE])
@pytest.mark.parametrize("n_paths", [1, 4])
@torch.no_grad()
def test_blocks_equal_the_whole(model: DAC, n_paths: int) -> None:
    audio = noise(2, 1, 700)
    whole = inference.prepare(model).look_up(n_paths)(model.encoder(model.preprocess(audio)), 2)
    assert torch.equal(inference.encode(model, audio, 2, n_paths), whole)
    stream = inference.StreamingEncoder(model, 2, 2, n_paths)
    for sizes in ([1], [7, 0, 100]):
        stream.reset()
        found = [*map(stream.push, pieces(audio, sizes)), stream.flush()]
        assert torch.equal(torch.cat(found, -1), whole)
    if n_paths == 1 or model is MOVING_AVERAGE:
        assert torch.equal(whole, model.encode(audio, 2).codes)
    batch = inference.encode_frames_batch(model, [audio[:1], audio[1:, :, :300]], 2, n_paths)
    assert torch.equal(batch[0].codes, whole[:1])


@pytest.mark.parametrize("model", [EUCLIDEAN, COSINE, MOVING_AVERAGE])
@torch.no_grad()
def test_errors_and_power_of_frames(model: DAC) -> None:
    audio = noise(2, 1, 700)
    z = model.encoder(model.preprocess(audio))
    unit = FoldedQuantizer(model.quantizer).scale
    for sizes in ([1], [10_000]):
        frames = list(inference.encode_frames(model, pieces(audio, sizes), 3, 5, n_paths=2))
        codes, errors, power = (torch.cat(parts, -1) for parts in zip(*frames, strict=True))
        assert torch.equal(codes, inference.encode(model, audio, n_paths=2))
        for n in range(1, 4):
            error = (z - model.quantizer.from_codes(codes[:, :n])[0]).square().sum(1)
            assert torch.allclose(errors[:, n - 1] * unit, error)
        assert torch.allclose(power, model.preprocess(audio)[:, 0].unflatten(1, (-1, 6)).square().mean(2))


def test_no_path() -> None:
    with pytest.raises(ValueError, match="n_paths must be at least 1, not 0"):
        inference.encode(EUCLIDEAN, noise(1, 1, 10), n_paths=0)
