"""The order of a run's batches, and the processes that read them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound
from dac_codec.training.excerpts import ExcerptDataset
from dac_codec.training.loader import batches
from tests.training.conftest import dataset


def audio_of(of: ExcerptDataset, **options: Any) -> list[Tensor]:
    return [batch.audio for batch in batches(of, **options)]


def test_a_step_has_the_same_excerpts_for_any_number_of_processes(sounds: list[Sound]) -> None:
    of = dataset(sounds, length=1024)
    whole = audio_of(of, first_step=0, last_step=3, batch_size=8)
    assert [batch.shape for batch in whole] == [(8, 1, 1024)] * 3
    for accumulate, world_size in ((4, 1), (1, 4), (2, 2)):
        options = {"first_step": 0, "last_step": 3, "batch_size": 2, "accumulate": accumulate}
        ranks = [audio_of(of, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
        assert all(len(rank) == 3 * accumulate for rank in ranks)
        in_order = list(itertools.chain.from_iterable(zip(*ranks, strict=True)))
        assert torch.equal(torch.cat(in_order), torch.cat(whole))


def test_a_resumed_run_gets_the_remaining_excerpts(sounds: list[Sound]) -> None:
    of = dataset(sounds, length=1024, speed=0.7)
    options = {"batch_size": 2, "accumulate": 2, "rank": 1, "world_size": 2}
    whole = audio_of(of, first_step=0, last_step=4, **options)
    rest = audio_of(of, first_step=3, last_step=4, **options)
    assert len(rest) == 2
    assert torch.equal(torch.cat(rest), torch.cat(whole[-2:]))
    assert audio_of(of, first_step=4, last_step=4, **options) == []


def test_workers_change_nothing(sounds: list[Sound], tmp_path: Path) -> None:
    of = dataset([*sounds, Sound(tmp_path / "gone.wav", "tones", 3.0)], length=1024)
    alone = list(batches(of, first_step=1, last_step=4, batch_size=3))
    helped = list(batches(of, first_step=1, last_step=4, batch_size=3, workers=2))
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.audio, other.audio)
        assert one.skipped == other.skipped
    assert any(batch.skipped for batch in helped)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_without_readable_files_is_an_error(tmp_path: Path, workers: int) -> None:
    of = dataset([Sound(tmp_path / "gone.wav", "speech", 1.0)])
    with pytest.raises(AudioError, match=r"^data set: 64 files in a row.*gone\.wav: no such file") as error:
        next(batches(of, first_step=0, last_step=1, batch_size=1, workers=workers))
    assert "\n" not in str(error.value)


def test_workers_ignore_signals_and_end_with_their_process(sounds: list[Sound], tmp_path: Path) -> None:
    """SIGTERM is ignored, unless the parent is exiting with the workers still running."""
    script = tmp_path / "script.py"
    script.write_text(
        "import itertools, multiprocessing, os, signal, sys\n"
        "from dac_codec.common import manifest\n"
        "from dac_codec.training.config import DataConfig\n"
        "from dac_codec.training.excerpts import ExcerptDataset\n"
        "from dac_codec.training.loader import batches\n"
        "if __name__ == '__main__':\n"
        "    found = manifest.read_split(sys.argv[1], 'train')\n"
        "    of = ExcerptDataset(found, DataConfig(sounds=''), sample_rate=44100, length=1024)\n"
        "    held = batches(of, first_step=0, last_step=1000, batch_size=1, workers=1)\n"
        "    next(held)\n"
        "    os.kill(multiprocessing.active_children()[0].pid, signal.SIGTERM)\n"
        "    assert len(list(itertools.islice(held, 30))) == 30\n"
        "    raise SystemExit(3)\n"
    )
    manifest = sounds[0].path.parent / "manifest.csv"
    assert subprocess.run([sys.executable, script, manifest], timeout=100).returncode == 3
