"""Recovery of damaged .dac streams: finds the intact chunks and their positions.

    stream    CODES 0..303 | CODES 304..607 | ##damaged## | CODES 912..1215 | END 1216
    cursor    ^              ^                ^ no chunk: search from the next byte on
                                              '----------->^ first CODES or END that fits
    events    Chunk(0)       Chunk(304)       Gap(608, 304, DAMAGED)  Chunk(912)

The checksum of a chunk gives its position (see `positions`), so a gap has a length although its chunks are missing.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from dac_codec.bitstream.chunks import (
    MAX_PAYLOAD,
    TOO_NEW,
    Chunk,
    ChunkKind,
    codes_size,
    decode_codes,
    decode_end,
    encode_key,
    max_chunk_frames,
)
from dac_codec.bitstream.fields import CRC_BYTES, MAX_VARINT_BYTES, StreamReader, crc32c, decode_varint
from dac_codec.bitstream.header import Coding, Header
from dac_codec.bitstream.layers import (
    ANCILLARY_LAYER,
    ANCILLARY_REPEAT,
    CodedChunk,
    LayerPiece,
    covered_size,
    decode_ancillary,
    decode_payload,
    n_layers,
    read_head,
)
from dac_codec.bitstream.positions import checksum_prefix, position_of
from dac_codec.bitstream.range_coder import Integers
from dac_codec.bitstream.scanning import Buffer, varints
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError

MAX_GAP_FRAMES = 1 << 20
"""Longest gap after which a chunk is still recognized: 3 hours at 86 frames per second."""

_MAX_CANDIDATES = 256  # followed at a time; only crafted bytes make more
_SCAN_BYTES = 1024  # bytes scanned for candidates before complete ones are checked
# The longest key (4 bytes) and frame count (3 bytes) of a CODES chunk; also the size of the smallest CODES chunk.
_CODES_HEAD = 7
# The same for coding 1, where number of layers (1 byte) and size of the covered part (4 bytes) precede the frame count.
_LAYERED_HEAD = 11
# The longest key and type, and a position below 2^35, of an ANCILLARY chunk that belongs to a CODES chunk.
_POSITION_BYTES = 5
_ANCILLARY_HEAD = 5 + _POSITION_BYTES


class GapReason(Enum):
    """Why frames are missing."""

    LOST = "lost"
    """No bytes are there in place of the chunks."""
    DAMAGED = "damaged"
    """The bytes in place of the chunks are damaged."""


@dataclass(frozen=True)
class Gap:
    """Missing frames.

    Attributes:
        first_frame: number of frames before the gap.
        n_frames: number of missing frames, at least 1.
        reason: why they are missing.
    """

    first_frame: int
    n_frames: int
    reason: GapReason


@dataclass(frozen=True)
class _Candidate:
    """Bytes with the form of a chunk. `start`, `payload` and `end` are positions in the buffer; `end` is exclusive."""

    kind: ChunkKind
    start: int
    payload: int
    end: int


@dataclass(frozen=True)
class _Found:
    """An intact chunk, and the number of frames before it.

    `content` is None for END, which has `n_samples`, and for a chunk to skip. `is_repeat`: it is an ANCILLARY chunk
    with the first layer of another one.
    """

    position: int
    content: Chunk | CodedChunk | LayerPiece | None = None
    n_samples: int | None = None
    is_repeat: bool = False
    after_damage: bool = False

    @property
    def end(self) -> int:
        return self.position + (self.content.n_frames if isinstance(self.content, Chunk | CodedChunk) else 0)


class Resynchronizer:
    """Reads the chunks of a stream after its header, and continues after damaged and missing ones.

    Where the bytes are no valid chunk, every following byte is tried as the start of a CODES or END chunk, or of an
    ANCILLARY chunk that belongs to a CODES chunk. Other ANCILLARY chunks and CRITICAL ones are recognized only directly
    after a valid chunk.

    A chunk whose position lies beyond the next expected frame is held back until the next valid chunk, or the end of
    the stream, confirms it. False positives: damaged bytes with the form of a chunk (about one place in a thousand of
    random bytes) are accepted as codes of a gap of g frames with probability g / 2^32, and with probability 2^-12 at
    the end of the stream.

    Memory is bounded by a few times the largest payload (4 MiB); time is linear in the size of the stream.

    Args:
        source: the stream, positioned after the header or after a chunk.
        header: the header.
        position: number of frames before the next chunk.

    Attributes:
        n_samples: samples per channel; None until the header or END gives it.
        complete: whether END was reached and nothing was missing.
    """

    def __init__(self, source: StreamReader, header: Header, position: int) -> None:
        self.n_samples = header.n_samples
        self.complete: bool = False
        self._header = header
        self._n_layers = n_layers(header)
        self._layered = header.coding is Coding.LAYERED
        self._max_frames = max_chunk_frames(header)
        self._end_sizes = range(1, MAX_VARINT_BYTES + 1) if header.n_samples is None else range(1)
        self._end_prefixes = self._prefixes_of_end()
        self._buffer = Buffer(source)
        self._expected = position
        self._has_gap = False
        self._cursor = 0

    def events(self) -> Iterator[Chunk | CodedChunk | LayerPiece | Gap]:
        """Yield the intact chunks and the gaps between them, in order, and layers with chunks of their own.

        Raises as `Reader.events` does.
        """
        held: _Found | None = None
        pieces: list[LayerPiece] = []  # after `held`
        while (found := self._next()) is not None:
            if isinstance(found.content, LayerPiece):
                if held is None:
                    yield found.content
                else:
                    pieces.append(found.content)
                continue
            after_damage = found.after_damage
            if held is not None:
                if found.position >= held.end:
                    yield from self._accept(held)
                    yield from pieces
                elif found.position < held.position and not found.is_repeat:
                    after_damage = True  # `held` was a false positive
                else:
                    continue
                held, pieces = None, []
            if found.content is None:
                yield from self._gap(found.position, after_damage)
                self.n_samples, self.complete = found.n_samples, not self._has_gap
                return
            if found.position == self._expected:
                yield from self._accept(found)
            else:
                held = found
        if held is not None:
            yield from self._accept(held)
            yield from pieces
        raise TruncatedBitstreamError("the file ends early, without a complete END chunk")

    def _accept(self, found: _Found) -> Iterator[Chunk | CodedChunk | Gap]:
        assert isinstance(found.content, Chunk | CodedChunk)
        yield from self._gap(found.position, found.after_damage)
        yield found.content
        self._expected = found.end

    def _gap(self, position: int, after_damage: bool) -> Iterator[Gap]:
        """Yield the gap between the expected frame and `position`, if there is one."""
        if position > self._expected:
            self._has_gap = True
            reason = GapReason.DAMAGED if after_damage else GapReason.LOST
            yield Gap(self._expected, position - self._expected, reason)
        self._expected = position

    def _next(self) -> _Found | None:
        """Return the next intact chunk, but for those to skip; None if the stream ends before one."""
        damaged = False
        while True:
            self._buffer.drop(self._cursor)
            waiting: list[_Candidate] = []
            here = self._parse()
            if here is not None and here.kind in (ChunkKind.ANCILLARY, ChunkKind.CRITICAL):
                waiting = [here]  # most bytes have this form, so the bytes inside are searched meanwhile
            elif here is not None and self._buffer.fill(here.end) and (found := self._check(here)):
                self._cursor = here.end
                return replace(found, after_damage=damaged)
            result = self._search(waiting)
            if result is None:
                return None
            winner, found = result
            damaged = damaged or winner is not here
            self._cursor = winner.end
            if winner.kind in (ChunkKind.CODES, ChunkKind.END) or found.content is not None:
                return replace(found, after_damage=damaged)

    def _parse(self) -> _Candidate | None:
        """Return the chunk that the bytes at the cursor describe; reads no byte beyond its key and head."""
        position = start = self._cursor

        def take(size: int) -> bytes:
            nonlocal position
            position += size
            if not self._buffer.fill(position):
                raise TruncatedBitstreamError("the file ends early, within a chunk")
            return self._buffer.bytes(position - size, position)

        try:
            key = decode_varint(lambda: take(1)[0], "a chunk")
            kind, size, payload = ChunkKind(key & 3), key >> 2, position
            if kind is ChunkKind.CODES and size <= MAX_PAYLOAD and self._layered:
                fits = size == read_head(self._header, take).n_payload
            elif kind is ChunkKind.CODES and size <= MAX_PAYLOAD:
                n_frames = decode_varint(lambda: take(1)[0], "a chunk")
                n_bytes = codes_size(self._header, n_frames)
                fits = n_frames <= self._max_frames and size == position - payload + n_bytes
            elif kind is ChunkKind.END:
                fits = size in self._end_sizes
            else:
                fits = size <= MAX_PAYLOAD
        except BitstreamError:
            return None
        return _Candidate(kind, start, payload, payload + size + CRC_BYTES) if fits else None

    def _check(self, candidate: _Candidate) -> _Found | None:
        """Return the chunk if its checksum fits a possible position. All its bytes must be in the buffer."""
        end = candidate.end - CRC_BYTES
        data = self._buffer.bytes(candidate.start, end)
        checksum = int.from_bytes(self._buffer.bytes(end, candidate.end), "little")
        payload = data[candidate.payload - candidate.start :]
        if candidate.kind in (ChunkKind.ANCILLARY, ChunkKind.CRITICAL):
            return self._ancillary(candidate.kind, payload) if crc32c(data) == checksum else None
        try:
            if candidate.kind is ChunkKind.END:
                n_samples = decode_end(self._header, payload)
                position = self._end_position(data, checksum, n_samples)
                return None if position is None else _Found(position, n_samples=n_samples)
            if self._layered:
                data = data[: candidate.payload - candidate.start + covered_size(payload)]
            position = self._codes_position(data, checksum)
            if position is None:
                return None
            content: Chunk | CodedChunk
            if self._layered:
                content, _ = decode_payload(self._header, position, payload)
            else:
                content = Chunk(position, decode_codes(self._header, payload))
        except BitstreamError:  # invalid content under a valid checksum
            return None
        found = _Found(position, content)
        return found if found.end <= self._header.max_frames() else None

    def _ancillary(self, kind: ChunkKind, payload: bytes) -> _Found:
        """An intact chunk with a layer of a chunk before it, or one to skip."""
        if kind is ChunkKind.CRITICAL:
            raise BitstreamError(TOO_NEW)
        content = None
        if self._layered:
            with suppress(BitstreamError):
                content = decode_ancillary(self._header, payload)
        if isinstance(content, LayerPiece):
            return _Found(content.first_frame, content)
        if content is None or not self._may_follow(content):
            return _Found(self._expected)
        return _Found(content.first_frame, content, is_repeat=True)

    def _may_follow(self, chunk: CodedChunk) -> bool:
        """Whether a chunk whose first layer is repeated may be missing here."""
        start, stop = chunk.first_frame, chunk.first_frame + chunk.n_frames
        return self._expected <= start <= self._expected + MAX_GAP_FRAMES and stop <= self._header.max_frames()

    def _codes_position(self, data: bytes, checksum: int) -> int | None:
        """Return the number of frames before a CODES chunk; None if the checksum is invalid."""
        if crc32c(checksum_prefix(self._expected) + data) == checksum:
            return self._expected
        position = position_of(data, checksum)
        return position if self._expected < position <= self._expected + MAX_GAP_FRAMES else None

    def _end_position(self, data: bytes, checksum: int, n_samples: int) -> int | None:
        """Return the number of frames before an END chunk; None if the checksum is invalid."""
        for n_frames in self._header.possible_frames(n_samples):
            if n_frames >= self._expected and crc32c(checksum_prefix(n_frames) + data) == checksum:
                return n_frames
        return None

    def _search(self, waiting: list[_Candidate]) -> tuple[_Candidate, _Found] | None:
        """Return the first valid candidate after the cursor or in `waiting`, and its chunk; None if there is none.

        Candidates are checked in the order of their ends, as soon as their bytes have arrived, so that a false one with
        a large payload does not delay the chunks inside it.

            ..[ false candidate, up to 4 MiB ......................... ]
            .......[ true chunk ]     <- complete first, so it is checked first
        """
        scans = [self._codes_candidates, self._end_candidates]
        if self._layered:
            scans.append(self._ancillary_candidates)
        starts = [self._cursor + 1] * len(scans)
        more = True
        while True:
            while waiting and waiting[0].end <= self._buffer.end:
                candidate = waiting.pop(0)
                if found := self._check(candidate):
                    return candidate, found
            for index, scan in enumerate(scans):
                candidates, starts[index] = scan(starts[index])
                for candidate in candidates:
                    bisect.insort(waiting, candidate, key=lambda candidate: candidate.end)
            del waiting[_MAX_CANDIDATES:]
            if (waiting and waiting[0].end <= self._buffer.end) or self._buffer.end - min(starts) >= _SCAN_BYTES:
                continue
            if not more:
                return None
            self._buffer.drop(min([*starts, *(candidate.start for candidate in waiting)]))
            more = self._buffer.more()

    def _keys(self, start: int, head: int, kind: ChunkKind) -> tuple[Integers, Integers, Integers, Integers, int]:
        """Search bytes from `start` on, of which a chunk's key and head take `head` at most, for keys of a kind.

        Returns the bytes, then positions of keys and payloads in them and payload sizes, and where to go on.
        """
        n_behind = 0 if self._buffer.complete else head - 1
        places = np.arange(max(0, min(_SCAN_BYTES, self._buffer.end - n_behind - start)))
        stop, n_bytes = start + len(places), len(places) + head - 1
        padded = self._buffer.bytes(start, start + n_bytes).ljust(n_bytes, b"\0")
        data = np.frombuffer(padded, np.uint8).astype(np.int64)
        key, key_bytes = varints(data, places, 4)
        places = places[(key_bytes > 0) & (key & 3 == kind)]
        return data, places, places + key_bytes[places], key[places] >> 2, stop

    def _codes_candidates(self, start: int) -> tuple[list[_Candidate], int]:
        """Return the candidates for CODES that begin at or after `start`, and where to continue the scan."""
        head = _LAYERED_HEAD if self._layered else _CODES_HEAD
        data, places, payloads, size, stop = self._keys(start, head, ChunkKind.CODES)
        fits = size <= MAX_PAYLOAD
        at = payloads
        if self._layered:
            fits &= (data[at] > 0) & (data[at] <= self._n_layers)
            n_covered, bytes_of_covered = varints(data, at + 1, 4)
            fits &= (bytes_of_covered > 0) & (1 + bytes_of_covered + n_covered <= size)
            at = at + 1 + bytes_of_covered
        n_frames, bytes_of_frames = varints(data, at, 2 if self._layered else 3)
        fits &= (bytes_of_frames > 0) & (n_frames > 0) & (n_frames <= self._max_frames)
        if not self._layered:
            fits &= size == bytes_of_frames + codes_size(self._header, n_frames)
        return _candidates(ChunkKind.CODES, start, places[fits], payloads[fits], size[fits]), stop

    def _ancillary_candidates(self, start: int) -> tuple[list[_Candidate], int]:
        """Return the candidates for ANCILLARY chunks with a layer, and where to continue the scan."""
        data, places, payloads, size, stop = self._keys(start, _ANCILLARY_HEAD, ChunkKind.ANCILLARY)
        fits = (size <= MAX_PAYLOAD) & ((data[payloads] == ANCILLARY_LAYER) | (data[payloads] == ANCILLARY_REPEAT))
        position, bytes_of_position = varints(data, payloads + 1, _POSITION_BYTES)
        fits &= (bytes_of_position > 0) & (position <= self._expected + MAX_GAP_FRAMES)
        return _candidates(ChunkKind.ANCILLARY, start, places[fits], payloads[fits], size[fits]), stop

    def _end_candidates(self, start: int) -> tuple[list[_Candidate], int]:
        """Return the valid END chunks that begin at or after `start`, and where to continue the scan."""
        prefixes = self._end_prefixes
        longest = max(map(len, prefixes))
        stop = min(start + _SCAN_BYTES, self._buffer.end - longest + 1)
        if stop <= start:
            return [], start
        data = self._buffer.bytes(start, stop + longest - 1)
        found = []
        for prefix in prefixes:
            place = data.find(prefix)
            while place >= 0:
                payload = start + place + 1
                candidate = _Candidate(ChunkKind.END, payload - 1, payload, payload + (prefix[0] >> 2) + CRC_BYTES)
                if candidate.end > self._buffer.end:
                    stop = min(stop, candidate.start)
                elif self._check(candidate):
                    found.append(candidate)
                place = data.find(prefix, place + 1)
        return found, stop

    def _prefixes_of_end(self) -> list[bytes]:
        """Return the possible first bytes of END: its key, or all of it where the header gives the length."""
        n_samples = self._header.n_samples
        if n_samples is None:
            return [encode_key(ChunkKind.END, size) for size in self._end_sizes]
        key = encode_key(ChunkKind.END, 0)
        checksums = (crc32c(checksum_prefix(n) + key) for n in self._header.possible_frames(n_samples))
        return [key + checksum.to_bytes(CRC_BYTES, "little") for checksum in checksums]


def _candidates(kind: ChunkKind, start: int, places: Integers, payloads: Integers, sizes: Integers) -> list[_Candidate]:
    """The candidates at `places` with payloads at `payloads`, both counted from `start`."""
    ends = payloads + sizes + CRC_BYTES
    return [
        _Candidate(kind, start + place, start + payload, start + end)
        for place, payload, end in zip(places.tolist(), payloads.tolist(), ends.tolist(), strict=True)
    ]
