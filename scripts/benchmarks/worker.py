"""The worker of compare.py: holds codecs and times single calls.

    python scripts/benchmarks/worker.py FOLDER DEVICE THREADS

A codec needs torch and its own package only, so that codecs with conflicting requirements run side by side, each in its
own environment. FOLDER holds `audio.pt`: the same audio [T] at every sample rate that a codec needs.
"""

from __future__ import annotations

import functools
import platform
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from processes import serve
from torch import Tensor

OURS: dict[str, dict[str, Any]] = {
    "exact": {"exact": True},
    "float32": {"dtype": "float32"},
    "default": {},
    "compiled": {"compile": True},
    "bfloat16": {"dtype": "bfloat16"},
}
"""The settings of `dac_codec.prepare`, by mode."""

SNAC: dict[str, dict[str, Any]] = {
    "snac-24khz": {
        "sampling_rate": 24000,
        "encoder_dim": 48,
        "encoder_rates": [2, 4, 8, 8],
        "decoder_dim": 1024,
        "decoder_rates": [8, 8, 4, 2],
        "attn_window_size": None,
        "vq_strides": [4, 2, 1],
    },
    "snac-44khz": {"encoder_rates": [2, 3, 8, 8], "decoder_rates": [8, 8, 3, 2]},
}
"""Settings of the two published networks (19.8 and 54.5 million parameters, 0.98 and 2.6 kbit/s)."""


class Codec(NamedTuple):
    """A codec.

    Attributes:
        sample_rate: of its audio, in Hz.
        arithmetic: the type of the products in its convolutions: "float32", "tf32" or "bfloat16".
        encode: from audio [B, 1, T] to codes, in a form of its own.
        decode: from these codes to audio [B, 1, T].
    """

    sample_rate: int
    arithmetic: str
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]


def single_precision(device: str) -> str:
    """Return the default arithmetic of convolutions of float32 tensors."""
    return "tf32" if device == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"


def dac_codec(mode: str, network: str, device: str) -> Codec:
    """Ours, from a folder: "plain" is the model as it is trained, the other modes are prepared."""
    model: Any = import_module("dac_codec.model").DAC.from_pretrained(network, device)
    arithmetic = single_precision(device)
    if mode != "plain":
        model = import_module("dac_codec").prepare(model, device, **OURS[mode])
        arithmetic = "bfloat16" if model.dtype == torch.bfloat16 else "float32" if mode == "exact" else arithmetic
    return Codec(
        model.sample_rate,
        arithmetic,
        lambda audio: model.encode(audio).codes,
        lambda codes: model.decode_codes(codes),
    )


def reference(network: str, device: str) -> Codec:
    """descript-audio-codec, from a file in the format of its published weights."""
    content = torch.load(network, weights_only=True)
    model = import_module("dac").DAC(**content["metadata"]["kwargs"])
    model.load_state_dict(content["state_dict"])
    model.to(device).eval()
    return Codec(
        model.sample_rate,
        single_precision(device),
        lambda audio: model.encode(model.preprocess(audio, None))[1],
        lambda codes: model.decode(model.quantizer.from_codes(codes)[0]),
    )


def transformers(network: str, device: str) -> Codec:
    """DacModel of transformers with random weights, in the configuration of a file for the reference."""
    kwargs = torch.load(network, weights_only=True)["metadata"]["kwargs"]
    if list(kwargs["decoder_rates"]) != list(kwargs["encoder_rates"])[::-1]:
        raise ValueError("the decoder rates of DacModel must be the reversed encoder rates")
    library = import_module("transformers")
    config = library.DacConfig(
        encoder_hidden_size=kwargs["encoder_dim"],
        downsampling_ratios=list(kwargs["encoder_rates"]),
        decoder_hidden_size=kwargs["decoder_dim"],
        n_codebooks=kwargs["n_codebooks"],
        codebook_size=kwargs["codebook_size"],
        codebook_dim=kwargs["codebook_dim"],
        sampling_rate=kwargs["sample_rate"],
    )
    config.hidden_size = kwargs["latent_dim"]
    model = library.DacModel(config).to(device).eval()
    hop = config.hop_length
    return Codec(
        config.sampling_rate,
        single_precision(device),
        lambda audio: model.encode(torch.nn.functional.pad(audio, (0, -audio.shape[-1] % hop))).audio_codes,
        lambda codes: model.decode(audio_codes=codes).audio_values[:, None],
    )


