"""The commands tokenize and detokenize, as processes and in the test's process."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dac_codec import audio, codec, corpus
from dac_codec.cli import corpus as commands
from dac_codec.codec import DacFile
from dac_codec.corpus import SUFFIXES, Totals
from tests.cli.shell import process, run
from tests.corpus.conftest import Inline, Tokenize, content

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker processes."""

    class Engine(Inline):
        def __enter__(self) -> Engine:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(corpus, "on_this_machine", lambda settings, n_workers: Engine(settings))


def options(model: str) -> list[object]:
    return ["--model", model, "--quantizers", "3", "--shard-size", "4", "--device", "cpu"]


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Any, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(("number", "n_workers"), [(signal.SIGKILL, 2), (signal.SIGINT, 1)])
def test_a_stopped_run_leaves_no_process_and_continues(
    number: int, n_workers: int, sounds: Path, model: str, tokenize: Tokenize, tmp_path: Path
) -> None:
    sources = [sounds] * 4
    arguments = ["tokenize", *sources, "-o", tmp_path / "run", "--workers", n_workers, *options(model)]
    first = process(*arguments, text=True)
    workers: list[int] = []
    try:
        wait_for((tmp_path / "run" / "index" / "000000.json").exists)
        workers = children(first.pid)
        first.send_signal(number)
        _, messages = first.communicate(timeout=60)
    finally:
        first.kill()
        first.wait()
    assert first.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert ("of 44 files, 0 failed" in messages) == (number == signal.SIGINT)
    wait_for(lambda: not any(map(is_running, workers)))
    assert not list((tmp_path / "run").glob("shard-000010*"))
    again = run(*arguments)
    *progress, last = again.output.splitlines()  # a line a minute
    assert (again.exit_code, last) == (0, f"44 sounds, 0.00 h in {tmp_path / 'run'}")
    assert all(" of 44 files, 0 failed, " in line for line in progress)
    tokenize(*sources)
    assert content(tmp_path / "run") == content(tmp_path / "out")


