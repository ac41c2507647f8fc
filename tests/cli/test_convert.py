"""convert, and files of descript-audio-codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from dac_codec import bitstream, codec
from dac_codec.codec import DacFile
from dac_codec.pretrained import models as catalog
from tests.cli.shell import LEGACY, errors_of, files_below, run, write_dac
from tests.conftest import GOLDEN


@pytest.mark.parametrize(
    ("name", "weights"),
    [("legacy_44khz_stereo_unchunked", "dac_44khz_tiny.pth"), ("legacy_24khz_mono_chunked", "dac_24khz_tiny.pth")],
)
def test_legacy_files_decode_as_the_reference_decodes_them(name: str, weights: str) -> None:
    result = run("decompress", GOLDEN / f"{name}.dac", "-o", "a.wav", "--model", GOLDEN / weights)
    assert result.exit_code == 0, result.stderr
    with np.load(GOLDEN / f"{name}.npz") as golden:
        found, sample_rate = soundfile.read("a.wav", always_2d=True)
        assert sample_rate == golden["sample_rate"]
        np.testing.assert_allclose(found.T, np.clip(golden["decoded"][0], -1, 1), atol=1e-3)


def test_conversion_keeps_the_codes(model: Path, compressed: DacFile) -> None:
    write_dac("in/a.dac", compressed)
    assert run("convert", "in", "-o", "theirs", "--model", model).exit_code == 0
    theirs = codec.load("theirs/a.dac")
    assert isinstance(theirs, bitstream.LegacyFile)
    np.testing.assert_array_equal(theirs.codes, compressed.codes)
    assert (theirs.original_length, theirs.sample_rate) == (compressed.n_samples, compressed.sample_rate)

    assert run("convert", "theirs/a.dac", "-o", "ours.dac", "--model", model).exit_code == 0
    ours = DacFile.load("ours.dac")
    np.testing.assert_array_equal(ours.codes, compressed.codes)
    assert (ours.n_samples, ours.model_id) == (compressed.n_samples, compressed.model_id)


def test_conversion_takes_the_model_that_a_file_names(
    model: Path, compressed: DacFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dac("a.dac", compressed)
    monkeypatch.setattr(catalog, "_bundled_folders", lambda: {"tiny": model})
    assert run("convert", "a.dac", "-o", "theirs.dac").exit_code == 0
    result = run("convert", "theirs.dac", "-o", "ours.dac")
    assert result.exit_code == 1
    assert "--model" in errors_of(result)[0]


def test_a_failed_conversion_leaves_nothing(model: Path) -> None:
    overlapping = GOLDEN / "legacy_44khz_mono_chunked.dac"
    result = run("convert", overlapping, LEGACY, "-o", "out", "--model", model)
    assert result.exit_code == 1
    assert len(errors_of(result)) == 1
    assert "overlapping" in errors_of(result)[0]
    assert files_below("out") == {LEGACY.name}
