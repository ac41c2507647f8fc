"""Training of context models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dac_codec.bitstream.context_model import ContextModel
from dac_codec.common.errors import DacError
from dac_codec.pretrained import context_model, load, save
from dac_codec.training.context import fit
from dac_codec.training.context_network import ContextNetwork, outputs_of
from tests.pretrained.weights import TINY
from tests.processes import python


def small_network(n_codes: int = 20) -> ContextNetwork:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, n_codes, 8, generator=generator)
    return ContextNetwork(outputs, generator, n_groups=4, width=12, hidden=16, features=8, averages=(1, 3)).eval()


@pytest.mark.parametrize("n_codes", [20, 17, 3])
def test_the_integer_model_takes_the_bits_of_the_network(n_codes: int) -> None:
    network = small_network(n_codes)
    with torch.no_grad():
        network._first_weight *= 10
        network._second_weight *= 10
    random = np.random.default_rng(0)
    codes = random.integers(0, n_codes, (3, 2, 500)).astype(np.int32)
    codes[:, :, 100:130] = codes[:, :, 99:100]
    codes[np.arange(3)[:, None, None] >= random.integers(1, 4, (2, 500))] = -1
    with torch.no_grad():
        bits = network(torch.from_numpy(codes.astype(np.int64))).sum(2).T.numpy() / np.log(2)
    coded = network.quantized().encode(list(codes.transpose(1, 0, 2)))
    found = 8 * np.array([[len(plane) for plane in planes] for planes in coded])
    np.testing.assert_allclose(found, bits, rtol=0.005, atol=24)


def test_training_finds_what_codes_depend_on() -> None:
    random = np.random.default_rng(0)
    network = small_network()
    files = []
    for _ in range(20):
        coarse = random.integers(0, 20, 60)
        files.append(np.stack([coarse, (coarse + 3) % 20, np.roll(coarse, 1)]).astype(np.int16))
    batch = torch.from_numpy(np.stack(files[:4], 1).astype(np.int64))
    before = network(batch).mean((1, 2))
    fit(network, files, 150, random, 60, learning_rate=0.02)
    after = network(batch).mean((1, 2))
    assert after[0] < before[0] * 1.1  # nothing to find
    assert (after[1:] < 0.3 * before[1:]).all()


def test_there_must_be_codes_to_train_on() -> None:
    with pytest.raises(DacError, match="no sounds of 8 frames or more"):
        fit(small_network(), [np.zeros((3, 4), np.int16)], 1, np.random.default_rng(0), 60)


@pytest.mark.slow
def test_the_command_writes_a_context_model(manifest: Path, tmp_path: Path) -> None:
    model = load(TINY)
    save(model, tmp_path / "model")
    output = tmp_path / "model" / "context.safetensors"
    arguments = [tmp_path / "model", "--sounds", manifest, "-o", output, "--minutes", "0.1", "--steps", "3"]
    done = python("dac_codec.training.context", *arguments)
    assert done.returncode == 0, done.stderr
    assert "broken.flac" in done.stderr
    assert sorted(line.partition(":")[0] for line in done.stdout.splitlines()) == ["more", "tones"]
    found = context_model(tmp_path / "model")
    assert isinstance(found, ContextModel)
    assert (found.n_codebooks, found.codebook_size) == (model.n_codebooks, model.codebook_size)
    assert outputs_of(model).shape == (model.n_codebooks, model.codebook_size, 128)
