"""The command line and files of coding 1: convert, info, and decompressing damaged and truncated ones."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec import bitstream
from dac_codec.bitstream import Coding, Reader, Writer
from dac_codec.codec import DacFile, DacStream, Decompressed, decoding
from tests.bitstream.test_layers import CODES, HEADER, LEVELS, random_levels
from tests.cli.shell import LEGACY, errors_of, files_below, run, write_dac


@pytest.fixture
def layered(compressed: DacFile) -> DacFile:
    """`a.dac`: 40 frames of stereo with coding 1 in chunks of 10."""
    header = replace(compressed.header, coding=Coding.LAYERED, context_fingerprint=None)
    codes = torch.randint(1024, (2, 9, 40), generator=torch.Generator().manual_seed(0))
    codes[:, 6:, 5:15] = -1
    with Path("a.dac").open("wb") as stream, Writer(stream, header, 10) as writer:
        for start in range(0, 40, 10):
            writer.write(codes[..., start : start + 10].numpy())
            writer.flush()
    return DacFile(header, codes)


def test_convert_thins(layered: DacFile) -> None:
    result = run("convert", "a.dac", "-o", "b.dac", "--quantizers", 4)
    assert result.exit_code == 0
    assert "kB -> " in result.stderr
    assert torch.equal(DacFile.load("b.dac").codes, layered.codes[:, :4])
    assert run("convert", "a.dac", "-o", "b.dac", "--bitrate", 3, "--force").exit_code == 0
    found = json.loads(run("info", "b.dac", "--json").stdout)[0]
    assert found["n_codebooks"] < 4
    assert found["bitrate"] / 2 < 4500  # with the heads of short chunks
    Path("in").mkdir()
    for name in ("a", "b"):
        Path(f"in/{name}.dac").write_bytes(Path("a.dac").read_bytes())
    assert run("convert", "in", "-o", "out", "--quantizers", 1).exit_code == 0
    assert files_below("out") == {"a.dac", "b.dac"}
    for arguments, message in (
        (("a.dac", "--quantizers", 4, "--bitrate", 3), "can't be combined"),
        (("a.dac", "--quantizers", 0), "0 is not in the range"),
        (("a.dac", "--bitrate", 0.1), "too low: one codebook takes"),
        ((LEGACY, "--quantizers", 4), "can't be thinned"),
    ):
        result = run("convert", *arguments, "-o", "c.dac")
        assert result.exit_code in (1, 2)
        assert message in result.stderr
    assert not Path("c.dac").exists()


def test_convert_leaves_levels_out() -> None:
    header = replace(HEADER, levels=LEVELS)
    Path("a.dac").write_bytes(bitstream.dumps(header, CODES, random_levels(header, 60)))
    assert run("convert", "a.dac", "-o", "b.dac", "--no-levels").exit_code == 0
    assert Path("b.dac").read_bytes() == bitstream.dumps(replace(header, levels=None), CODES)
    shown = run("info", "a.dac").stdout
    assert "3 bands up to" in shown
    assert "-6 to +3 dB" in shown


def test_convert_thins_files_of_fixed_width(compressed: DacFile) -> None:
    header = replace(compressed.header, coding=Coding.FIXED, layers=(), context_fingerprint=None)
    fixed = DacFile(header, compressed.codes.clamp(min=0))
    write_dac("a.dac", fixed)
    assert run("convert", "a.dac", "-o", "b.dac", "--bitrate", 4).exit_code == 0
    assert torch.equal(DacFile.load("b.dac").codes, fixed.codes[:, :4])
    assert run("convert", "a.dac", "-o", "c.dac", "--order", "layers").exit_code == 0
    assert torch.equal(DacFile.load("c.dac").codes, fixed.codes)


def test_convert_reorders(layered: DacFile, model: Path) -> None:
    assert run("convert", "a.dac", "-o", "l.dac", "--order", "layers").exit_code == 0
    assert run("convert", "l.dac", "-o", "t.dac", "--order", "time").exit_code == 0
    assert Path("t.dac").read_bytes() == Path("a.dac").read_bytes()
    data = Path("l.dac").read_bytes()
    Path("half.dac").write_bytes(data[: len(data) // 2])
    result = run("info", "l.dac", "half.dac", "--json")
    orders = [(found["order"], found["truncated"], found["n_samples"]) for found in json.loads(result.stdout)]
    assert orders == [("layers", False, layered.n_samples), ("layers", True, layered.n_samples)]
    result = run("decompress", "half.dac", "--model", model)
    assert result.exit_code == 1
    assert "within its finer layers" in errors_of(result)[0]
    assert "half.wav contains the 0.46 s before that" in errors_of(result)[0]
    assert run("decompress", "half.dac", "--model", model, "--allow-truncated", "--force").exit_code == 0
    result = run("decompress", "-", "-o", "p.wav", "--model", model, "--allow-truncated", stdin=data[: len(data) // 2])
    assert result.exit_code == 0
    assert Path("p.wav").read_bytes() == Path("half.wav").read_bytes()


def test_progressive_output(layered: DacFile, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dac("a.dac", replace(layered, header=replace(layered.header, channel_mask=0x600)))  # side left and right
    assert run("convert", "a.dac", "-o", "l.dac", "--order", "layers").exit_code == 0
    sounds = []
    write = decoding.write_blocks

    def noted(stream: DacStream, blocks: Any, target: Path, *rest: Any) -> Decompressed:
        result = write(stream, blocks, target, *rest)
        sounds.append(target.read_bytes())
        return result

    monkeypatch.setattr(decoding, "write_blocks", noted)
    result = run("decompress", "l.dac", "-o", "p.wav", "--model", model, "--progressive")
    assert result.exit_code == 0
    assert "-> 0.46 s (" in result.stderr
    assert len(set(sounds)) == len(sounds) == 3
    assert run("decompress", "a.dac", "--model", model).exit_code == 0
    expected, _ = soundfile.read("a.wav")
    found, _ = soundfile.read("p.wav")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert Path("p.wav").read_bytes()[:60] == Path("a.wav").read_bytes()[:60]
    data = Path("l.dac").read_bytes()
    Path("cut.dac").write_bytes(data[: len(data) * 3 // 4])
    cut = run("decompress", "cut.dac", "--model", model, "--progressive")
    assert cut.exit_code == 1
    assert "cut.wav contains a coarser version" in errors_of(cut)[0]
    assert soundfile.info("cut.wav").frames == len(found)
    for arguments in (("-o", "-"), ("-o", "q.wav", "--start", "1"), ("--conceal",)):
        assert "--progressive writes whole files" in run("decompress", "l.dac", *arguments, "--progressive").stderr


def test_a_damaged_layer(layered: DacFile, model: Path) -> None:
    data = bytearray(Path("a.dac").read_bytes())
    layer = list(Reader(io.BytesIO(data)).coded())[1].layers[2]
    assert layer is not None
    data[bytes(data).index(layer)] ^= 1
    Path("a.dac").write_bytes(data)
    result = run("decompress", "a.dac", "--model", model, "--no-conceal")
    assert result.exit_code == 1
    assert "a.dac: layer 3 of the chunk at frame 10 is damaged" in errors_of(result)[0]
    assert not Path("a.wav").exists()
    result = run("decompress", "a.dac", "--model", model)
    assert result.exit_code == 1
    assert "Warning: a.dac: 0.116 s are coarser at 0.116 s: layer 3 is missing" in result.stderr
    assert "layers are missing in a.wav (--allow-gaps accepts this)" in result.stderr
    assert Path("a.wav").exists()
    assert run("decompress", "a.dac", "--model", model, "--conceal", "--allow-gaps", "--force").exit_code == 0


def test_info_as_text(layered: DacFile) -> None:
    text = run("info", "a.dac").stdout
    for line in ("layered", "3 + 3 + 3 codebooks", "adaptive", "8.25 on average", "bits by codebook", "peak bitrate"):
        assert line in text


def test_redundancy_repeats_the_coarse_codes(model: Path) -> None:
    raw = (0.1 * np.random.default_rng(0).standard_normal(44100) * 32767).astype("<i2").tobytes()
    arguments = ("compress", "-", "-o", "a.dac", "--raw", "44100,1,s16le", "--model", model, "--chunk-frames", 8)
    assert run(*arguments, "--redundancy", stdin=raw).exit_code == 0
    data = Path("a.dac").read_bytes()
    header = bitstream.loads(data).header
    assert header.coding is Coding.LAYERED
    assert run(*arguments, "--force", stdin=raw).exit_code == 0
    assert len(data) > 1.2 * Path("a.dac").stat().st_size
