"""Reading on behind damage: which chunks of a .dac stream are whole, and where they belong."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from dac_codec.bitstream.chunks import MAX_CHUNK_CODES, MAX_PAYLOAD, ChunkKind, decode_codes, decode_end, encode_key
from dac_codec.bitstream.fields import CRC_BYTES, MAX_VARINT_BYTES, FieldReader, StreamReader, crc32c, decode_varint
from dac_codec.bitstream.header import Header
from dac_codec.bitstream.packing import packed_size
from dac_codec.bitstream.positions import checksum_prefix, position_of
from dac_codec.common.errors import BitstreamError, TruncatedBitstreamError

LONGEST_LOSS = 1 << 20
"""Most frames that may be missing in one place for what follows to be placed: 3 hours at 86 frames a second."""

_MAX_CANDIDATES = 256  # what is looked into at a time; more come only from bytes that are made to deceive
_CODES_HEAD = 7  # bytes of the longest key and number of frames of a CODES chunk, and of the shortest whole chunk
_STEP = 1024  # bytes that are looked through between judging candidates

TOO_NEW = "the file holds a chunk that only a newer version of this package understands"
"""What is said of a CRITICAL chunk, which a reader must not pass over."""


class GapReason(Enum):
    """Why codes are missing."""

    LOST = "lost"
    """Chunks are not there."""
    DAMAGED = "damaged"
    """There are bytes that make no chunk."""


@dataclass(frozen=True)
class Chunk:
    """Codes that are whole.

    Attributes:
        first_frame: number of frames before these.
        codes: uint16 [C, N, F], F >= 1.
    """

    first_frame: int
    codes: npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Gap:
    """Codes that are missing.

    Attributes:
        first_frame: number of frames before the gap.
        n_frames: how many are missing; None where nothing tells. What follows is then placed as if none were.
        reason: why they are missing.
    """

    first_frame: int
    n_frames: int | None
    reason: GapReason


@dataclass(frozen=True)
class _Candidate:
    """Bytes that have the form of a chunk: where they start, where the payload does, and where the next chunk would."""

    kind: ChunkKind
    start: int
    payload: int
    end: int


@dataclass(frozen=True)
class _Found:
    """A CODES or END chunk whose checksum fits, and the number of frames before it. END has no codes."""

    position: int
    codes: npt.NDArray[np.uint16] | None = None
    n_samples: int | None = None
    after_damage: bool = False

    @property
    def end(self) -> int:
        return self.position + (0 if self.codes is None else self.codes.shape[-1])


class Resynchronizer:
    """Reads the chunks of a stream behind its header, and goes on where they are damaged or missing.

    Where a chunk doesn't fit, the bytes after its first one are searched for the next CODES or END chunk whose form and
    checksum fit. Only there: ancillary and critical chunks are recognized where the chunk before them was whole.

    A positioned checksum gives the place of a chunk. A chunk that belongs later than the frames so far is held back
    until the next whole one, or the end of the stream, doesn't contradict it. Damaged bytes that happen to have the
    form of a chunk (the key tells of 2^22 bytes at most, which must be what the number of frames takes: of random bytes
    one place in some thousand) are taken for codes that belong between the frames so far and the next whole chunk, g
    frames on, with a probability of g / 2^32; before the end of the stream, 2^-12. In a file without positioned
    checksums the probability is 2^-32 and the length of a gap is known only where one chunk was damaged in its place.

    Memory is bounded by a few times the largest payload, which is 4 MiB; time is linear in the bytes of the stream.

    Args:
        source: stands behind the header, or behind a chunk.
        header: the header.
        positioned: whether checksums are positioned.
        position: number of frames before the next chunk.

    Attributes:
        n_samples: samples per channel; None while END, and the header, don't tell.
        complete: whether END was reached and nothing was missing.
    """

    def __init__(self, source: StreamReader, header: Header, positioned: bool, position: int) -> None:
        self.n_samples = header.n_samples
        self.complete = False
        self._header, self._positioned = header, positioned
        self._planes = header.channels * header.n_codebooks
        self._most_frames = MAX_CHUNK_CODES // self._planes
        self._end_sizes = range(1, MAX_VARINT_BYTES + 1) if header.n_samples is None else range(1)
        self._end_marks = self._marks_of_end()
        self._buffer = _Buffer(source)
        self._expected = position
        self._has_gap = False
        self._cursor = 0
        self._presumed = (-1, 0)  # where a chunk ends that doesn't fit, and how many frames it says to hold

    def events(self) -> Iterator[Chunk | Gap]:
        """Yield what is there and what is missing, in order.

        Raises:
            TruncatedBitstreamError: the stream ends without END, after all that could be read of it.
            BitstreamError: the file holds a CRITICAL chunk that a reader must know.
        """
        held: _Found | None = None
        while (found := self._next()) is not None:
            after_damage = found.after_damage
            if held is not None:
                if found.position >= held.end:
                    yield from self._accept(held, held.after_damage)
                elif found.position < held.position:
                    after_damage = True  # what was held is none
                else:
                    continue
                held = None
            if found.codes is None:
                yield from self._gap(found.position, after_damage)
                self.n_samples, self.complete = found.n_samples, not self._has_gap
                return
            if found.position == self._expected or not self._positioned:
                yield from self._accept(found, after_damage)
            else:
                held = found
        if held is not None:
            yield from self._accept(held, held.after_damage)
        raise TruncatedBitstreamError("the file ends early, without a whole END chunk")

    def _accept(self, found: _Found, after_damage: bool) -> Iterator[Chunk | Gap]:
        assert found.codes is not None
        yield from self._gap(found.position, after_damage)
        yield Chunk(found.position, found.codes)
        self._expected = found.end

    def _gap(self, position: int, after_damage: bool) -> Iterator[Gap]:
        """What is missing before `position`."""
        if position > self._expected:
            self._has_gap = True
            reason = GapReason.DAMAGED if after_damage else GapReason.LOST
            yield Gap(self._expected, position - self._expected, reason)
        elif after_damage and not self._positioned:
            self._has_gap = True
            yield Gap(self._expected, None, GapReason.DAMAGED)
        self._expected = position

    def _next(self) -> _Found | None:
        """Return the next CODES or END chunk that fits, or None where the stream ends without one."""
        damaged = False
        while True:
            self._buffer.drop(self._cursor)
            waiting: list[_Candidate] = []
            here = self._parse()
            if here is None:
                damaged = True
            elif here.kind in (ChunkKind.ANCILLARY, ChunkKind.CRITICAL):
                waiting = [here]  # anything has this form: meanwhile, look inside
            elif self._buffer.fill(here.end) and (found := self._check(here)):
                self._cursor = here.end
                return replace(found, after_damage=damaged)
            else:
                damaged = True
                self._presumed = (here.end, self._n_frames(here))
            winner = self._search(waiting)
            if winner is None:
                return None
            self._cursor = winner.end
            if winner is not here:
                found = self._check(winner)
                assert found is not None
                return replace(found, after_damage=True)

    def _parse(self) -> _Candidate | None:
        """Return the chunk whose form the bytes at the cursor have; no byte is waited for but those that tell."""
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
                fits = n_frames <= self._most_frames and size == position - payload + self._codes_size(n_frames)
            elif kind is ChunkKind.END:
                fits = size in self._end_sizes
            else:
                fits = size <= MAX_PAYLOAD
        except BitstreamError:
            return None
        return _Candidate(kind, start, payload, payload + size + CRC_BYTES) if fits else None

    def _check(self, candidate: _Candidate) -> _Found | None:
        """Return the chunk if its checksum fits a place that it can have; all its bytes are there."""
        end = candidate.end - CRC_BYTES
        data = self._buffer.bytes(candidate.start, end)
        checksum = int.from_bytes(self._buffer.bytes(end, candidate.end), "little")
        payload = data[candidate.payload - candidate.start :]
        expected = self._expected
        if not self._positioned and candidate.start == self._presumed[0]:
            expected += self._presumed[1]
        try:
            if candidate.kind is ChunkKind.END:
                n_samples = decode_end(self._header, payload)
                position = self._end_position(data, checksum, expected, n_samples)
                return None if position is None else _Found(position, n_samples=n_samples)
            position = self._codes_position(data, checksum, expected)
            if position is None:
                return None
            found = _Found(position, decode_codes(self._header, payload))
        except BitstreamError:  # a writer's mistake under a right checksum
            return None
        return found if found.end <= self._header.most_frames() else None

    def _codes_position(self, data: bytes, checksum: int, expected: int) -> int | None:
        """Return the number of frames before a CODES chunk; None if the checksum doesn't fit."""
        if not self._positioned:
            return expected if crc32c(data) == checksum else None
        if crc32c(checksum_prefix(expected) + data) == checksum:
            return expected
        position = position_of(data, checksum)
        return position if expected < position <= expected + LONGEST_LOSS else None

    def _end_position(self, data: bytes, checksum: int, expected: int, n_samples: int) -> int | None:
        """Return the number of frames before an END chunk; None if the checksum doesn't fit."""
        if not self._positioned:
            return expected if crc32c(data) == checksum else None
        for n_frames in self._header.possible_frames(n_samples):
            if n_frames >= expected and crc32c(checksum_prefix(n_frames) + data) == checksum:
                return n_frames
        return None

    def _search(self, waiting: list[_Candidate]) -> _Candidate | None:
        """Return the first candidate behind the cursor that fits, or one of `waiting`; None where the stream ends.

        Candidates are judged in the order of their ends, as soon as they are there: a false one with a large payload
        doesn't hold up what it covers.
        """
        codes_from = end_from = self._cursor + 1
        more = True
        while True:
            while waiting and waiting[0].end <= self._buffer.end:
                candidate = waiting.pop(0)
                if self._is_extra(candidate) or self._check(candidate):
                    return candidate
            codes, codes_from = self._codes_forms(codes_from)
            ends, end_from = self._end_forms(end_from)
            for candidate in codes + ends:
                bisect.insort(waiting, candidate, key=lambda candidate: candidate.end)
            del waiting[_MAX_CANDIDATES:]
            if (waiting and waiting[0].end <= self._buffer.end) or self._buffer.end - end_from >= _STEP:
                continue
            if not more:
                return None
            self._buffer.drop(min([codes_from, end_from, *(candidate.start for candidate in waiting)]))
            more = self._buffer.more()

    def _is_extra(self, candidate: _Candidate) -> bool:
        """Whether this is an ancillary chunk that is whole."""
        if candidate.kind in (ChunkKind.CODES, ChunkKind.END):
            return False
        end = candidate.end - CRC_BYTES
        data = self._buffer.bytes(candidate.start, end)
        whole = crc32c(data).to_bytes(CRC_BYTES, "little") == self._buffer.bytes(end, candidate.end)
        if whole and candidate.kind is ChunkKind.CRITICAL:
            raise BitstreamError(TOO_NEW)
        return whole

    def _codes_forms(self, start: int) -> tuple[list[_Candidate], int]:
        """Return what has the form of a CODES chunk from `start` on, and where to go on looking."""
        stop = min(start + _STEP, self._buffer.end - _CODES_HEAD + 1)
        if stop <= start:
            return [], start
        data = np.frombuffer(self._buffer.bytes(start, stop + _CODES_HEAD - 1), np.uint8).astype(np.int64)
        places = np.arange(stop - start)
        key, key_bytes = _varints(data, places, 4)
        places = places[(key_bytes > 0) & (key & 3 == ChunkKind.CODES)]
        size, payloads = key[places] >> 2, places + key_bytes[places]
        n_frames, bytes_of_frames = _varints(data, payloads, 3)
        fits = (bytes_of_frames > 0) & (n_frames > 0) & (n_frames <= self._most_frames)
        fits &= size == bytes_of_frames + self._planes * ((n_frames * self._header.bits_per_code + 7) // 8)
        return [
            _Candidate(ChunkKind.CODES, start + int(place), start + int(payload), start + int(payload + n) + CRC_BYTES)
            for place, payload, n in zip(places[fits], payloads[fits], size[fits], strict=True)
        ], stop

    def _end_forms(self, start: int) -> tuple[list[_Candidate], int]:
        """Return the whole END chunks from `start` on, and where to go on looking."""
        marks = self._end_marks
        longest = max(map(len, marks))
        stop = min(start + _STEP, self._buffer.end - longest + 1)
        if stop <= start:
            return [], start
        data = self._buffer.bytes(start, stop + longest - 1)
        found = []
        for mark in marks:
            place = data.find(mark)
            while place >= 0:
                payload = start + place + 1
                candidate = _Candidate(ChunkKind.END, payload - 1, payload, payload + (mark[0] >> 2) + CRC_BYTES)
                if candidate.end > self._buffer.end:
                    stop = min(stop, candidate.start)
                elif self._check(candidate):
                    found.append(candidate)
                place = data.find(mark, place + 1)
        return found, stop

    def _marks_of_end(self) -> list[bytes]:
        """What an END chunk begins with: its key, or all of it where the header gives the length."""
        n_samples = self._header.n_samples
        if n_samples is None:
            return [encode_key(ChunkKind.END, size) for size in self._end_sizes]
        key = encode_key(ChunkKind.END, 0)
        places = [checksum_prefix(n) for n in self._header.possible_frames(n_samples)] if self._positioned else [b""]
        return [key + crc32c(place + key).to_bytes(CRC_BYTES, "little") for place in places]

    def _n_frames(self, candidate: _Candidate) -> int:
        """The frames that a chunk says to hold."""
        if candidate.kind is not ChunkKind.CODES:
            return 0
        return FieldReader(self._buffer.bytes(candidate.payload, candidate.payload + _CODES_HEAD), "a chunk").varint()

    def _codes_size(self, n_frames: int) -> int:
        """Bytes of the planes of so many frames."""
        return self._planes * packed_size(n_frames, self._header.bits_per_code)


class _Buffer:
    """The bytes of a stream that may have to be looked at again. Positions count from where it starts."""

    def __init__(self, source: StreamReader) -> None:
        self._source = source
        self._data = bytearray()
        self._start = 0

    @property
    def end(self) -> int:
        """The position behind the last byte that is there."""
        return self._start + len(self._data)

    def bytes(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`, which are there."""
        with memoryview(self._data) as view:
            return bytes(view[start - self._start : end - self._start])

    def fill(self, end: int) -> bool:
        """Read up to `end` and no further; return whether the stream goes on as far."""
        self._data += self._source.read_up_to(max(0, end - self.end))
        return self.end >= end

    def more(self) -> bool:
        """Read what is there, at least a byte; return whether there was any."""
        piece = self._source.read_some()
        self._data += piece
        return bool(piece)

    def drop(self, start: int) -> None:
        """Forget the bytes before `start`."""
        del self._data[: start - self._start]
        self._start = max(start, self._start)


def _varints(
    data: npt.NDArray[np.int64], places: npt.NDArray[np.int64], most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The values of the varints that begin at `places` in `data`, and their lengths in bytes: 0 where there is none."""
    value = np.zeros_like(places)
    length = np.zeros_like(places)
    for position in range(most):
        byte = data[places + position]
        open_ = length == 0
        value[open_] |= (byte[open_] & 0x7F) << 7 * position
        # As short as it can be: the last byte is zero only if it is the first.
        ends = open_ & (byte < 0x80)
        length[ends & ((byte > 0) | (position == 0))] = position + 1
        length[ends & (byte == 0) & (position > 0)] = -1
    return value, np.maximum(length, 0)
