"""Models prepared for inference: the same weights in a faster form."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dac_codec.inference.activation import SnakeFunction, compiled_snake, signal_dtype
from dac_codec.inference.memory import keep_freed_memory
from dac_codec.inference.network import Network
from dac_codec.inference.precision import pinned_precision
from dac_codec.inference.quantizer import FoldedQuantizer
from dac_codec.model import DAC, DACConfig, Encoded
from dac_codec.model.checks import check_latents
from dac_codec.model.checksums import checksums
from dac_codec.model.decoder import pad_to_length
from dac_codec.model.search import PathSearch

Precision = Literal["auto", "float32", "bfloat16"]

Part = TypeVar("Part")

LookUp = Callable[[Tensor, int], Tensor]
"""Latents [B, D, F] and a number of codebooks n to codes [B, n, F]."""

_preparing = threading.RLock()
"""Threads that need the same part at once wait for one of them to prepare it."""


class PreparedDAC(DAC):
    """A DAC that encodes and decodes fast and does not train; see `prepare`.

    Configuration, name, parameters and fingerprint are the model's. The parameters are objects of their own in the
    memory of the model's, so that either can move to another device or type without the other. Encoder, quantizer and
    decoder are each prepared at their first use, from the weights of that moment, and shared by all streams.

    Later changes of the model's weights in place have no effect on the results, only on the fingerprint: prepare the
    model again. Weights loaded into a `PreparedDAC`, or moved to another device or type, do take effect.

    Args:
        model: any model.
        dtype: type of the convolutions.
        snake: what computes the activations; None means `snake_into`.
        exact: whether products in single precision never use a shorter type.
    """

    def __init__(self, model: DAC, dtype: torch.dtype, snake: SnakeFunction | None = None, exact: bool = False) -> None:
        nn.Module.__init__(self)
        self.config: DACConfig = model.config
        self.name: str = model.name
        self.weights_file: Path | None = model.weights_file
        shared: dict[int, object] = {id(tensor): tensor.detach() for tensor in model.buffers()}
        for parameter in model.parameters():
            shared[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
        for part in ("encoder", "quantizer", "decoder"):
            setattr(self, part, copy.deepcopy(getattr(model, part), shared))
        self.dtype: torch.dtype = dtype
        self._snake, self._exact = snake, exact
        self._follows_model_dtype = dtype == next(model.parameters()).dtype
        self._parts: dict[str, Any] = {}
        self.eval()

    @property
    def encoder_network(self) -> Network:
        """The prepared encoder; call `new_stream` for each stream."""
        return self._part("encoder", lambda: Network(self.encoder, self.dtype, self._snake, self._exact))

    @property
    def decoder_network(self) -> Network:
        """The prepared decoder; call `new_stream` for each stream."""
        return self._part("decoder", lambda: Network(self.decoder, self.dtype, self._snake, self._exact))

    @property
    def folded_quantizer(self) -> FoldedQuantizer:
        """The prepared quantizer."""
        return self._part("quantizer", lambda: FoldedQuantizer(self.quantizer, self._exact))

    @property
    def approximate(self) -> PreparedDAC:
        """The model itself, or if it is exact and a shorter type is faster, one whose convolutions compute in that."""
        has_shorter = self.device.type == "cuda" or _has_bfloat16(self.device)
        if not self._exact or self.dtype != torch.float32 or not has_shorter:
            return self
        return self._part("approximate", lambda: prepare(self))

    def look_up(self, n_paths: int = 1) -> LookUp:
        """How codes are found: greedily with one path, otherwise by the search of `PathSearch`.

        Codebooks without projections and finite scalars are always looked up one by one, and additive quantization has
        a search of its own.

        Raises:
            ValueError: `n_paths` is less than 1.
        """
        if n_paths < 1:
            raise ValueError(f"n_paths must be at least 1, not {n_paths}")
        if n_paths == 1 or not self.folded_quantizer.has_paths:
            return self.folded_quantizer.codes
        search = self._part("search", lambda: PathSearch(self.quantizer))

        def codes(z: Tensor, n_quantizers: int) -> Tensor:
            with pinned_precision(self.device, self._exact):
                return search.codes(z, n_quantizers, n_paths)

        return codes

    def _part(self, name: str, make: Callable[[], Part]) -> Part:
        """A prepared part, made at its first use in any thread and any mode."""
        if (made := self._parts.get(name)) is None:
            with _preparing, torch.inference_mode(False), torch.no_grad():
                if (made := self._parts.get(name)) is None:
                    made = self._parts[name] = make()
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled models prepare their own parts, without compiled activations."""
        rebuild, (_, *rest) = super().__reduce__()
        return _rebuilt, (rebuild, (DAC, *rest), self.dtype, self._exact)

    def _copied_state(self) -> dict[str, Any]:
        """Copies prepare their own parts."""
        return {**self.__dict__, "_parts": {}}

    @torch.no_grad()
    def _encode(self, audio: Tensor, n_quantizers: int | None, generator: torch.Generator | None) -> Encoded:
        """`DAC.encode` without a gradient; the losses are those of evaluation."""
        n_quantizers = self.quantizer.checked(n_quantizers)
        z = self.encoder_network.whole(self.preprocess(audio))
        return self.folded_quantizer.encode(z, n_quantizers)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """`DAC.decode` without a gradient."""
        check_latents(z, self.config.latent_width)
        return pad_to_length(self.decoder_network.whole(z), z.shape[-1] * self.hop_length)

    @torch.no_grad()
    def decode_codes(self, codes: Tensor) -> Tensor:
        """`DAC.decode_codes` without a gradient."""
        return self.decode(self.folded_quantizer.decode(codes))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """`nn.Module.load_state_dict`; the model that this one was made from keeps its weights."""
        self._apply(torch.clone)
        try:
            return super().load_state_dict(state_dict, strict, assign)
        finally:
            self._discard_parts()

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> PreparedDAC:
        """Called by `nn.Module` to convert tensors, for example in `to`."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        self._discard_parts()
        return self

    def _discard_parts(self) -> None:
        """Prepare all parts again at their next use."""
        with _preparing:
            if self._follows_model_dtype:
                self.dtype = next(self.parameters()).dtype
            self._parts = {}


def _rebuilt(rebuild: Callable[..., DAC], rest: tuple[Any, ...], dtype: torch.dtype, exact: bool) -> PreparedDAC:
    """A pickled model: `rebuild(*rest)`, prepared."""
    return PreparedDAC(rebuild(*rest), dtype, None, exact)


def prepare(
    model: DAC,
    device: str | torch.device | None = None,
    dtype: Precision = "auto",
    compile: bool = False,
    exact: bool = False,
) -> PreparedDAC:
    """Prepare a model for fast inference, on whole signals or in streams.

    Weight norm is multiplied out, weights are laid out for the processor, signals have their channels last, blocks of
    layers work on tiles that fit into the cache, and the quantizer works in the codebooks' dimensions. This takes a
    fraction of a second. On a CPU with the GNU C library, the process will keep up to 256 MiB of freed memory
    (`dac_codec.inference.memory`).

    Args:
        model: any model; unchanged.
        device: where to compute; None means where the model is.
        dtype: type of the convolutions. "auto" means bfloat16 on a CPU that has instructions for it, for a model in
            single precision, else the model's type. The signal between layers, activations and quantizer keep
            the model's precision.
        compile: whether to compile activations with `torch.compile`, on CPUs only. It takes some ten seconds and a C++
            compiler, once per number of threads (`torch.set_num_threads`). Where it fails or the model is on another
            device, a warning says so.
        exact: whether results equal the model's up to rounding in its own type: no bfloat16, and no TensorFloat-32
            whatever `torch.set_float32_matmul_precision` allows. `torch.autocast` affects no prepared model.

    Raises:
        ValueError: an unknown `dtype`, or `exact` with a type other than the model's.
    """
    if dtype not in get_args(Precision):
        raise ValueError(f"dtype must be one of {', '.join(map(repr, get_args(Precision)))}, not {dtype!r}")
    model_dtype = next(model.parameters()).dtype
    if device is not None and not is_on(model, device):
        model = copy.deepcopy(model).to(device)
    if dtype == "auto":
        fast = not exact and model_dtype == torch.float32 and _has_bfloat16(model.device)
        chosen = torch.bfloat16 if fast else model_dtype
    else:
        chosen = getattr(torch, dtype)
        if exact and chosen != model_dtype:
            raise ValueError(f"an exact result needs the model's own type, {model_dtype}, not {chosen}")
    if model.device.type == "cpu":
        keep_freed_memory()
    snake = None
    if compile and model.device.type != "cpu":
        warnings.warn(
            f"activations are not compiled: that is for CPUs, and the model is on {model.device}", stacklevel=2
        )
    elif compile:
        with pinned_precision(model.device, exact):
            snake = compiled_snake(signal_dtype(model_dtype), chosen)
    return PreparedDAC(model, chosen, snake, exact)


_cache: WeakKeyDictionary[DAC, dict[bool, tuple[object, PreparedDAC]]] = WeakKeyDictionary()
"""By model and by `exact`: name, configuration, device and checksums of the weights, and what they were prepared to."""


def prepare_cached(model: DAC, exact: bool = True) -> PreparedDAC:
    """`prepare(model, exact=exact)`, prepared again only after the model has changed.

    The result is kept as long as the model exists. A change of name, configuration, device, type or any weight, by
    whatever means, is noticed.

    Args:
        model: any model; a prepared one is returned as it is, exact or not.
        exact: as in `prepare`.
    """
    if isinstance(model, PreparedDAC):
        return model
    state = (model.name, model.config, model.device, checksums(model))
    with _preparing:
        known = _cache.setdefault(model, {})
        if exact not in known or known[exact][0] != state:
            known[exact] = state, prepare(model, exact=exact)
        return known[exact][1]


def is_on(model: DAC, device: str | torch.device) -> bool:
    """Whether a model is on a device: "cuda" means any CUDA device, and "cpu" equals "cpu:0"."""
    wanted = torch.device(device)
    return model.device.type == wanted.type and wanted.index in (None, model.device.index or 0)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device is fastest in bfloat16. A GPU is not: TensorFloat-32 needs no conversions between layers."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check is not None and check() for check in checks)
