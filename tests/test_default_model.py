"""The bundled model, on a clip that it was not trained on."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import soundfile

from dac_codec import DAC, compress, decompress
from dac_codec.evaluation import baselines, metrics
from dac_codec.pretrained import DEFAULT_MODEL


def test_it_fits_into_the_repository() -> None:
    folder = Path(__file__).parents[1] / "checkpoints" / DEFAULT_MODEL
    assert {"config.json", "model.safetensors", "MODEL_CARD.md"} <= {path.name for path in folder.iterdir()}
    assert (folder / "model.safetensors").stat().st_size <= 16 * 2**20


def test_it_beats_what_any_codec_has_to_beat() -> None:
    model = DAC.from_pretrained(DEFAULT_MODEL)
    with resources.files("dac_codec.evaluation").joinpath("demo.flac").open("rb") as stream:
        samples, rate = soundfile.read(stream, dtype="float32", always_2d=True)
    original = samples.T.copy()
    file = compress((original, rate), model)
    assert file.bitrate / file.channels <= 8000
    assert len(file.to_bytes()) * 8 / file.duration <= 1.01 * file.bitrate * (1 + model.hop_length / file.n_samples)
    whole = decompress(file, model)[0].numpy()
    one = decompress(compress((original, rate), model, n_quantizers=1), model)[0].numpy()
    decoded = (whole, one, baselines.silence(original))
    whole_mel, one_mel, silence_mel = (metrics.mel_distance(estimate, original, rate) for estimate in decoded)
    assert whole_mel < 0.8 * one_mel
    assert one_mel < silence_mel
    whole_ratio, one_ratio = (metrics.si_sdr(estimate, original, rate) for estimate in decoded[:2])
    assert whole_ratio > one_ratio + 2.0
    assert whole_ratio > 5.0


def test_it_is_found_by_name() -> None:
    model = DAC.from_pretrained(DEFAULT_MODEL)
    assert (model.name, model.sample_rate, model.training) == (DEFAULT_MODEL, 44100, False)
