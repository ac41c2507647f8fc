"""The context models beside a codec's weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dac_codec import prepare
from dac_codec.bitstream.context_model import ContextModel
from dac_codec.common.errors import CheckpointError
from dac_codec.pretrained import context_model, load, models
from tests.bitstream.test_entropy import context_arrays
from tests.pretrained.weights import TINY

NEW, OLD = (ContextModel(context_arrays(seed)) for seed in (0, 1))


def test_context_model_in_a_folder(folder: Path) -> None:
    assert context_model(folder) is None
    (folder / "context-1.safetensors").write_bytes(OLD.to_bytes())
    (folder / "context.safetensors").write_bytes(NEW.to_bytes())
    model = load(folder)
    for source in (folder, folder / "config.json", model, prepare(model)):
        for wanted, expected in ((None, NEW), (NEW.fingerprint, NEW), (OLD.fingerprint, OLD)):
            found = context_model(source, wanted)
            assert found is not None
            assert found.fingerprint == expected.fingerprint
        assert context_model(source, bytes(8)) is None


def test_a_replaced_context_model_is_read_again(folder: Path) -> None:
    for expected in (NEW, OLD):
        (folder / "context.safetensors").unlink(missing_ok=True)
        (folder / "context.safetensors").write_bytes(expected.to_bytes())
        found = context_model(folder)
        assert found is not None
        assert found.fingerprint == expected.fingerprint


@pytest.mark.filterwarnings("ignore:.*are not verified")
def test_context_model_beside_a_pth_file(cache: Path, tmp_path: Path) -> None:
    assert context_model("44khz") is None  # not downloaded
    cache.mkdir()
    for weights in (tmp_path / "mine.pth", cache / models.PUBLISHED["44khz"].rpartition("/")[2]):
        shutil.copy(TINY, weights)
        weights.with_suffix(".context.safetensors").write_bytes(NEW.to_bytes())
    for source in (tmp_path / "mine.pth", "44khz", load("44khz")):
        found = context_model(source)
        assert found is not None
        assert found.fingerprint == NEW.fingerprint


def test_a_model_without_a_file_has_no_context_model(tmp_path: Path) -> None:
    assert context_model(tmp_path / "missing") is None
    model = load(TINY)
    assert model.weights_file == TINY
    assert context_model(model) is None
    model.weights_file = None
    assert context_model(model) is None


@pytest.mark.parametrize("data", [b"", NEW.to_bytes()[:-1], b"\0" * 100])
def test_damaged_context_models_are_refused(folder: Path, data: bytes) -> None:
    (folder / "context.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"context\.safetensors is not a readable safetensors file"):
        context_model(folder)
