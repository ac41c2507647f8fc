"""A model's quality on held-out sounds of a data set, domain by domain, beside what it has to beat."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dac_codec import audio as sound
from dac_codec.codec import DacFile, compress, decompress
from dac_codec.errors import AudioError
from dac_codec.evaluation import baselines, metrics
from dac_codec.model import DAC


@dataclass(frozen=True)
class Clip:
    """A mono excerpt [1, T] of a held-out sound, or of several joined."""

    name: str
    domain: str
    waveform: np.ndarray


@dataclass(frozen=True)
class Row:
    """How one way to code one clip fares; `kbps` counts every byte of the file, its headers included."""

    clip: str
    domain: str
    coder: str
    mel_distance: float
    stft_distance: float
    si_sdr: float
    stoi: float
    kbps: float


def held_out_clips(
    manifest: Path, sample_rate: int, per_domain: int = 18, seconds: float = 5.0, split: str = "test"
) -> list[Clip]:
    """Clips of one length from a split of a data set, the same on every machine.

    Files that are shorter than a clip are joined with the ones after them in the manifest; a longer one gives several
    clips, evenly spread. A domain with less sound than asked for gives as many clips as it has files to begin with.

    Raises:
        AudioError: the manifest or one of its files can't be read.
    """
    try:
        with manifest.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
    except (OSError, KeyError) as error:
        raise AudioError(f"{manifest} is not a manifest ({error!r})") from error
    if not rows:
        raise AudioError(f"{manifest} has no files in its {split} split")
    by_domain = defaultdict(list)
    for row in rows:
        by_domain[row["domain"]].append(manifest.parent / row["path"])
    length = int(seconds * sample_rate)
    return [
        clip
        for domain, files in sorted(by_domain.items())
        for clip in _domain_clips(domain, files, sample_rate, per_domain, length)
    ]


def _domain_clips(domain: str, files: list[Path], sample_rate: int, wanted: int, length: int) -> Iterator[Clip]:
    sounds = []
    for file in files:
        waveform, rate = sound.read(file)
        sounds.append(sound.resample(waveform.mean(0, keepdims=True), rate, sample_rate)[0])
    starts = np.cumsum([0] + [len(one) for one in sounds])
    # Round the end, so that a clip can begin with any of the files.
    joined = np.concatenate([*sounds, *sounds])
    if starts[-1] >= wanted * length:
        chosen = np.linspace(0, starts[-1] - length, wanted).astype(int)
    else:
        chosen = starts[:-1][:wanted]
    for index, start in enumerate(chosen):
        clip = np.resize(joined[start:], length) if len(joined) - start < length else joined[start : start + length]
        yield Clip(f"{domain}-{index:02}", domain, clip[None].astype(np.float32))


def evaluate(model: DAC, clips: list[Clip], seed: int = 0) -> Iterator[tuple[Row, np.ndarray]]:
    """Code every clip through the file format with all codebooks and with one, and measure; beside the baselines.

    Yields:
        A row, and what was decoded [1, T].
    """
    random = np.random.default_rng(seed)
    rate = model.sample_rate
    for clip in tqdm(clips, desc="evaluating", disable=None):
        seconds = clip.waveform.shape[-1] / rate
        outputs = {"silence": (baselines.silence(clip.waveform), 0.0)}
        outputs["noise"] = (baselines.noise(clip.waveform, rate, random), 0.0)
        for name, n_quantizers in (("1 codebook", 1), ("all codebooks", model.n_codebooks)):
            data = compress((clip.waveform, rate), model, n_quantizers, device=model.device).to_bytes()
            decoded, _ = decompress(DacFile.from_bytes(data), model, device=model.device)
            outputs[name] = (decoded.numpy(), len(data) * 8 / seconds / 1000)
        for coder, (decoded_clip, kbps) in outputs.items():
            quality = metrics.quality(decoded_clip, clip.waveform, rate)
            intelligible = metrics.stoi(decoded_clip, clip.waveform, rate) if clip.domain == "speech" else float("nan")
            yield Row(clip.name, clip.domain, coder, *quality, intelligible, kbps), decoded_clip


def table(rows: list[Row]) -> str:
    """Means by domain and coder as a Markdown table."""
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.domain, row.coder].append(row)
        groups["all", row.coder].append(row)
    lines = [
        "| domain | clips | coder | kbit/s | mel distance | STFT distance | SI-SDR (dB) | STOI |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for (domain, coder), group in sorted(groups.items()):
        values = np.array(
            [[row.kbps, row.mel_distance, row.stft_distance, row.si_sdr, row.stoi] for row in group], np.float64
        )
        kbps, mel, stft, si_sdr, intelligible = values.mean(0)
        heard = f"{intelligible:.3f}" if domain == "speech" else ""
        lines.append(
            f"| {domain} | {len(group)} | {coder} | {kbps:.2f} | {mel:.3f} | {stft:.3f} | {si_sdr:.2f} | {heard} |"
        )
    return "\n".join(lines)
