"""A small collection of sounds, and an engine that encodes in the process of the test."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec import codec, pretrained
from dac_codec.codec import DacFile
from dac_codec.corpus import Plan, Settings
from dac_codec.corpus.encoding import Outcome, Tokens, encode
from dac_codec.corpus.sources import Source
from tests.conftest import golden_model
from tests.processes import forks

N_QUANTIZERS = 3


class Inline:
    """An engine without processes. It encodes each sound once in a test session."""

    n_workers = 1
    _known: dict[tuple[Settings, str], list[Outcome]] = {}  # noqa: RUF012

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def submit(self, group: Source) -> Source:
        return group

    def result(self, submitted: Source) -> list[Outcome]:
        return [outcome for index in range(len(submitted)) for outcome in self._one(submitted[index : index + 1])]

    def _one(self, sound: Source) -> list[Outcome]:
        key = self.settings, repr(sound)
        found = self._known.get(key) or encode(self.settings, sound)
        if all(isinstance(outcome, Tokens) for outcome in found):
            self._known[key] = found
        return found


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def quick_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes that begin with PyTorch imported."""
    if sys.platform == "linux":
        context = forks()
        monkeypatch.setattr(multiprocessing, "get_context", lambda method: context)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small model of 44.1 kHz, 9 codebooks of 1024, and a hop of 512."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pretrained.save(golden_model("44khz"), folder, name="tiny")
    return str(folder)


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven sound files of 0.05 to 0.3 s, mono and stereo, in two folders; ids in order: 00.wav, 02.wav, ..."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "sub").mkdir()
    for index in range(11):
        rate = 44100 if index % 4 else 16000
        samples = np.random.default_rng(index).standard_normal((round(rate * (0.05 + index / 40)), 1 + index % 2))
        name = f"sub/{index:02d}.flac" if index % 3 == 0 else f"{index:02d}.wav"
        soundfile.write(folder / name, 0.1 * samples, rate)
    return folder


@pytest.fixture(scope="session")
def compressed(sounds: Path, model: str) -> dict[str, DacFile]:
    """What `compress` gives for each sound, by id."""
    paths = sorted([*sounds.glob("*.wav"), *sounds.glob("sub/*")])
    return {
        path.relative_to(sounds).as_posix(): codec.compress(
            path, model, N_QUANTIZERS, device="cpu", constant=True, effort=0
        )
        for path in paths
    }


Tokenize = Callable[..., Any]


@pytest.fixture
def tokenize(model: str, tmp_path: Path) -> Tokenize:
    """Make a corpus in `out`, four sounds a shard, and return its plan, whose `totals` are those of the run."""

    def run(*sources: Path, out: str = "out", fmt: str = "parquet", **options: Any) -> Plan:
        settings = Settings(model, N_QUANTIZERS, "cpu", fmt == "dac")
        plan = Plan([str(source) for source in sources], tmp_path / out, settings, fmt, **{"shard_size": 4, **options})
        plan.totals = plan.run(Inline(settings))  # type: ignore[attr-defined]
        return plan

    return run


def content(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a corpus."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
