"""Measures of how far decoded audio is from the original; arrays [C, T] in, numbers out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from dac_codec import audio as sound
from dac_codec import spectral
from dac_codec.errors import DacError


class Quality(NamedTuple):
    """Distances of decoded audio from the original.

    Attributes:
        mel_distance: as the reference's evaluation reports it; 0 is identical.
        stft_distance: log and linear magnitudes at windows 2048 and 512; 0 is identical.
        si_sdr: scale-invariant signal-to-distortion ratio in dB, the mean of the channels; higher is better.
    """

    mel_distance: float
    stft_distance: float
    si_sdr: float


def quality(decoded: np.ndarray, original: np.ndarray, sample_rate: int) -> Quality:
    """Measure decoded audio [C, T] against the original [C, T]."""
    estimate, reference = (torch.from_numpy(np.ascontiguousarray(one))[:, None] for one in (decoded, original))
    spectra = spectral.Spectra(estimate), spectral.Spectra(reference)
    return Quality(
        float(spectral.mel_distance(sample_rate)(*spectra)),
        float(spectral.multi_scale_stft(*spectra)),
        float(spectral.si_sdr(estimate, reference).mean()),
    )


def stoi(decoded: np.ndarray, original: np.ndarray, sample_rate: int) -> float:
    """Short-time objective intelligibility of speech [1, T], 0 to 1 (Taal et al., 2011), by pystoi at 10 kHz.

    Raises:
        DacError: pystoi is not installed.
    """
    try:
        import pystoi
    except ImportError as error:
        raise DacError("STOI needs pystoi: pip install 'dac_codec[train]'") from error
    signals = [sound.resample(one, sample_rate, 10000)[0] for one in (original, decoded)]
    return float(pystoi.stoi(*signals, 10000))


def codebook_use(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How well codebooks are used, from how often each entry was chosen [N, codebook_size].

    Returns:
        Entropy of each codebook's choices in bits [N], at most log2(codebook_size), and the share of its entries that
        were chosen at all [N]. Entropy over bits spent is the paper's bitrate efficiency (section 4.4).
    """
    odds = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    bits = -(odds * np.log2(np.where(odds > 0, odds, 1.0))).sum(1)
    return bits, (counts > 0).mean(1)