def test_what_it_says(in_process: None, sounds: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("tokenize", sounds, "-o", out, *options(model))
    assert (result.exit_code, result.output) == (0, f"11 sounds, 0.00 h in {out}\n")
    (tmp_path / "bad.wav").touch()
    result = run("tokenize", sounds, tmp_path / "bad.wav", "-o", tmp_path / "two", *options(model))
    assert result.exit_code == 1
    assert result.output == (
        f"11 sounds, 0.00 h in {tmp_path / 'two'}\n"
        f"Error: 1 sound or source can't be encoded; {tmp_path / 'two' / 'failed.csv'} says why\n"
    )
    result = run("tokenize", sounds, tmp_path / "bad.wav", "-o", tmp_path / "two", "--quiet", *options(model))
    assert result.exit_code == 1  # also if nothing is left to do
    assert "failed.csv says why" in result.output


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b"])
def test_a_part_that_is_none(part: str, sounds: Path, tmp_path: Path) -> None:
    result = run("tokenize", sounds, "-o", tmp_path / "out", "--shard", part)
    assert result.exit_code == 2
    assert "is not i/n with i from 1 to n" in result.output


def test_wrong_usage(sounds: Path, model: str, tmp_path: Path) -> None:
    out = ["-o", tmp_path / "out"]
    assert run("tokenize", sounds, *out, "--ray", "auto", "--workers", "1").exit_code == 2
    result = run("tokenize", sounds, *out, "--model", model, "--quantizers", "99")
    assert (result.exit_code, "between 1 and 9" in result.output) == (1, True)
    assert not (tmp_path / "out").exists()


def test_progress_is_a_line_a_minute_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(commands.time, "monotonic", lambda: now)
    with commands._Progress(Totals(1000), Totals(100, 1, 50.0), quiet=False) as progress:
        for _ in range(12):
            now += 10
            progress.report(Totals(20, 1, 36.0))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "220 of 1000 files, 7 failed, 2.0 files/s, 3.6 hours per hour, 6 min left"
    assert second.startswith("340 of 1000 files, 13 failed, 2.0 files/s")


@pytest.mark.parametrize("fmt", SUFFIXES)
def test_sounds_come_back(
    fmt: str, sounds: Path, model: str, compressed: dict[str, DacFile], tokenize: Tokenize, tmp_path: Path
) -> None:
    """The sound files are those of `decompress`, in every byte."""
    tokenize(sounds, fmt=fmt)
    result = run("detokenize", tmp_path / "out", "-o", tmp_path / "back", "--model", model, "--device", "cpu")
    assert (result.exit_code, result.output) == (0, "")
    names = {name: name if name.endswith(".wav") else f"{name}.wav" for name in compressed}
    assert sorted(content(tmp_path / "back")) == sorted(names.values())
    for name in ("10.wav", "sub/03.flac"):
        compressed[name].save(tmp_path / "one.dac")
        codec.decompress_stream(tmp_path / "one.dac", tmp_path / "one.wav", model, "cpu")
        assert (tmp_path / "back" / names[name]).read_bytes() == (tmp_path / "one.wav").read_bytes()


def test_positions_of_channels_come_back(model: str, tokenize: Tokenize, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    with audio.Writer(tmp_path / "in" / "a.wav", 44100, 6, 4000, channel_mask=0x3F) as writer:
        writer.write(0.1 * rng.standard_normal((6, 4000)).astype(np.float32))
    tokenize(tmp_path / "in")
    arguments = [tmp_path / "out" / "shard-000000.parquet", "-o", tmp_path, "--model", model]
    assert run("detokenize", *arguments).exit_code == 0
    with audio.Reader(tmp_path / "a.wav") as reader:
        assert (reader.channels, reader.channel_mask, reader.n_samples) == (6, 0x3F, 4000)


def test_all_sounds_of_an_id_come_back(sounds: Path, model: str, tokenize: Tokenize, tmp_path: Path) -> None:
    rows = [("02", "a.wav"), ("04", "a.wav"), ("05", "a-2.wav"), ("07", "a"), ("08", "b/a"), ("10", "b/a")]
    (tmp_path / "m.csv").write_text("path,id\n" + "".join(f"{sounds}/{file}.wav,{name}\n" for file, name in rows))
    tokenize(tmp_path / "m.csv")
    result = run("detokenize", tmp_path / "out", "-o", tmp_path / "back", "--model", model, "--device", "cpu")
    assert (result.exit_code, result.output) == (0, "")
    names = ["a.wav", "a-2.wav", "a-2-2.wav", "a-3.wav", "b/a.wav", "b/a-2.wav"]
    assert sorted(content(tmp_path / "back")) == sorted(names)
    for (file, _), name in zip(rows, names, strict=True):
        with audio.Reader(sounds / f"{file}.wav") as one, audio.Reader(tmp_path / "back" / name) as other:
            assert other.n_samples == one.n_samples


def test_detokenize_overwrites_nothing(sounds: Path, model: str, tokenize: Tokenize, tmp_path: Path) -> None:
    tokenize(sounds / "10.wav")
    arguments = ["detokenize", tmp_path / "out", "-o", tmp_path, "--model", model]
    (tmp_path / "10.wav").touch()
    result = run(*arguments)
    assert (result.exit_code, result.output) == (
        1,
        f"Error: 10.wav: {tmp_path / '10.wav'} exists; use --force to overwrite it\n",
    )
    assert run(*arguments, "--force").exit_code == 0
    assert (tmp_path / "10.wav").stat().st_size > 0


def test_ids_do_not_leave_the_folder(model: str, sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    for number, name in enumerate(["../../evil.wav", "/abs.flac", "..", "a/../b"]):
        (tmp_path / "m.csv").write_text(f"path,id\n{sounds}/10.wav,{name}\n")
        tokenize(tmp_path / "m.csv", out=f"c{number}")
        arguments = [tmp_path / f"c{number}", "-o", tmp_path / "back" / str(number), "--model", model]
        result = run("detokenize", *arguments)
        assert result.exit_code == (1 if name == ".." else 0), result.output
    assert sorted(content(tmp_path / "back")) == ["0/evil.wav", "1/abs.flac.wav", "3/a/b.wav"]


def test_shards_that_are_wrong(sounds: Path, model: str, tokenize: Tokenize, tmp_path: Path) -> None:
    plan = tokenize(sounds)
    arguments = ["-o", tmp_path / "back", "--model", model]
    path = plan.corpus.shard(1)
    table = parquet.read_table(path)
    first_pair = table["channels"].to_pylist().index(2)
    parquet.write_table(pyarrow.concat_tables([table[: first_pair + 1], table[first_pair + 2 :]]), path)
    result = run("detokenize", path, *arguments)
    assert result.exit_code == 1
    assert "the channels of" in result.output
    path.write_bytes(b"")
    result = run("detokenize", tmp_path / "out", *arguments)
    assert "not a readable shard" in result.output
    assert len(list((tmp_path / "back").rglob("*.wav"))) > 6  # of the other shards
    assert "no such shard" in run("detokenize", tmp_path / "out" / "x.tar", *arguments).output
    assert "contains no corpus.json" in run("detokenize", sounds, *arguments).output
