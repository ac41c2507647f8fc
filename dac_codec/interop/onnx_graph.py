"""Graphs of the encoder and the decoder in standard ONNX operators, for whole signals and for chunks of a stream.

The operators are written down one by one: a dozen kinds are enough, none depends on the version of PyTorch, and every
runtime has them. Weight norm is multiplied out, and the quantizer works in the codebooks' dimensions (see
`dac_codec.inference.quantizer`).

A graph for chunks takes as many samples as it gives, so that all shapes but the chunk's are fixed. Each convolution
keeps its last inputs, and its outputs are those of `delay` samples ago, for which all inputs are known:

        past       |k k k k|
        chunk              |x x x x x x x x|
        outputs        |y y y y y y y y|              the chunk's; delay 2 for a kernel of 5

Before the signal's start and after its end, inputs of a convolution are set to zero, which is the padding of the
whole signal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from dac_codec.model import DAC
from dac_codec.model.decoder import Decoder, DecoderBlock
from dac_codec.model.direct_sum import projections
from dac_codec.model.encoder import Encoder, EncoderBlock
from dac_codec.model.layers import ResidualUnit, Snake, padding_of
from dac_codec.model.quantizer import ResidualVectorQuantize, VectorQuantize
from dac_codec.model.snake import TINY

Precision = Literal["fp32", "fp16", "int8"]

_MIN_CHANNELS = 32
"""Convolutions with fewer channels are always in single precision, as in `inference.layers`."""

_ALL = 2**62  # as the stop of a slice


@dataclass(frozen=True)
class _Signal:
    """A value [B, C, T] of the graph.

    Attributes:
        name: of the value.
        per_frame: samples per frame.
        extra: samples of the whole signal beyond `per_frame` for each frame.
        delay: in a stream, samples by which it is behind the graph's input.
    """

    name: str
    per_frame: int
    extra: int = 0
    delay: int = 0


class _Stage(NamedTuple):
    """A codebook in double precision, in its own space of width dim.

    Attributes:
        entries: [K, dim].
        in_weight, in_bias: projection to that space, [dim, D] and [dim].
        out_weight, out_bias: projection back, [D, dim] and [D].
        is_cosine: whether entries are found by angle.
    """

    entries: Tensor
    in_weight: Tensor
    in_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor
    is_cosine: bool

    @classmethod
    def of(cls, stage: VectorQuantize) -> _Stage:
        entries = stage.codebook.weight.detach().double().cpu()
        width = entries.shape[1]
        same = torch.eye(width).double(), torch.zeros(width).double()
        inward, outward = (same, same) if isinstance(stage.in_proj, nn.Identity) else projections(stage)
        in_weight, in_bias, out_weight, out_bias = (part.cpu() for part in (*inward, *outward))
        return cls(entries, in_weight, in_bias, out_weight, out_bias, stage.lookup == "cosine")

    def outputs(self) -> Tensor:
        """The entries with a 1 appended to each, [K, dim + 1]: the bias's factor."""
        return F.pad(self.entries, (0, 1), value=1.0)

    def output_map(self) -> Tensor:
        """The map [dim + 1, D] from `outputs` to latents."""
        return torch.cat([self.out_weight.t(), self.out_bias[None]])


