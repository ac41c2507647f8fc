"""A network made fast: the same weights, another way through them."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dac_codec.inference.kernels import SnakeFunction, compiled_snake, signal_dtype
from dac_codec.inference.memory import keep_freed_memory
from dac_codec.inference.network import Network
from dac_codec.inference.precision import pinned_precision
from dac_codec.inference.quantizer import FoldedQuantizer
from dac_codec.model import DAC
from dac_codec.model.checks import check_latents, checked_quantizers
from dac_codec.model.dac import Encoded
from dac_codec.model.decoder import pad_to_length
from dac_codec.model.layers import operations_per_second

Precision = Literal["auto", "float32", "bfloat16"]

Part = TypeVar("Part")

LONG_JOB = 4e14
"""Floating-point operations from which on a job on a CPU is worth a compiler's time.

On two cores, 20 minutes of work: compiled activations save about 3 of them, and compiling takes half of one. The more
cores there are, the less is saved, and the compiler takes as long as before.
"""

_making = threading.RLock()
"""Held while a part of a model is made fast: files that begin together wait for one, and don't make one each."""


class PreparedDAC(DAC):
    """A DAC that encodes and decodes fast, and does not train: made by `prepare`.

    It is the model that it was made of in every other respect: configuration, name, parameters and fingerprint. The
    parameters are its own, in the memory of the model's, so that one can be moved to another device or type without the
    other. Each part, encoder, quantizer and decoder, is made fast when it is first used, of the weights as they are
    then, and streams share it. Weights that change later, in the model's memory, make no difference to it (but to the
    fingerprint, which is that of the parameters: prepare a model anew when it has learned). Those that are loaded into
    it, or moved to another device or type, are taken up.

    Args:
        model: any model.
        dtype: that the convolutions compute in.
        snake: what computes the activations, in place of `snake_into`.
        exact: whether products in single precision are made in nothing less.
    """

    def __init__(self, model: DAC, dtype: torch.dtype, snake: SnakeFunction | None = None, exact: bool = False) -> None:
        nn.Module.__init__(self)
        self.config, self.name = model.config, model.name
        shared: dict[int, object] = {id(tensor): tensor.detach() for tensor in model.buffers()}
        for parameter in model.parameters():
            shared[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
        for part in ("encoder", "quantizer", "decoder"):
            setattr(self, part, copy.deepcopy(getattr(model, part), shared))
        self.dtype, self._snake, self._exact = dtype, snake, exact
        self._in_own_dtype = dtype == next(model.parameters()).dtype
        self._made: dict[str, Any] = {}
        self.eval()

    @property
    def encoder_network(self) -> Network:
        """The encoder made fast; for each signal, a fresh one."""
        return self._part("encoder", lambda: Network(self.encoder, self.dtype, self._snake, self._exact))

    @property
    def decoder_network(self) -> Network:
        """The decoder made fast; for each signal, a fresh one."""
        return self._part("decoder", lambda: Network(self.decoder, self.dtype, self._snake, self._exact))

    @property
    def folded_quantizer(self) -> FoldedQuantizer:
        """The quantizer made fast."""
        return self._part("quantizer", lambda: FoldedQuantizer(self.quantizer, self._exact))

    def _part(self, name: str, make: Callable[[], Part]) -> Part:
        """What is made of a part of the model when it is first asked for, by whichever thread."""
        if (made := self._made.get(name)) is None:
            with _making:
                if (made := self._made.get(name)) is None:
                    made = self._made[name] = make()
        part: Part = made
        return part

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: it makes its own parts fast."""
        return {**self.__dict__, "_made": {}}

    @torch.no_grad()
    def encode(
        self, audio: Tensor, n_quantizers: int | None = None, generator: torch.Generator | None = None
    ) -> Encoded:
        """As of any `DAC`, without a gradient; the losses are those of evaluation."""
        n_quantizers = checked_quantizers(n_quantizers, self.n_codebooks)
        z = self.encoder_network.whole(self.preprocess(audio).transpose(1, 2))
        return Encoded(*self.folded_quantizer.encode(z, n_quantizers))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """As of any `DAC`, without a gradient."""
        check_latents(z, self.config.latent_width)
        return self._decode(z.transpose(1, 2))

    @torch.no_grad()
    def decode_codes(self, codes: Tensor) -> Tensor:
        """As of any `DAC`, without a gradient."""
        return self._decode(self.folded_quantizer.decode(codes))

    def _decode(self, z: Tensor) -> Tensor:
        return pad_to_length(self.decoder_network.whole(z).transpose(1, 2), z.shape[1] * self.hop_length)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module; the model that this one was made of keeps its weights."""
        self._apply(torch.clone)
        try:
            return super().load_state_dict(state_dict, strict, assign)
        finally:
            self._take_up()

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> PreparedDAC:
        """What moves a module's tensors, as `to` does; what was made of them is made again."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        self._take_up()
        return self

    def _take_up(self) -> None:
        """Forget what was made of other weights."""
        with _making:
            if self._in_own_dtype:
                self.dtype = next(self.parameters()).dtype
            self._made = {}


def prepare(
    model: DAC,
    device: str | torch.device | None = None,
    dtype: Precision = "auto",
    compile: bool | Literal["auto"] = "auto",
    exact: bool = False,
    seconds: float = 0.0,
) -> PreparedDAC:
    """The same network made fast: for inference, whole or in a stream.

    Weight norm is multiplied out, weights are laid out for the processor beforehand, channels lie next to one another,
    each block of layers works on pieces that fit into the cache, and the quantizer works in the codebooks' dimensions.
    It takes a fraction of a second, and no compiler. On a CPU, and with the GNU C library, this process will keep up to
    256 MiB of memory that it has freed (`dac_codec.inference.memory`).

    Args:
        model: any model; it is left as it is.
        device: where to compute; None: where the model is.
        dtype: of the convolutions. "auto": bfloat16 where the device has instructions for it and the model is in single
            precision, else the model's own. What layers hand on to one another, the activations and the quantizer stay
            in the model's precision.
        compile: whether activations are compiled with `torch.compile`: it takes some ten seconds and a C++ compiler,
            once for each number of threads (`torch.set_num_threads`). Where that fails, a warning says so and all goes
            on without. It is for CPUs alone: a GPU's activations are kernels of their own, and if True is given there,
            a warning says that nothing is compiled. "auto": where the job is a long one (`LONG_JOB`), and the
            convolutions compute in bfloat16, beside which activations take the larger share.
        exact: whether the results have to be those of the model to its own precision: never bfloat16, nor
            TensorFloat-32, even where `torch.set_float32_matmul_precision` allows it. (No prepared model, exact or not,
            computes in the types of a `torch.autocast` around it.)
        seconds: of audio, of all channels, that are to be encoded or decoded, as far as is known.

    Raises:
        ValueError: an unknown `dtype`, or `exact` is asked for together with a type that isn't the model's.
    """
    if dtype not in get_args(Precision):
        raise ValueError(f"dtype must be one of {', '.join(map(repr, get_args(Precision)))}, not {dtype!r}")
    own = next(model.parameters()).dtype
    if device is not None and not is_on(model, device):
        model = copy.deepcopy(model).to(device)
    if dtype == "auto":
        fast = not exact and own == torch.float32 and _has_bfloat16(model.device)
        chosen = torch.bfloat16 if fast else own
    else:
        chosen = getattr(torch, dtype)
        if exact and chosen != own:
            raise ValueError(f"an exact result needs the model's own type, {own}, not {chosen}")
    if model.device.type == "cpu":
        keep_freed_memory()
    if compile == "auto":
        is_long = seconds * _operations(model) >= LONG_JOB
        compile = model.device.type == "cpu" and chosen == torch.bfloat16 and is_long
    compiled = None
    if compile and model.device.type != "cpu":
        warnings.warn(
            f"activations are not compiled: that is for CPUs, and the model is on {model.device}", stacklevel=2
        )
    elif compile:
        with pinned_precision(model.device, exact):
            compiled = compiled_snake(signal_dtype(own), chosen)
    return PreparedDAC(model, chosen, compiled, exact)


_cache: WeakKeyDictionary[DAC, dict[bool, tuple[object, PreparedDAC]]] = WeakKeyDictionary()


def prepare_cached(model: DAC, exact: bool = True) -> PreparedDAC:
    """`prepare(model, exact=exact)`, prepared again only after the model has changed."""
    if isinstance(model, PreparedDAC):
        return model
    state = (model.name, model.device, tuple((p.data_ptr(), p._version, p.dtype) for p in model.parameters()))
    with _making:
        known = _cache.setdefault(model, {})
        if exact not in known or known[exact][0] != state:
            known[exact] = state, prepare(model, exact=exact)
        return known[exact][1]


def is_on(model: DAC, device: str | torch.device) -> bool:
    """Whether a model is on a device already; "cuda" is any CUDA device, and "cpu" the same as "cpu:0"."""
    wanted = torch.device(device)
    return model.device.type == wanted.type and wanted.index in (None, model.device.index or 0)


def encoder_network(model: DAC) -> Network:
    """A model's encoder, at no place of any signal yet: fast if the model is prepared, else with its own arithmetic."""
    if isinstance(model, PreparedDAC):
        return model.encoder_network.fresh()
    return Network(model.encoder, None)


def decoder_network(model: DAC) -> Network:
    """A model's decoder, as `encoder_network` gives the encoder."""
    if isinstance(model, PreparedDAC):
        return model.decoder_network.fresh()
    return Network(model.decoder, None)


def folded_quantizer(model: DAC) -> FoldedQuantizer:
    """A model's quantizer."""
    return model.folded_quantizer if isinstance(model, PreparedDAC) else FoldedQuantizer(model.quantizer)


def _operations(model: DAC) -> float:
    """Floating-point operations for a second of audio, the mean of encoding and decoding."""
    encoding = operations_per_second(model.encoder, model.sample_rate)
    return (encoding + operations_per_second(model.decoder, model.config.frame_rate)) / 2


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 faster than others."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    asked = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(ask is not None and ask() for ask in asked)
