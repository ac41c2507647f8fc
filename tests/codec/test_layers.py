"""Files of coding 1: decoding past damaged layers, parts of files, lost chunks, context models, thinning."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dac_codec import bitstream, codec, pretrained
from dac_codec.audio import Reader as AudioReader
from dac_codec.bitstream import Coding, Order, Reader, Writer
from dac_codec.bitstream.context_model import ContextModel
from dac_codec.codec import DacFile, DacStream, compress, decompress, decompress_stream
from dac_codec.common.errors import BitstreamError, DacError, ModelMismatchError, TruncatedBitstreamError
from dac_codec.model import DAC
from tests.codec.test_streams import Pipe, noise
from tests.common.test_streams import Trickle
from tests.conftest import GOLDEN, golden_model

HOP, N_FRAMES, CHUNK = 512, 60, 12


@pytest.fixture(scope="module")
def model() -> DAC:
    return golden_model("44khz")


@pytest.fixture(scope="module")
def file(model: DAC) -> DacFile:
    """60 frames of stereo with coding 1 in layers of 3 codebooks."""
    coded = compress((noise(2, N_FRAMES * HOP - 100), 44100), model, constant=True)
    return DacFile(replace(coded.header, coding=Coding.LAYERED), coded.codes)


def content(file: DacFile, redundancy: bool = False) -> tuple[bytes, list[int]]:
    """The bytes of a file with chunks of 12 frames, and the end of each chunk."""
    stream = io.BytesIO()
    with Writer(stream, file.header, CHUNK, redundancy=redundancy) as writer:
        ends = [stream.tell()]
        for start in range(0, N_FRAMES, CHUNK):
            writer.write(file.codes[..., start : start + CHUNK].numpy())
            writer.flush()
            ends.append(stream.tell())
    return stream.getvalue(), ends


def without_layers(file: DacFile, first: int, last: int, n_codebooks: int) -> DacFile:
    """The file whose frames from `first` to `last` have the codes of the first codebooks only."""
    codes = file.codes.clone()
    codes[:, n_codebooks:, first:last] = -1
    return DacFile(file.header, codes)


def decoded(source: object, model: DAC, **options: object) -> tuple[npt.NDArray[np.float32], codec.Decompressed]:
    target = io.BytesIO()
    result = decompress_stream(source, target, model, fmt="raw", subtype="FLOAT", **options)  # type: ignore[arg-type]
    return np.frombuffer(target.getvalue(), np.float32).reshape(-1, 2).T, result


def test_a_file_in_memory_keeps_its_codes(file: DacFile, model: DAC, tmp_path: Path) -> None:
    variable = without_layers(file, 20, 30, 5)
    variable.save(tmp_path / "a.dac")
    found = DacFile.load(tmp_path / "a.dac")
    assert found.header == file.header
    assert torch.equal(found.codes, variable.codes)
    assert found.codes.dtype == torch.int64
    assert found.n_codes.shape == (2, N_FRAMES)
    assert found.n_codes[0, 19:31].tolist() == [9, *[5] * 10, 9]
    assert torch.equal(decompress(tmp_path / "a.dac", model)[0], decompress(variable, model)[0])


def test_a_damaged_layer_makes_its_chunk_coarser(file: DacFile, model: DAC, tmp_path: Path) -> None:
    data, ends = content(file)
    layers = list(Reader(io.BytesIO(data)).coded())[2].layers
    assert layers[1] is not None
    damaged = bytearray(data)
    damaged[data.index(layers[1]) + 20] ^= 1
    (tmp_path / "a.dac").write_bytes(damaged)
    target = tmp_path / "a.wav"
    with pytest.raises(BitstreamError, match=r"a\.dac: layer 2 of the chunk at frame 24 is damaged"):
        decompress_stream(tmp_path / "a.dac", target, model, conceal=False)
    with pytest.raises(BitstreamError, match="layer 2"):
        decompress(tmp_path / "a.dac", model)
    assert not target.exists()
    expected, _ = decompress(without_layers(file, 24, 36, 3), model)
    damaged_piece = bytearray(bitstream.thin(data, order=Order.LAYERS))
    damaged_piece[bytes(damaged_piece).index(layers[1]) + 20] ^= 1
    for source, conceal in (
        (tmp_path / "a.dac", True),
        (tmp_path / "a.dac", None),
        (Pipe(bytes(damaged)), None),
        (io.BytesIO(damaged_piece), None),
        (io.BytesIO(damaged_piece), True),
    ):
        with pytest.warns(UserWarning, match=r"0\.139 s are coarser at 0\.279 s: layers 2 and 3 are missing"):
            audio, result = decoded(source, model, conceal=conceal)
        np.testing.assert_allclose(audio, expected, atol=1e-6)
        assert result.missing_layers == ((24, 12, (2, 3)),)
        assert result.gaps == ()
        assert len(ends) == 6


def test_damage_outside_of_a_part_is_not_reported(file: DacFile, model: DAC) -> None:
    data, ends = content(file)
    damaged = bytearray(data)
    damaged[ends[5] - 20] ^= 1
    with DacStream(io.BytesIO(damaged)) as stream, warnings.catch_warnings():
        warnings.simplefilter("error")
        list(stream.blocks(model, 0.0, 0.1, conceal=True))
        assert stream.missing_layers == []
    with DacStream(io.BytesIO(damaged)) as stream:
        with pytest.warns(UserWarning, match="coarser"):
            list(stream.blocks(model, 0.6, conceal=True))
        assert [part.first_frame for part in stream.missing_layers] == [48]


@pytest.mark.parametrize("order", list(Order))
def test_a_part_equals_a_slice_of_the_whole(file: DacFile, model: DAC, order: Order) -> None:
    data = bitstream.thin(content(file)[0], order=order)
    whole, rate = decompress(io.BytesIO(data), model)
    part, _ = decompress(io.BytesIO(data), model, start=0.3, duration=0.1)
    start = round(0.3 * rate)
    assert part.shape == (2, round(0.1 * rate))
    torch.testing.assert_close(part, whole[:, start : start + part.shape[1]], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*are coarser")
def test_the_beginning_of_a_file_ordered_by_layers_is_the_whole_piece(file: DacFile, model: DAC) -> None:
    data = bitstream.thin(content(file)[0], order=Order.LAYERS)
    half = data[: len(data) // 2]
    with pytest.raises(TruncatedBitstreamError, match="within its finer layers"):
        decompress(io.BytesIO(half), model)
    found = DacFile.from_bytes(half, allow_truncated=True)
    assert found.n_samples == file.n_samples
    expected, _ = decompress(found, model)
    for source in (io.BytesIO(half), Pipe(half)):
        with pytest.warns(UserWarning, match=r"are coarser at 0\.\d+ s: layer"):
            audio, result = decoded(source, model, allow_truncated=True)
        assert result.n_samples == file.n_samples
        assert result.cut is not None
        np.testing.assert_allclose(audio, expected, atol=1e-6)


def test_redundancy_bridges_a_lost_chunk(file: DacFile, model: DAC) -> None:
    data, ends = content(file, redundancy=True)
    expected, _ = decompress(without_layers(file, 24, 36, 3), model)
    # A packet has the copy of the chunk before, too.
    received = data[: ends[2]] + data[ends[3] :]
    with pytest.warns(UserWarning, match="layers 2 and 3 are missing"):
        audio, result = decoded(Pipe(received), model)
    assert result.gaps == ()
    assert result.missing_layers == ((24, 12, (2, 3)),)
    np.testing.assert_allclose(audio, expected, atol=1e-6)


def test_compressing_a_pipe_with_redundancy(model: DAC) -> None:
    raw = (noise(1, 44100) * 32767).astype("<i2").tobytes()
    sizes = []
    for redundancy in (False, True):
        target = io.BytesIO()
        reader = AudioReader.raw(Pipe(raw), 44100, 1, "s16le")  # type: ignore[arg-type]
        codec.compress_stream(reader, target, model, redundancy=redundancy)
        sizes.append(target.tell())
        found = bitstream.loads(target.getvalue())
        assert found.header.coding is (Coding.LAYERED if redundancy else Coding.FIXED)
        assert found.header.n_samples == 44100
    assert sizes[1] > 1.2 * sizes[0]


def test_passes_are_the_whole_piece(file: DacFile, model: DAC) -> None:
    data, _ = content(file)
    ordered = bitstream.thin(data, order=Order.LAYERS)
    whole, _ = decompress(file, model)
    for source in (io.BytesIO(data), file):
        with DacStream(source) as stream:
            (only,) = stream.passes(model)
            np.testing.assert_array_equal(only, whole)
    expected = [decompress(without_layers(file, 0, N_FRAMES, n), model)[0] for n in (3, 6, 9)]
    for source in (io.BytesIO(ordered), Pipe(ordered)):
        with DacStream(source) as stream:  # type: ignore[arg-type]
            for found, wanted in zip(stream.passes(model), expected, strict=True):
                np.testing.assert_allclose(found, wanted, atol=1e-6)
    with DacStream(Pipe(ordered[:-40])) as stream:  # type: ignore[arg-type]
        passes = stream.passes(model)
        assert next(passes).shape == next(passes).shape == whole.shape
        with pytest.raises(TruncatedBitstreamError):
            next(passes)
    with (
        DacStream(GOLDEN / "legacy_44khz_stereo_unchunked.dac") as stream,
        pytest.raises(BitstreamError, match="layers"),
    ):
        next(stream.passes(model))


def test_a_live_stream_has_one_layer_unless_it_repeats_it(model: DAC) -> None:
    raw = (noise(1, 44100) * 32767).astype("<i2").tobytes()
    for redundancy, layers in ((False, (9,)), (True, (3, 3, 3))):
        target = io.BytesIO()
        reader = AudioReader.raw(Pipe(raw), 44100, 1, "s16le")  # type: ignore[arg-type]
        codec.compress_stream(reader, target, model, quality=5, redundancy=redundancy)
        assert Reader(io.BytesIO(target.getvalue())).header.layers == layers


# --- context models ---------------------------------------------------------------------------------------------------


def context_model(seed: int) -> ContextModel:
    """A context model for 9 codebooks of 1024, with random weights."""
    random = np.random.default_rng(seed)
    n, k, e, h, r, g, s = 9, 1024, 2, 4, 4, 32, 32
    shapes = {
        "embeddings": (n, k, e), "hidden.weight": (n, 5 * e, h), "features.weight": (n, h, r),
        "first.weight": (n, r, g + 1), "second.weight": (n, g, r, s), "hidden.bias": (n, h), "features.bias": (n, r),
        "first.bias": (n, g + 1), "second.bias": (n, g, s),
    }  # fmt: skip
    arrays = {
        name: random.integers(-20, 21, shape).astype(np.int32 if name.endswith("bias") else np.int8)
        for name, shape in shapes.items()
    }
    places = np.arange(k).repeat(n).reshape(k, n).T.astype(np.int32)
    return ContextModel(
        {**arrays, "averages": np.zeros(0, np.int32), "places": places, "shifts": np.full(3, 4, np.int32)}
    )


def test_context_models_are_found_beside_the_weights(file: DacFile, tmp_path: Path) -> None:
    new, old = context_model(0), context_model(1)
    folder = tmp_path / "tiny"
    pretrained.save(pretrained.load(GOLDEN / "dac_44khz_tiny.pth"), folder, name="tiny")
    (folder / "context.safetensors").write_bytes(new.to_bytes())
    (folder / "context-1.safetensors").write_bytes(old.to_bytes())
    header = replace(file.header, context_fingerprint=old.fingerprint)
    data = DacFile(header, file.codes).to_bytes(folder)
    for model in (folder, pretrained.load(folder)):
        found = DacFile.from_bytes(data, model=model)
        assert found.header == header
        assert torch.equal(found.codes, file.codes)
    expected, _ = decompress(file, folder)
    assert torch.equal(decompress(io.BytesIO(data), folder)[0], expected)
    loaded = pretrained.load(folder)
    assert compress((noise(2, 2000), 44100), loaded, levels=False).header.context_fingerprint == new.fingerprint
    assert DacFile.from_bytes(bitstream.thin(data, 3), model=folder).codes.shape == (2, 3, N_FRAMES)

    (folder / "context-1.safetensors").unlink()
    assert old.fingerprint is not None
    missing = f"the context model {old.fingerprint.hex()}, which is not beside the weights"
    for read in (
        lambda: DacFile.from_bytes(data, model=folder),
        lambda: DacFile.from_bytes(data),
        lambda: DacFile(header, file.codes).to_bytes(),
        lambda: decompress(io.BytesIO(data), folder),
    ):
        with pytest.raises(ModelMismatchError, match=missing):
            read()


# --- thinning ---------------------------------------------------------------------------------------------------------


def test_thinning_files(file: DacFile, tmp_path: Path) -> None:
    file.save(tmp_path / "a.dac")
    size = codec.thin(tmp_path / "a.dac", tmp_path / "b.dac", 4)
    assert size == (tmp_path / "b.dac").stat().st_size < 0.6 * (tmp_path / "a.dac").stat().st_size
    assert torch.equal(DacFile.load(tmp_path / "b.dac").codes, file.codes[:, :4])
    target = io.BytesIO()
    codec.thin(io.BytesIO(file.to_bytes()), target, bitrate=3000, order="layers")
    assert DacFile.from_bytes(target.getvalue()).codes.shape[1] == 3
    slow = Trickle()
    codec.thin(io.BytesIO(file.to_bytes()), slow, bitrate=3000, order="layers")
    assert slow.outgoing.getvalue() == target.getvalue()
    with pytest.raises(DacError, match="not both"):
        codec.thin(tmp_path / "a.dac", tmp_path / "c.dac", 4, 3000)
    with pytest.raises(BitstreamError, match="descript-audio-codec"):
        codec.thin(GOLDEN / "legacy_44khz_stereo_unchunked.dac", tmp_path / "c.dac", 4)
    (tmp_path / "cut.dac").write_bytes(file.to_bytes()[:-1])
    with pytest.raises(TruncatedBitstreamError, match=r"cut\.dac"):
        codec.thin(tmp_path / "cut.dac", tmp_path / "c.dac", 4)
    assert not (tmp_path / "c.dac").exists()


def test_a_varying_number_of_codes_has_no_legacy_form(file: DacFile, model: DAC) -> None:
    assert codec.to_legacy(file, model).codes.shape == (2, 9, N_FRAMES)
    with pytest.raises(BitstreamError, match="varies from frame to frame"):
        codec.to_legacy(without_layers(file, 0, 1, 8), model)
