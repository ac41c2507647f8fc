"""EnCodec and SNAC, by their authors' packages, if their weights are on disk: nothing is downloaded here."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dac_codec import audio
from dac_codec.audio import Audio
from dac_codec.evaluation.codecs.interface import Codec, Coded, MissingCodecError, Setting, computed_by, nearest, timed

_ENCODEC_FILES = {24: "encodec_24khz-d7cc33bc.th", 48: "encodec_48khz-7e698e3e.th"}
_SNAC_REPOSITORY = "hubertsiuzdak/snac_44khz"


@dataclass(frozen=True)
class Encodec(Codec):
    """EnCodec (Défossez et al., 2022) without its entropy coder: 24 kHz (mono), or 48 kHz (two equal channels)."""

    khz: int

    @property
    def about(self) -> str:
        return f"encodec {version('encodec')}, the {self.khz} kHz model"

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {_ENCODEC_FILES[self.khz]} {computed_by('cpu')}"

    def check(self) -> None:
        weights = Path(torch.hub.get_dir(), "checkpoints", _ENCODEC_FILES[self.khz])
        _check("encodec", weights.exists(), "EncodecModel", f"encodec_model_{self.khz}khz()")

    def settings(self, bitrates: Sequence[float]) -> list[Setting]:
        possible = _encodec(self.khz).target_bandwidths
        return [Setting(f"{possible[i]:g} kbit/s", possible[i]) for i in nearest(bitrates, possible)]

    @torch.no_grad()
    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        from encodec.compress import compress

        model = _encodec(self.khz)
        model.set_target_bandwidth(setting.value)
        resampled = audio.resample(clip, sample_rate, model.sample_rate)
        waveform = torch.from_numpy(np.repeat(resampled, model.channels, 0))
        frames, encode_seconds = timed(lambda: model.encode(waveform[None]))
        (decoded,), decode_seconds = timed(lambda: model.decode(frames))
        codes = torch.cat([codes for codes, _ in frames], -1)[0]
        return Coded(
            decoded=_like_clip(decoded, model.sample_rate, clip, sample_rate),
            n_bytes=len(compress(model, waveform, use_lm=False)),
            payload_bytes=codes.numel() * math.log2(model.quantizer.bins) / 8,
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
            codes=codes.numpy(),
            codebook_size=model.quantizer.bins,
        )


@dataclass(frozen=True)
class Snac(Codec):
    """SNAC (Siuzdak et al., 2024), the 44 kHz model. It has no file format: its size is that of its codes."""

    @property
    def about(self) -> str:
        return f"snac {version('snac')}, {_SNAC_REPOSITORY}; no file format, only the bits of the codes count"

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {_snac_folder()} {computed_by('cpu')}"

    def check(self) -> None:
        _check("snac", _snac_folder() is not None, "SNAC", f'from_pretrained("{_SNAC_REPOSITORY}")')

    @torch.no_grad()
    def code(self, clip: Audio, sample_rate: int, setting: Setting) -> Coded:
        model = _snac()
        waveform = torch.from_numpy(audio.resample(clip, sample_rate, model.sampling_rate))[None]
        codes, encode_seconds = timed(lambda: model.encode(waveform))
        with torch.random.fork_rng(devices=[]):  # the decoder adds noise
            torch.manual_seed(0)
            (decoded,), decode_seconds = timed(lambda: model.decode(codes))
        bits = sum(one.numel() for one in codes) * math.log2(model.codebook_size)
        return Coded(
            decoded=_like_clip(decoded, model.sampling_rate, clip, sample_rate),
            n_bytes=math.ceil(bits / 8),
            payload_bytes=bits / 8,
            encode_seconds=encode_seconds,
            decode_seconds=decode_seconds,
        )


def _check(package: str, has_weights: bool, name: str, call: str) -> None:
    """Raise a MissingCodecError without the package, or without the weights, which `call` of class `name` downloads."""
    if find_spec(package) is None:
        raise MissingCodecError(f"the package {package} is not installed: pip install {package}")
    if not has_weights:
        script = f"from {package} import {name}; {name}.{call}"
        raise MissingCodecError(f"its weights are not downloaded: python -c '{script}' downloads them")


def _like_clip(decoded: torch.Tensor, rate: int, clip: Audio, sample_rate: int) -> Audio:
    return audio.resample(decoded.mean(0, keepdim=True).numpy(), rate, sample_rate, clip.shape[-1])


@lru_cache(maxsize=2)
def _encodec(khz: int) -> Any:
    from encodec.model import EncodecModel

    return EncodecModel.encodec_model_24khz() if khz == 24 else EncodecModel.encodec_model_48khz()


@lru_cache(maxsize=1)
def _snac() -> Any:
    from snac import SNAC

    return SNAC.from_pretrained(str(_snac_folder()))


def _snac_folder() -> Path | None:
    """The folder of SNAC's weights in the cache of the Hugging Face hub, if they are there."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    snapshots = home / "hub" / f"models--{_SNAC_REPOSITORY.replace('/', '--')}" / "snapshots"
    return next((file.parent for file in sorted(snapshots.glob("*/pytorch_model.bin"))), None)
