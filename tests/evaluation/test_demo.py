"""The demo."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import soundfile

from dac_codec import pretrained
from dac_codec.common.errors import DacError
from dac_codec.evaluation import demo
from tests.conftest import golden_model


def test_the_demo_writes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)  # it is not part of the base install
    model = tmp_path / "model"
    pretrained.save(golden_model("44khz"), model)
    result = demo.run_demo(tmp_path / "out", str(model), "cpu")
    original, rate = soundfile.read(result.original)
    decoded, decoded_rate = soundfile.read(result.decoded)
    assert rate == decoded_rate
    assert original.shape == decoded.shape
    assert (result.channels, result.pcm_bytes) == (original.shape[1], original.size * 2)
    assert result.seconds == pytest.approx(len(original) / rate)
    assert result.compressed_bytes == result.compressed.stat().st_size
    assert result.ratio == pytest.approx(original.size * 2 / result.compressed_bytes)
    (tmp_path / "file").write_text("")
    with pytest.raises(DacError, match="folder"):
        demo.run_demo(tmp_path / "file")