def encodec(device: str) -> Codec:
    """EnCodec 24 kHz at 6 kbit/s, the bitrate closest to that of our models."""
    model = import_module("encodec").EncodecModel.encodec_model_24khz(pretrained=False)
    model.set_target_bandwidth(6.0)
    model.to(device).eval()
    return Codec(model.sample_rate, single_precision(device), model.encode, model.decode)


def snac(name: str, device: str) -> Codec:
    """SNAC at 24 or 44.1 kHz."""
    model = import_module("snac").SNAC(**SNAC[name]).to(device).eval()
    return Codec(model.sampling_rate, single_precision(device), model.encode, model.decode)


def build(name: str, network: str | None, device: str) -> Codec:
    """Return a codec by name; `network` is the folder or file of its weights, for codecs that take one."""
    if name == "encodec":
        return encodec(device)
    if name in SNAC:
        return snac(name, device)
    assert network is not None
    if name == "descript-audio-codec":
        return reference(network, device)
    if name == "transformers":
        return transformers(network, device)
    return dac_codec(name, network, device)


class Worker:
    """Answers the requests of compare.py with its public methods.

    Args:
        folder: folder of `audio.pt`.
        device: "cpu" or "cuda".
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._device = device
        self._sounds: dict[int, Tensor] = torch.load(folder / "audio.pt", weights_only=True)
        self._codecs: dict[str, Codec] = {}
        self._inputs: dict[tuple[str, int], tuple[Tensor, Any]] = {}

    def describe(self) -> dict[str, Any]:
        """Return the versions and the device of this process."""
        device = torch.cuda.get_device_name() if self._device == "cuda" else "cpu"
        return {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "device": device,
            "threads": torch.get_num_threads(),
        }

    def prepare(self, row: str, codec: str, network: str | None, batches: list[int]) -> dict[str, Any]:
        """Build a codec, remember it as `row`, and run it once with each batch size.

        The items of a batch are the audio, each rotated by another offset.
        """
        # Random weights are the same in each run.
        torch.manual_seed(0)
        ready = build(codec, network, self._device)
        sound = self._sounds[ready.sample_rate]
        for batch in batches:
            audio = torch.stack([sound.roll(-index * len(sound) // batch) for index in range(batch)])[:, None]
            audio = audio.to(self._device)
            codes = ready.encode(audio)
            ready.decode(codes)
            self._inputs[row, batch] = audio, codes
        self._codecs[row] = ready
        return {"arithmetic": ready.arithmetic, "sample_rate": ready.sample_rate}

    def time(self, row: str, operation: str, batch: int) -> float:
        """Return the seconds of one call."""
        codec, (audio, codes) = self._codecs[row], self._inputs[row, batch]
        return self._seconds((lambda: codec.encode(audio)) if operation == "encode" else (lambda: codec.decode(codes)))

    def multiply(self, arithmetic: str) -> float:
        """Return the seconds per floating-point operation of the fastest of five products of square matrices."""
        size = 8192 if self._device == "cuda" else 2048
        one = _matrix(size, self._device, torch.bfloat16 if arithmetic == "bfloat16" else torch.float32)
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = arithmetic == "tf32"
        try:
            seconds = min(self._seconds(lambda: one @ one) for _ in range(5))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
        return seconds / (2.0 * size**3)

    def outputs(self, row: str, batch: int, codes: str | None, target: str) -> None:
        """Write the codes of a codec, their audio, and, if `codes` is given, the audio of the codes in that file.

        Without `codes` it is the reference of the comparison, and computes in float32 even where TF32 is the default.
        """
        codec, (audio, _) = self._codecs[row], self._inputs[row, batch]
        with cudnn_flags(allow_tf32=codes is not None and torch.backends.cudnn.allow_tf32):
            own = codec.encode(audio)
            found = {"codes": own, "audio": codec.decode(own)}
        if codes is not None:
            given: Tensor = torch.load(codes, weights_only=True)["codes"]
            found["audio of given codes"] = codec.decode(given.to(self._device))
        torch.save({name: (value.float() if name != "codes" else value).cpu() for name, value in found.items()}, target)

    def _seconds(self, call: Callable[[], object]) -> float:
        self._wait()
        started = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


@functools.cache
def _matrix(size: int, device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def cudnn_flags(allow_tf32: bool) -> AbstractContextManager[None]:
    """Set TensorFloat-32 and keep the other flags of cuDNN, which `cudnn.flags` would reset."""
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[None] = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=allow_tf32,
    )
    return flags


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    with torch.inference_mode():
        serve(Worker(Path(sys.argv[1]), sys.argv[2]))
