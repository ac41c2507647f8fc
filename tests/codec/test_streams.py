"""Streams: files in constant memory, pipes, damage, and parts of files."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import Tensor

from dac_codec import audio, bitstream, codec, inference
from dac_codec.bitstream import GainSource
from dac_codec.codec import DacFile, DacStream, compress, compress_stream, decompress, decompress_stream
from dac_codec.common.errors import AudioError, BitstreamError, DacError, ModelMismatchError, TruncatedBitstreamError
from dac_codec.inference.network import Step
from dac_codec.model import DAC, DACConfig
from tests.conftest import GOLDEN, golden_model

HOP = 512


@pytest.fixture(scope="module")
def model() -> DAC:
    return golden_model("44khz")


def noise(channels: int, n_samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, n_samples))).astype(np.float32)


def write_sound(path: Path, channels: int, n_samples: int, rate: int) -> Path:
    soundfile.write(path, noise(channels, n_samples).T, rate, subtype="FLOAT")
    return path


class Pipe(io.RawIOBase):
    """A stream that arrives in pieces and can't seek."""

    def __init__(self, data: bytes, piece: int = 1000) -> None:
        self._stream = io.BytesIO(data)
        self._piece = piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._stream.read(min(len(view), self._piece))
        view[: len(data)] = data
        return len(data)


