"""The bytes of a file as a decoder needs them: no tags before the header, right sizes in it, each joined part alone.

| ID3v2 | header, data size 0 | samples |            ->  | header, right size | samples |
| Ogg link | Ogg link |                              ->  | Ogg link |,  | Ogg link |
| mp3 frames | ID3v2 | mp3 frames |                  ->  | frame with their number | mp3 frames | mp3 frames |
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

from dac_codec.audio import containers, mpeg, ogg, wav
from dac_codec.common.streams import SeekableStream, Segment, read_at

_MOST_TAIL_BYTES = 2**12
"""Bytes without sound that may follow the last frame of an mp3 without a report."""


class Part(NamedTuple):
    """A sound file inside a file.

    Attributes:
        segments: its bytes.
        sizes: bytes of samples that its header declares, and that are there, if fewer are there; or None.
        n_samples: samples per channel, if they were counted.
        vorbis_order: whether its channels are in the order of Vorbis.
    """

    segments: tuple[Segment, ...]
    sizes: tuple[int, int] | None = None
    n_samples: int | None = None
    vorbis_order: bool = False


@dataclass(frozen=True)
class Contents:
    """The parts of a file, which follow each other.

    Attributes:
        parts: at least one.
        failure: why the sound does not end with the file, or is damaged; or "".
        unread: what follows the last part and is not read; or "".
        note: what is wrong with the header although all sound is there; or "".
    """

    parts: tuple[Part, ...]
    failure: str = ""
    unread: str = ""
    note: str = ""


def find_parts(stream: SeekableStream) -> Contents:
    """Find the parts of a file, other than mp3."""
    start = containers.id3_end(stream)
    size = stream.seek(0, os.SEEK_END)
    if read_at(stream, start, 4) == ogg.MAGIC and (links := ogg.find_links(stream, start)):
        unmarked = any(not link.marked and not link.cut for link in links)
        return Contents(
            tuple(Part((link.content,), vorbis_order=link.vorbis_order) for link in links),
            failure="its last Ogg page is incomplete" if any(link.cut for link in links) else "",
            note="no Ogg page is marked as the last: the end may be missing" if unmarked else "",
        )
    samples = containers.find_samples(stream, start)
    whole = Contents((Part((range(start, size),)),))
    if samples is None or samples.begin > size:
        return whole
    n_present = max(0, size - samples.begin)
    if samples.declared == 0 and (samples.end == size or n_present == 0):
        return whole  # without samples
    is_live = containers.is_live(samples.declared, n_present)
    if samples.declared <= n_present and not is_live:
        ends = (samples.begin + samples.declared, samples.end or 0)
        end = max(end for end in ends if end <= size)
        if not _is_sound_file(stream, end):
            return whole
        return Contents((Part((range(start, end),)),), unread="another sound file follows")
    segments = containers.corrected(stream, start, samples) or _with_long_header(stream, start, samples.begin)
    sizes = None if is_live else (samples.declared, n_present)
    part = Part(tuple(segments), sizes)
    note = "the header gives 0 as the size of the samples; read to the end of the file" if samples.declared == 0 else ""
    return Contents((part,), note=note)


def find_mpeg(stream: SeekableStream, contents: Contents) -> Contents:
    """The contents of an mp3, counted to its end, given what `find_parts` found."""
    (segment,) = contents.parts[0].segments
    assert isinstance(segment, range)
    frames = mpeg.find_frames(stream, segment.start)
    if frames is None:
        return contents
    first, tag = frames.first, frames.tag
    failure = unread = ""
    if frames.is_cut and (frames.n_declared or 0) <= frames.n_found:
        failure = "its last frame is incomplete"
    if frames.damaged_bytes:
        failure = f"{frames.damaged_bytes} bytes between its frames are damaged"
    if frames.other is not None:
        unread = what_follows(1 if frames.other.mono else 2, frames.other.sample_rate)
    elif frames.n_tail_bytes > _MOST_TAIL_BYTES:
        unread = f"{frames.n_tail_bytes} bytes that are not mp3 follow"
    n_frames = frames.n_found
    if (frames.n_declared or 0) > n_frames + (0 if frames.is_cut else 1):  # some encoders count the tag as a frame
        n_frames = frames.n_declared or 0  # the file is cut short
    is_estimated_right = tag is None and sum(map(len, frames.runs)) >= n_frames * first.size
    if first.layer != 3 or is_estimated_right:
        return Contents((Part(tuple(frames.runs), n_samples=n_frames * first.n_samples),), failure, unread)
    head = None
    if tag is not None:
        n_bytes = len(tag) + sum(map(len, frames.runs))
        head = mpeg.patched_tag(read_at(stream, tag.start, len(tag)), first, n_frames, n_bytes)
    if head is not None and n_frames == frames.n_declared and len(frames.runs) == 1:
        return replace(contents, failure=failure, unread=unread)
    return Contents((Part((head or mpeg.info_frame(first, n_frames), *frames.runs)),), failure, unread)


def what_follows(channels: int, sample_rate: int) -> str:
    """What follows the last part, if it is sound that can't be joined with it."""
    return f"{channels} {'channel' if channels == 1 else 'channels'} at {sample_rate} Hz follow"


def _is_sound_file(stream: SeekableStream, position: int) -> bool:
    """Whether another sound file begins at a position, or after a byte of padding."""
    head = read_at(stream, position, 13)
    return head.startswith(containers.STARTS) or head[1:].startswith(containers.STARTS)


def _with_long_header(stream: SeekableStream, start: int, begin: int) -> list[Segment]:
    """A wav file of plain samples with a header that can hold its size; the file as it is if it is none."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(start)
    found = wav.read_header(stream, "wav")  # type: ignore[arg-type]
    if isinstance(found, bytes):
        return [range(start, size)]
    return [wav.header(found[0], (size - begin) // found[0].frame_bytes), range(begin, size)]
