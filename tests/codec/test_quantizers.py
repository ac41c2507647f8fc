"""Files and streams of models whose quantizer is not residual, or has codebooks of different sizes."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dac_codec import codec, compress, decompress, pretrained
from dac_codec.bitstream import Coding, Reader, Writer
from dac_codec.codec import DacFile, DacStream, compress_stream
from dac_codec.common.errors import DacError, ModelMismatchError
from dac_codec.inference import StreamingDecoder, StreamingEncoder
from dac_codec.model import DAC
from tests.codec.test_streams import noise
from tests.inference.networks import TINY, lively

RATE = 44100
GROUPED = replace(TINY, quantizer="grouped", groups=3, n_codebooks=6)
SIZED = replace(TINY, codebook_sizes=(600, 40, 3))
FSQ = replace(
    TINY,
    quantizer="fsq",
    n_codebooks=5,
    codebook_sizes=(9, 8, 8, 5, 2),
    codebook_dim=1,
    lookup="euclidean",
    quantizer_dropout=0.0,
)
MODELS = {
    "grouped": lively(GROUPED),
    "product": lively(replace(GROUPED, n_codebooks=3)),
    "sizes": lively(SIZED),
    "fsq": lively(FSQ),
    "additive": lively(replace(SIZED, quantizer="additive", lookup="euclidean")),
    "single": lively(replace(TINY, n_codebooks=1)),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> DAC:
    return MODELS[request.param]


def round_trips(sound: np.ndarray, model: DAC, **options: Any) -> DacFile:
    """Compress in memory and in a stream, and decode the file from memory and from bytes."""
    file = compress((sound, RATE), model, **options)
    data = file.to_bytes(model)
    found = DacFile.from_bytes(data, model=model)
    assert torch.equal(found.codes, file.codes)
    assert found.header == file.header
    stream = io.BytesIO()
    compress_stream((sound, RATE), stream, model, **options)
    assert stream.getvalue() == data
    assert torch.equal(decompress(found, model)[0], decompress(file, model)[0])
    return file


def test_a_constant_number_of_codes(model: DAC) -> None:
    file = round_trips(noise(2, 400), model, constant=True)
    assert file.header.coding is Coding.FIXED
    assert (file.header.codebook_sizes or (file.header.codebook_size,) * model.n_codebooks) == model.config.sizes
    assert file.header.bitrate == pytest.approx(2 * model.config.bitrate())


@pytest.mark.filterwarnings("ignore:.*the file is .* larger")
@pytest.mark.parametrize("options", [{}, {"bitrate": 100_000.0}, {"quality": 2.0}, {"n_quantizers": 2}, {"effort": 2}])
@pytest.mark.parametrize("name", ["grouped", "product", "sizes", "additive"])
def test_a_number_of_codes_that_varies(name: str, options: dict[str, Any]) -> None:
    file = round_trips(noise(2, 400), MODELS[name], **options)
    assert file.header.coding is Coding.LAYERED
    assert file.header.n_codebooks == options.get("n_quantizers", MODELS[name].n_codebooks)


def test_finite_scalars_have_a_constant_rate() -> None:
    model = MODELS["fsq"]
    file = round_trips(noise(1, 400), model)
    assert file.header.coding is Coding.FIXED
    assert (file.codes >= 0).all()
    assert round_trips(noise(1, 400), model, levels=True).header.coding is Coding.LAYERED
    for options in ({"quality": 3.0}, {"bitrate": 1e6}):
        with pytest.raises(DacError, match="finite scalar quantization, which needs all codes in every frame"):
            compress((noise(1, 400), RATE), model, **options)  # type: ignore[arg-type]
    with pytest.raises(DacError, match="needs all 5 codes of a frame, not 2"):
        compress((noise(1, 400), RATE), model, n_quantizers=2)
    fewer = DacFile(replace(file.header, n_codebooks=2, codebook_sizes=(9, 8)), file.codes[:, :2])
    with pytest.raises(DacError, match="needs all 5 codes of a frame, not 2"):
        decompress(fewer, model)


def test_chunks_of_any_size_give_the_same_codes(model: DAC) -> None:
    sound = torch.from_numpy(noise(1, 300))[None].double()
    whole = model.encode(sound)
    encoder, decoder = StreamingEncoder(model), StreamingDecoder(model)
    codes = [encoder.push(part) for part in sound.split([1, 7, 100, 192], -1)]
    codes.append(encoder.flush())
    assert torch.equal(torch.cat(codes, -1), whole.codes)
    decoded = [decoder.push(part) for part in codes]
    decoded.append(decoder.flush())
    assert torch.allclose(torch.cat(decoded, -1), model.decode(whole.z), atol=1e-9)


def test_a_saved_model_reads_its_files(model: DAC, tmp_path: Path) -> None:
    model = copy.deepcopy(model).float()
    pretrained.save(model, tmp_path / "saved")
    loaded = pretrained.load(tmp_path / "saved")
    assert loaded.config == model.config
    file = compress((noise(1, 400), RATE), model, constant=True)
    assert torch.equal(decompress(file, loaded)[0], decompress(file, model)[0])


def test_first_codebooks_of_different_sizes() -> None:
    model = MODELS["sizes"]
    for options in ({"constant": True}, {"quality": 9.0}):
        file = compress((noise(1, 600), RATE), model, **options)  # type: ignore[arg-type]
        for n in (1, 2):
            target = io.BytesIO()
            codec.thin(io.BytesIO(file.to_bytes(model)), target, n)
            thinned = DacFile.from_bytes(target.getvalue(), model=model)
            assert (thinned.header.codebook_size, thinned.header.codebook_sizes) == (600, (600, 40)[:n] * (n > 1))
            assert torch.equal(thinned.codes, file.codes[:, :n])
            decompress(thinned, model)


def test_damage_between_chunks_of_different_sizes() -> None:
    model = MODELS["sizes"]
    codes = compress((noise(1, 600), RATE), model, constant=True)
    stream = io.BytesIO()
    with Writer(stream, codes.header, 8) as writer:
        writer.write(codes.codes.numpy())
    data = bytearray(stream.getvalue())
    place = len(data) // 2
    data[place] ^= 255
    found = list(Reader(io.BytesIO(bytes(data))).events())
    chunks = [event for event in found if hasattr(event, "codes")]
    assert len(found) == len(chunks) + 1
    for chunk in chunks:
        assert np.array_equal(chunk.codes, codes.codes[..., chunk.first_frame : chunk.first_frame + chunk.n_frames])
    with DacStream(io.BytesIO(bytes(data))) as damaged, pytest.warns(UserWarning, match=r"missing .*damaged"):
        decoded = torch.cat(list(damaged.codes(model, conceal=True)), -1)
    assert decoded.shape[-1] == codes.codes.shape[-1]


def test_other_formats_refuse_them() -> None:
    for name in ("grouped", "sizes", "additive", "fsq"):
        file = compress((noise(1, 400), RATE), MODELS[name], constant=True)
        with pytest.raises(ModelMismatchError, match="is not one of descript-audio-codec"):
            codec.to_legacy(file, MODELS[name])
    sized = compress((noise(1, 400), RATE), MODELS["sizes"], constant=True)
    larger = DacFile(replace(sized.header, codebook_size=1024, codebook_sizes=()), sized.codes)
    with pytest.raises(ModelMismatchError, match=r"3 codebooks of 1024 entries, .* has 3 codebooks of 600, 40, 3"):
        decompress(larger, MODELS["sizes"])