# Files in blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "rate"), [(1, 44100), (2, 48000), (3, 16000)])
def test_a_file_in_blocks_equals_the_file_in_memory(model: DAC, tmp_path: Path, channels: int, rate: int) -> None:
    path = write_sound(tmp_path / "a.wav", channels, 2**18 // channels + 7, rate)  # two blocks of the reader
    result = compress_stream(path, tmp_path / "a.dac", model, n_quantizers=2)
    whole = compress(audio.read(path), model, n_quantizers=2)
    assert (tmp_path / "a.dac").read_bytes() == whole.to_bytes()
    assert (result.n_samples, result.n_bytes) == (whole.n_samples, len(whole.to_bytes()))

    decoded = decompress_stream(tmp_path / "a.dac", tmp_path / "b.wav", model, subtype="FLOAT")
    expected, _ = decompress(whole, model)
    found, found_rate = soundfile.read(tmp_path / "b.wav", dtype="float32", always_2d=True)
    assert (found_rate, decoded.n_samples, decoded.gaps, decoded.cut) == (rate, whole.n_samples, (), None)
    np.testing.assert_allclose(found.T, expected, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"a.wav", "a.dac", "b.wav"}


def test_positions_of_channels_are_kept(model: DAC, tmp_path: Path) -> None:
    with audio.Writer(tmp_path / "a.wav", 44100, 6, 3000, channel_mask=0x60F) as writer:
        writer.write(noise(6, 3000))
    compress_stream(tmp_path / "a.wav", tmp_path / "a.dac", model, 1)
    data = (tmp_path / "a.wav").read_bytes()
    for source in (tmp_path / "a.wav", data, Pipe(data, 10**6)):
        whole = compress(source, model, 1)  # type: ignore[arg-type]
        assert whole.header.channel_mask == 0x60F
        assert (tmp_path / "a.dac").read_bytes() == whole.to_bytes()


def test_a_stream_that_is_read_again_meanwhile(model: DAC) -> None:
    file = compress((noise(1, 300 * HOP), 44100), model, n_quantizers=1, constant=True)
    with DacStream(io.BytesIO(with_chunks(file, 8))) as stream:
        codes = stream.codes(model)
        next(codes)
        stream.scan()
        with pytest.raises(DacError, match="read again before this reading ended"):
            list(codes)
        assert sum(block.shape[1] for block in stream.blocks(model)) == file.n_samples
        first, second = stream.codes(model), stream.codes(model)
        assert sum(block.shape[-1] for block in second) == 300
        with pytest.raises(DacError, match="read again"):
            next(first)


def test_blocks_are_yielded_before_the_file_is_read(model: DAC, tmp_path: Path) -> None:
    file = compress((noise(1, 300 * HOP), 44100), model, n_quantizers=1, constant=True)
    data = with_chunks(file, 8)
    stream = io.BytesIO(data)
    with DacStream(stream) as dac:
        next(dac.blocks(model))
        assert stream.tell() < 0.7 * len(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_infinite_samples_leave_no_file(model: DAC, tmp_path: Path, value: float) -> None:
    wave = noise(1, 2**18 + 500)
    wave[0, -5] = value
    soundfile.write(tmp_path / "a.wav", wave.T, 44100, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN or infinite"):
        compress_stream(tmp_path / "a.wav", tmp_path / "a.dac", model)
    target = io.BytesIO()
    with pytest.raises(AudioError, match="NaN or infinite"):
        compress_stream(tmp_path / "a.wav", target, model)
    assert target.getvalue() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    with pytest.raises(AudioError, match="NaN or infinite"):
        compress_stream(Pipe((tmp_path / "a.wav").read_bytes(), 10**6), tmp_path / "a.dac", model, 1)  # type: ignore[arg-type]
    assert not (tmp_path / "a.dac").exists()


@pytest.mark.parametrize("n_quiet", [0, 60000])
def test_a_pipe_too_loud_to_be_resampled(model: DAC, n_quiet: int) -> None:
    wave = 1e37 * np.sin(np.arange(96000, dtype=np.float32)[None])
    wave[:, :n_quiet] *= 1e-38
    stream = io.BytesIO()
    audio.write(stream, wave, 48000, subtype="FLOAT")
    with pytest.raises(AudioError, match="exceeds the range of float32 after resampling"):
        compress_stream(Pipe(stream.getvalue(), 10**6), io.BytesIO(), model, 1)  # type: ignore[arg-type]


def test_a_damaged_file_leaves_no_file(model: DAC, tmp_path: Path) -> None:
    data = bytearray(compress((noise(1, 5000), 44100), model, constant=True).to_bytes())  # no layers to be damaged
    data[-20] ^= 1
    (tmp_path / "a.dac").write_bytes(data)
    with pytest.raises(BitstreamError, match=r"a\.dac: .*damaged"):
        decompress_stream(tmp_path / "a.dac", tmp_path / "a.wav", model)
    target = io.BytesIO()
    with pytest.raises(BitstreamError, match=r"a\.dac: .*damaged"):
        decompress_stream(tmp_path / "a.dac", target, model)
    assert target.getvalue() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["a.dac"]


# Pipes ---------------------------------------------------------------------------------------------------------------


def with_chunks(file: DacFile, chunk_frames: int) -> bytes:
    stream = io.BytesIO()
    with bitstream.Writer(stream, file.header, chunk_frames) as writer:
        writer.write(file.codes.numpy(), None if file.levels is None else file.levels.numpy())
    return stream.getvalue()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rate", [44100, 16000])
def test_a_pipe_is_coded_as_it_arrives(causal: bool, rate: int) -> None:
    model = causal_model() if causal else golden_model("44khz")
    wave = noise(1, 2 * rate + 11)
    wave[:, rate:] *= 3  # louder than the beginning, which is what counts
    target = io.BytesIO()
    pipe = Pipe(wave.T.astype("<f4").tobytes())
    reader = audio.Reader.raw(pipe, rate, 1, "f32le")  # type: ignore[arg-type]
    compress_stream(reader, target, model, chunk_frames=5)
    file = DacFile.from_bytes(target.getvalue())
    assert file.header.gain_source is GainSource.BEGINNING
    assert file.n_samples == wave.shape[1]
    beginning = compress((wave[:, :rate], rate), model)
    assert file.header.gain_db == beginning.header.gain_db > 0

    reader_of_codes = bitstream.Reader(io.BytesIO(target.getvalue()))
    assert reader_of_codes.header.n_samples is None
    assert max(chunk.codes.shape[-1] for chunk in reader_of_codes) == 5

    decoded = io.BytesIO()
    result = decompress_stream(Pipe(target.getvalue(), 100), decoded, model, fmt="raw", subtype="FLOAT")  # type: ignore[arg-type]
    assert result.n_samples == wave.shape[1]
    expected, _ = decompress(file, model)
    np.testing.assert_allclose(np.frombuffer(decoded.getvalue(), "<f4"), expected[0], atol=1e-5)


def test_the_gain_of_a_quiet_beginning_is_bounded(model: DAC) -> None:
    wave = 1e-2 * noise(1, 50000)
    target = io.BytesIO()
    reader = audio.Reader.raw(Pipe(wave.T.astype("<f4").tobytes()), 44100, 1, "f32le")  # type: ignore[arg-type]
    compress_stream(reader, target, model, 1)
    assert bitstream.Reader(io.BytesIO(target.getvalue())).header.gain_db == 12.0


def causal_model() -> DAC:
    torch.manual_seed(0)
    return DAC(
        DACConfig(encoder_dim=4, latent_dim=8, decoder_dim=32, n_codebooks=2, codebook_size=16, causal=True)
    ).eval()


def test_a_short_file_is_read_once(model: DAC) -> None:
    file = compress((noise(2, 20_000), 44100), model, n_quantizers=3)
    data = io.BytesIO(file.to_bytes())
    with DacStream(data) as stream:
        assert stream.scan() == 20_000
        data.truncate(0)
        found = np.concatenate(list(stream.blocks(model)), 1)
        np.testing.assert_array_equal(found, decompress(file, model)[0].numpy())
        with pytest.raises(BitstreamError):
            list(stream.blocks(model))


# Memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource is POSIX")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """The peak memory of a process for 8 minutes equals that for one, including torch's."""
    blocks: dict[str, Any] = {"encoder_dim": 1, "encoder_rates": [16, 32], "decoder_dim": 4, "decoder_rates": [32, 16]}
    model = DAC(DACConfig(**blocks, latent_dim=4, n_codebooks=1, codebook_size=4, sample_rate=8000))
    model.save_pretrained(tmp_path / "model")
    second = noise(2, 8000)
    for minutes in (1, 8):
        with audio.Writer(tmp_path / f"{minutes}.wav", 8000, 2) as writer:
            for _ in range(60 * minutes):
                writer.write(second)
    script = """
import resource
import torch
from dac_codec import codec, pretrained
torch.set_num_threads(1)  # so small a network is slower with more
model = pretrained.load("model")
for minutes in (1, 8):
    codec.compress_stream(f"{minutes}.wav", f"{minutes}.dac", model)
    assert codec.decompress_stream(f"{minutes}.dac", "back.wav", model).n_samples == 60 * minutes * 8000
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    short, long = (int(line) * unit for line in done.stdout.split())
    assert long < 1.1 * short
    assert long - short < 8 * 60 * 8000 * 2 * 2  # the sound, as 16-bit samples


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of frames that go through the network."""
    numbers: list[int] = []
    take = inference.StreamingDecoder.take

    def counting(self: inference.StreamingDecoder, codes: Tensor) -> Step:
        numbers.append(codes.shape[-1])
        return take(self, codes)

    monkeypatch.setattr(inference.StreamingDecoder, "take", counting)
    return numbers


@pytest.fixture(scope="module")
def coded(model: DAC) -> tuple[DacFile, Tensor]:
    """400 frames at 44.1 kHz, and their decoded audio."""
    file = compress((noise(2, 400 * HOP - 100), 44100), model, n_quantizers=3, constant=True)
    return file, decompress(file, model)[0]


def chunks_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """The header of a file, and its chunks with END as the last."""
    stream = io.BytesIO(data)
    reader = bitstream.Reader(stream)
    edges = [stream.tell()]
    edges += [stream.tell() for _ in reader]
    edges.append(len(data))
    return data[: edges[0]], [data[a:b] for a, b in pairwise(edges)]


def damaged(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 255])


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("harm", ["lost", "damaged"])
def test_sound_far_from_gaps_is_unchanged(
    model: DAC, coded: tuple[DacFile, Tensor], loss: float, harm: str, tmp_path: Path
) -> None:
    file, whole = coded
    head, chunks = chunks_of(with_chunks(file, 4))
    assert len(chunks) == 101
    chance = random.Random(f"{loss} {harm}")
    lost = set(chance.sample(range(100), round(100 * loss)))
    if harm == "damaged":
        chunks = [damaged(chunk) if i in lost else chunk for i, chunk in enumerate(chunks)]
    else:
        chunks = [chunk for i, chunk in enumerate(chunks) if i not in lost]
    (tmp_path / "a.dac").write_bytes(head + b"".join(chunks))
    with pytest.raises(BitstreamError):
        decompress(tmp_path / "a.dac", model)
    with DacStream(tmp_path / "a.dac") as stream, pytest.warns(UserWarning, match=harm):
        found = np.concatenate(list(stream.blocks(model, conceal=True)), axis=1)
    gaps = stream.gaps
    assert found.shape == whole.shape
    missing = {frame for gap in gaps for frame in range(gap.first_frame, gap.first_frame + (gap.n_frames or 0))}
    assert missing == {frame for i in lost for frame in range(4 * i, 4 * i + 4)}
    context = inference.decoder_context(model)
    near = {frame + k for frame in missing for k in range(-context.after, context.before + 1)}
    difference = np.abs(found - whole.numpy()).max(axis=0)
    far = [frame for frame in range(400) if frame not in near]
    assert far
    assert max(difference[HOP * frame : HOP * (frame + 1)].max() for frame in far) < 1e-4
    assert difference.max() > 1e-3


def test_with_a_bandwidth_a_gap_spreads_by_the_reach_of_the_filter(
    model: DAC, coded: tuple[DacFile, Tensor], tmp_path: Path
) -> None:
    file = DacFile(replace(coded[0].header, bandwidth=5000), coded[0].codes)
    whole = decompress(file, model)[0].numpy()
    head, chunks = chunks_of(with_chunks(file, 4))
    (tmp_path / "a.dac").write_bytes(head + b"".join(chunks[:50] + chunks[51:]))
    with DacStream(tmp_path / "a.dac") as stream, pytest.warns(UserWarning, match="lost"):
        found = np.concatenate(list(stream.blocks(model, conceal=True)), axis=1)
    assert found.shape == whole.shape
    context, reach = inference.decoder_context(model), audio.low_pass_reach(44100)
    difference = np.abs(found - whole).max(axis=0)
    before, after = HOP * (200 - context.after) - reach, HOP * (204 + context.before) + reach
    assert max(difference[:before].max(), difference[after:].max()) < 1e-4
    assert difference[before:after].max() > 1e-3


@pytest.mark.parametrize("first", [0, 100, 380])
def test_a_long_gap_fades_to_silence_and_costs_no_decoding(
    model: DAC, coded: tuple[DacFile, Tensor], first: int, decoded: list[int]
) -> None:
    file, whole = coded
    n_missing = {0: 100, 100: 200, 380: 20}[first]
    head, chunks = chunks_of(with_chunks(file, 4))
    data = head + b"".join(chunks[: first // 4] + chunks[(first + n_missing) // 4 :])
    with DacStream(io.BytesIO(data)) as stream, pytest.warns(UserWarning, match="lost"):
        found = np.concatenate(list(stream.blocks(model, conceal=True)), axis=1)
    assert found.shape == whole.shape
    assert 400 - n_missing <= sum(decoded) <= 400 - n_missing + 30
    silent_from = HOP * first + (4410 if first else 0)
    assert np.abs(found[:, silent_from : HOP * (first + n_missing)]).max() == 0.0
    after = HOP * (first + n_missing + inference.decoder_context(model).before)
    np.testing.assert_allclose(found[:, after:], whole[:, after:], atol=1e-4)
    if first:
        faded = np.abs(found[:, HOP * first : silent_from]).max(axis=0).reshape(10, -1).max(axis=1)
        assert faded[0] > 0.05
        assert (faded[2:] < faded[:-2]).all()


@pytest.mark.parametrize(
    ("order", "missing"),
    [
        ([*range(1, 100), 100], {0}),
        ([*range(99), 100], {99}),
        ([*range(10), *range(14, 100), 100], {10, 11, 12, 13}),
        ([*range(20), 21, 20, *range(22, 101)], {21}),
        ([99, *range(1, 99), 0, 100], {0, 99}),
        ([50, 100], {*range(100)} - {50}),
    ],
    ids=["first removed", "last removed", "four removed", "neighbours swapped", "ends swapped", "one left"],
)
def test_removed_and_swapped_chunks(
    model: DAC, coded: tuple[DacFile, Tensor], order: list[int], missing: set[int], tmp_path: Path
) -> None:
    file, whole = coded
    head, chunks = chunks_of(with_chunks(file, 4))
    (tmp_path / "a.dac").write_bytes(head + b"".join(chunks[index] for index in order))
    with pytest.raises(BitstreamError):
        decompress_stream(tmp_path / "a.dac", tmp_path / "a.wav", model)
    assert [path.name for path in tmp_path.iterdir()] == ["a.dac"]
    with pytest.warns(UserWarning, match="missing at"):
        result = decompress_stream(tmp_path / "a.dac", tmp_path / "a.wav", model, conceal=True, subtype="FLOAT")
    assert (result.n_samples, result.cut) == (whole.shape[1], None)
    frames = {frame for gap in result.gaps for frame in range(gap.first_frame, gap.first_frame + (gap.n_frames or 0))}
    assert frames == {4 * index + k for index in missing for k in range(4)}
    found, _ = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)
    context = inference.decoder_context(model)
    near = {frame + k for frame in frames for k in range(-context.after, context.before + 1)}
    difference = np.abs(found.T - whole.numpy()).max(axis=0)
    for frame in set(range(400)) - near:
        assert difference[HOP * frame : HOP * (frame + 1)].max() < 1e-4


def test_a_truncated_stream_is_decoded_up_to_the_cut(model: DAC, coded: tuple[DacFile, Tensor], tmp_path: Path) -> None:
    file, whole = coded
    head, chunks = chunks_of(with_chunks(file, 4))
    data = head + b"".join(chunks[:50]) + chunks[50][:-1]
    for conceal in (False, True):
        with DacStream(Pipe(data)) as stream:  # type: ignore[arg-type]
            found = np.concatenate(list(stream.blocks(model, conceal=conceal)), axis=1)
            assert isinstance(stream.cut, TruncatedBitstreamError)
        assert found.shape == (2, 200 * HOP)
        exact = HOP * (200 - inference.decoder_context(model).after)
        np.testing.assert_allclose(found[:, :exact], whole[:, :exact], atol=1e-5)
    with pytest.raises(TruncatedBitstreamError):
        decompress_stream(Pipe(data), tmp_path / "a.wav", model)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# Parts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "tolerance"), [(44100, 1e-5), (48000, 1e-5), (16000, 1e-5), (44101, 3e-5)])
def test_a_part_is_a_slice_of_the_whole(model: DAC, rate: int, tolerance: float, tmp_path: Path) -> None:
    file = compress((noise(2, 2 * rate + 17), rate), model, n_quantizers=2)
    whole, _ = decompress(file, model)
    (tmp_path / "a.dac").write_bytes(with_chunks(file, 16))
    for start, duration in ((1.25, 0.3), (1.6, None), (None, 0.3), (1.9, 60.0), (1.5, 1 / rate)):
        first = round((start or 0) * rate)
        stop = whole.shape[1] if duration is None else min(whole.shape[1], first + round(duration * rate))
        for source in (file, tmp_path / "a.dac", Pipe((tmp_path / "a.dac").read_bytes()))[:: 1 if duration else 2]:
            part, part_rate = decompress(source, model, start=start, duration=duration)  # type: ignore[arg-type]
            assert (part_rate, part.shape) == (rate, (2, stop - first))
            np.testing.assert_allclose(part, whole[:, first:stop], atol=tolerance)


def test_chunks_far_from_a_part_are_not_read(model: DAC, coded: tuple[DacFile, Tensor], decoded: list[int]) -> None:
    file, whole = coded
    head, chunks = chunks_of(with_chunks(file, 4))
    harmed = [damaged(chunk) if i < 60 or i > 90 else chunk for i, chunk in enumerate(chunks)]
    start, duration = 280 * HOP / 44100, 40 * HOP / 44100
    part, _ = decompress(io.BytesIO(head + b"".join(harmed)), model, start=start, duration=duration)
    np.testing.assert_allclose(part, whole[:, 280 * HOP : 320 * HOP], atol=1e-5)
    context = inference.decoder_context(model)
    assert 40 <= sum(decoded) <= 40 + context.before + context.after + 1


def test_a_part_of_a_damaged_stream(model: DAC, coded: tuple[DacFile, Tensor]) -> None:
    file, whole = coded
    head, chunks = chunks_of(with_chunks(file, 4))
    data = head + b"".join(chunks[:50] + chunks[55:])
    for source in (io.BytesIO(data), Pipe(data)):
        with DacStream(source) as stream, pytest.warns(UserWarning, match="lost"):  # type: ignore[arg-type]
            blocks = list(stream.blocks(model, start=240 * HOP / 44100, duration=0.5, conceal=True))
        np.testing.assert_allclose(np.concatenate(blocks, axis=1), whole[:, 240 * HOP :][:, :22050], atol=1e-5)
        assert not stream.gaps, "none of the sound that was asked for is missing"
    with DacStream(io.BytesIO(data)) as stream:
        with pytest.warns(UserWarning, match="lost"):
            list(stream.blocks(model, start=205 * HOP / 44100, duration=0.5, conceal=True))
        assert [(gap.first_frame, gap.n_frames) for gap in stream.gaps] == [(200, 20)]


@pytest.mark.parametrize(
    "options",
    [{"start": -1.0}, {"start": 100.0}, {"start": float("nan")}, {"duration": 0.0}, {"duration": float("inf")}],
    ids=str,
)
def test_parts_out_of_range(model: DAC, coded: tuple[DacFile, Tensor], options: dict[str, float]) -> None:
    for source in (coded[0], io.BytesIO(coded[0].to_bytes())):
        with pytest.raises(DacError, match=r"start|duration"):
            decompress(source, model, **options)


def test_a_part_of_a_legacy_file(model: DAC) -> None:
    path = GOLDEN / "legacy_44khz_mono_48k_nq4.dac"
    whole, rate = decompress(path, model)
    part, _ = decompress(path, model, start=0.25, duration=0.5)
    assert torch.equal(part, whole[:, rate // 4 : rate // 4 + rate // 2])


# Causal models and descript-audio-codec ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["legacy_44khz_mono_chunked", "legacy_44khz_mono_48k_nq4"])
def test_no_causal_model_wrote_a_legacy_file(name: str) -> None:
    model = DAC(DACConfig(encoder_dim=4, latent_dim=8, decoder_dim=32, causal=True)).eval()
    with pytest.raises(ModelMismatchError, match="causal"):
        decompress(GOLDEN / f"{name}.dac", model)
    file = compress((noise(1, 3000), 44100), model)
    with pytest.raises(ModelMismatchError, match="causal"):
        codec.to_legacy(file, model)
