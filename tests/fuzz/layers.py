"""Mutated files of coding 1, and everything that reads them: python -m tests.fuzz.readers 100000 --only layers."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from dac_codec.bitstream import Header, Order, Reader, Writer, loads, thin
from dac_codec.bitstream.describe import as_text, describe
from dac_codec.bitstream.fields import FieldReader, crc32c, with_crc
from dac_codec.bitstream.layers import covered_size, read_head
from dac_codec.bitstream.positions import checksum_prefix
from dac_codec.common.errors import BitstreamError, DacError
from tests.bitstream.test_layers import CONTEXT, HEADER, LEVELS, N_CODES, N_PLANES, random_codes, random_levels
from tests.fuzz.mutations import mutate_bytes


@cache
def sample_files() -> tuple[bytes, ...]:
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
    return tuple(files)


def layered_file(rng: random.Random) -> bytes:
    """A mutated file of coding 1; often with valid checksums."""
    mutant = mutate_bytes(rng.choice(sample_files()), rng)
    return repaired(mutant) if rng.random() < 0.6 else mutant


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


CHECKS: tuple[Callable[[bytes], object], ...] = (
    lambda data: loads(data, find_context=lambda _: CONTEXT),
    lambda data: loads(data, True, find_context=lambda _: CONTEXT),
    lambda data: list(Reader(io.BytesIO(data), lambda _: CONTEXT).events()),
    lambda data: list(Reader(io.BytesIO(data), lambda _: CONTEXT).passes()),
    lambda data: (thin(data, 2), thin(data, bitrate=2000.0)),
    lambda data: thin(data, order=Order.LAYERS),
    lambda data: as_text(describe(data)),
)


def read_layered(path: Path) -> None:
    """Read the file in each way. Raises AssertionError if one takes more than a second."""
    data = path.read_bytes()
    for check in CHECKS:
        began = time.process_time()
        with suppress(DacError):
            check(data)
        assert time.process_time() - began < 1
