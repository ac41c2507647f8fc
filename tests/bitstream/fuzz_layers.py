"""Mutated files of coding 1 give only DacErrors, and quickly: python -m tests.bitstream.fuzz_layers [COUNT] [SEED]."""

from __future__ import annotations

import io
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dac_codec.bitstream import Header, Order, Reader, Writer, loads, thin
from dac_codec.bitstream.describe import as_text, describe
from dac_codec.bitstream.fields import FieldReader, crc32c, with_crc
from dac_codec.bitstream.layers import covered_size, read_head
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.common.errors import BitstreamError, DacError
from tests.bitstream.test_layers import CONTEXT, HEADER, LEVELS, N_CODES, N_PLANES, random_codes, random_levels


def sample_files() -> list[bytes]:
    """Small files with every feature of coding 1."""
    small = replace(HEADER, n_codebooks=N_PLANES, codebook_size=N_CODES, layers=(1, 2))
    mono = replace(HEADER, channels=1, n_codebooks=9, codebook_size=1024, layers=())
    files = []
    for header, n_frames, chunk_frames in (
        (replace(small, context_fingerprint=CONTEXT.fingerprint), 24, 8),
        (replace(small, levels=LEVELS), 24, 8),
        (replace(mono, levels=LEVELS), 40, 20),
        (mono, 304, 304),
        (replace(small, channels=5, n_samples=None), 12, 4),
    ):
        model = CONTEXT if header.context_fingerprint else None
        for lowest in (0, header.n_codebooks):
            stream = io.BytesIO()
            known = None if header.n_samples is None else n_frames * 320
            with Writer(
                stream, replace(header, n_samples=known), chunk_frames, model, redundancy=lowest == 0
            ) as writer:
                writer.write(random_codes(header, n_frames, lowest, lowest), random_levels(header, n_frames))
                writer.close(n_frames * 320)
            files += [stream.getvalue(), thin(stream.getvalue(), order=Order.LAYERS)]
    return files


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with some bytes flipped, replaced, inserted, removed or repeated, and often with valid checksums."""
    mutant = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(mutant)))
        length = int(rng.integers(1, 12))
        kind = rng.integers(7)
        if kind == 0:
            mutant[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            mutant[place] = int(rng.choice([0, 1, 2, 3, 4, 127, 128, 255]))
        elif kind == 2:
            mutant[place : place + length] = rng.bytes(length)
        elif kind == 3:
            mutant[place:place] = rng.bytes(length)
        elif kind == 4:
            del mutant[place : place + length]
        elif kind == 5:
            other = int(rng.integers(len(mutant)))
            mutant[place:place] = mutant[other : other + 20 * length]
        else:
            del mutant[place:]
        if not mutant:
            break
    return repaired(bytes(mutant)) if rng.random() < 0.6 else bytes(mutant)


def repaired(data: bytes) -> bytes:
    """`data` with valid checksums, as far as its lengths make sense."""
    fields = FieldReader(data, "a mutant")
    result = b""
    try:
        start = fields.take(5)
        size = fields.varint()
        head = data[: len(data) - fields.left] + fields.take(size)
        del start
        fields.take(4)
        result = with_crc(head)
        header = Reader(io.BytesIO(result)).header
        n_frames = 0
        while fields.left:
            before = len(data) - fields.left
            key = fields.varint()
            payload = fields.take(key >> 2)
            key_bytes = data[before : len(data) - fields.left - len(payload)]
            fields.take(4)
            prefix = checksum_prefix(n_frames) if key & 3 < 2 else b""
            covered = payload
            if key & 3 == 1:
                payload, n = with_layer_checksums(header, payload)
                covered = payload[: covered_size(payload)]
                n_frames += n
            checksum = crc32c(prefix + key_bytes + covered).to_bytes(4, "little")
            result += key_bytes + payload + checksum
    except DacError:
        pass
    return result + data[len(result) :]


def with_layer_checksums(header: Header, payload: bytes) -> tuple[bytes, int]:
    """A payload with valid checksums of its layers, and its number of frames."""
    fields = FieldReader(payload, "a payload")
    places: list[int] = []

    def take(size: int) -> bytes:
        places.append(len(payload) - fields.left)
        return fields.take(size)

    try:
        head = read_head(header, take)
    except BitstreamError:
        return payload, 0
    mutable = bytearray(payload)
    at = len(payload) - fields.left + head.n_layer_1
    # The checksums are the last pieces of four bytes that were taken, in the order of the layers.
    starts = [a for a, b in zip(places, [*places[1:], len(payload) - fields.left], strict=True) if b - a == 4]
    sizes = [size for size, _ in head.checks if size]
    for size, place in zip(sizes, starts[-len(sizes) :] if sizes else [], strict=False):
        mutable[place : place + 4] = crc32c(payload[at : at + size]).to_bytes(4, "little")
        at += size
    return bytes(mutable), head.n_frames


CHECKS: dict[str, Callable[[bytes], object]] = {
    "loads": lambda data: loads(data, find_context=lambda _: CONTEXT),
    "loads truncated": lambda data: loads(data, True, find_context=lambda _: CONTEXT),
    "events": lambda data: list(Reader(io.BytesIO(data), lambda _: CONTEXT).events()),
    "passes": lambda data: list(Reader(io.BytesIO(data), lambda _: CONTEXT).passes()),
    "thin": lambda data: (thin(data, 2), thin(data, bitrate=2000.0)),
    "reorder": lambda data: thin(data, order=Order.LAYERS),
    "describe": lambda data: as_text(describe(data)),
}


def run(count: int, seed: int) -> tuple[Counter[str], float]:
    """Read `count` mutants. Returns how often each check read one or refused it, and the seconds of the slowest."""
    rng = np.random.default_rng(seed)
    files = sample_files()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for _ in range(count):
        mutant = mutate(files[int(rng.integers(len(files)))], rng)
        name = list(CHECKS)[int(rng.integers(len(CHECKS)))]
        began = time.process_time()
        try:
            CHECKS[name](mutant)
            outcomes[f"{name}: read"] += 1
        except DacError:
            outcomes[f"{name}: refused"] += 1
        except BaseException:
            print(f"{name} of {mutant.hex()}", file=sys.stderr)
            raise
        slowest = max(slowest, time.process_time() - began)
    return outcomes, slowest


if __name__ == "__main__":
    found, seconds = run(*(int(argument) for argument in [*sys.argv[1:], *["1000", "0"][len(sys.argv) - 1 :]]))
    print(dict(sorted(found.items())), f"slowest {seconds:.3f} s")
