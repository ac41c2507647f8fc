"""dac-codec tokenize: the codes of compress, in shards, whatever interrupts it."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dac_codec import codec
from dac_codec.codec import DacFile, batches
from dac_codec.common.errors import DacError
from dac_codec.corpus import SUFFIXES, Plan, Settings, tokenization
from dac_codec.corpus.encoding import Outcome, Tokens, encode
from dac_codec.corpus.shards import read_shard
from dac_codec.corpus.sources import Source, open_sources
from tests.corpus.conftest import N_QUANTIZERS, Inline, Tokenize, content

pytest.importorskip("pyarrow")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("shard-*")) for row in read_shard(path)]


@pytest.mark.parametrize("fmt", SUFFIXES)
def test_codes_are_those_of_compress(
    fmt: str, sounds: Path, compressed: dict[str, DacFile], tokenize: Tokenize, tmp_path: Path
) -> None:
    plan = tokenize(sounds, fmt=fmt)
    assert (plan.totals.sounds, plan.totals.failed) == (11, 0)
    found = {(row["id"], row["channel"]): row for row in rows_of(tmp_path / "out")}
    assert list(found) == [(name, channel) for name, file in compressed.items() for channel in range(file.channels)]
    for (name, channel), row in found.items():
        file = compressed[name]
        assert row["codes"].dtype == np.uint16
        np.testing.assert_array_equal(row["codes"].T, file.codes[channel])
        assert row["n_frames"] == len(row["codes"])
        for field in ("duration", "sample_rate", "channels"):
            assert row[field] == getattr(file, field)
        for field in ("gain_db", "bandwidth", "channel_mask"):
            assert row[field] == getattr(file.header, field)
        assert f"{row['model']}@{row['fingerprint']}" == file.model_id


def test_a_corpus_and_its_index(sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "good").symlink_to(sounds)
    (tmp_path / "mixed" / "bad.wav").write_text("no sound")
    (tmp_path / "mixed" / "empty.flac").touch()
    (tmp_path / "mixed" / "other.m4a").touch()
    data = (sounds / "10.wav").read_bytes()
    (tmp_path / "mixed" / "cut.wav").write_bytes(data[: len(data) // 2])
    plan = tokenize(tmp_path / "mixed", tmp_path / "missing")
    assert (plan.totals.sounds, plan.totals.failed) == (15, 4)
    with (tmp_path / "out" / "failed.csv").open() as file:
        failed = {row["id"]: row for row in csv.DictReader(file)}
    assert {name: row["shard"] for name, row in failed.items()} == {
        str(tmp_path / "mixed" / "other.m4a"): "",
        "bad.wav": "shard-000000.parquet",
        "cut.wav": "shard-000000.parquet",
        "empty.flac": "shard-000000.parquet",
        "missing": "shard-000003.parquet",
    }
    assert all(row["reason"] for row in failed.values())
    with (tmp_path / "out" / "index.csv").open() as file:
        index = list(csv.DictReader(file))
    for line in index:
        rows = list(read_shard(tmp_path / "out" / line["shard"]))
        assert int(line["rows"]) == len(rows)
        assert int(line["frames"]) == sum(row["n_frames"] for row in rows)
    assert sum(int(line["failed"]) for line in index) == 4


class Interrupted(Inline):
    """Ctrl-C arrives while the third group is encoded."""

    n_groups = 0

    def result(self, submitted: Source) -> list[Outcome]:
        self.n_groups += 1
        if self.n_groups == 3:
            raise KeyboardInterrupt
        return super().result(submitted)


def test_a_run_continues_and_gives_the_same_bytes(
    sounds: Path, tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize(sounds)
    monkeypatch.setattr("tests.corpus.conftest.Inline", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenize(sounds, out="again")
    done = {name: data for name, data in content(tmp_path / "again").items() if name.startswith("shard")}
    assert sorted(done) == ["shard-000000.parquet", "shard-000001.parquet"]
    monkeypatch.setattr("tests.corpus.conftest.Inline", Inline)
    times = [(tmp_path / "again" / name).stat().st_mtime_ns for name in done]
    plan = tokenize(sounds, out="again")
    assert (plan.numbers, plan.done.sounds, plan.totals.sounds) == ([2], 8, 11)
    assert [(tmp_path / "again" / name).stat().st_mtime_ns for name in done] == times
    assert content(tmp_path / "again") == content(tmp_path / "out")


@pytest.mark.parametrize("fmt", SUFFIXES)
def test_jobs_of_an_array_give_the_shards_of_one(fmt: str, sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    tokenize(sounds, fmt=fmt, shard_size=3)
    numbers = [tokenize(sounds, out="parts", fmt=fmt, shard_size=3, part=(i, 3)).numbers for i in (3, 1, 2)]
    assert numbers == [[2], [0, 3], [1]]
    assert content(tmp_path / "parts") == content(tmp_path / "out")


def test_jobs_that_end_at_once_are_all_in_the_index(
    sounds: Path, tokenize: Tokenize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second job ends while the first one writes its tables."""
    write, other = tokenization._write_table, iter([2])

    def slowly(path: Path, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        for job in other:
            tokenize(sounds, part=(job, 2))
        write(path, names, rows)

    monkeypatch.setattr(tokenization, "_write_table", slowly)
    tokenize(sounds, part=(1, 2))
    lines = (tmp_path / "out" / "index.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == [f"shard-00000{n}.parquet" for n in range(3)]


def test_failures_are_tried_again_if_requested(sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    for path in sounds.glob("*.wav"):
        (tmp_path / "mixed" / path.name).symlink_to(path)
    (tmp_path / "mixed" / "z.wav").touch()
    assert tokenize(tmp_path / "mixed").totals.failed == 1
    (tmp_path / "mixed" / "z.wav").write_bytes((sounds / "10.wav").read_bytes())
    assert tokenize(tmp_path / "mixed").numbers == []
    plan = tokenize(tmp_path / "mixed", retry_failed=True)
    assert (plan.numbers, plan.totals.failed) == ([1], 0)
    assert (tmp_path / "out" / "failed.csv").read_text().splitlines() == ["shard,id,reason"]
    assert rows_of(tmp_path / "out")[-1]["id"] == "z.wav"


def test_another_corpus_is_refused(sounds: Path, tokenize: Tokenize, tmp_path: Path) -> None:
    tokenize(sounds)
    before = content(tmp_path / "out")
    for options, name in (({"shard_size": 5}, "shard_size"), ({"fmt": "npz"}, "format")):
        with pytest.raises(DacError, match=rf"corpus\.json has {name} .* choose another folder"):
            tokenize(sounds, **options)
    with pytest.raises(DacError, match=r"corpus\.json has n_shards 3, and this run 1"):
        tokenize(sounds / "sub")
    with pytest.raises(DacError, match=r"corpus\.json has sources"):
        tokenize(sounds / "sub", *sorted(sounds.glob("*.wav")))
    assert content(tmp_path / "out") == before


def test_nothing_is_written_before_the_workers_have_started(sounds: Path, model: str, tmp_path: Path) -> None:
    Plan([str(sounds)], tmp_path / "out", Settings(model, N_QUANTIZERS, "cpu"))
    assert not (tmp_path / "out").exists()


def test_sources_without_sound(tokenize: Tokenize, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DacError, match="empty: no sound files in this folder"):
        tokenize(tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_batches_have_the_codes_of_single_files(sounds: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, on the CPU. Six files are too long for a batch, one can't be read."""
    found = open_sources([str(sounds), str(sounds / "missing.wav")])
    settings = Settings(model, N_QUANTIZERS, "cpu")
    alone = [outcome for source in found.sources for outcome in encode(settings, source)]
    monkeypatch.setattr(batches, "uses_batches", lambda device: True)
    monkeypatch.setattr(batches, "block_samples", lambda device: 4 * 10500)
    sizes: list[int] = []
    compute = batches.compute
    monkeypatch.setattr(batches, "compute", lambda files: sizes.append(len(files)) or compute(files))
    assert settings.group_size == 64
    together = [outcome for source in found.sources for outcome in encode(settings, source)]
    assert sizes == [5, 0]
    for one, other in zip(alone, together, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Tokens) and isinstance(other, Tokens):
            assert one.header == other.header
            np.testing.assert_array_equal(one.codes, other.codes)
        else:
            assert one == other


def test_an_unexpected_error_is_a_failure_of_its_sound(
    sounds: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress = codec.compress_stream

    def failing(reader: Any, *arguments: Any, **options: Any) -> Any:
        if reader.name == "04.wav":
            raise ZeroDivisionError("division\nby zero")
        return compress(reader, *arguments, **options)

    monkeypatch.setattr(codec, "compress_stream", failing)
    outcomes = encode(Settings(model, 1, "cpu"), open_sources([str(sounds)]).sources[0])
    failed = [outcome for outcome in outcomes if not isinstance(outcome, Tokens)]
    assert failed == [("04.wav", "ZeroDivisionError: division by zero")]
