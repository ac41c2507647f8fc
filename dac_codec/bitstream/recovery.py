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
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.chunks import (
    MAX_CHUNK_CODES,
    MAX_PAYLOAD,
    TOO_NEW,
    Chunk,
    ChunkKind,
    decode_codes,
    decode_end,
    encode_key,
)
from dac_codec.bitstream.fields import CRC_BYTES, MAX_VARINT_BYTES, StreamReader, crc32c, decode_varint, with_crc
from dac_codec.bitstream.header import Header
from dac_codec.bitstream.packing import packed_size
from dac_codec.bitstream.positions import checksum_prefix, position_of
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError

MAX_GAP_FRAMES = 1 << 20
"""Longest gap after which a chunk is still recognized: 3 hours at 86 frames per second."""

_MAX_CANDIDATES = 256  # followed at a time; only crafted bytes make more
_SCAN_BYTES = 1024  # bytes scanned for candidates before complete ones are checked
# The longest key (4 bytes) and frame count (3 bytes) of a CODES chunk; also the size of the smallest CODES chunk.
_CODES_HEAD = 7


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
    """A CODES or END chunk with a valid checksum, and the number of frames before it. END has no codes."""

    position: int
    codes: npt.NDArray[np.int32] | None = None
    n_samples: int | None = None
    after_damage: bool = False

    @property
    def end(self) -> int:
        return self.position + (0 if self.codes is None else self.codes.shape[-1])


