"""Structured fuzzing of everything that reads files: any exception but a `DacError` is a fault.

    python -m tests.fuzz.readers 500000
    python -m tests.fuzz.readers 1 --only cache --seed 123      # repeats one input

prints the inputs that raised something else, with their seeds, and exits with 1 if there are any. Each input is made
from its seed alone. `test_readers.py` runs a few hundred of them.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import soundfile
import torch

from dac_codec import audio, bitstream, pretrained
from dac_codec.bitstream.chunks import ChunkKind, encode_codes, encode_key
from dac_codec.bitstream.describe import as_text, describe
from dac_codec.bitstream.fields import CRC_BYTES, crc32c, encode_varint, with_crc
from dac_codec.bitstream.header import encode_header
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.codec import DacStream
from dac_codec.common import manifest
from dac_codec.common.errors import DacError
from dac_codec.common.progress import progress_bar
from dac_codec.evaluation.results import Result
from dac_codec.model import DAC, DACConfig
from dac_codec.model.discriminator import Discriminator
from dac_codec.pretrained.checkpoints import build, read_config, read_folder, read_pth
from dac_codec.training import checkpoint
from dac_codec.training.runlog import _step_of
from tests.fuzz.layers import layered_file, read_layered
from tests.fuzz.mutations import INTEGERS, mutate_bytes, mutate_value

HEADER = bitstream.Header(b"\x01" * 8, "m", 44100, 2, None, -3.0, 44100, 512, 3, 1024)
SMALL = DACConfig(
    sample_rate=16000, encoder_dim=2, encoder_rates=(2, 4), decoder_dim=8, decoder_rates=(4, 2), n_codebooks=2,
    codebook_size=8, codebook_dim=2,
)  # fmt: skip
TENSORS = (
    torch.zeros(0), torch.ones(1), torch.full((2, 3), float("nan")), torch.arange(4),
    torch.zeros((), dtype=torch.int64),
    torch.ones(2, 3, dtype=torch.complex64), torch.ones(1, dtype=torch.float64).expand(1000), torch.ones(3) > 0,
)  # fmt: skip


# Files of codes ------------------------------------------------------------------------------------------------------


def _dac(rng: random.Random) -> bytes:
    """A file with valid checksums around odd fields, positions and payloads; sometimes damaged too."""
    header, n_planes = HEADER, 6
    if rng.random() < 0.5:
        body = b"".join(
            encode_varint(rng.choice(INTEGERS) % 2**63) if rng.random() < 0.15 else field
            for field in (
                encode_varint(1), HEADER.model_fingerprint, encode_varint(44100), encode_varint(2), encode_varint(0),
                struct.pack("<f", rng.choice((0.0, 1e38, float("nan"), -1e3))), encode_varint(44100),
                encode_varint(512), encode_varint(3), encode_varint(1024), bytes([rng.choice((0, 0, 0, 1))]),
                encode_varint(rng.choice((1, 2, 3, 9))) + encode_varint(1) + b"m",
            )
        )  # fmt: skip
        data = with_crc(b"\x8aDAC\x01" + encode_varint(len(body)) + body)
    else:
        data = encode_header(header)
    position = 0
    for _ in range(rng.randrange(6)):
        position += rng.choice((0, 0, 0, 1, 7, 2**20 - 1, 2**20, 2**32, 2**50))
        n_frames = rng.choice((1, 2, 9))
        codes = np.array([rng.randrange(1024) for _ in range(n_planes * n_frames)], np.uint16).reshape(2, 3, n_frames)
        payload = rng.choice((encode_codes(header, codes), encode_varint(rng.choice(INTEGERS) % 2**62), b""))
        kind = rng.choice((ChunkKind.CODES,) * 6 + tuple(ChunkKind))
        if kind is ChunkKind.END:
            payload = encode_varint(rng.choice((position * 512, *(n % 2**62 for n in INTEGERS))))
        chunk = encode_key(kind, len(payload)) + payload
        covered = (checksum_prefix(position) if kind in (ChunkKind.CODES, ChunkKind.END) else b"") + chunk
        data += chunk + crc32c(covered).to_bytes(CRC_BYTES, "little")
        position += n_frames
    return mutate_bytes(data, rng) if rng.random() < 0.4 else data


def _read_dac(path: Path) -> None:
    data = path.read_bytes()
    with suppress(DacError):
        as_text({"file": "x", **describe(data)})
    with suppress(DacError):
        bitstream.loads(data, allow_truncated=True)
    for conceal in (False, True):
        with suppress(DacError), DacStream(path) as stream:
            stream.scan(conceal)
    with DacStream(io.BytesIO(data)) as stream:
        stream.seekable = False
        if stream.header is not None:
            for _ in stream._events(stream._reader, True, _whole()):
                pass


def _whole() -> Any:
    from dac_codec.codec.time_range import TimeRange

    return TimeRange()


@cache
def _legacy_bytes() -> tuple[bytes, ...]:
    golden = Path(__file__).parents[1] / "golden"
    small = bitstream.LegacyFile(np.arange(6, dtype=np.uint16).reshape(1, 2, 3), 3, 900, -16.0, 1, 16000, True)
    return (bitstream.write_legacy(small), (golden / "legacy_24khz_mono_48k_nq4.dac").read_bytes()[:2000])


def _legacy(rng: random.Random) -> bytes:
    return mutate_bytes(rng.choice(_legacy_bytes()), rng)


def _read_legacy(path: Path) -> None:
    bitstream.read_legacy(path.read_bytes())


# Models and training -------------------------------------------------------------------------------------------------


@cache
def _small() -> DAC:
    torch.manual_seed(0)
    return DAC(SMALL)


@cache
def _pth() -> dict[str, Any]:
    state = pretrained.canonical(_small().state_dict())
    return {"state_dict": dict(state), "metadata": {"kwargs": SMALL.to_dict()}}


def _saved(value: Any, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with suppress(Exception):  # a value that can't be written is no input
        torch.save(value, stream)
    data = stream.getvalue()
    return mutate_bytes(data, rng) if rng.random() < 0.3 else data


def _model_file(rng: random.Random) -> bytes:
    return _saved(mutate_value(_pth(), rng, (*INTEGERS, *TENSORS, None, "a", [], {})), rng)


def _read_model_file(path: Path) -> None:
    build(read_pth(path))


def _model_config(rng: random.Random) -> bytes:
    return _json({"format": 1, "name": "m", "model": SMALL.to_dict()}, rng)


def _read_model_config(path: Path) -> None:
    folder = path.parent / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(path.read_bytes())
    read_config(folder)
    if not (folder / "model.safetensors").exists():
        pretrained.save(_small(), folder, name="m")
        (folder / "config.json").write_bytes(path.read_bytes())
    build(read_folder(folder))


def _json(value: Any, rng: random.Random) -> bytes:
    if rng.random() < 0.03:
        return rng.choice((b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b"\xff\xfe", b"", b"nan"))
    data = json.dumps(mutate_value(value, rng)).encode("utf-8", "surrogatepass")
    return mutate_bytes(data, rng) if rng.random() < 0.3 else data


@cache
def _parts() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.Linear(2, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model[1](torch.ones(1, 2)).sum().backward()
    model[0](torch.ones(1, 1, 5)).sum().backward()
    optimizer.step()
    return {"model": model, "generator_optimizer": optimizer}


@cache
def _state() -> dict[str, Any]:
    states = {name: part.state_dict() for name, part in _parts().items()}
    states["model"] = dict(states["model"])
    return {"config": {"model": {"causal": False}}, "step": 3, "validated": 2, "best": 1.5, "skipped": ["a"], **states}


def _training(rng: random.Random) -> bytes:
    return _saved(mutate_value(_state(), rng, (*INTEGERS, *TENSORS, None, "a", [], {}, 0.5, float("nan"))), rng)


def _read_training(path: Path) -> None:
    folder = path.parent / "checkpoints"
    found = checkpoint.Checkpoints(folder, 2).find(str(path))
    assert found is not None
    model = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.Linear(2, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.restore(found, {"model": model, "generator_optimizer": optimizer}, {"causal": False}, folder)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # with what was accepted


@cache
def _discriminator() -> Discriminator:
    return Discriminator(periods=(), fft_sizes=(64,), bands=((0.0, 1.0),))


@cache
def _discriminator_bytes() -> tuple[dict[str, torch.Tensor], list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save_discriminator(_discriminator(), Path(folder))
        tensors = safetensors.torch.load_file(Path(folder, checkpoint.DISCRIMINATOR_FILE))
    return tensors, list(_discriminator().parts())


def _discriminator_file(rng: random.Random) -> bytes:
    tensors, parts = _discriminator_bytes()
    tensors = dict(tensors)
    if rng.random() < 0.3:
        tensors[rng.choice(list(tensors))] = rng.choice(TENSORS).clone()
    metadata = {"format": "pt", "parts": _json(parts, rng).decode("utf-8", "replace")}
    if rng.random() < 0.5:
        metadata["parts"] = json.dumps(mutate_value(parts, rng))
    try:
        data = safetensors.torch.save(tensors, metadata)
    except Exception:
        data = b""
    size = rng.choice((200, len(data)))
    return mutate_bytes(data[:size], rng) + data[size:] if rng.random() < 0.4 else data


def _read_discriminator(path: Path) -> None:
    path.replace(path.parent / checkpoint.DISCRIMINATOR_FILE)
    checkpoint.load_discriminator(_discriminator(), path.parent)


def _manifest(rng: random.Random) -> bytes:
    columns = ["path", "domain", "duration", "split", "bandwidth", "speaker"][: rng.choice((4, 5, 6, 6, 3))]
    fields = (
        "a.wav",
        "b/c.wav",
        "",
        "1",
        "-1",
        "1e999",
        "nan",
        "\0",
        "x" * 200_000,
        '"',
        "train",
        "\ud800",
        "\N{FULLWIDTH DIGIT ONE}",
        "0x1",
    )
    rows = [[rng.choice(fields[:8]) for _ in columns] for _ in range(3)]
    text = "\n".join([",".join(columns), *(",".join(row) for row in rows)])
    place = rng.randrange(len(text))
    text = text[:place] + rng.choice(fields) + text[place:]
    return (
        mutate_bytes(text.encode("utf-8", "surrogatepass"), rng)
        if rng.random() < 0.5
        else text.encode(errors="replace")
    )


def _read_manifest(path: Path) -> None:
    for sounds in manifest.read(path).values():
        for sound in sounds:
            sound.path.exists()


# Evaluation, logs and sound ------------------------------------------------------------------------------------------


CACHED = {
    "clip": "a", "domain": "speech", "seconds": 1.5, "codec": "ours", "setting": "6 kbit/s", "n_bytes": 100,
    "payload_bytes": 90.5, "encode_seconds": 0.1, "decode_seconds": 0.2, "measures": {"si_sdr": 3.5, "pesq": None},
    "codes": "AQACAAMABAA=", "n_codebooks": 2, "codebook_size": 8, "sound": None, "sources": ["a.wav"],
}  # fmt: skip


def _cache(rng: random.Random) -> bytes:
    return _json(CACHED, rng)


def _read_cache(path: Path) -> None:
    result = Result.load(path)
    if result is not None:
        counts = result.counts()
        f"{result.kbps:.3f} {result.payload_kbps:.3f} {result.encode_seconds / result.seconds:.3f}"
        assert counts is None or counts.sum() > 0
        assert all(value is None or abs(value) < 1e300 for value in result.measures.values())
        assert result.clip in {result.clip}
        json.dumps(result.sources)


def _log_line(rng: random.Random) -> bytes:
    return _json({"step": 3, "mel": 0.5}, rng)


def _read_log_line(path: Path) -> None:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        _step_of(line)


@cache
def _sounds() -> tuple[bytes, ...]:
    samples = 0.1 * np.random.default_rng(0).standard_normal((600, 2))
    files = []
    for fmt, subtype in (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("W64", "PCM_16"), ("RF64", "PCM_16"),
        ("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("MP3", None),
    ):  # fmt: skip
        stream = io.BytesIO()
        with suppress(soundfile.LibsndfileError):
            soundfile.write(stream, samples, 44100, subtype, format=fmt)
            files.append(stream.getvalue())
    return tuple(files)


def _sound(rng: random.Random) -> bytes:
    data = rng.choice(_sounds())
    size = rng.choice((64, 64, 200, len(data)))  # mostly the header
    return mutate_bytes(data[:size], rng) + data[size:]


def _read_sound(path: Path) -> None:
    with suppress(DacError):
        audio.read(path)
    with path.open("rb") as stream:
        audio.read(_Pipe(stream.read()))  # type: ignore[arg-type]


class _Pipe(io.RawIOBase):
    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)


# Running them --------------------------------------------------------------------------------------------------------

READERS: dict[str, tuple[Callable[[random.Random], bytes], Callable[[Path], None]]] = {
    "dac": (_dac, _read_dac),
    "layers": (layered_file, read_layered),
    "legacy": (_legacy, _read_legacy),
    "cache": (_cache, _read_cache),
    "manifest": (_manifest, _read_manifest),
    "log": (_log_line, _read_log_line),
    "sound": (_sound, _read_sound),
    "config": (_model_config, _read_model_config),
    "training": (_training, _read_training),
    "discriminator": (_discriminator_file, _read_discriminator),
    "pth": (_model_file, _read_model_file),
}
"""By name: what makes an input from a random generator, and what reads it."""

SHARES = {
    "dac": 20,
    "layers": 10,
    "legacy": 20,
    "cache": 20,
    "manifest": 12,
    "log": 10,
    "sound": 8,
    "config": 4,
    "training": 3,
}
"""Inputs of each reader in a long run, by their speed; 1 for the others."""


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def fault(name: str, seed: int, folder: Path) -> BaseException | None:
    """What the input `seed` of a reader raises if that is no `DacError`; None if all is well."""
    make, read = READERS[name]
    path = folder / "input"
    path.write_bytes(make(random.Random(f"{name} {seed}")))
    try:
        with _quiet():
            read(path)
    except DacError as error:
        message = str(error)
        if not message or "\n" in message.strip() or len(message) > 3000 or "weights_only" in message:
            return error
    except Exception as error:
        return error
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, help="number of inputs over all readers")
    parser.add_argument("--seed", type=int, default=0, help="of the first input of each reader")
    parser.add_argument("--only", choices=READERS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rounds = [name for name in READERS for _ in range(SHARES.get(name, 1))] if options.only is None else [options.only]
    counts = dict.fromkeys(READERS, 0)
    n_faults, started = 0, time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        progress_bar("inputs", options.n) as bar,
        suppress(KeyboardInterrupt),
    ):
        while sum(counts.values()) < options.n and time.monotonic() - started < options.seconds:
            bar.update()
            name = rounds[sum(counts.values()) % len(rounds)]
            seed = options.seed + counts[name]
            counts[name] += 1
            if (error := fault(name, seed, Path(folder))) is not None:
                n_faults += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(f"{name} {seed}: {error!r:.300} ({where.filename}:{where.lineno})", flush=True)
    total = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
    print(f"{sum(counts.values())} inputs ({total}): {n_faults} raised something else than a DacError")
    if sum(counts.values()) < options.n and options.seconds == float("inf"):
        return 130  # interrupted
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
