"""The bundled models on the bundled clip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dac_codec import DAC, compress, decompress
from dac_codec.common import spectral
from dac_codec.evaluation.demo import clip_at
from dac_codec.pretrained import available, context_model, folder_of


def test_two_models_are_bundled() -> None:
    assert [info.name for info in available() if info.where == "bundled"] == ["dac-mini-44khz", "dac-mini-speech"]
    assert folder_of("speech") == folder_of("dac-mini-speech")


@pytest.mark.parametrize(("name", "least_sdr", "most_kbps"), [("dac-mini-44khz", 12.0, 6.0), ("speech", 15.5, 8.4)])
def test_a_file_as_it_is_by_default(name: str, least_sdr: float, most_kbps: float) -> None:
    model = DAC.from_pretrained(name)
    sound = clip_at(model.sample_rate)[:1]
    file = compress((sound, model.sample_rate), model)
    assert file.header.context_fingerprint is not None
    decoded, rate = decompress(file, model)
    assert (rate, decoded.shape) == (model.sample_rate, sound.shape)
    assert float(spectral.si_sdr(decoded[None], torch.from_numpy(sound)[None])) > least_sdr
    assert 8 * len(file.to_bytes(model)) / file.duration / 1000 < most_kbps


def test_a_context_model_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of("speech")
    assert folder is not None
    (tmp_path / "own").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    model = DAC.from_pretrained("own")
    monkeypatch.chdir("/")
    assert context_model(model) is not None


@pytest.mark.parametrize("name", ["dac-mini-44khz", "speech"])
def test_silence_has_no_offset(name: str) -> None:
    model = DAC.from_pretrained(name)
    silence = torch.zeros(1, model.sample_rate)
    decoded, _ = decompress(compress((silence, model.sample_rate), model, constant=True), model)
    assert float(decoded.abs().mean()) < 1e-3
