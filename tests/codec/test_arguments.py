"""What users pass: bytes, half precision, and arguments of wrong types, which get one sentence."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec import pretrained
from dac_codec.codec import DacFile, DacStream, compress, decompress, load
from dac_codec.common.errors import DacError
from dac_codec.inference import prepare
from dac_codec.model import DAC
from tests.conftest import golden_model

SOUND = 0.1 * np.random.default_rng(0).standard_normal((1, 3000)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> DAC:
    return golden_model("44khz")


@pytest.fixture(scope="module")
def file(model: DAC) -> DacFile:
    return compress((SOUND, 44100), model, n_quantizers=2)


def test_files_are_equal_if_header_and_codes_are(file: DacFile, model: DAC) -> None:
    again = DacFile.from_bytes(file.to_bytes())
    assert file == again
    assert hash(file) == hash(again)
    assert file != DacFile(file.header, (file.codes + 1) % 1024)
    assert file != DacFile(file.header, file.codes[..., :-1])
    assert file != compress((SOUND / 2, 44100), model, n_quantizers=2)
    assert file != "a file"


def test_bytes_are_files(file: DacFile, model: DAC) -> None:
    data = file.to_bytes()
    expected, _ = decompress(file, model)
    for kind in (bytes, bytearray, memoryview):
        assert torch.equal(decompress(kind(data), model)[0], expected)
    assert DacFile.load(data) == load(data) == file
    assert DacStream(data).sample_rate == 44100
    sound = io.BytesIO()
    soundfile.write(sound, SOUND[0], 44100, format="WAV", subtype="FLOAT")
    assert compress(sound.getvalue(), model, n_quantizers=2) == file


def test_half_precision_waveforms(model: DAC) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        sound = torch.from_numpy(SOUND).to(dtype)
        assert compress((sound, 44100), model, 2) == compress((sound.float(), 44100), model, 2)


@pytest.mark.parametrize(
    "wrong", [None, 5, [1, 2], (SOUND,), (SOUND, 44100, 1), SOUND, torch.from_numpy(SOUND)], ids=type
)
def test_wrong_audio_is_one_sentence(wrong: Any, model: DAC) -> None:
    with pytest.raises(DacError, match=r"the audio is a .*, expected") as error:
        compress(wrong, model)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [None, 5, [1], (1, 2), SOUND])
def test_a_wrong_file_is_one_sentence(wrong: Any, model: DAC) -> None:
    for read in (lambda one: decompress(one, model), DacFile.load, load, DacStream):
        with pytest.raises(DacError, match=r"the file is a .*, expected a path, bytes or a binary file object"):
            read(wrong)


@pytest.mark.parametrize(
    "options",
    [{"model": 5}, {"model": ["44khz"]}, {"bitrate": "3000"}, {"n_quantizers": "3"}, {"n_quantizers": 2.5}],
    ids=str,
)
def test_wrong_options_are_one_sentence(options: dict[str, Any], model: DAC) -> None:
    with pytest.raises(DacError) as error:
        compress((SOUND, 44100), **{"model": model, **options})
    assert "\n" not in str(error.value)


# Models --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("how", ["pickle", "torch.save", "deepcopy"])
def test_models_pickle(how: str, prepared: bool, model: DAC) -> None:
    original = prepare(model, exact=True) if prepared else golden_model("44khz").train()
    original.name, original.weights_file = "mine", Path("mine.pth")
    next(original.parameters()).requires_grad_(False)
    if how == "pickle":
        found = pickle.loads(pickle.dumps(original))
    elif how == "deepcopy":
        found = copy.deepcopy(original)
    else:
        stream = io.BytesIO()
        torch.save(original, stream)
        found = torch.load(io.BytesIO(stream.getvalue()), weights_only=False)
    assert type(found) is type(original)
    assert (found.name, found.config, found.training) == ("mine", original.config, original.training)
    assert found.weights_file == Path("mine.pth")  # its context model is beside it
    assert pretrained.fingerprint(found) == pretrained.fingerprint(original)
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in original.parameters()]
    audio = torch.from_numpy(SOUND)[None]
    assert torch.equal(found.eval().encode(audio).codes, original.eval().encode(audio).codes)
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(found.parameters(), original.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_precisions(dtype: torch.dtype) -> None:
    model = golden_model("44khz").to(dtype)
    file = compress((SOUND, 44100), model)
    assert decompress(file, model)[0].shape == SOUND.shape


def without_weight_norm() -> DAC:
    model = golden_model("44khz")
    for module in model.modules():
        if torch.nn.utils.parametrize.is_parametrized(module):
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    return model


def test_a_model_without_weight_norm_is_saved_and_loaded(tmp_path: Path, model: DAC) -> None:
    merged = without_weight_norm()
    merged.save_pretrained(tmp_path / "merged")
    loaded = DAC.from_pretrained(tmp_path / "merged")
    audio = torch.from_numpy(SOUND)[None]
    assert torch.equal(loaded.encode(audio).codes, merged.encode(audio).codes)
    torch.testing.assert_close(loaded(audio)["audio"], model(audio)["audio"], atol=1e-5, rtol=1e-4)
    assert pretrained.fingerprint(loaded) == pretrained.fingerprint(merged)
    assert torch.equal(pickle.loads(pickle.dumps(merged)).encode(audio).codes, merged.encode(audio).codes)


def test_a_weight_of_zero_without_weight_norm(tmp_path: Path) -> None:
    merged = without_weight_norm()
    with torch.no_grad():
        merged.encoder.block[0].weight[0] = 0.0
    merged.save_pretrained(tmp_path / "merged")
    audio = torch.from_numpy(SOUND)[None]
    assert torch.equal(DAC.from_pretrained(tmp_path / "merged").encode(audio).codes, merged.encode(audio).codes)
