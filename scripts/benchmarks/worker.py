"""A process of scripts/benchmarks/compare.py that holds codecs and times them one call at a time.

    python scripts/benchmarks/worker.py FOLDER DEVICE THREADS

A request is a JSON object on a line of standard input; its answer is one on standard output. What is asked of a codec
needs torch and that codec, nothing else, so that codecs whose requirements clash run side by side, each in its own
environment. FOLDER holds `audio.pt`: the same sound [T] at every rate that a codec needs.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]

OURS: dict[str, dict[str, Any]] = {
    "exact": {"exact": True},
    "float32": {"dtype": "float32"},
    "default": {},
    "compiled": {"compile": True},
    "bfloat16": {"dtype": "bfloat16"},
}
"""The settings of `dac_codec.inference.prepare`, by the name of a mode."""

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
"""What the two published networks have other than the package's defaults.

They have the 19.8 and 54.5 million parameters, and the 0.98 and 2.6 kbit/s, that the package's README gives them.
"""

# What an operation, or a kernel of a GPU, is by its name in torch's profile; the first that fits.
_KINDS = (
    ("convolutions", re.compile("conv|mm|gemm|linear")),
    ("activations", re.compile("snake|sin|pow|reciprocal|mul|add|tanh|relu|fused|_forward_kernel")),
)
"""`_forward_kernel` is that of `dac_codec.model.snake_triton`."""


class Codec(NamedTuple):
    """A codec that is ready to be used.

    Attributes:
        sample_rate: of its audio, in Hz.
        arithmetic: the type that its convolutions multiply in: "float32", "tf32" or "bfloat16".
        encode: audio [B, 1, T] to codes, of whichever form.
        decode: those codes to audio [B, 1, T].
        quantizer: what looks codes up and latents up again; None where nobody asks what it costs.
    """

    sample_rate: int
    arithmetic: str
    encode: Callable[[Tensor], Any]
    decode: Callable[[Any], Tensor]
    quantizer: Any = None


def single_precision(device: str) -> str:
    """What convolutions of float32 tensors multiply in where nobody says otherwise."""
    return "tf32" if device == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"


def dac_codec(mode: str, network: str, device: str) -> Codec:
    """Ours, from a folder: "plain" is the network as it is trained, anything else goes through the engine."""
    model: Any = import_module("dac_codec.model").DAC.from_pretrained(network, device)
    arithmetic = single_precision(device)
    if mode != "plain":
        model = import_module("dac_codec.inference").prepare(model, device, **OURS[mode])
        arithmetic = "bfloat16" if model.dtype == torch.bfloat16 else "float32" if mode == "exact" else arithmetic
    return Codec(
        model.sample_rate,
        arithmetic,
        lambda audio: model.encode(audio).codes,
        lambda codes: model.decode_codes(codes),
        getattr(model, "folded_quantizer", model.quantizer),
    )


def reference(network: str, device: str) -> Codec:
    """descript-audio-codec, from a file in the layout of its published weights."""
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
    """DacModel of transformers with random weights, in the shape that a file for the reference says."""
    kwargs = torch.load(network, weights_only=True)["metadata"]["kwargs"]
    if list(kwargs["decoder_rates"]) != list(kwargs["encoder_rates"])[::-1]:
        raise ValueError("DacModel has no network whose decoder's rates aren't the encoder's reversed")
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
    """EnCodec 24 kHz at 6 kbit/s, of its bitrates the one nearest to that of our networks."""
    model = import_module("encodec").EncodecModel.encodec_model_24khz(pretrained=False)
    model.set_target_bandwidth(6.0)
    model.to(device).eval()
    return Codec(model.sample_rate, single_precision(device), model.encode, model.decode)


def snac(name: str, device: str) -> Codec:
    """SNAC, at 24 or at 44.1 kHz."""
    model = import_module("snac").SNAC(**SNAC[name]).to(device).eval()
    return Codec(model.sampling_rate, single_precision(device), model.encode, model.decode)


def build(name: str, network: str | None, device: str) -> Codec:
    """A codec by its name; `network` is the folder or file of a network that can be chosen."""
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
    """What a process knows between requests; every public method answers one kind of request.

    Args:
        folder: where `audio.pt` is.
        device: "cpu" or "cuda".
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._device = device
        self._sounds: dict[int, Tensor] = torch.load(folder / "audio.pt", weights_only=True)
        self._codecs: dict[str, Codec] = {}
        self._inputs: dict[tuple[str, int], tuple[Tensor, Any]] = {}

    def describe(self) -> dict[str, Any]:
        """The environment."""
        device = torch.cuda.get_device_name() if self._device == "cuda" else "cpu"
        return {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "device": device,
            "threads": torch.get_num_threads(),
        }

    def prepare(self, row: str, codec: str, network: str | None, batches: list[int]) -> dict[str, Any]:
        """Make a codec ready under the name of a row, and run it once with each batch size.

        The items of a batch are the sound, each begun at another place.
        """
        # Codecs whose weights are random have the same ones in each run.
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

    def time(self, row: str, operation: str, batch: int) -> dict[str, float]:
        """Seconds that one call takes."""
        return {"seconds": self._seconds(self._call(row, operation, batch))}

    def multiply(self, arithmetic: str) -> dict[str, float]:
        """Seconds that the quickest of five products of two square matrices takes, and the operations of one."""
        size = 8192 if self._device == "cuda" else 2048
        one = _matrix(size, self._device, torch.bfloat16 if arithmetic == "bfloat16" else torch.float32)
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = arithmetic == "tf32"
        try:
            seconds = min(self._seconds(lambda: one @ one) for _ in range(5))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
        return {"seconds": seconds, "operations": 2.0 * size**3}

    def outputs(self, row: str, batch: int, codes: str | None, target: str) -> dict[str, Any]:
        """Write what a codec makes of the sound: its codes, their audio, and the audio of the codes in a file.

        Without that file it is the measure of the others, and computes in float32 whatever the device likes better.
        """
        codec, (audio, _) = self._codecs[row], self._inputs[row, batch]
        with cudnn_flags(allow_tf32=codes is not None and torch.backends.cudnn.allow_tf32):
            own = codec.encode(audio)
            found = {"codes": own, "audio": codec.decode(own)}
        if codes is not None:
            given: Tensor = torch.load(codes, weights_only=True)["codes"]
            found["audio of given codes"] = codec.decode(given.to(self._device))
        torch.save({name: (value.float() if name != "codes" else value).cpu() for name, value in found.items()}, target)
        return {}

    def profile(self, row: str, operation: str, batch: int) -> dict[str, float]:
        """Seconds that one call spends on each kind of work.

        "quantizer" is all that happens inside of it, its 1x1 convolutions included; "rest" is what no operation
        accounts for, and those that copy, pad and normalize.
        """
        quantizer, call = self._codecs[row].quantizer, self._call(row, operation, batch)
        cuda = self._device == "cuda"
        activities = [torch.profiler.ProfilerActivity.CPU]
        if cuda:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        # A network's own, and those of the engine's.
        methods = [name for name in ("forward", "from_codes", "encode", "decode") if hasattr(quantizer, name)]
        for name in methods:
            setattr(quantizer, name, _marked(getattr(quantizer, name)))
        try:
            with torch.profiler.profile(activities=activities) as profile:
                total = self._seconds(call)
        finally:
            for name in methods:
                delattr(quantizer, name)
        spent = _spent(profile.events(), cuda)
        found = {kind: spent[kind] for kind in ("convolutions", "activations", "quantizer")}
        return {**found, "rest": max(0.0, total - sum(found.values()))}

    def _call(self, row: str, operation: str, batch: int) -> Callable[[], object]:
        codec, (audio, codes) = self._codecs[row], self._inputs[row, batch]
        return (lambda: codec.encode(audio)) if operation == "encode" else (lambda: codec.decode(codes))

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


