"""Joint design of a trained codec's codebooks, and the command that saves the new model."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from dac_codec import codec, pretrained
from dac_codec.cli.main import main
from dac_codec.common.errors import DacError
from dac_codec.model import DAC, DACConfig
from dac_codec.model.direct_sum import DirectSum, error_weight, projections
from dac_codec.model.search import PathSearch
from dac_codec.quantization import FiniteScalarQuantizer, snr
from dac_codec.training.clips import clips_of
from dac_codec.training.losses import ReconstructionLosses, weighted_sum
from dac_codec.training.refit import _LOSSES, finite_scalars, latents_snr, refit
from dac_codec.training.sounds import find_sounds
from dac_codec.training.trainer import Trainer
from tests.inference.networks import lively
from tests.training.test_config import config_of

SMALL = DACConfig(
    encoder_dim=4,
    encoder_rates=(4, 8),
    latent_dim=16,
    decoder_dim=16,
    decoder_rates=(8, 4),
    n_codebooks=3,
    codebook_size=32,
    codebook_dim=4,
    lookup="euclidean",
)
COSINE = replace(SMALL, lookup="cosine")


def latents(n: int, seed: int) -> Tensor:
    """Correlated vectors [n, 16]."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(9)) / 4
    return torch.randn(n, 16, generator=generator) @ mixing + 0.3