@dataclass
class _Graph:
    """A graph that grows by one operator at a time.

    Attributes:
        precision: of the convolutions. "fp16": their weights and arithmetic; the signal between them is in single
            precision. "int8": their weights, which the runtime multiplies out.
        streams: whether it is for chunks.
        causal: whether the network is, so that no output depends on a sample that is masked.
        states: shape [C, T] of each state of a stream.
    """

    precision: Precision
    streams: bool
    causal: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[tuple[object, ...], onnx.TensorProto] = field(default_factory=dict)
    states: list[tuple[int, int]] = field(default_factory=list)

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operator; returns the name of its output."""
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, values: Any, dtype: type = np.int64) -> str:
        """The name of a constant tensor."""
        array: np.ndarray = np.array(
            values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype, order="C"
        )
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"constant_{len(self.constants)}")
        return str(self.constants[key].name)

    def floats(self, values: Any) -> str:
        return self.constant(values, np.float32)

    def slice(self, x: str, start: int, stop: int, name: str = "") -> str:
        """A part of a tensor of three axes along the last one."""
        return self.add("Slice", x, *(self.constant([value]) for value in (start, stop, 2)), name=name)

    # Layers ----------------------------------------------------------------------------------------------------------

    def network(self, module: nn.Module, signal: _Signal) -> _Signal:
        """An encoder or a decoder."""
        activation: nn.Module | None = None
        for child in _children(module):
            if isinstance(child, ResidualUnit):
                signal = self.residual(child, signal)
            elif isinstance(child, (Snake, nn.ReLU)):
                activation = child
            elif isinstance(child, (nn.Conv1d, nn.ConvTranspose1d)):
                _, signal = self.convolution(child, activation, signal)
                activation = None
            elif isinstance(child, nn.Tanh):
                signal = replace(signal, name=self.add("Tanh", signal.name))
            else:
                raise TypeError(f"{type(child).__name__} has no ONNX form")
        return signal

    def residual(self, unit: ResidualUnit, signal: _Signal) -> _Signal:
        first, dilated, second, pointwise = unit.block
        assert isinstance(dilated, nn.Conv1d)
        assert isinstance(pointwise, nn.Conv1d)
        rows, inner = self.convolution(dilated, first, signal)
        if self.streams:
            left, right = padding_of(dilated)
            # The rows are the state and the chunk; the chunk's outputs belong to the rows from `left` on.
            rows = self.slice(rows, left, -right or _ALL)
        _, outer = self.convolution(pointwise, second, inner)
        return replace(outer, name=self.add("Add", rows, outer.name))

    def activated(self, kind: nn.Module | None, x: str) -> str:
        if isinstance(kind, Snake):
            alpha = kind.alpha.detach().double().cpu()
            sine = self.add("Sin", self.add("Mul", x, self.floats(alpha)))
            squared = self.add("Mul", self.add("Mul", sine, sine), self.floats((alpha + TINY).reciprocal()))
            return self.add("Add", x, squared)
        return x if kind is None else self.add("Relu", x)

    def convolution(
        self, conv: nn.Conv1d | nn.ConvTranspose1d, activation: nn.Module | None, signal: _Signal
    ) -> tuple[str, _Signal]:
        """An activation and a convolution; returns the activation's input as well."""
        left, right = padding_of(conv)
        stride, kernel = conv.stride[0], conv.kernel_size[0]
        transposed = isinstance(conv, nn.ConvTranspose1d)
        rows, result = signal.name, signal
        if transposed:
            extra = stride * signal.extra + stride - left - right
            result = replace(signal, per_frame=stride * signal.per_frame, extra=extra)
        else:
            result = replace(signal, per_frame=signal.per_frame // stride)
        if self.streams and kernel > 1:
            if transposed:
                # Two inputs overlap in each output; the first `stride` and the last belong to other chunks.
                n_kept, delay, left, right = 1, stride * signal.delay + left, stride, stride
            else:
                ahead = conv.dilation[0] * (kernel - 1) - left
                delay = max(0, -((stride - 1 - ahead - signal.delay) // stride))
                n_kept, left, right = delay * stride + left - signal.delay, 0, 0
            rows = self.extended(signal, conv.in_channels, n_kept)
            result = replace(result, delay=delay)
        x = self.activated(activation, rows)
        axis = 1 if transposed else 0  # of the output channels
        half = self.precision == "fp16" and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
        if half:
            x = self.add("Cast", x, to=TensorProto.FLOAT16)
        assert conv.bias is not None
        y = self.add(
            "ConvTranspose" if transposed else "Conv",
            x,
            self.weight(conv.weight.detach().cpu(), axis, half),
            self.constant(conv.bias.detach().cpu(), np.float16 if half else np.float32),
            kernel_shape=[kernel],
            strides=[stride],
            dilations=[conv.dilation[0]],
            pads=[left, right],
        )
        return rows, replace(result, name=self.add("Cast", y, to=TensorProto.FLOAT) if half else y)

    def weight(self, weight: Tensor, axis: int, half: bool) -> str:
        """The weight of a convolution whose output channels are at `axis`."""
        if self.precision != "int8" or min(weight.shape[:2]) < _MIN_CHANNELS:
            return self.constant(weight, np.float16 if half else np.float32)
        others = tuple(index for index in range(3) if index != axis)
        scale = weight.abs().amax(others).clamp(min=1e-12) / 127
        shape = [1, 1, 1]
        shape[axis] = -1
        rounded = torch.round(weight / scale.view(shape))
        return self.add("DequantizeLinear", self.constant(rounded, np.int8), self.floats(scale), axis=axis)

    # Quantizer -------------------------------------------------------------------------------------------------------

    def codes(self, z: str, quantizer: ResidualVectorQuantize, name: str) -> None:
        """The output `name`: codes [B, N, F] of latents [B, D, F]."""
        stages = [_Stage.of(stage) for stage in quantizer.stages()]
        weight = torch.cat([stage.in_weight for stage in stages])
        rest = self.add("MatMul", self.add("Transpose", z, perm=[0, 2, 1]), self.floats(weight.t()))
        rest = self.add("Add", rest, self.floats(torch.cat([stage.in_bias for stage in stages])))
        found = []
        for index, stage in enumerate(stages):
            width = stage.entries.shape[1]
            points, rest = self.slice(rest, 0, width), self.slice(rest, width, _ALL)
            keys = stage.entries
            if stage.is_cosine:
                keys = F.normalize(keys)
                squares = self.add("ReduceSum", self.add("Mul", points, points), self.constant([2]))
                length = self.add("Max", self.add("Sqrt", squares), self.floats(1e-12))
                points = self.add("Div", points, length)
            # The nearest entry, since |p - e|^2 = |p|^2 - 2 (p e - |e|^2 / 2).
            products = self.add("MatMul", points, self.floats(keys.t()))
            scores = self.add("Sub", products, self.floats(keys.square().sum(1) / 2))
            found.append(self.add("ArgMax", scores, axis=2, keepdims=0))
            if later := stages[index + 1 :]:
                chosen = self.add("Gather", self.floats(stage.outputs()), found[-1])
                effect = torch.cat([stage.output_map() @ other.in_weight.t() for other in later], 1)
                rest = self.add("Sub", rest, self.add("MatMul", chosen, self.floats(effect)))
        columns = [self.add("Unsqueeze", codes, self.constant([1])) for codes in found]
        self.add("Concat", *columns, axis=1, name=name)

    def latents(self, codes: str, quantizer: ResidualVectorQuantize) -> str:
        """Latents [B, D, F] of codes [B, n, F]; a code of -1 adds nothing."""
        stages = [_Stage.of(stage) for stage in quantizer.stages()]
        n_given = self.add("Gather", self.add("Shape", codes), self.constant([1]))
        missing = self.add("Sub", self.constant([len(stages)]), n_given)
        zeros = self.constant([0])
        pads = self.add("Concat", *[zeros] * 4, missing, zeros, axis=0)
        codes = self.add("Pad", codes, pads, self.constant(-1))
        # -1 is the last row, of zeros.
        chosen = [
            self.add(
                "Gather",
                self.floats(F.pad(stage.outputs(), (0, 0, 0, 1))),
                self.add("Gather", codes, self.constant(index), axis=1),
            )
            for index, stage in enumerate(stages)
        ]
        joined = self.add("Concat", *chosen, axis=2)
        z = self.add("MatMul", joined, self.floats(torch.cat([stage.output_map() for stage in stages])))
        return self.add("Transpose", z, perm=[0, 2, 1])

    # Streams ---------------------------------------------------------------------------------------------------------

    def extended(self, signal: _Signal, channels: int, n_kept: int) -> str:
        """The last `n_kept` inputs of earlier chunks and this chunk's, zero where the signal is not."""
        index = len(self.states)
        self.states.append((channels, n_kept))
        x = signal.name
        if not self.causal:
            times, end = self.times(signal)
            inside = self.add("And", self.add("GreaterOrEqual", times, self.constant(0)), self.add("Less", times, end))
            x = self.add("Where", inside, x, self.floats(0))
        rows = self.add("Concat", f"past.{index}", x, axis=2)
        self.slice(rows, -n_kept, _ALL, f"present.{index}")
        return rows

    def times(self, signal: _Signal) -> tuple[str, str]:
        """The time of each sample of a chunk [t], and that of the whole signal's end [1]."""
        per_frame = self.constant(signal.per_frame)
        size = self.add("Mul", "chunk_frames", per_frame)
        first = self.add("Sub", self.add("Mul", "past.position", per_frame), self.constant(signal.delay))
        times = self.add("Add", self.add("Range", self.constant(0), size, self.constant(1)), first)
        return times, self.add("Add", self.add("Mul", "n_frames", per_frame), self.constant(signal.extra))

    def repeat_last(self, signal: _Signal, name: str) -> None:
        """The output `name`: the samples of a decoder, the last one repeated up to a multiple of the hop."""
        rows = self.extended(signal, 1, -signal.extra)
        times, end = self.times(signal)
        beyond = self.add("Sub", self.add("Add", times, self.constant(1)), end)
        back = self.add("Clip", beyond, self.constant(0), self.constant(-signal.extra))
        first, stop = self.constant(-signal.extra), self.add("Gather", self.add("Shape", rows), self.constant(2))
        sources = self.add("Sub", self.add("Range", first, stop, self.constant(1)), back)
        self.add("Gather", rows, sources, axis=2, name=name)


def encoder_model(model: DAC, precision: Precision, opset: int) -> onnx.ModelProto:
    """`input_values` [B, 1, T] -> `audio_codes` [B, N, ceil(T / hop)]."""
    graph = _Graph(precision, False, model.config.causal)
    zeros = graph.constant([0])
    n_samples = graph.add("Gather", graph.add("Shape", "input_values"), graph.constant([2]))
    missing = graph.add("Mod", graph.add("Neg", n_samples), graph.constant([model.hop_length]))
    padded = graph.add("Pad", "input_values", graph.add("Concat", *[zeros] * 5, missing, axis=0), graph.floats(0))
    z = graph.network(model.encoder, _Signal(padded, model.hop_length))
    graph.codes(z.name, model.quantizer, "audio_codes")
    return _model(graph, opset, [_AUDIO_IN], [_codes(model.n_codebooks)])


def decoder_model(model: DAC, precision: Precision, opset: int) -> onnx.ModelProto:
    """`audio_codes` [B, n, F] -> `audio_values` [B, 1, F * hop]; n <= N, and a code of -1 adds nothing."""
    graph = _Graph(precision, False, model.config.causal)
    signal = graph.network(model.decoder, _Signal(graph.latents("audio_codes", model.quantizer), 1))
    zeros = graph.constant([0])
    # As `DAC.decode`: the last sample is repeated.
    pads = graph.add("Concat", *[zeros] * 5, graph.constant([-signal.extra]), axis=0)
    graph.add("Pad", signal.name, pads, mode="edge", name="audio_values")
    return _model(graph, opset, [_codes("num_codebooks")], [_AUDIO_OUT])


def encoder_step(model: DAC, precision: Precision, opset: int) -> tuple[onnx.ModelProto, int]:
    """`encoder_model` on a chunk [B, 1, f * hop], and its delay in frames."""
    graph = _Graph(precision, True, model.config.causal)
    n_samples = graph.add("Gather", graph.add("Shape", "input_values"), graph.constant(2))
    graph.add("Div", n_samples, graph.constant(model.hop_length), name="chunk_frames")
    z = graph.network(model.encoder, _Signal("input_values", model.hop_length))
    graph.codes(z.name, model.quantizer, "audio_codes")
    return _model(graph, opset, [_AUDIO_IN], [_codes(model.n_codebooks)]), z.delay


def decoder_step(model: DAC, precision: Precision, opset: int) -> tuple[onnx.ModelProto, int]:
    """`decoder_model` on a chunk [B, n, f], and its delay in samples."""
    graph = _Graph(precision, True, model.config.causal)
    graph.add("Gather", graph.add("Shape", "audio_codes"), graph.constant(2), name="chunk_frames")
    signal = graph.network(model.decoder, _Signal(graph.latents("audio_codes", model.quantizer), 1))
    if signal.extra:
        graph.repeat_last(signal, "audio_values")
    else:
        graph.add("Identity", signal.name, name="audio_values")
    return _model(graph, opset, [_codes("num_codebooks")], [_AUDIO_OUT]), signal.delay


_AUDIO_IN = helper.make_tensor_value_info("input_values", TensorProto.FLOAT, ["batch_size", 1, "num_samples"])
_AUDIO_OUT = helper.make_tensor_value_info("audio_values", TensorProto.FLOAT, ["batch_size", 1, "num_samples"])


def _codes(n_codebooks: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("audio_codes", TensorProto.INT64, ["batch_size", n_codebooks, "num_frames"])


def _model(
    graph: _Graph, opset: int, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    """The finished model, checked."""
    if graph.streams:
        graph.add("Add", "past.position", "chunk_frames", name="present.position")
        for when, values in (("past", inputs), ("present", outputs)):
            values.append(helper.make_tensor_value_info(f"{when}.position", TensorProto.INT64, [1]))
            values += [
                helper.make_tensor_value_info(f"{when}.{index}", TensorProto.FLOAT, ["batch_size", *shape])
                for index, shape in enumerate(graph.states)
            ]
        inputs.insert(1, helper.make_tensor_value_info("n_frames", TensorProto.INT64, [1]))
    content = helper.make_graph(graph.nodes, "dac", inputs, outputs, list(graph.constants.values()))
    imports = [helper.make_opsetid("", opset)]
    made = helper.make_model(
        content, producer_name="dac_codec", opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports)
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def _children(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that a signal passes through, in order, with residual units whole."""
    if isinstance(module, (Encoder, Decoder, EncoderBlock, DecoderBlock, nn.Sequential)):
        for child in module.children():
            yield from _children(child)
    else:
        yield module
