"""Losses against the reference's values and librosa's mel spectrograms; each spectrogram is computed once."""

from __future__ import annotations

from collections import Counter

import librosa
import numpy as np
import pytest
import torch

from dac_codec.training.config import LossConfig
from dac_codec.training.losses import ReconstructionLosses, weighted_sum
from tests.conftest import GOLDEN

golden = np.load(GOLDEN / "discriminator_and_losses.npz")
real, fake = torch.from_numpy(golden["real"]), torch.from_numpy(golden["fake"])


def test_golden_values() -> None:
    losses = ReconstructionLosses(LossConfig(stft=1.0, waveform=1.0, si_sdr=1.0), 44100)(fake, real)
    expected = {"mel": "mel_loss", "stft": "stft_loss", "waveform": "waveform_l1", "si_sdr": "sisdr_loss"}
    assert losses.keys() == expected.keys()
    others = LossConfig(mel=0.0, envelope=1.0, compressed=1.0)
    assert ReconstructionLosses(others, 44100)(fake, real).keys() == {"envelope", "compressed"}
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(float(golden[expected[name]]), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Empty filters")  # of scales with more mel bands than bins
def test_the_mel_loss_of_librosas_spectrograms() -> None:
    config = LossConfig()
    expected = 0.0
    for n_mels, window in zip(config.mel_bands, config.mel_windows, strict=True):
        mels = librosa.feature.melspectrogram(
            y=torch.stack([fake, real]).numpy(),
            sr=44100,
            n_fft=window,
            hop_length=window // 4,
            n_mels=n_mels,
            power=1.0,
            pad_mode="reflect",
        )
        expected += np.abs(np.diff(np.log10(np.maximum(mels, 1e-5)), axis=0)).mean()
    assert float(ReconstructionLosses(config, 44100)(fake, real)["mel"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("centred", [False, True])
def test_a_constant_offset_counts_unless_the_signals_are_centred(centred: bool) -> None:
    losses = ReconstructionLosses(LossConfig(stft=1.0, centred=centred), 44100)
    shifted = (fake + 0.01).requires_grad_()
    plain, moved = losses(fake, real), losses(shifted, real)
    sum(moved.values()).backward()  # type: ignore[union-attr]
    assert shifted.grad is not None
    pull = float(shifted.grad.sum(-1).abs().max() / shifted.grad.abs().sum(-1).max())
    if centred:
        assert pull < 1e-4
        assert all(float(moved[name].detach()) == pytest.approx(float(plain[name]), rel=1e-4) for name in plain)
    else:
        assert pull > 1e-3
        assert all(float(moved[name].detach()) > float(plain[name]) + 1e-3 for name in plain)


def test_losses_without_a_weight_are_not_computed() -> None:
    assert ReconstructionLosses(LossConfig(), 44100)(fake, real).keys() == {"mel"}


def test_a_spectrogram_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = []
    stft = torch.stft
    monkeypatch.setattr(torch, "stft", lambda *args, **options: windows.append(args[1]) or stft(*args, **options))
    ReconstructionLosses(LossConfig(stft=1.0, si_sdr=1.0, waveform=1.0), 44100)(fake, real)
    assert Counter(windows) == dict.fromkeys((32, 64, 128, 256, 512, 1024, 2048), 2)


def test_the_sum_is_weighted() -> None:
    losses = {"mel": torch.tensor(2.0), "codebook": torch.tensor(3.0)}
    assert float(weighted_sum(losses, LossConfig(mel=10.0, codebook=0.5))) == 21.5
