"""Programs of torch.export, loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dac_codec import prepare, pretrained
from dac_codec.common.errors import CheckpointError
from dac_codec.interop import PROGRAM_FILES
from dac_codec.interop.torch_export import Encoder, export_torch, merged
from dac_codec.model import DAC, DACConfig
from tests.cli.shell import run
from tests.inference.networks import TINY, lively, noise


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_programs_of_any_size(tmp_path: Path) -> None:
    model = lively(TINY, torch.float32)
    pretrained.save(model, tmp_path / "model")
    arguments = ["export", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--format", "torch-export"]
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(PROGRAM_FILES)
    assert run(*arguments).exit_code == 1

    encoder, decoder = (torch.export.load(tmp_path / "out" / name).module() for name in PROGRAM_FILES)
    for batch, n_samples in ((1, 7), (3, 50), (1, 600)):
        audio = noise(batch, 1, n_samples, dtype=torch.float32)
        codes = model.encode(audio).codes
        assert torch.equal(encoder(audio), codes)
        codes[:, 1:, ::2] = -1
        torch.testing.assert_close(decoder(codes), model.decode_codes(codes), atol=1e-4, rtol=0)
    one = codes[:, :, :1]
    torch.testing.assert_close(decoder(one), model.decode_codes(one), atol=1e-5, rtol=0)


@torch.no_grad()
def test_merging_leaves_the_model_as_it_is() -> None:
    model = lively(TINY)
    audio = noise(1, 1, 30)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for source in (model, prepare(model)):
        found = merged(source)
        assert not any("parametrizations" in name for name in found.state_dict())
        assert torch.equal(found.encode(audio).codes, model.encode(audio).codes)
        assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lookup": "euclidean"},
        {"codebook_learning": "moving_average", "lookup": "euclidean", "codebook_dim": 6},
        {"quantizer": "grouped", "groups": 3},
        {"quantizer": "fsq", "codebook_dim": 1, "lookup": "euclidean", "quantizer_dropout": 0.0},
    ],
)
@torch.no_grad()
def test_codes_of_every_quantizer(changes: dict[str, Any]) -> None:
    model = lively(DACConfig.from_dict({**TINY.to_dict(), **changes}))
    audio = noise(2, 1, 100)
    assert torch.equal(Encoder(model)(audio), model.encode(audio).codes)


def test_additive_quantizers_are_refused(tmp_path: Path) -> None:
    model = DAC(DACConfig.from_dict({**TINY.to_dict(), "quantizer": "additive", "lookup": "euclidean"}))
    with pytest.raises(CheckpointError, match="quantizer 'additive' can't be exported"):
        export_torch(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