def _marked(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose calls a profile shows as "quantizer"."""

    def marked(*arguments: Any, **options: Any) -> Any:
        with torch.profiler.record_function("quantizer"):
            return method(*arguments, **options)

    return marked


def cudnn_flags(allow_tf32: bool) -> AbstractContextManager[None]:
    """cuDNN as it is, but for TensorFloat-32; what is not named to PyTorch's function, it turns off."""
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[None] = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=allow_tf32,
    )
    return flags


def _spent(events: Iterable[Any], cuda: bool) -> defaultdict[str, float]:
    """Seconds of a profile's events by their kind: of the processor, or of the GPU's kernels.

    A kernel is of the kind of the operation that launched it. What Triton launches, no operation did: that goes by its
    own name.
    """
    spent: defaultdict[str, float] = defaultdict(float)
    unclaimed: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type == DeviceType.CPU:
            spent[_kind(event)] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
            for kernel in event.kernels:
                unclaimed[kernel.name] -= kernel.duration / 1e6
        elif not getattr(event, "is_user_annotation", False) and event.name != "quantizer":
            unclaimed[event.name] += event.time_range.elapsed_us() / 1e6
    for name, seconds in unclaimed.items():
        spent[_kind_of(name)] += max(0.0, seconds)
    return spent


def _kind(event: Any) -> str:
    """What kind of work an operation of a profile is."""
    above = event
    while above is not None:
        if above.name == "quantizer":
            return "quantizer"
        above = above.cpu_parent
    return _kind_of(event.name)


def _kind_of(name: str) -> str:
    return next((kind for kind, pattern in _KINDS if pattern.search(name.lower())), "rest")


def answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    """What a request asks for, or {"error": a sentence} where that can't be had."""
    try:
        with torch.inference_mode():
            reply: dict[str, Any] = getattr(worker, request.pop("do"))(**request)
            return reply
    except ModuleNotFoundError as error:
        return {"error": f"{sys.executable} has no module {error.name}"}
    except Exception as error:  # Whatever a codec may raise: the other rows go on.
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}


def main() -> None:
    """Answer until there are no more requests."""
    folder, device, threads = sys.argv[1:]
    # What libraries print must not get between the answers.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(int(threads))
    worker = Worker(Path(folder), device)
    with suppress(KeyboardInterrupt):
        for line in sys.stdin:
            print(json.dumps(answer(worker, json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
