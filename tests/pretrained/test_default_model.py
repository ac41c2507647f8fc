"""The bundled models: their files; the default one on a clip that was not used for its training."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from dac_codec import DAC, compress, decompress
from dac_codec.evaluation import metrics
from dac_codec.model.discriminator import Discriminator
from dac_codec.pretrained import DEFAULT_MODEL, context_model, folder_of
from dac_codec.training import checkpoint

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
BUNDLED = sorted(path.name for path in CHECKPOINTS.iterdir())


def demo() -> tuple[npt.NDArray[np.float32], int]:
    """The clip [C, T] and its sample rate."""
    with resources.files("dac_codec.evaluation").joinpath("demo.flac").open("rb") as stream:
        samples, rate = soundfile.read(stream, dtype="float32", always_2d=True)
    return samples.T.copy(), rate


@pytest.mark.parametrize("name", BUNDLED)
def test_their_files_and_their_size(name: str) -> None:
    files = {path.name: path.stat().st_size for path in (CHECKPOINTS / name).iterdir()}
    needed = {"config.json", "model.safetensors", "context.safetensors", "MODEL_CARD.md"}
    assert files.keys() - {"discriminator.safetensors"} == needed
    assert files["model.safetensors"] <= 8 * 2**20
    assert sum(files.values()) <= 16 * 2**20


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_has_its_name_and_its_context_model(name: str) -> None:
    model = DAC.from_pretrained(name)
    assert model.name == name
    assert context_model(model) is not None


@pytest.mark.slow
def test_it_beats_silence_and_its_first_codebook() -> None:
    model = DAC.from_pretrained(DEFAULT_MODEL)
    original, rate = demo()
    file = compress((original, rate), model)
    assert file.bitrate / file.channels <= 8000
    side = 1000 * file.channels  # bit/s of band levels, numbers of codes and headers
    assert len(file.to_bytes()) * 8 / file.duration <= 0.9 * file.bitrate + side
    whole = decompress(file, model)[0].numpy()
    one = decompress(compress((original, rate), model, n_quantizers=1), model)[0].numpy()
    decoded = (whole, one, np.zeros_like(original))
    whole_mel, one_mel, silence_mel = (metrics.mel_distance(estimate, original, rate) for estimate in decoded)
    assert whole_mel < 0.8 * one_mel
    assert one_mel < silence_mel
    whole_ratio, one_ratio = (metrics.si_sdr(estimate, original, rate) for estimate in decoded[:2])
    assert whole_ratio > one_ratio + 2.0
    assert whole_ratio > 5.0


def test_its_discriminators_separate_decoded_from_original() -> None:
    original, rate = demo()
    model = DAC.from_pretrained(DEFAULT_MODEL)
    decoded = decompress(compress((original, rate), model), model)[0]
    folder = folder_of(DEFAULT_MODEL)
    assert folder is not None
    discriminator = Discriminator(periods=())
    assert checkpoint.load_discriminator(discriminator, folder) == []
    with torch.inference_mode():
        real, fake = (
            [maps[-1] for maps in discriminator(one[:, None])] for one in (torch.from_numpy(original), decoded)
        )
    margins = [float(one.mean() - other.mean()) for one, other in zip(real, fake, strict=True)]
    assert min(margins) > 0
    assert sum(margins) > 0.06  # untrained: a thousandth each
    # In the paper's discriminators, these are loaded, and the others keep their initial values.
    assert checkpoint.load_discriminator(Discriminator(), folder) == [f"period {period}" for period in (2, 3, 5, 7, 11)]


def test_it_is_found_by_name() -> None:
    model = DAC.from_pretrained(DEFAULT_MODEL)
    assert (model.name, model.sample_rate, model.training) == (DEFAULT_MODEL, 44100, False)
