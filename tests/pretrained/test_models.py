"""Which models there are, and which names and paths lead to them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dac_codec import pretrained
from dac_codec.common.errors import CheckpointError, DacError
from dac_codec.model import DAC, PRESETS
from dac_codec.pretrained import fingerprint, load, models, save
from tests.pretrained.weights import TINY, TINY_CONFIG


def test_published() -> None:
    """The four releases of descript-audio-codec 1.0.0 (dac/utils/__init__.py)."""
    assert models.PUBLISHED.keys() == PRESETS.keys()
    assert f"{models.DOWNLOAD_URL}/{models.PUBLISHED['44khz-16kbps']}" == (
        "https://github.com/descriptinc/descript-audio-codec/releases/download/1.0.0/weights_44khz_16kbps.pth"
    )


def test_bundled(tiny: DAC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel the folder is in the package; in a checkout it is beside it, and the package goes first."""
    package = tmp_path / "dac_codec"
    monkeypatch.setattr("importlib.resources.files", lambda name: tmp_path / name)
    save(tiny, tmp_path / "checkpoints" / models.DEFAULT_MODEL, name=models.DEFAULT_MODEL)
    save(tiny, tmp_path / "checkpoints" / "other", name="other")
    (tmp_path / "checkpoints" / "empty").mkdir()
    assert load(models.DEFAULT_MODEL).name == models.DEFAULT_MODEL
    assert fingerprint(load(models.DEFAULT_MODEL)) == fingerprint(tiny)
    assert [info.name for info in models.available()][:2] == [models.DEFAULT_MODEL, "other"]

    newer = DAC(dataclasses.replace(TINY_CONFIG, n_codebooks=2))
    save(newer, package / "checkpoints" / models.DEFAULT_MODEL, name=models.DEFAULT_MODEL)
    assert fingerprint(load(models.DEFAULT_MODEL)) == fingerprint(newer)
    bundled = models.available()[0]
    assert (bundled.name, bundled.n_codebooks, bundled.where) == (models.DEFAULT_MODEL, 2, "bundled")

    (package / "checkpoints" / models.DEFAULT_MODEL / "config.json").write_text("{")
    assert models.available()[0].name == "other"
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load(models.DEFAULT_MODEL)


def test_a_short_name(tiny: DAC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_bundled_folders", lambda: {})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no model, file or folder called 'speech'"):
        load("speech")
    save(tiny, tmp_path / "bundled", name="dac-mini-speech")
    monkeypatch.setattr(models, "_bundled_folders", lambda: {"dac-mini-speech": tmp_path / "bundled"})
    assert load("speech").name == "dac-mini-speech"
    assert models.folder_of("speech") == tmp_path / "bundled"
    assert "speech" not in [info.name for info in models.available()]


def test_available(cache: Path) -> None:
    found = {info.name: info for info in models.available()}
    assert found["24khz"] == models.ModelInfo("24khz", 24000, 24000.0, 32, "downloadable")
    cache.mkdir()
    (cache / "weights_24khz.pth").touch()
    found = {info.name: info for info in models.available()}
    assert found["24khz"].where == "cached"
    assert found["16khz"].where == "downloadable"


def test_cache_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretrained.cache_folder() == cache
    monkeypatch.delenv("DAC_CODEC_CACHE")
    assert pretrained.cache_folder().name == "dac_codec"


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(CheckpointError, match=r"called '44kHz'; .* 44khz, 44khz-16kbps, 24khz, 16khz"):
        load("44kHz")


@pytest.mark.parametrize("device", ["gpu", "cuda:77"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(DacError, match=f"^can't use the device '{device}': "):
        DAC.from_pretrained(TINY, device)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model, file or folder called .*weights.pth"):
        load(tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"can't be read: .*too long"):
        load("x" * 5000)


def test_a_mistyped_name_gets_a_suggestion() -> None:
    with pytest.raises(CheckpointError, match=r"called 'dac-mini-44kHz'; did you mean dac-mini-44khz\?"):
        load("dac-mini-44kHz")


def test_a_path_is_not_a_name() -> None:
    with pytest.raises(CheckpointError, match="no model, file or folder called '44khz'"):
        load(Path("44khz"))


def test_unknown_home_folder() -> None:
    with pytest.raises(CheckpointError, match="no model, file or folder called '~nobody-at-all/m'"):
        load("~nobody-at-all/m")
