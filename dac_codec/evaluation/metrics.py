"""Measures of decoded audio against the original, from arrays [C, T].

A measure raises a DacError if its package is not installed, a ModuleNotFoundError if that is librosa.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.common import spectral
from dac_codec.common.errors import DacError

SPEECH = "speech"
"""The domain of measures that are made for speech."""

SPEECH_HIGH = "speech-high"
"""The domain of speech at other speeds, which has the same measures."""

METRICS_VERSION = 7
"""Increased with every change of a metric's or our codec's values, so that no cached result of before is used."""

SI_SDR_LIMIT = 100.0
"""Limit of |SI-SDR| in dB, the resolution of float32, which keeps means finite."""

VISQOL_WORST = 1.0
"""The lower end of ViSQOL's scale, mean opinion scores: for silence, where ViSQOL and PESQ are undefined. Leaving it
out would raise the mean of a codec that loses hard clips."""

PESQ_WORST = 0.999 + 4 / (1 + math.exp(1.3669 * 0.5 + 3.8224))
"""The lower end of PESQ-WB's scale, 1.04: the lowest raw score, -0.5, mapped as in ITU-T P.862.2."""

_VISQOL_SECONDS = 0.08 + 44 * 0.02  # 45 windows of 80 ms with a hop of 20 ms, one patch of ViSQOL
_STOI_SAMPLES = 256 + 29 * 128  # at 10 kHz: 30 frames of 256 samples with a hop of 128, one segment of STOI


def mel_distance(decoded: Audio, original: Audio, sample_rate: int) -> float:
    """Distance of log-mel spectrograms, as the reference's evaluation reports it; 0 for identical signals."""
    estimate, reference = _tensors(decoded, original)
    return float(_mel(sample_rate)(spectral.Spectra(estimate), spectral.Spectra(reference)))


def stft_distance(decoded: Audio, original: Audio, sample_rate: int) -> float:
    """Distance of spectrograms, as the reference's evaluation reports it; 0 for identical signals."""
    estimate, reference = _tensors(decoded, original)
    return float(spectral.multi_scale_stft(spectral.Spectra(estimate), spectral.Spectra(reference)))


def waveform_l1(decoded: Audio, original: Audio, sample_rate: int) -> float:
    """Mean absolute difference of the samples; 0 for identical signals."""
    return float(np.abs(decoded - original).mean())


def log_spectral_distance(decoded: Audio, original: Audio, sample_rate: int) -> float:
    """Root mean square over frequency of the difference of log power spectra in dB, averaged over frames.

    Windows of 2048 samples, hop 512; magnitudes below 1e-5 count as 1e-5, so that silent bins do not dominate.

    Source: Gray & Markel, "Distance measures for speech processing" (1976).
    """
    one, other = (
        20 * spectral.Spectra(signal).magnitude(2048).clamp(min=1e-5).log10() for signal in _tensors(decoded, original)
    )
    return float((one - other).square().mean(-2).sqrt().mean())


def si_sdr(decoded: Audio, original: Audio, sample_rate: int) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, within +-`SI_SDR_LIMIT`; -`SI_SDR_LIMIT` for silence.

    NaN if the original is silent.
    """
    if not _varies(original):
        return math.nan
    if not _varies(decoded):
        return -SI_SDR_LIMIT
    estimate, reference = _tensors(decoded, original)
    ratio = float(spectral.si_sdr(estimate, reference).mean())
    return min(max(ratio, -SI_SDR_LIMIT), SI_SDR_LIMIT)


def visqol(decoded: Audio, original: Audio, sample_rate: int) -> float:
    """ViSQOL v3 in audio mode of a clip [1, T], mean opinion score 1 to 4.73, at 48 kHz.

    NaN if the original is silent or shorter than 0.96 s; `VISQOL_WORST` for a silent decoded clip.

    Source: Chinen et al., "ViSQOL v3: An Open Source Production Ready Objective Speech and Audio Metric" (2020), by the
    package visqol-python, which passes the conformance tests of google/visqol.
    """
    return _visqol("audio", 48000, decoded, original, sample_rate)


def visqol_speech(decoded: Audio, original: Audio, sample_rate: int) -> float:
    """ViSQOL v3 in speech mode of a clip [1, T], mean opinion score 1 to 5, at 16 kHz, as `visqol` otherwise.

    The similarity is mapped to a score by the polynomial, not by the lattice network, which needs one more package.
    """
    return _visqol("speech", 16000, decoded, original, sample_rate)


def _visqol(mode: str, rate: int, decoded: Audio, original: Audio, sample_rate: int) -> float:
    scorer = _visqol_scorer(mode)
    if not _varies(original):
        return math.nan
    reference, estimate = (audio.resample(one, sample_rate, rate)[0].astype(np.float64) for one in (original, decoded))
    if len(reference) < _VISQOL_SECONDS * rate:
        return math.nan
    if not _varies(decoded):
        return VISQOL_WORST
    with suppress(ValueError):  # too short
        return float(scorer.measure_from_arrays(reference, estimate, rate).moslqo)
    return math.nan


def pesq(decoded: Audio, original: Audio, sample_rate: int) -> float:
    """Wide-band PESQ of speech [1, T], mean opinion score 1.04 to 4.64, at 16 kHz.

    NaN if the original has no utterance or less than a quarter of a second; `PESQ_WORST` for a silent decoded clip.

    Source: ITU-T P.862.2 (2007), by the package pesq.
    """
    package = _imported("pesq", "pesq")
    if not _varies(original):
        return math.nan
    silent = not _varies(decoded)
    # PESQ rejects silence; a copy in its place shows whether the original is speech and long enough.
    reference, estimate = (
        audio.resample(one, sample_rate, 16000)[0] for one in (original, original if silent else decoded)
    )
    try:
        score = float(package.pesq(16000, reference, estimate, "wb"))
    except package.PesqError:
        return math.nan
    return PESQ_WORST if silent else score


def stoi(decoded: np.ndarray, original: np.ndarray, sample_rate: int) -> float:
    """Short-time objective intelligibility of speech [1, T], 0 to 1, at 10 kHz; 0 for a silent decoded clip.

    NaN if fewer than 30 frames (0.4 s) of the original are not silent.

    Source: Taal et al. (2011), by the package pystoi.
    """
    pystoi = _imported("pystoi", "pystoi")
    if not _varies(original):
        return math.nan
    signals = [audio.resample(one, sample_rate, 10000)[0] for one in (original, decoded)]
    if len(signals[0]) < _STOI_SAMPLES:
        return math.nan
    with warnings.catch_warnings(), suppress(RuntimeWarning):
        warnings.filterwarnings("error", message="Not enough STFT frames")
        return float(pystoi.stoi(*signals, 10000))
    return math.nan


def codebook_use(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropy of the codes of each codebook in bits [N], and the share of its entries that were used at all [N].

    `counts` are how often each entry was used [N, codebook_size]. Entropy over bits spent is the paper's bitrate
    efficiency (section 4.4).
    """
    odds = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    bits = 0.0 - (odds * np.log2(np.where(odds > 0, odds, 1.0))).sum(1)  # 0, not -0, for a single entry
    return bits, (counts > 0).mean(1)


