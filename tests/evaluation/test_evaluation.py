"""Measures, baselines, the report and the demo."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dac_codec import audio as sound
from dac_codec import pretrained
from dac_codec.errors import AudioError, DacError
from dac_codec.evaluation import baselines, demo, metrics, report
from tests.conftest import GOLDEN, golden_model

RATE = 44100


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """A buzz with syllables [1, T]: enough for STOI to say something."""
    time = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * 120 * k * time + k) / k for k in range(1, 30))
    noise = 0.05 * np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * (buzz + noise) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * time)))[None].astype(np.float32)


def test_quality_matches_the_golden_values() -> None:
    golden = np.load(GOLDEN / "discriminator_and_losses.npz")
    found = metrics.quality(golden["fake"][0], golden["real"][0], RATE)
    assert found.mel_distance == pytest.approx(float(golden["mel_distance"]), rel=1e-4)
    assert found.stft_distance == pytest.approx(float(golden["stft_loss"]), rel=1e-4)
    assert found.si_sdr == pytest.approx(-float(golden["sisdr_loss"]), rel=1e-4)


def test_stoi_orders_what_can_be_understood() -> None:
    pytest.importorskip("pystoi")
    clean = speech_like(2.0)
    noisy = clean + 0.5 * np.random.default_rng(1).standard_normal(clean.shape).astype(np.float32)
    assert metrics.stoi(clean, clean, RATE) > 0.99
    assert metrics.stoi(noisy, clean, RATE) < 0.8


def test_noise_is_as_loud_as_the_original() -> None:
    clip = speech_like(1.0)
    noise = baselines.noise(clip, RATE, np.random.default_rng(0))
    assert sound.loudness(noise, RATE) == pytest.approx(sound.loudness(clip, RATE), abs=0.01)
    assert not baselines.silence(clip).any()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for index, (domain, seconds) in enumerate([("speech", 0.7), ("speech", 0.9), ("music", 6.0), ("effects", 0.4)]):
        soundfile.write(tmp_path / f"{index}.wav", speech_like(seconds, index)[0], RATE)
        rows.append((f"{index}.wav", domain, "test"))
    rows.append(("not-there.wav", "speech", "train"))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "domain", "split"), *rows])
    return tmp_path / "manifest.csv"


def test_clips_have_one_length(manifest: Path, tmp_path: Path) -> None:
    clips = report.held_out_clips(manifest, RATE, per_domain=3, seconds=1.5)
    assert [clip.name for clip in clips] == [
        "effects-00",
        "music-00",
        "music-01",
        "music-02",
        "speech-00",
        "speech-01",
    ]
    assert {clip.waveform.shape for clip in clips} == {(1, int(1.5 * RATE))}
    with pytest.raises(AudioError, match="manifest"):
        report.held_out_clips(tmp_path / "none.csv", RATE)


def test_the_report_has_every_coder_and_domain(manifest: Path) -> None:
    clips = report.held_out_clips(manifest, RATE, per_domain=1, seconds=1.0)
    rows = [row for row, _ in report.evaluate(golden_model("44khz"), clips)]
    assert {(row.domain, row.coder) for row in rows} == {
        (domain, coder)
        for domain in ("speech", "music", "effects")
        for coder in ("silence", "noise", "1 codebook", "all codebooks")
    }
    assert all(row.kbps < 8.6 for row in rows)
    text = report.table(rows)
    assert text.count("\n") == 1 + 16
    assert "| all | 3 | noise |" in text


def test_the_demo_leaves_its_files(tmp_path: Path) -> None:
    model = tmp_path / "model"
    pretrained.save(golden_model("44khz"), model)
    result = demo.run_demo(tmp_path / "out", str(model), "cpu")
    original, rate = soundfile.read(result.original)
    decoded, decoded_rate = soundfile.read(result.decoded)
    assert rate == decoded_rate
    assert original.shape == decoded.shape
    assert result.seconds == pytest.approx(len(original) / rate)
    assert result.compressed_bytes == result.compressed.stat().st_size
    assert result.ratio == pytest.approx(original.size * 2 / result.compressed_bytes)
    (tmp_path / "file").write_text("")
    with pytest.raises(DacError, match="folder"):
        demo.run_demo(tmp_path / "file")
