"""Checkpoints are written atomically, the last ones are kept, and damaged ones are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dac_codec import pretrained
from dac_codec.common.errors import CheckpointError
from dac_codec.model.discriminator import Discriminator
from dac_codec.training import checkpoint
from dac_codec.training.checkpoint import Checkpoints


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "step.pt"
    checkpoint.save({"step": 3}, path)
    assert checkpoint.load(path) == {"step": 3}
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step\.pt"):
        checkpoint.load(path)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "step.pt"
    checkpoint.save({"weight": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(400.0, 410.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"step\.pt is not a readable PyTorch checkpoint"):
        checkpoint.load(path)


def test_a_refused_checkpoint_gives_no_advice_to_unpickle_it(tmp_path: Path) -> None:
    torch.save({"model": Path("a")}, tmp_path / "step.pt")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "step.pt")
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "3"}, {"step": True}, {"validated": None}, {"best": float("nan")}, {"best": None}, {"skipped": 5},
        {"skipped": [b"a"]}, {"model": []}, {"model": {"weight": 1}}, {"model": {"weight": torch.ones(2)}},
        {"model": {"weight": torch.full((1, 2), float("nan")), "bias": torch.ones(1)}}, {"generator_optimizer": 1},
        {"generator_optimizer": {}}, {"state": {0: {"step": torch.zeros(()), "exp_avg": 1, "exp_avg_sq": 1}}},
        {"state": {0: 5}}, {"state": {0: {}}}, {"param_groups": 7}, {"config": {}},
        {"config": {"model": {"causal": True}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_of_another_kind_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    parts: dict[str, Any] = {"model": model, "generator_optimizer": optimizer}
    states = {name: part.state_dict() for name, part in parts.items()}
    network = {"causal": False}
    settings = {"config": {"model": network}, "step": 3, "validated": 0, "best": float("inf"), "skipped": ["a"]}
    state = settings | states
    assert checkpoint.restore(state, parts, network, tmp_path) == (3, 0, float("inf"), {"a"})
    if {"state", "param_groups"} & set(change):
        change = {"generator_optimizer": states["generator_optimizer"] | change}
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        checkpoint.restore(state | change, parts, network, tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"step": "3"}, 5])
def test_a_file_that_is_no_state_is_named(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt is not a checkpoint of a training run"):
        Checkpoints(tmp_path / "run", 2).find(str(tmp_path / "other.pt"))


@pytest.mark.parametrize("size", [0, 100])
def test_a_run_resumes_before_a_damaged_checkpoint(tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    for step in (1, 2, 3):
        checkpoints.save({"step": step}, step, best=False)
    newest = tmp_path / "step-00000003.pt"
    newest.write_bytes(newest.read_bytes()[:size])
    assert checkpoints.find("auto") == {"step": 2}
    assert "step-00000003.pt is not a readable" in caplog.text
    assert [step for step, _ in checkpoints.steps()] == [1, 2]
    for _, path in checkpoints.steps():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-00000002\.pt"):
        checkpoints.find("auto")


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    assert checkpoints.steps() == []
    for step in range(1, 6):
        checkpoints.save({"step": step}, step, best=step == 2)
    assert [step for step, _ in checkpoints.steps()] == [4, 5]
    assert checkpoints.find("auto") == {"step": 5}
    assert checkpoint.load(checkpoints.best) == {"step": 2}


def test_temporary_files_are_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    checkpoints.save({"step": 1}, 1, best=False)
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / ".saving-abc").mkdir()
    (tmp_path / ".saving-abc" / "model.safetensors").write_bytes(b"half")
    checkpoint.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep_last=1)


def test_discriminators_are_written_with_the_references_names(tmp_path: Path) -> None:
    one, other = (Discriminator(periods=(2,), fft_sizes=(64,)) for _ in range(2))
    checkpoint.save_discriminator(one, tmp_path)
    checkpoint.load_discriminator(other, tmp_path)
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    tensors = safetensors.torch.load_file(tmp_path / checkpoint.DISCRIMINATOR_FILE)
    assert "discriminators.1.band_convs.4.4.0.weight_v" in tensors
    # Only the discriminators that both have are loaded: here the second one of the file.
    fewer = Discriminator(periods=(3,), fft_sizes=(64,))
    before = fewer.discriminators[0].state_dict()["conv_post.bias"].clone()
    assert checkpoint.load_discriminator(fewer, tmp_path) == ["period 3"]
    assert torch.equal(fewer.discriminators[0].state_dict()["conv_post.bias"], before)
    for key, value in one.discriminators[1].state_dict().items():
        assert torch.equal(value, fewer.discriminators[1].state_dict()[key])
    other_bands = Discriminator(periods=(), fft_sizes=(64,), bands=((0.0, 1.0),))
    assert checkpoint.load_discriminator(other_bands, tmp_path) == ["window 64, bins 0 to 33"]


def test_discriminators_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    one = Discriminator(periods=(2,), fft_sizes=())
    # A file without the names of its discriminators.
    safetensors.torch.save_file(pretrained.canonical(one.state_dict()), tmp_path / checkpoint.DISCRIMINATOR_FILE)
    assert checkpoint.load_discriminator(Discriminator(periods=(3,), fft_sizes=()), tmp_path) == []
    with pytest.raises(CheckpointError, match=r"discriminator\.safetensors does not hold these"):
        checkpoint.load_discriminator(Discriminator(periods=(), fft_sizes=(64,)), tmp_path)
    (tmp_path / checkpoint.DISCRIMINATOR_FILE).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"discriminator\.safetensors does not hold these"):
        checkpoint.load_discriminator(one, tmp_path)


def test_discriminators_can_be_written_in_float16(tmp_path: Path) -> None:
    one, other = (Discriminator(periods=(2,), fft_sizes=()) for _ in range(2))
    checkpoint.save_discriminator(one, tmp_path, "float16")
    checkpoint.load_discriminator(other, tmp_path)
    for key, value in one.state_dict().items():
        assert torch.equal(value.half().float(), other.state_dict()[key])


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 1 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"step\.pt: PyTorch couldn't .* check the disk \(\d+ MB are"):
        checkpoint.save({}, tmp_path / "step.pt")
