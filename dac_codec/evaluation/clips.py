"""The test clips: mono excerpts, the same on every machine."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.common import manifest as manifests
from dac_codec.common.errors import AudioError
from dac_codec.common.manifest import Sound, read_split
from dac_codec.evaluation.metrics import SPEECH, SPEECH_HIGH

EXCERPT_SECONDS = 10.0
"""Length of the clip from the middle of a longer file of a folder."""

POOLED = "all"
"""The domain of all clips together."""

SPEEDS = (0.75, 1.25, 1.5)
"""Speeds of the clips in the domain `SPEECH_HIGH`."""


@dataclass(frozen=True)
class Clip:
    """A mono excerpt of a file, or of several files joined.

    Attributes:
        name, domain: names in tables.
        waveform: [1, T].
        sources: the files that it was cut from, beginning with the one of the largest part. Empty: independent of all
            other clips.
    """

    name: str
    domain: str
    waveform: Audio
    sources: tuple[str, ...] = ()


def find_clips(data: Path, sample_rate: int, split: str = "test", failures: list[str] | None = None) -> list[Clip]:
    """The clips of a manifest (a CSV file), of a folder of sounds, or of one sound file.

    The sounds of a folder that can't be read are left out: there is a warning for each, or if a list of `failures` is
    given, a line in it. Raises an AudioError if nothing can be read, or one of several domains is called `POOLED`.
    """
    if data.is_dir():
        files = audio.find_audio(data)
        if not files:
            raise AudioError(f"{data}: no sound files in this folder")
        left_out = [f"left out: {path}: {why}" for path, why in audio.find_unreadable(data)]
        clips = file_clips(data, files, sample_rate, left_out)
        for line in left_out:
            if failures is None:
                warnings.warn(line, stacklevel=2)
            else:
                failures.append(line)
    elif data.suffix.lower() == ".csv":
        clips = held_out_clips(data, sample_rate, split=split)
    else:
        clips = file_clips(data.parent, [data], sample_rate)
    if len(domains := {clip.domain for clip in clips}) > 1 and POOLED in domains:
        raise AudioError(f"{data}: the domain {POOLED!r} must be renamed, which is the name of all domains together")
    return clips


def file_clips(folder: Path, files: list[Path], sample_rate: int, left_out: list[str] | None = None) -> list[Clip]:
    """One clip per file, mixed down to mono: the whole file, or the middle `EXCERPT_SECONDS` of a longer one.

    The domain of a file is its subfolder of `folder`; without subfolders it is `POOLED`. Files that can't be read are
    left out, with a line in `left_out`. Raises an AudioError if no file can be read.
    """
    # Reports are UTF-8, which file names need not be.
    names = [PurePosixPath(_utf8(file.relative_to(folder).as_posix())) for file in files]
    apart = any(len(name.parts) > 1 for name in names)
    clips = []
    for file, name in zip(files, names, strict=True):
        domain = name.parts[0] if len(name.parts) > 1 else "other" if apart else POOLED
        try:
            clips.append(Clip(name.as_posix(), domain, _middle(file, sample_rate), (name.as_posix(),)))
        except AudioError as error:
            if len(files) == 1 or left_out is None:
                raise
            left_out.append(f"left out: {error}")
    if not clips:
        raise AudioError(f"{folder}: none of its {len(files)} sound files can be read")
    return clips


def _utf8(name: str) -> str:
    """A file's name, with bytes that are not UTF-8 as `\\udc..`."""
    return name.encode(errors="backslashreplace").decode()