@torch.no_grad()
def test_the_linear_system_has_the_cost_of_the_search() -> None:
    quantizer = lively(SMALL, torch.float32).quantizer
    z, codes = latents(50, 0), torch.randint(32, (2, 50, 3), generator=torch.Generator().manual_seed(0))
    stages = quantizer.stages()
    c = error_weight([projections(stage)[0][0] for stage in stages])
    costs = []
    for some in codes:
        residual, cost = z.t()[None], torch.zeros(50, dtype=torch.float64)
        for stage, code in zip(stages, some.t(), strict=True):
            entry = stage.entries(code[None])
            cost += (stage.in_proj(residual) - entry)[0].square().sum(0)
            residual = residual - stage.out_proj(entry)
        costs.append(cost + c * residual[0].square().sum(0))
    system = DirectSum.of(quantizer)
    entries, starts = torch.cat([stage.codebook.weight for stage in stages]), 32 * torch.arange(3)
    errors = [system.errors(system.target(z), some + starts, entries) for some in codes]
    assert torch.allclose(errors[0] - errors[1], (costs[0] - costs[1]).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", [SMALL, COSINE], ids=["euclidean", "cosine"])
def test_the_error_of_other_latents_falls(config: DACConfig) -> None:
    quantizer = lively(config, torch.float32).quantizer
    weights = {name: one.clone() for name, one in quantizer.state_dict().items() if "codebook" not in name}
    held_out = latents(500, 1)
    before = [latents_snr(quantizer, held_out, n) for n in (1, 4)]
    refit(quantizer, latents(4000, 0), rounds=3)
    after = [latents_snr(quantizer, held_out, n) for n in (1, 4)]
    assert all(new > old + 0.5 for new, old in zip(after, before, strict=True)), (before, after)
    assert all(torch.equal(quantizer.state_dict()[name], one) for name, one in weights.items())


def test_no_round_makes_the_training_error_larger() -> None:
    z, errors = latents(1000, 0), []
    for rounds in (0, 1, 2, 4):
        quantizer = lively(SMALL, torch.float32).quantizer
        system = DirectSum.of(quantizer)
        refit(quantizer, z, rounds)
        entries = torch.cat([stage.codebook.weight for stage in quantizer.stages()]).detach()
        rows = PathSearch(quantizer).codes(z.t()[None], 3, 4)[0].t() + 32 * torch.arange(3)
        errors.append(float(system.errors(system.target(z), rows, entries).sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * errors[0]


def test_what_cannot_be_refitted() -> None:
    quantizer = lively(SMALL, torch.float32).quantizer
    with pytest.raises(DacError, match="31 latents are too few for codebooks of 32 entries"):
        refit(quantizer, latents(31, 0))
    averages = replace(SMALL, codebook_learning="moving_average", codebook_dim=16)
    with pytest.raises(DacError, match="moving averages"):
        refit(lively(averages, torch.float32).quantizer, latents(100, 0))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["refit", *map(str, arguments)])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    pretrained.save(lively(SMALL, torch.float32), folder)
    return folder


def test_the_command_writes_a_model(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dac_codec.common.progress._LINE_SECONDS", 0.0)
    arguments = (small, "--sounds", manifest, "--minutes", 0.05, "--rounds", 2)
    result = run(*arguments, "-o", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert "fitted to 0.1 minutes" in result.stderr
    assert re.search(r"encoding: +\d+% 1/3 \[", result.stderr), "whole seconds"
    assert result.stderr.count("dB before") == 2
    old, new = pretrained.load(small), pretrained.load(tmp_path / "new")
    assert new.name == "new"
    assert pretrained.fingerprint(new) != pretrained.fingerprint(old)
    changed = {name for name, one in new.state_dict().items() if not torch.equal(one, old.state_dict()[name])}
    assert changed == {f"quantizer.quantizers.{stage}.codebook.weight" for stage in range(3)}

    sound = 0.1 * np.random.default_rng(0).standard_normal((1, 5000)).astype(np.float32)
    file = codec.compress((sound, 44100), new)
    waveform, rate = codec.decompress(file, new)
    assert (waveform.shape, rate) == ((1, 5000), 44100)
    with pytest.raises(DacError, match="written with"):
        codec.decompress(file, old)

    assert run(*arguments, "-o", tmp_path / "again", "--quiet").stderr == ""
    again = pretrained.load(tmp_path / "again")
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in new.state_dict().items())
    refused = run(*arguments, "-o", tmp_path / "new")
    assert (refused.exit_code, refused.stderr) == (
        1,
        f"Error: {tmp_path / 'new'} exists; use --force to overwrite it\n",
    )


@pytest.mark.parametrize(
    ("options", "change"),
    [
        (("--quantizer", "grouped", "--groups", 2, "--codebooks", 4), {"quantizer": "grouped", "groups": 2}),
        (("--codebooks", 4, "--codebook-size", 16), {"codebook_size": 16}),
        (("--codebooks", 4, "--sample-rate", 22050), {"sample_rate": 22050}),
    ],
)
def test_another_shape(
    options: tuple[object, ...], change: dict[str, Any], small: Path, manifest: Path, tmp_path: Path
) -> None:
    result = run(small, "--sounds", manifest, "--minutes", 0.05, "--rounds", 2, *options, "-o", tmp_path / "new")
    assert result.exit_code == 0, result.output
    new = pretrained.load(tmp_path / "new")
    assert new.config == replace(SMALL, n_codebooks=4, **change)
    assert all(torch.equal(one, other) for one, other in parameters_but_the_quantizer(new, pretrained.load(small)))
    before, after = (float(result.stderr.split(f" dB {when}")[0].split()[-1]) for when in ("before", "after"))
    assert after > before  # the model has random codebooks


def test_additive_codebooks_continue_from_residual_ones(small: Path, manifest: Path, tmp_path: Path) -> None:
    arguments = (small, "--sounds", manifest, "--minutes", 0.05, "--rounds", 2, "--quantizer", "additive")
    result = run(*arguments, "-o", tmp_path / "new")
    assert result.exit_code == 0, result.output
    old, new = pretrained.load(small), pretrained.load(tmp_path / "new")
    assert new.config == replace(SMALL, quantizer="additive")
    changed = {name for name, one in new.state_dict().items() if not torch.equal(one, old.state_dict()[name])}
    assert changed == {f"quantizer.quantizers.{stage}.codebook.weight" for stage in range(3)}
    greedy, paths = (line.split()[-6:-1:3] for line in result.stderr.splitlines() if "dB before" in line)
    assert greedy[1] == paths[1]  # the model has one search
    assert float(greedy[1]) > float(paths[0])


def test_finite_scalars_at_the_bits_of_the_model(small: Path, manifest: Path, tmp_path: Path) -> None:
    arguments = (small, "--sounds", manifest, "--minutes", 0.05, "--quantizer", "fsq", "-o", tmp_path / "new")
    assert run(*arguments, "--codebooks", 3).exit_code == 1
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    new = pretrained.load(tmp_path / "new")
    assert new.config.quantizer == "fsq"
    assert SMALL.bitrate() - new.config.frame_rate * 2 <= new.config.bitrate() <= SMALL.bitrate()
    assert all(torch.equal(one, other) for one, other in parameters_but_the_quantizer(new, pretrained.load(small)))


def test_finite_scalars_fit_latents() -> None:
    model = lively(SMALL, torch.float32)
    z = latents(4000, 0)
    fitted = finite_scalars(model, z)
    quantizer = FiniteScalarQuantizer(list(fitted.config.sizes))
    _, axes = torch.linalg.eigh(torch.cov(z.t()))
    components = (z - z.mean(0)) @ axes.flip(1)[:, : fitted.n_codebooks]
    quantizer.fit(components, torch.Generator().manual_seed(0))
    decoded = z.mean(0) + quantizer(components) @ axes.flip(1)[:, : fitted.n_codebooks].t()
    assert latents_snr(fitted.quantizer, z, 4) > snr(z, decoded) - 0.7  # which has a scale for each dimension


def parameters_but_the_quantizer(one: DAC, other: DAC) -> Iterator[tuple[Tensor, Tensor]]:
    for name, weight in one.state_dict().items():
        if not name.startswith("quantizer."):
            yield weight, other.state_dict()[name]


def test_an_interrupted_command_writes_nothing(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, calls = PathSearch.codes, []

    def interrupted(*arguments: object) -> Tensor:
        calls.append(arguments)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return search(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PathSearch, "codes", interrupted)
    result = run(small, "--sounds", manifest, "--minutes", 0.05, "-o", tmp_path / "new")
    assert (result.exit_code, result.stderr) == (130, "Interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_finetuning_trains_the_decoder_only(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_BATCH", "_VALIDATION_CLIPS"):
        monkeypatch.setattr(f"dac_codec.training.refit.{name}", 2)
    arguments = (small, "--sounds", manifest, "--minutes", 0.05, "--rounds", 2)
    assert run(*arguments, "-o", tmp_path / "plain").exit_code == 0
    result = run(*arguments, "--finetune", 8, "-o", tmp_path / "tuned")
    assert result.exit_code == 0, result.output
    plain, tuned = pretrained.load(tmp_path / "plain"), pretrained.load(tmp_path / "tuned")
    equal = {name: torch.equal(one, tuned.state_dict()[name]) for name, one in plain.state_dict().items()}
    assert {name.split(".")[0] for name, same in equal.items() if same} >= {"encoder", "quantizer"}
    assert {name.split(".")[0] for name, same in equal.items() if not same} == {"decoder"}
    before, after = map(float, re.findall(r"clips: (\S+) before --finetune, (\S+) after", result.stderr)[0])
    assert after < before
    losses, clips = ReconstructionLosses(_LOSSES, 44100), []
    for clip in clips_of(find_sounds(manifest, "train")[0]["train"], 0.3, 1, {}, sample_rate=44100, seed=0):
        clips.append(clip.audio[None, :, : clip.audio.shape[1] // 32 * 32])
    with torch.no_grad():
        assert all(torch.equal(plain.encode(clip).codes, tuned.encode(clip).codes) for clip in clips)
        totals = [
            sum(float(weighted_sum(losses(model.decode(model.encode(clip).z), clip), _LOSSES)) for clip in clips)
            for model in (plain, tuned)
        ]
    assert totals[1] < totals[0]


def test_interrupted_finetuning_writes_nothing(
    small: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._train_step

    def interrupted(self: Trainer, reals: list[Tensor]) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return step(self, reals)

    monkeypatch.setattr(Trainer, "_train_step", interrupted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run(small, "--sounds", manifest, "--minutes", 0.05, "--finetune", 9, "-o", tmp_path / "new")
    assert (result.exit_code, result.stderr) == (130, "Interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_too_little_sound(small: Path, manifest: Path, tmp_path: Path) -> None:
    result = run(small, "--sounds", manifest, "--minutes", 0.0001, "-o", tmp_path / "new")
    assert result.exit_code == 0  # a clip at least: 1 s here, of 1378 frames
    (tmp_path / "empty").mkdir()
    result = run(small, "--sounds", tmp_path / "empty", "-o", tmp_path / "other")
    assert result.exit_code == 1
    assert "no sound files" in result.stderr


def test_fine_tuning_has_the_losses_of_mini() -> None:
    assert config_of("experiment=mini", "loss=mini").loss == _LOSSES
