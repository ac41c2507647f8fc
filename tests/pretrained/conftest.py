"""A small published model, and a cache that no test shares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dac_codec.model import DAC, PRESETS
from dac_codec.pretrained import download, load, models, save
from tests.pretrained.weights import TINY, TINY_CONFIG


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, small published models, short waits; no test leaves the machine."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DAC_CODEC_CACHE", str(folder))
    monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(PRESETS, "44khz", dataclasses.replace(TINY_CONFIG, quantizer_dropout=0.5))
    monkeypatch.setattr(models, "published_digests", lambda: dict.fromkeys(models.PUBLISHED))
    monkeypatch.setattr(download, "_RETRY_WAITS_S", (0.01, 0.01, 0.01))
    return folder


@pytest.fixture(scope="session")
def tiny() -> DAC:
    return load(TINY)


@pytest.fixture
def folder(tiny: DAC, tmp_path: Path) -> Path:
    """A folder with a good model, for tests to damage."""
    save(tiny, tmp_path / "model")
    return tmp_path / "model"
