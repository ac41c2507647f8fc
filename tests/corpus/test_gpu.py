"""Batches on a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dac_codec.corpus import Settings, on_this_machine
from dac_codec.corpus.encoding import Tokens
from dac_codec.corpus.engines import run
from tests.corpus.conftest import N_QUANTIZERS, Inline
from tests.corpus.test_engines import groups


@pytest.fixture(autouse=True)
def no_gpu() -> None:
    """Instead of that of `conftest`, which hides GPUs."""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_have_the_codes_of_a_cpu(sounds: Path, model: str) -> None:
    expected = [one for group in run(Inline(Settings(model, N_QUANTIZERS, "cpu")), groups(sounds, 8)) for one in group]
    with on_this_machine(Settings(model, N_QUANTIZERS), 2) as engine:
        assert engine.settings.uses_batches
        found = [outcome for group in run(engine, groups(sounds, 8)) for outcome in group]
    assert [outcome.id for outcome in found] == [outcome.id for outcome in expected]
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Tokens)
        assert isinstance(other, Tokens)
        assert np.mean(np.asarray(one.codes) == np.asarray(other.codes)) > 0.9  # rounding: TensorFloat-32