class Resynchronizer:
    """Reads the chunks of a stream after its header, and continues after damaged and missing ones.

    Where the bytes are no valid chunk, every following byte is tried as the start of a CODES or END chunk. ANCILLARY
    and CRITICAL chunks are recognized only directly after a valid chunk.

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
        self.complete = False
        self._header = header
        self._planes = header.channels * header.n_codebooks
        self._max_frames = MAX_CHUNK_CODES // self._planes
        self._end_sizes = range(1, MAX_VARINT_BYTES + 1) if header.n_samples is None else range(1)
        self._end_prefixes = self._prefixes_of_end()
        self._buffer = _Buffer(source)
        self._expected = position
        self._has_gap = False
        self._cursor = 0

    def events(self) -> Iterator[Chunk | Gap]:
        """Yield the intact chunks and the gaps between them, in order. Raises as `Reader.events` does."""
        held: _Found | None = None
        while (found := self._next()) is not None:
            after_damage = found.after_damage
            if held is not None:
                if found.position >= held.end:
                    yield from self._accept(held)
                elif found.position < held.position:
                    after_damage = True  # `held` was a false positive
                else:
                    continue
                held = None
            if found.codes is None:
                yield from self._gap(found.position, after_damage)
                self.n_samples, self.complete = found.n_samples, not self._has_gap
                return
            if found.position == self._expected:
                yield from self._accept(found)
            else:
                held = found
        if held is not None:
            yield from self._accept(held)
        raise TruncatedBitstreamError("the file ends early, without a complete END chunk")

    def _accept(self, found: _Found) -> Iterator[Chunk | Gap]:
        assert found.codes is not None
        yield from self._gap(found.position, found.after_damage)
        yield Chunk(found.position, found.codes)
        self._expected = found.end

    def _gap(self, position: int, after_damage: bool) -> Iterator[Gap]:
        """Yield the gap between the expected frame and `position`, if there is one."""
        if position > self._expected:
            self._has_gap = True
            reason = GapReason.DAMAGED if after_damage else GapReason.LOST
            yield Gap(self._expected, position - self._expected, reason)
        self._expected = position

    def _next(self) -> _Found | None:
        """Return the next valid CODES or END chunk; None if the stream ends before one."""
        damaged = False
        while True:
            self._buffer.drop(self._cursor)
            waiting: list[_Candidate] = []
            here = self._parse()
            if here is None:
                damaged = True
            elif here.kind in (ChunkKind.ANCILLARY, ChunkKind.CRITICAL):
                waiting = [here]  # most bytes have this form, so the bytes inside are searched meanwhile
            elif self._buffer.fill(here.end) and (found := self._check(here)):
                self._cursor = here.end
                return replace(found, after_damage=damaged)
            else:
                damaged = True
            winner = self._search(waiting)
            if winner is None:
                return None
            self._cursor = winner.end
            if winner is not here:
                found = self._check(winner)
                assert found is not None
                return replace(found, after_damage=True)

    def _parse(self) -> _Candidate | None:
        """Return the chunk that the bytes at the cursor describe; reads no byte beyond its key and frame count."""
        position = start = self._cursor

        def next_byte() -> int:
            nonlocal position
            position += 1
            if not self._buffer.fill(position):
                raise TruncatedBitstreamError("the file ends early, within a chunk")
            return self._buffer.bytes(position - 1, position)[0]

        try:
            key = decode_varint(next_byte, "a chunk")
            kind, size, payload = ChunkKind(key & 3), key >> 2, position
            if kind is ChunkKind.CODES and size <= MAX_PAYLOAD:
                n_frames = decode_varint(next_byte, "a chunk")
                codes_size = self._planes * packed_size(n_frames, self._header.bits_per_code)
                fits = n_frames <= self._max_frames and size == position - payload + codes_size
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
        try:
            if candidate.kind is ChunkKind.END:
                n_samples = decode_end(self._header, payload)
                position = self._end_position(data, checksum, n_samples)
                return None if position is None else _Found(position, n_samples=n_samples)
            position = self._codes_position(data, checksum)
            if position is None:
                return None
            found = _Found(position, decode_codes(self._header, payload))
        except BitstreamError:  # invalid content under a valid checksum
            return None
        return found if found.end <= self._header.max_frames() else None

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

    def _search(self, waiting: list[_Candidate]) -> _Candidate | None:
        """Return the first valid candidate after the cursor or in `waiting`; None if the stream ends before one.

        Candidates are checked in the order of their ends, as soon as their bytes have arrived, so that a false one with
        a large payload does not delay the chunks inside it.

            ..[ false candidate, up to 4 MiB ......................... ]
            .......[ true chunk ]     <- complete first, so it is checked first
        """
        codes_from = end_from = self._cursor + 1
        more = True
        while True:
            while waiting and waiting[0].end <= self._buffer.end:
                candidate = waiting.pop(0)
                if self._is_ancillary(candidate) or self._check(candidate):
                    return candidate
            codes, codes_from = self._codes_candidates(codes_from)
            ends, end_from = self._end_candidates(end_from)
            for candidate in codes + ends:
                bisect.insort(waiting, candidate, key=lambda candidate: candidate.end)
            del waiting[_MAX_CANDIDATES:]
            if (waiting and waiting[0].end <= self._buffer.end) or self._buffer.end - end_from >= _SCAN_BYTES:
                continue
            if not more:
                return None
            self._buffer.drop(min([codes_from, end_from, *(candidate.start for candidate in waiting)]))
            more = self._buffer.more()

    def _is_ancillary(self, candidate: _Candidate) -> bool:
        """Whether this is an intact ANCILLARY chunk. Raises BitstreamError for an intact CRITICAL one."""
        if candidate.kind in (ChunkKind.CODES, ChunkKind.END):
            return False
        end = candidate.end - CRC_BYTES
        data = self._buffer.bytes(candidate.start, end)
        intact = with_crc(data) == self._buffer.bytes(candidate.start, candidate.end)
        if intact and candidate.kind is ChunkKind.CRITICAL:
            raise BitstreamError(TOO_NEW)
        return intact

    def _codes_candidates(self, start: int) -> tuple[list[_Candidate], int]:
        """Return the candidates for CODES that begin at or after `start`, and where to continue the scan."""
        stop = min(start + _SCAN_BYTES, self._buffer.end - _CODES_HEAD + 1)
        if stop <= start:
            return [], start
        data = np.frombuffer(self._buffer.bytes(start, stop + _CODES_HEAD - 1), np.uint8).astype(np.int64)
        places = np.arange(stop - start)
        key, key_bytes = _varints(data, places, 4)
        places = places[(key_bytes > 0) & (key & 3 == ChunkKind.CODES)]
        size, payloads = key[places] >> 2, places + key_bytes[places]
        n_frames, bytes_of_frames = _varints(data, payloads, 3)
        fits = (bytes_of_frames > 0) & (n_frames > 0) & (n_frames <= self._max_frames)
        fits &= size == bytes_of_frames + self._planes * ((n_frames * self._header.bits_per_code + 7) // 8)
        return [
            _Candidate(ChunkKind.CODES, start + int(place), start + int(payload), start + int(payload + n) + CRC_BYTES)
            for place, payload, n in zip(places[fits], payloads[fits], size[fits], strict=True)
        ], stop

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


class _Buffer:
    """The bytes of a stream that may be parsed again. Positions count from the first byte read."""

    def __init__(self, source: StreamReader) -> None:
        self._source = source
        self._data = bytearray()
        self._start = 0

    @property
    def end(self) -> int:
        """The position after the last buffered byte."""
        return self._start + len(self._data)

    def bytes(self, start: int, end: int) -> bytes:
        """Return the buffered bytes from `start` to `end`, exclusive."""
        with memoryview(self._data) as view:
            return bytes(view[start - self._start : end - self._start])

    def fill(self, end: int) -> bool:
        """Read up to `end` and no further; return whether the stream has that many bytes."""
        self._data += self._source.read_up_to(max(0, end - self.end))
        return self.end >= end

    def more(self) -> bool:
        """Read the bytes that have arrived, at least one; return False at the end of the stream."""
        piece = self._source.read_some()
        self._data += piece
        return bool(piece)

    def drop(self, start: int) -> None:
        """Discard the bytes before `start`."""
        del self._data[: start - self._start]
        self._start = max(start, self._start)


def _varints(
    data: npt.NDArray[np.int64], places: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the values of the varints at `places` in `data`, and their lengths in bytes: 0 where none is valid.

    `most` is the maximum length in bytes.
    """
    value = np.zeros_like(places)
    length = np.zeros_like(places)
    for position in range(most):
        byte = data[places + position]
        open_ = length == 0
        value[open_] |= (byte[open_] & 0x7F) << 7 * position
        # A varint is as short as possible: its last byte is zero only if it is the first.
        ends = open_ & (byte < 0x80)
        length[ends & ((byte > 0) | (position == 0))] = position + 1
        length[ends & (byte == 0) & (position > 0)] = -1
    return value, np.maximum(length, 0)
