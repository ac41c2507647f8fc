"""Codebooks from k-means."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

from dac_codec.model import DAC, DACConfig
from dac_codec.training import codebooks
from dac_codec.training.trainer import Trainer
from tests.processes import forks
from tests.training.conftest import assert_equal, log_of, small_run

SMALL = DACConfig(
    encoder_dim=4,
    encoder_rates=(2,),
    latent_dim=24,
    decoder_dim=8,
    decoder_rates=(2,),
    n_codebooks=4,
    codebook_size=64,
)


@torch.no_grad()
def initialized(config: DACConfig) -> tuple[DAC, Tensor]:
    """A model whose codebooks come from latents [n, 24] of 10 independent dimensions, and these latents."""
    generator = torch.Generator().manual_seed(0)
    model = DAC(config).eval()
    latents = torch.randn(4000, 10, generator=generator) @ torch.randn(10, 24, generator=generator) + 3.0
    codebooks.initialize(model, latents.t()[None], generator)
    return model, latents


@torch.no_grad()
def test_each_codebook_reduces_the_residual() -> None:
    model, latents = initialized(SMALL)
    spread = (latents - latents.mean(0)).square().sum()
    left = []
    for n_quantizers in (1, 2, 3, 4):
        quantized = model.quantizer(latents.t()[None], n_quantizers)
        left.append(float((quantized.z[0].t() - latents).square().sum() / spread))
        assert quantized.codes[0, -1].unique().numel() > 50
    assert left[0] < 0.7
    assert all(after < 0.85 * before for before, after in pairwise(left))


def test_hardly_used_entries_are_replaced_by_latents() -> None:
    config = DACConfig(
        encoder_dim=4,
        encoder_rates=(2,),
        decoder_dim=8,
        decoder_rates=(2,),
        n_codebooks=2,
        codebook_size=32,
        codebook_dim=3,
    )
    generator = torch.Generator().manual_seed(0)
    model = DAC(config)
    optimizer = torch.optim.AdamW(model.quantizer.parameters(), 1e-3)
    before = []
    for stage in model.quantizer.stages():
        stage.codebook.weight.grad = torch.ones(32, 3)
        before.append(stage.codebook.weight.detach().clone())
    optimizer.step()
    for stage, weight in zip(model.quantizer.stages(), before, strict=True):
        stage.codebook.weight.data.copy_(weight)

    usage = codebooks.Usage(model)
    often = torch.arange(8).repeat(40).view(1, 1, -1)
    codes = torch.cat([often, often + 16], 1)  # the first codebook uses 0 to 7, the second 16 to 23
    usage.count(codes)
    usage.count(torch.tensor([[[31], [31]]]))  # once in 321 is less than a tenth of the mean
    latents = torch.randn(1, 6, 50, generator=generator) + 100.0
    fabric = Fabric(accelerator="cpu", devices=1)
    twin = copy.deepcopy(model)
    assert usage.revive(model, latents, optimizer, fabric, generator, twin) == 48
    assert_equal(model.quantizer.state_dict(), twin.quantizer.state_dict())
    for index, used in enumerate((slice(0, 8), slice(16, 24))):
        weight = model.quantizer.stages()[index].codebook.weight
        moved = torch.ones(32, dtype=torch.bool)
        moved[used] = False
        assert torch.equal(weight[used], before[index][used])
        points = latents[0, 3 * index : 3 * index + 3].t()
        distances = torch.cdist(weight[moved].detach(), points, compute_mode="donot_use_mm_for_euclid_dist")
        assert not distances.amin(1).any(), "every replaced entry is a latent of its own codebook"
        assert weight[moved].unique(dim=0).shape[0] > 10
        average = optimizer.state[weight]["exp_avg"]
        assert not average[moved].any()
        assert average[used].all()
    assert usage.revive(model, latents, optimizer, fabric, generator, model) == 0, "the counts were reset"

    healthy = torch.arange(32).repeat(5).view(1, 1, -1)
    usage.count(torch.cat([healthy, healthy], 1)[..., :150])
    assert usage.revive(model, latents, optimizer, fabric, generator, model) == 0, "too few counts to judge"
    usage.count(torch.cat([healthy, healthy], 1)[..., 150:])
    usage.count(torch.zeros(1, 2, 170, dtype=torch.int64))
    assert usage.revive(model, latents, optimizer, fabric, generator, model) == 0, (
        "five uses are at least a tenth of the mean"
    )


def two_processes(fabric: Fabric) -> None:
    torch.manual_seed(0)
    model = DAC(DACConfig(encoder_dim=4, encoder_rates=(2,), decoder_dim=8, decoder_rates=(2,), n_codebooks=1))
    optimizer = torch.optim.AdamW(model.quantizer.parameters())
    usage = codebooks.Usage(model)
    first = 512 * fabric.global_rank
    usage.count(torch.arange(first, first + 500).view(1, 1, -1))
    assert usage.revive(model, torch.zeros(1, 8, 200), optimizer, fabric, torch.Generator(), model) == 0
    assert float(usage.uses.sum()) == 500, "the counts of each process are unchanged"
    usage.count(torch.arange(first, first + 500).repeat(11).view(1, 1, -1))
    latents = torch.randn(1, 8, 200, generator=torch.Generator().manual_seed(fabric.global_rank))
    moved = usage.revive(model, latents, optimizer, fabric, torch.Generator().manual_seed(0), model)
    assert moved == 24, "entries used by one process are in use"
    both = fabric.all_gather(model.quantizer.stages()[0].codebook.weight.detach())
    assert torch.equal(both[0], both[1])
    fabric.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_replace_the_same_entries_by_the_same_values() -> None:
    method = "spawn" if sys.platform == "win32" else forks().get_start_method()
    strategy = DDPStrategy(start_method=method)  # type: ignore[arg-type]
    Fabric(accelerator="cpu", devices=2, strategy=strategy).launch(two_processes)


@pytest.mark.parametrize("revive_every", [0, 5])
def test_reviving_in_a_run(tmp_path: Path, manifest: Path, revive_every: int) -> None:
    settings = {"revive_every": revive_every, "phases": [{"until": 10}]}
    Trainer(small_run(tmp_path, manifest, trainer=settings)).run()
    moved = {line["step"]: line["revived"] for line in log_of(tmp_path) if "revived" in line}
    if revive_every:
        assert set(moved) == {5, 10}
        assert any(moved.values())
    else:
        assert not moved


@torch.no_grad()
def test_groups_have_codebooks_of_their_own_channels() -> None:
    model, latents = initialized(replace(SMALL, codebook_sizes=(64, 64, 16, 16), quantizer="grouped", groups=2))
    halves = latents.split(12, 1)
    spread = [float((half - half.mean(0)).square().sum()) for half in halves]
    left = []
    for n_quantizers in (2, 4):
        decoded = model.quantizer(latents.t()[None], n_quantizers).z[0].t().split(12, 1)
        errors = [float((one - half).square().sum()) for one, half in zip(decoded, halves, strict=True)]
        left.append([error / own for error, own in zip(errors, spread, strict=True)])
    assert max(left[0]) < 0.6
    assert all(after < 0.9 * before for before, after in zip(*left, strict=True))


@pytest.mark.parametrize(
    ("model", "trainer"),
    [
        ({"quantizer": "grouped", "groups": 3, "codebook_dim": 2}, {"revive_every": 2}),
        ({"quantizer": "additive", "lookup": "euclidean", "codebook_dim": 4}, {"revive_every": 2}),
        ({"codebook_sizes": [32, 16, 4]}, {"revive_every": 2, "rotation_trick": True}),
        ({"quantizer": "fsq", "codebook_dim": 1, "lookup": "euclidean", "quantizer_dropout": 0.0}, {}),
    ],
    ids=["grouped", "additive", "sizes", "fsq"],
)
def test_other_quantizers_train_by_the_same_recipe(
    model: dict[str, object], trainer: dict[str, object], tmp_path: Path, manifest: Path
) -> None:
    phases = [{"until": 2, "quantize": 0.0}, {"until": 6}]
    model = {"latent_dim": 12, **model}
    run = small_run(tmp_path, manifest, model=model, trainer={"phases": phases, "codebook_batches": 4, **trainer})
    trained = Trainer(run)
    before = [stage.codebook.weight.detach().clone() for stage in trained.model.quantizer.stages()]
    projection = trained.model.quantizer.stages()[1].in_proj.weight.detach().clone()
    trained.run()
    loaded = DAC.from_pretrained(tmp_path / "model")
    assert loaded.config == run.model
    assert not torch.equal(loaded.quantizer.stages()[1].in_proj.weight, projection)
    same = [
        torch.equal(one, stage.codebook.weight) for one, stage in zip(before, loaded.quantizer.stages(), strict=True)
    ]
    assert same == [run.model.quantizer == "fsq"] * 3  # the values of finite scalars don't learn
    assert all("codebook" in line for line in log_of(tmp_path) if line["step"] > 2 and "mel" in line)