def _middle(file: Path, sample_rate: int) -> Audio:
    with audio.Reader(file) as reader:
        rate, length = reader.sample_rate, reader.complete_length()
        n_samples = min(length, int(EXCERPT_SECONDS * rate))
        samples = reader.excerpt((length - n_samples) // 2, n_samples)
    waveform = audio.check(samples, rate, str(file)).mean(0, keepdims=True)
    return audio.resample(waveform, rate, sample_rate)


def held_out_clips(
    manifest: Path, sample_rate: int, per_domain: int = 40, seconds: float = 5.0, split: str = "test"
) -> list[Clip]:
    """Clips of one length from a split of a manifest, evenly spread over the files of each domain.

    Files shorter than a clip are joined with the following ones of the manifest. A domain with too little sound gives
    at most one clip per file, which begins with that file.

    If the manifest names speakers, this holds for each speaker: all in a domain give equally many clips. The clips of
    speech are then repeated at each of `SPEEDS`, resampled so that pitch and tempo change together.

    Args:
        manifest, split: see `common.manifest`.
        sample_rate: of the clips, in Hz.
        per_domain: number of clips of each domain, rounded up to a multiple of its number of speakers.
        seconds: length of a clip at its own speed.

    Raises:
        AudioError: the manifest or one of its files can't be read.
    """
    by_domain: dict[str, dict[str, list[Path]]] = {}
    for one in read_split(manifest, split):
        by_domain.setdefault(one.domain, {}).setdefault(one.speaker, []).append(one.path)
    length = int(seconds * sample_rate)
    clips: list[Clip] = []
    for domain, speakers in sorted(by_domain.items()):
        wanted = -(-per_domain // len(speakers))
        parts = [
            part for files in speakers.values() for part in _cut(files, manifest.parent, sample_rate, wanted, length)
        ]
        clips += [Clip(f"{domain}-{index:02}", domain, *part) for index, part in enumerate(parts)]
    spoken = [clip for clip in clips if clip.domain == SPEECH] if any(by_domain.get(SPEECH, ())) else []
    return clips + [_at_speed(clip, speed, sample_rate) for speed in SPEEDS for clip in spoken]


def held_out_notes(manifest: Path, split: str = "test") -> list[str]:
    """For each domain of a split, a sentence that says whether its speakers, or sources, are in other splits too.

    Raises an AudioError if the manifest can't be read.
    """
    splits = manifests.read(manifest)
    others = {_origin(one) for name, sounds in splits.items() if name != split for one in sounds}
    notes = []
    for domain in sorted({one.domain for one in splits.get(split, [])}):
        origins = {_origin(one) for one in splits[split] if one.domain == domain}
        kind = "speakers" if any(kind == "speaker" for kind, _ in origins) else "sources"
        if ("", "") in origins:
            notes.append(f"{domain}: the manifest names no {kind}, so that they may be in other splits too.")
        elif met := origins & others:
            notes.append(f"{domain}: {len(met)} of {len(origins)} {kind} are in other splits too.")
        else:
            count = f"1 {kind[:-1]}" if len(origins) == 1 else f"{len(origins)} {kind}"
            notes.append(f"{domain}: {count}, none of which is in another split.")
    return notes


def _origin(sound: Sound) -> tuple[str, str]:
    """Kind and name of where a sound is from; both "" if the manifest names none."""
    if sound.speaker:
        return "speaker", sound.speaker
    return ("source", sound.source) if sound.source else ("", "")


def _at_speed(clip: Clip, speed: float, sample_rate: int) -> Clip:
    waveform = audio.resample(clip.waveform, round(speed * sample_rate), sample_rate)
    return Clip(f"{clip.name}-x{speed:g}", SPEECH_HIGH, waveform, clip.sources)


def _cut(
    files: list[Path], folder: Path, sample_rate: int, wanted: int, length: int
) -> Iterator[tuple[Audio, tuple[str, ...]]]:
    """Cut clips of `length` samples from the joined files. Yields the waveform and the sources of each."""
    sounds = []
    for file in files:
        waveform, rate = audio.read(file)
        sounds.append(audio.resample(waveform.mean(0, keepdims=True), rate, sample_rate)[0])
    names = [(file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix() for file in files]
    joined = np.concatenate(sounds * 2)  # twice, so that a clip can begin with any of the files
    ends = np.cumsum([len(sound) for sound in sounds * 2])
    starts, n_samples = np.append(0, ends[:-1]), len(joined) // 2
    if n_samples >= wanted * length:
        chosen = np.linspace(0, n_samples - length, wanted).astype(int)
    else:
        chosen = starts[: len(sounds)][:wanted]
    for start in chosen:
        clip = np.resize(joined[start : start + length], length)
        overlaps = np.minimum(start + length, ends) - np.maximum(start, starts)
        parts: Counter[str] = Counter()
        for index in np.flatnonzero(overlaps > 0):
            parts[names[index % len(names)]] += overlaps[index]
        yield clip[None], tuple(name for name, _ in parts.most_common())
