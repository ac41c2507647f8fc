"""The trainable form of a context model.

For the integer arithmetic of `bitstream.context_model`, weights, embeddings and hidden units are rounded in the forward
pass, and gradients pass straight through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dac_codec.bitstream.context_model import HIDDEN_LIMIT, N_DIRECT, ContextModel
from dac_codec.model import DAC

_INPUT_SCALE, _HIDDEN_SCALE, _LOGIT_SCALE = 32.0, 16.0, 16.0
_WEIGHT_SCALES = {"hidden": 128.0, "features": 128.0, "first": 64.0, "second": 64.0}
_WEIGHT_LIMIT = 127.0
_BIAS_LIMIT = 2.0**20
_DROPOUT = 0.15  # share of the hidden units that are 0 in training

Codes = npt.NDArray[np.integer]


def _rounded(x: Tensor, limit: float = _WEIGHT_LIMIT) -> Tensor:
    """x rounded and clipped, with the gradient of the clipped one."""
    clipped = x.clamp(-limit, limit)
    return clipped + (clipped.round() - clipped).detach()


def _units(x: Tensor) -> Tensor:
    """Hidden units: x clipped and rounded down, with the gradient of the clipped one."""
    clipped = x.clamp(0, HIDDEN_LIMIT)
    return clipped + (clipped.floor() - clipped).detach()


class ContextNetwork(nn.Module):
    """The trainable form of a `ContextModel`.

    Args:
        outputs: what each code adds to the latents [N, K, D].
        generator: of the initial weights.
        n_groups: groups of codes.
        width: of the embeddings.
        hidden, features: units of the first and the second hidden layer.
        averages: shifts of the moving averages.
    """

    def __init__(
        self,
        outputs: Tensor,
        generator: torch.Generator,
        n_groups: int = 32,
        width: int = 32,
        hidden: int = 192,
        features: int = 48,
        averages: Sequence[int] = (2, 5),
    ) -> None:
        super().__init__()
        n_planes, n_codes, _ = outputs.shape
        self._group_size = -(-n_codes // n_groups)
        self._n_groups = -(-n_codes // self._group_size)
        self._averages, self._places = averages, _places(outputs)
        self._embeddings = nn.Parameter(_projected(outputs, width, generator))
        n_inputs = (N_DIRECT + len(averages)) * width

        def layer(n_in: int, n_out: int, scale: float = 1.0) -> tuple[nn.Parameter, nn.Parameter]:
            weight = torch.randn(n_planes, n_in, n_out, generator=generator) * (scale / math.sqrt(n_in))
            return nn.Parameter(weight), nn.Parameter(torch.zeros(n_planes, 1, n_out))

        self._hidden_weight, self._hidden_bias = layer(n_inputs, hidden)
        self._features_weight, self._features_bias = layer(hidden, features)
        self._first_weight, self._first_bias = layer(features, self._n_groups + 1, 0.1)
        second = [layer(features, self._group_size, 0.1) for _ in range(self._n_groups)]
        self._second_weight = nn.Parameter(torch.stack([weight for weight, _ in second], 1))
        self._second_bias = nn.Parameter(torch.stack([bias for _, bias in second], 1))

    def forward(self, codes: Tensor) -> Tensor:
        """Cost in nats [N, B, F] of each of the codes [N, B, F]; -1 stands for no code and costs nothing."""
        n_planes = codes.shape[0]
        known = codes.flatten(1) >= 0
        x = _units(self._layer("hidden", self._contexts(codes), _INPUT_SCALE, _HIDDEN_SCALE))
        x = F.dropout(x, _DROPOUT, self.training)
        x = _units(self._layer("features", x, _HIDDEN_SCALE, _HIDDEN_SCALE))
        x = F.dropout(x, _DROPOUT, self.training)
        logits = self._layer("first", x, _HIDDEN_SCALE, 1.0)
        place = self._places.gather(1, codes.flatten(1).clamp(min=0))
        group, member = place // self._group_size, place % self._group_size
        repeated = F.pad(codes[..., 1:] == codes[..., :-1], (1, 0)).flatten(1)
        first = torch.where(repeated, self._n_groups, group)
        nats = F.cross_entropy(logits.flatten(0, 1), first.flatten(), reduction="none").view_as(place)
        rows = torch.nonzero((known & ~repeated).flatten())[:, 0]
        segment = group.flatten()[rows] + self._n_groups * (rows // place.shape[1])
        second = self._second(x.flatten(0, 1), rows, segment, n_planes)
        second_nats = F.cross_entropy(second, member.flatten()[rows], reduction="none")
        return (nats * known).flatten().index_add(0, rows, second_nats).view(codes.shape)

    def _contexts(self, codes: Tensor) -> Tensor:
        """Inputs [N, B F, C E] of codes [N, B, F]."""
        table = F.pad(_rounded(self._embeddings * _INPUT_SCALE), (0, 0, 0, 1))
        own = torch.stack([plane_table[plane_codes] for plane_table, plane_codes in zip(table, codes, strict=True)])
        sums = own.cumsum(0)
        coarser = F.pad(sums[:-1], (0, 0, 0, 0, 0, 0, 1, 0))
        contexts = [_later(coarser, 1), coarser, _later(coarser, -1), _later(own, 1), _later(own, 2)]
        contexts += [_average(sums.detach(), shift) for shift in self._averages]
        return torch.cat(contexts, -1).flatten(1, 2)

    def _integers(self, name: str, scale: float) -> tuple[Tensor, Tensor, float]:
        """Rounded weight and bias of a layer whose inputs have a scale, and the scale of its outputs."""
        total = scale * _WEIGHT_SCALES[name]
        weight = _rounded(getattr(self, f"_{name}_weight") * _WEIGHT_SCALES[name])
        return weight, _rounded(getattr(self, f"_{name}_bias") * total, _BIAS_LIMIT), total

    def _layer(self, name: str, x: Tensor, scale: float, scale_after: float) -> Tensor:
        weight, bias, total = self._integers(name, scale)
        return torch.baddbmm(bias, x, weight) * (scale_after / total)

    def _second(self, x: Tensor, rows: Tensor, segment: Tensor, n_planes: int) -> Tensor:
        """Logits [n, S] in the groups `segment` [n] of some rows of x: groups padded to equal sizes, in one product."""
        order = segment.argsort(stable=True)
        counts = segment.bincount(minlength=n_planes * self._n_groups)
        starts = counts.cumsum(0) - counts
        column = torch.empty_like(segment)
        column[order] = torch.arange(len(segment)) - starts[segment[order]]
        padded = x.new_zeros(len(counts), int(counts.max()), x.shape[1]).index_put((segment, column), x[rows])
        weight, bias, total = self._integers("second", _HIDDEN_SCALE)
        logits = torch.baddbmm(bias.flatten(0, 1), padded, weight.flatten(0, 1))
        return logits[segment, column] / total

    @torch.no_grad()
    def quantized(self) -> ContextModel:
        """The integers of the network."""
        arrays: dict[str, Codes] = {
            "embeddings": _rounded(self._embeddings * _INPUT_SCALE).round().numpy().astype(np.int8),
            "averages": np.array(self._averages, np.int32),
            "places": self._places.numpy().astype(np.int32),
        }
        shifts = []
        for name, scale, scale_after in (
            ("hidden", _INPUT_SCALE, _HIDDEN_SCALE),
            ("features", _HIDDEN_SCALE, _HIDDEN_SCALE),
            ("first", _HIDDEN_SCALE, _LOGIT_SCALE),
            ("second", _HIDDEN_SCALE, _LOGIT_SCALE),
        ):
            weight, bias, total = self._integers(name, scale)
            arrays[f"{name}.weight"] = weight.round().numpy().astype(np.int8)
            arrays[f"{name}.bias"] = bias.round().numpy().astype(np.int32)[..., 0, :]
            shifts.append(round(math.log2(total / scale_after)))
        return ContextModel(arrays | {"shifts": np.array(shifts[:3], np.int32)})


def _later(x: Tensor, n_frames: int) -> Tensor:
    """x [N, B, F, E] delayed by some frames, or advanced by a negative number, and padded with zeros; F >= 2."""
    return F.pad(x, (0, 0, n_frames, -n_frames))


@torch.no_grad()
def _average(sums: Tensor, shift: int) -> Tensor:
    """The moving average [N, B, F, E], for each frame, of the sums [N, B, F, E] of the frames before it."""
    memory = torch.zeros_like(sums[:, :, 0])
    average = memory
    averages = []
    for frame in sums.unbind(2):
        averages.append(average)
        memory = memory + frame - average
        average = (memory * 0.5**shift).floor()
    return torch.stack(averages, 2)


def _projected(outputs: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """First embeddings [N, K, width]: outputs [N, K, D] in the main directions of their sums, with unit variance."""
    drawn = torch.randint(outputs.shape[1], (len(outputs), 4096), generator=generator)
    sums = torch.stack([plane[chosen] for plane, chosen in zip(outputs, drawn, strict=True)]).sum(0)
    _, values, directions = torch.linalg.svd(sums - sums.mean(0), full_matrices=False)
    deviations = values[:width] / math.sqrt(len(sums))
    projected = (outputs - outputs.mean(1, keepdim=True)) @ directions[:width].t() / deviations.clamp(min=1e-6)
    return F.pad(projected, (0, width - projected.shape[2]))


def _places(outputs: Tensor) -> Tensor:
    """Places [N, K] of codes in an order where similar ones are close: entries [N, K, D] are halved recursively."""
    places = torch.empty(outputs.shape[:2], dtype=torch.int64)

    def order(entries: Tensor, part: Tensor) -> list[Tensor]:
        if len(part) < 2:
            return [part]
        inside = entries[part] - entries[part].mean(0)
        direction = torch.linalg.eigh(inside.t() @ inside)[1][:, -1]
        ordered = part[(inside @ direction).argsort(stable=True)]
        # The largest power of two below, so that groups are whole parts.
        half = 1 << (len(part) - 1).bit_length() - 1
        return order(entries, ordered[:half]) + order(entries, ordered[half:])

    for entries, row in zip(outputs, places, strict=True):
        basis = torch.linalg.svd(entries - entries.mean(0), full_matrices=False)[2][:16]
        row[torch.cat(order(entries @ basis.t(), torch.arange(len(entries))))] = torch.arange(len(entries))
    return places


@torch.no_grad()
def outputs_of(model: DAC) -> Tensor:
    """What each code of a model adds to the latents [N, K, D]."""
    return torch.stack([stage.outputs(stage.codebook.weight.t()[None])[0].t() for stage in model.quantizer.stages()])
