"""A collection of sounds to a corpus of codes: shards, and an index of what is done and what failed."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dac_codec import pretrained
from dac_codec.codec.models import FINGERPRINT_BYTES
from dac_codec.common.errors import DacError
from dac_codec.common.files import atomic_write, to_json, write_file
from dac_codec.corpus import shards
from dac_codec.corpus.encoding import Failure, Outcome, Settings, load
from dac_codec.corpus.engines import Engine, run
from dac_codec.corpus.sources import Source, columns_of, cut, open_sources

SHARD_SIZE = 1000
"""Sounds of a shard by default."""

_INDEX = "index"
_DESCRIPTION = "corpus.json"


_DESCRIBED = {"format": str, "codebook_sizes": list, "n_quantizers": int, "model_sample_rate": int, "hop_length": int}
_RECORDED = {"rows": int, "frames": int, "seconds": float, "failed": list}


class Totals(NamedTuple):
    """What a run has to do, or has done: sounds, those of them that failed, and seconds."""

    sounds: int = 0
    failed: int = 0
    seconds: float = 0.0

    def __add__(self, other: Totals) -> Totals:  # type: ignore[override]
        return Totals(self.sounds + other.sounds, self.failed + other.failed, self.seconds + other.seconds)


@dataclass(frozen=True)
class Corpus:
    """A folder of shards, finished or not. The description is the content of corpus.json."""

    folder: Path
    description: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Raises a DacError if the folder contains no corpus, or its corpus.json is damaged."""
        try:
            return cls(folder, _read(folder / _DESCRIPTION, _DESCRIBED))
        except OSError as error:
            raise DacError(f"{folder} contains no corpus.json of `dac-codec tokenize` ({error})") from error

    def shard(self, number: int) -> Path:
        """Path of a shard."""
        return self.folder / f"shard-{number:06d}{shards.SUFFIXES[self.description['format']]}"

    def record(self, number: int) -> Path:
        """Path of what the index says about a shard. It is there if the shard is complete."""
        return self.folder / _INDEX / f"{number:06d}.json"

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number of each complete shard, and what the index says about it. Raises a DacError if that is damaged."""
        for path in sorted((self.folder / _INDEX).glob("*.json")):
            if path.stem.isdecimal():  # not a copy such as "000000 (1).json"
                yield int(path.stem), _read(path, _RECORDED)


class Plan:
    """The shards of a run.

    Args:
        names: the sources, see `open_sources`.
        folder: where the corpus is written.
        settings: those of the workers.
        fmt: a key of `shards.SUFFIXES`.
        shard_size: sounds of each shard, the last one excepted.
        part: (i, n): the i-th of n jobs, from 1 on, that share the shards.
        retry_failed: whether shards with failures are made again.
        audio_column: the column of Parquet files that has the sound.

    Raises:
        DacError: nothing can be read, the folder contains another corpus, or an argument is out of range.
    """

    def __init__(
        self,
        names: Iterable[str],
        folder: Path,
        settings: Settings,
        fmt: str = "parquet",
        shard_size: int = SHARD_SIZE,
        part: tuple[int, int] = (1, 1),
        retry_failed: bool = False,
        audio_column: str = "audio",
    ) -> None:
        self.failures: list[tuple[str, str]]
        sources, self.failures = open_sources(names, audio_column)
        if not sources:
            raise DacError("; ".join(reason for _, reason in self.failures) or "there are no sources")
        self.columns: dict[str, Any] = {
            name: kind for name, kind in columns_of(sources).items() if name not in shards.OURS
        }
        shards.check_columns(fmt, self.columns)
        model, rate = load(replace(settings, device="cpu"))
        self._shards = list(cut(sources, shard_size))
        self.corpus: Corpus = Corpus(
            folder,
            {
                "version": 1,
                "format": fmt,
                "model": model.name,
                "fingerprint": pretrained.fingerprint(model)[:FINGERPRINT_BYTES].hex(),
                "n_quantizers": rate.n_quantizers,
                "codebook_sizes": list(model.config.sizes[: rate.n_quantizers]),
                "model_sample_rate": model.sample_rate,
                "hop_length": model.hop_length,
                "shard_size": shard_size,
                "n_shards": len(self._shards),
                "n_sounds": sum(map(len, sources)),
                "sources": _digest(sources),
            },
        )
        self._check()
        mine = range(part[0] - 1, len(self._shards), part[1])
        self._known = {number: record for number, record in self.corpus.records() if number in mine}
        done = {number for number, record in self._known.items() if not (retry_failed and record["failed"])}
        self.numbers: list[int] = [number for number in mine if number not in done]
        self.all: Totals = self._totals(mine)
        self.done: Totals = self._totals(done)

    def _totals(self, numbers: Iterable[int]) -> Totals:
        return sum(map(self._total, numbers), Totals())

    def _total(self, number: int) -> Totals:
        record = self._known.get(number, {"failed": [], "seconds": 0.0})
        return Totals(sum(map(len, self._shards[number])), len(record["failed"]), record["seconds"])

    def _check(self) -> None:
        """Check that corpus.json, if there is one, describes this corpus."""
        path = self.corpus.folder / _DESCRIPTION
        if not path.exists():
            return
        found = Corpus.open(self.corpus.folder).description
        for name, value in self.corpus.description.items():
            if found.get(name) != value:
                raise DacError(
                    f"{path} has {name} {found.get(name)!r}, and this run {value!r}: it is another corpus; choose "
                    "another folder"
                )

    def _describe(self) -> None:
        """Write corpus.json, unless another job has."""
        self._check()
        (self.corpus.folder / _INDEX).mkdir(parents=True, exist_ok=True)
        path = self.corpus.folder / _DESCRIPTION
        if not path.exists():
            write_file(path, to_json(self.corpus.description))

    def groups(self, number: int, size: int) -> Iterator[Source]:
        """The groups of a shard's sounds that workers get."""
        for source in self._shards[number]:
            yield from (source[first : first + size] for first in range(0, len(source), size))

    def run(self, engine: Engine, report: Callable[[Totals], None] = lambda totals: None) -> Totals:
        """Make the shards that are not done. Returns the totals of all, those of earlier runs included.

        Args:
            engine: where the sounds are encoded.
            report: called with what was done since its last call.

        Raises:
            DacError: a file can't be written, or a worker can't load the model.
        """
        self._describe()
        size = engine.settings.group_size
        outcomes = run(engine, (group for number in self.numbers for group in self.groups(number, size)))
        try:
            for number in self.numbers:
                self._write_shard(number, (next(outcomes) for _ in self.groups(number, size)), report)
        finally:
            self._write_tables()
        return self._totals(self._known)

    def _write_shard(self, number: int, groups: Iterable[list[Outcome]], report: Callable[[Totals], None]) -> None:
        description = self.corpus.description
        failed: list[Failure] = []
        n_rows, n_frames, seconds = 0, 0, 0.0
        with shards.new_shard(
            self.corpus.shard(number), description["format"], description["n_quantizers"], self.columns
        ) as add:
            for group in groups:
                done = Totals(len(group))
                for outcome in group:
                    if isinstance(outcome, Failure):
                        failed.append(outcome)
                        done += Totals(0, 1)
                        continue
                    if outcome.header.model_fingerprint.hex() != description["fingerprint"]:
                        raise DacError("a worker has another model; install the same one on all machines")
                    add(outcome)
                    assert outcome.header.n_samples is not None
                    n_rows += outcome.header.channels
                    n_frames += outcome.header.channels * outcome.header.expected_frames(outcome.header.n_samples)
                    done += Totals(0, 0, outcome.header.n_samples / outcome.header.sample_rate)
                seconds += done.seconds
                report(done)
        record = {"rows": n_rows, "frames": n_frames, "seconds": seconds, "failed": failed}
        write_file(self.corpus.record(number), json.dumps(record))
        self._known[number] = record

    def _write_tables(self) -> None:
        """Write index.csv and failed.csv for all shards that are there; again if another job adds one meanwhile."""
        written = None
        while (records := list(self.corpus.records())) != written:
            done, failed = [], [("", name, reason) for name, reason in self.failures]
            for number, record in records:
                name = self.corpus.shard(number).name
                n_failed = len(record["failed"])
                done.append((name, record["rows"], record["frames"], f"{record['seconds']:.3f}", n_failed))
                failed.extend((name, *failure) for failure in record["failed"])
            _write_table(self.corpus.folder / "index.csv", ("shard", "rows", "frames", "seconds", "failed"), done)
            _write_table(self.corpus.folder / "failed.csv", ("shard", "id", "reason"), failed)
            written = records


def _read(path: Path, types: dict[str, type]) -> dict[str, Any]:
    """A JSON object with fields of some types. Raises a DacError if it is damaged."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(found[name], kind) for name, kind in types.items()):
            return found
    raise DacError(f"{path} is damaged; delete it, and run the same `tokenize` command again")


def _digest(sources: Iterable[Source]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        for line in source.identity():
            digest.update(line.encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def _write_table(path: Path, names: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows([names, *rows])