@dataclass(frozen=True)
class Metric:
    """A measure of a clip.

    Attributes:
        name: identifier in tables and files.
        label: name for people.
        unit: of its values; "" if it has none.
        higher_is_better: its direction.
        source: where it is defined.
        measure: (decoded [1, T], original [1, T], sample rate) -> value; NaN if undefined.
        domain: the only domain that it is measured in, for speech at all speeds; None: all.
        package: package that it needs beyond the base install; None: none.
    """

    name: str
    label: str
    unit: str
    higher_is_better: bool
    source: str
    measure: Callable[[Audio, Audio, int], float]
    domain: str | None = None
    package: str | None = None

    def applies_to(self, domain: str) -> bool:
        """Whether it is measured in a domain."""
        return self.domain in (None, SPEECH if domain == SPEECH_HIGH else domain)

    @property
    def fingerprint(self) -> str:
        """Changes when the measure's values may change."""
        return self.name if self.package is None else f"{self.name} {self.package} {version(self.package)}"


_REFERENCE = "descript-audio-codec, scripts/evaluate.py"
_VISQOL = "visqol-python"

METRICS = (
    Metric("mel_distance", "mel distance", "", False, _REFERENCE, mel_distance, package="librosa"),
    Metric("stft_distance", "STFT distance", "", False, _REFERENCE, stft_distance),
    Metric("log_spectral_distance", "log-spectral distance", "dB", False, "Gray & Markel 1976", log_spectral_distance),
    Metric("waveform_l1", "waveform L1", "", False, "mean absolute difference", waveform_l1),
    Metric("si_sdr", "SI-SDR", "dB", True, "Le Roux et al. 2019", si_sdr),
    Metric("visqol", "ViSQOL, audio mode", "MOS", True, "Chinen et al. 2020", visqol, package=_VISQOL),
    Metric("visqol_speech", "ViSQOL, speech mode", "MOS", True, "Chinen et al. 2020", visqol_speech, SPEECH, _VISQOL),
    Metric("pesq", "PESQ-WB", "MOS", True, "ITU-T P.862.2", pesq, SPEECH, "pesq"),
    Metric("stoi", "STOI", "", True, "Taal et al. 2011", stoi, SPEECH, "pystoi"),
)


def usable_metrics() -> tuple[list[Metric], list[str]]:
    """The metrics whose packages are installed, and a line for each of the others."""
    usable, missing = [], []
    for metric in METRICS:
        try:
            if metric.package is not None:
                version(metric.package)
        except PackageNotFoundError:
            missing.append(f"{metric.label} is left out, it needs {metric.package}: pip install 'dac_codec[evaluate]'")
        else:
            usable.append(metric)
    return usable, missing


def _tensors(*signals: np.ndarray) -> tuple[torch.Tensor, ...]:
    """[C, T] -> [C, 1, T]: each channel is measured separately."""
    return tuple(torch.from_numpy(np.ascontiguousarray(one))[:, None] for one in signals)


def _varies(signal: Audio) -> bool:
    return bool(np.ptp(signal) > 0)


def _imported(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise DacError(f"this measure needs {package}: pip install 'dac_codec[evaluate]'") from error


_mel = lru_cache(maxsize=4)(spectral.mel_distance)


@lru_cache(maxsize=2)
def _visqol_scorer(mode: str) -> Any:
    scorer = _imported("visqol", _VISQOL).VisqolApi()
    scorer.create(mode=mode, use_lattice_model=False)
    return scorer
