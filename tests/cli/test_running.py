"""Several files: at once, in batches, and by one model."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from dac_codec import codec, pretrained
from dac_codec.codec import DacFile
from dac_codec.model import DAC
from dac_codec.pretrained import models as catalog
from tests.cli.shell import LEGACY, errors_of, files_below, noise, run, write_sound


@pytest.mark.usefixtures("three_cores")
def test_files_that_run_at_once_equal_those_that_run_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are in the order of the inputs, and a warning precedes the line of its file."""
    names = ["0.wav", "1.flac", "2.wav", "3.wav", "4.flac", "5.wav", "6.wav"]
    for index, name in enumerate(names):
        soundfile.write(name, noise(30000, 2)[index:], 44100)
        if name.endswith("flac"):
            Path(name).write_bytes(Path(name).read_bytes()[:-10000])
    Path("5.wav").write_bytes(bytes(1000))
    result = run("compress", *names, "-o", "out", "--model", model, "--allow-truncated")
    assert result.exit_code == 1
    lines = [line.replace("Warning: ", "").partition(" ")[0] for line in result.stderr.splitlines()]
    assert lines == ["0.wav", "1.flac:", "1.flac", "2.wav", "3.wav", "4.flac:", "4.flac", "6.wav", "Error:"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as each of three files at once had
    for name in [name for name in names if name != "5.wav"]:
        assert run("compress", name, "-o", "alone.dac", "--model", model, "--force", "--allow-truncated").exit_code == 0
        assert Path("out", name).with_suffix(".dac").read_bytes() == Path("alone.dac").read_bytes()


@pytest.mark.usefixtures("three_cores")
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([30000] * 7, 3), ([30000] * 2, 2), ([90000, 3000, 3000], 1), ([30000, 30000, 5000], 2), ([30000], 1)],
    ids=str,
)
def test_files_run_at_once_where_that_is_faster(
    lengths: list[int], expected: int, instant: None, tiny: DAC, monkeypatch: pytest.MonkeyPatch
) -> None:
    most, running, lock = 0, 0, threading.Lock()
    compress_stream = codec.compress_stream

    def counting(*args: Any, **options: Any) -> codec.Compressed:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.1)
        with lock:
            running -= 1
        return compress_stream(*args, **options)

    monkeypatch.setattr(codec, "compress_stream", counting)
    for index, length in enumerate(lengths):
        write_sound(f"in/{index}.wav", length)
    assert run("compress", "in").exit_code == 0
    assert most == expected


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.filterwarnings("ignore:.*cut short")
def test_files_of_a_batch_equal_those_that_run_alone(model: Path) -> None:
    """Files of any length, rate and number of channels, an unreadable one, and one whose output exists."""
    shapes = {"0": (3000, 8000, 1), "1": (30000, 48000, 2), "2": (700, 44100, 3), "3": (5000, 44100, 2)}
    for name, (n_samples, rate, channels) in shapes.items():
        soundfile.write(f"{name}.flac", (int(name) + 1) / 4 * noise(n_samples, channels), rate)
    Path("1.flac").write_bytes(Path("1.flac").read_bytes()[:-10000])
    write_sound("long.wav", 100_000)
    Path("bad.wav").write_bytes(bytes(1000))
    write_sound("kept.wav")
    Path("out").mkdir()
    Path("out/kept.dac").write_bytes(b"kept")
    inputs = ["0.flac", "bad.wav", "1.flac", "kept.wav", "2.flac", "long.wav", "3.flac"]
    result = run("compress", *inputs, "-o", "out", "--model", model, "--allow-truncated")
    assert result.exit_code == 1
    lines = [line.replace("Warning: ", "").partition(" ")[0] for line in result.stderr.splitlines()]
    assert lines == ["0.flac", "1.flac:", "1.flac", "2.flac", "long.wav", "3.flac", "Error:", "Error:", "2"]
    assert [line.partition(": ")[2].partition(":")[0] for line in errors_of(result)] == ["bad.wav", "kept.wav"]
    assert files_below("out") == {"0.dac", "1.dac", "2.dac", "3.dac", "kept.dac", "long.dac"}
    assert Path("out/kept.dac").read_bytes() == b"kept"

    names = [*shapes, "long"]
    Path("out/2.dac").write_bytes(Path("out/2.dac").read_bytes()[:-5])
    result = run("decompress", *(f"out/{name}.dac" for name in names), LEGACY, "-o", "decoded", "--model", model)
    lines = [line.partition(" ")[0] for line in result.stderr.splitlines()]
    assert lines == [*(f"out/{name}.dac" for name in ("0", "1", "3", "long")), str(LEGACY), "Error:"]
    (error,) = errors_of(result)
    assert error.startswith("Error: out/2.dac: ")
    for name in set(names) - {"2"}:
        source = f"{name}.wav" if name == "long" else f"{name}.flac"
        together, alone = DacFile.load(f"out/{name}.dac"), codec.compress(source, model)
        assert together.header == alone.header
        assert (together.codes == alone.codes).float().mean() > 0.999  # two entries may be equally near
        waveform, rate = codec.decompress(together, model)
        found, found_rate = soundfile.read(f"decoded/{name}.wav", dtype="float32", always_2d=True)
        assert found_rate == rate
        np.testing.assert_allclose(found.T, waveform, atol=1e-4)


def test_a_model_is_loaded_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[object] = []
    load = pretrained.load

    def counting_load(name: Any, *args: Any, **options: Any) -> DAC:
        loads.append(name)
        return load(name, *args, **options)

    monkeypatch.setattr(pretrained, "load", counting_load)
    monkeypatch.setattr(pretrained, "DEFAULT_MODEL", "tiny")
    monkeypatch.setattr(catalog, "_bundled_folders", lambda: {"tiny": model})
    write_sound("a.wav", 600)
    write_sound("b.wav", 600)
    assert run("compress", "a.wav", "b.wav").exit_code == 0
    assert loads == ["tiny"]
    # The files name their model.
    assert run("decompress", "a.dac", "b.dac", "-o", "out").exit_code == 0
    assert loads == ["tiny", "tiny"]
    assert files_below("out") == {"a.wav", "b.wav"}


@pytest.mark.usefixtures("three_cores")
def test_the_model_is_loaded_with_the_threads_of_a_file(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    load_model = codec.models.load_model

    def listening(*arguments: Any, **options: Any) -> DAC:
        threads.append(-1)
        return load_model(*arguments, **options)

    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(codec, "load_model", listening)
    for name in "abc":
        write_sound(f"in/{name}.wav")
    assert run("compress", "in", "--model", model, "-o", "out").exit_code == 0
    assert threads == [1, -1, 3]
    threads.clear()
    assert run("decompress", "out", "--model", model, "-o", "decoded").exit_code == 0
    assert threads == [1, -1, 3]
