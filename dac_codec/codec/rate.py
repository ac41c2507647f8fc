"""How many codes each frame gets: the same number in every frame, or more where they buy more.

With E_n the squared error of a frame's latents with its first n codes and w a weight for what its sound masks, a frame
gets the n that minimizes

    w E_n + lambda n

One lambda for a whole file is a fixed quality; it is searched for a wanted mean bitrate ("type II" in Barnes, Rizvi &
Nasrabadi, "Advances in Residual Vector Quantization: A Review", 1996, section VI; the Lagrangian is that of Shoham &
Gersho, 1988). A live stream follows a bitrate by a lambda that rises while its bits fill a leaky bucket.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from dac_codec import bitstream
from dac_codec.bitstream.levels import Levels
from dac_codec.codec.level_analysis import COSTS, Blocks, Costs, NextBlock, with_levels
from dac_codec.codec.models import choose_quantizers
from dac_codec.common.errors import DacError
from dac_codec.inference import Frames
from dac_codec.model import DAC

EFFORT_PATHS = (1, 4, 16, 64)
"""Paths through the codebooks that each effort searches; 0 is the greedy look-up."""

DEFAULT_QUALITY = 4.55
"""With band levels and effort 1, the bundled models have about the SI-SDR, PESQ and STOI of greedy codes of all
codebooks in every frame, and a better mel distance, in 5/8 of the bytes of speech."""

DEFAULT_WITHOUT_LEVELS = 8.5
"""The default without band levels, chosen for the mel distance of greedy codes of all codebooks."""

_MOST_QUALITY = 100
"""Far beyond the qualities at which every frame gets all codes, or one."""

_LAMBDA_AT_5 = 0.06042
"""Lambda of quality 5 in units of `Frames.errors`; one step of quality halves or doubles it."""

_COST_EXPONENTS, _MOST_FOR_COSTS = Costs(bit=0.79, noise=0.41), 8.0
"""Above the default quality, the costs of band levels fall as lambda to these powers, up to this quality."""

_LEAST_BITRATE_FOR_LEVELS = 2150.0
"""Band levels take about 700 bit/s: below this bitrate, they are not the default."""

_POWER_EXPONENT, _POWER_FLOOR = 0.3, 1e-4
"""Weight of a frame: (its power + the floor) ** the exponent. A floor 24 dB below the mean of the network's input."""

_BUCKET_SECONDS = 2.0
"""Size of a live stream's bucket, in seconds of its bitrate."""

_BUCKET_GAIN = 4.0
"""A full bucket multiplies lambda by e to this power."""

_SHARE_AT_5, _QUALITY_PER_SHARE = 0.56, 10.4
"""Mean share of the codes of all codebooks at quality 5, and its slope: the quality at which a live stream starts."""

_TOLERANCE = 0.005
"""Share by which the size of a file may miss its bitrate."""

_MOST_TRIES = 6
"""A file of few frames may have no lambda within the tolerance."""

_SAME_LEVELS = 0.02
"""Share by which the mean number of codes may change before the band levels are chosen again."""


@dataclass(frozen=True)
class Rate:
    """How codes are chosen. At most one of `quality` and `bitrate` is given; without them, n is constant.

    Attributes:
        n_quantizers: codes of each frame, or the most if they vary.
        n_paths: paths that are searched.
        quality: see `DEFAULT_QUALITY`.
        bitrate: mean of each channel in bit/s.
        levels: whether band levels are sent too.
    """

    n_quantizers: int
    n_paths: int = 1
    quality: float | None = None
    bitrate: float | None = None
    levels: bool = False

    @property
    def is_constant(self) -> bool:
        """Whether every frame has the same number of codes."""
        return self.quality is None and self.bitrate is None

    @property
    def n_networks(self) -> int:
        """Networks that run at once: two with band levels, unless all codes are chosen before the decoder runs."""
        return 2 if self.levels and self.bitrate is None else 1


def choose_rate(
    model: DAC,
    n_quantizers: int | None = None,
    bitrate: float | None = None,
    quality: float | None = None,
    constant: bool = False,
    effort: int | None = None,
    levels: bool | None = None,
    live: bool = False,
) -> Rate:
    """The rate for the arguments of `compress`; `live` for a pipe, which is constant unless a rate is given.

    Raises:
        DacError: arguments that exclude each other, or one is out of range.
    """
    if effort is not None and (type(effort) is not int or effort not in range(len(EFFORT_PATHS))):
        raise DacError(f"effort must be between 0 and {len(EFFORT_PATHS) - 1}, not {effort!r}")
    if quality is not None and not -_MOST_QUALITY <= quality <= _MOST_QUALITY:
        raise DacError(f"quality must be between {-_MOST_QUALITY} and {_MOST_QUALITY}, not {quality:g}")
    if quality is not None and (bitrate is not None or constant):
        raise DacError(f"give quality or {'bitrate' if bitrate is not None else 'constant'}, not both")
    if model.quantizer.is_finite_scalar:
        if bitrate is not None or quality is not None:
            raise DacError(
                "the model has finite scalar quantization, which needs all codes in every frame: leave out quality and "
                "bitrate"
            )
        constant = True
    if constant or (live and bitrate is None and quality is None):
        return Rate(choose_quantizers(model, n_quantizers, bitrate), EFFORT_PATHS[effort or 0], levels=bool(levels))
    if bitrate is not None:
        choose_quantizers(model, None, bitrate)  # checks that a codebook fits
    n_most = choose_quantizers(model, n_quantizers, None)
    if levels is None:
        fits = bitrate is None or bitrate >= _LEAST_BITRATE_FOR_LEVELS
        levels = not live and effort not in (0, 1) and fits
    if bitrate is None and quality is None:
        quality = DEFAULT_QUALITY if levels else DEFAULT_WITHOUT_LEVELS
    return Rate(n_most, EFFORT_PATHS[1 if effort is None else effort], quality, bitrate, levels)


def choose_blocks(
    frames: Iterable[Frames],
    rate: Rate,
    model: DAC,
    new_writer: Callable[[BinaryIO], bitstream.Writer],
    original: Callable[[], NextBlock],
) -> Blocks:
    """Codes of the frames of a whole sound, -1 where a frame has none, and band levels.

    With a bitrate, all codes are found when this is called. `new_writer` opens a writer of the file, for its header and
    size; `original` gives the network's input from its beginning at each call, if the file has band levels.
    """
    header = new_writer(io.BytesIO()).header

    def with_levels_at(codes: Iterable[Tensor], quality: float = DEFAULT_QUALITY) -> Blocks:
        return with_levels(model, header, codes, original, _costs(quality), rate.n_networks)

    if rate.is_constant:
        return with_levels_at(block.codes for block in frames)
    if rate.quality is not None:
        return with_levels_at(at_quality(frames, rate.quality), rate.quality)
    assert rate.bitrate is not None
    share = rate.bitrate / model.config.bitrate()
    codes_per_frame = share * model.n_codebooks
    if header.n_samples is None:
        quality = 5 + _QUALITY_PER_SHARE * (share - _SHARE_AT_5)
        return with_levels_at(in_bucket(frames, codes_per_frame, model.config.frame_rate, quality))

    # Band levels are chosen by decoding, which takes time; their size hardly changes with the number of codes.
    kept: list[Levels] = []
    kept_mean = math.inf

    def size_of(codes: Iterable[Tensor], mean: float, quality: float) -> int:
        nonlocal kept_mean
        stream = io.BytesIO()
        if abs(mean / kept_mean - 1) > _SAME_LEVELS:
            kept.clear()
            kept_mean = mean
        with new_writer(stream) as writer:
            for band_levels in kept:
                writer.write(np.zeros((header.channels, header.n_codebooks, 0), np.int32), band_levels)
            for block, levels in ((block, None) for block in codes) if kept else with_levels_at(codes, quality):
                writer.write(block.numpy(), levels)
                kept.extend([] if levels is None else [levels])
        return stream.tell()

    n_bytes = rate.bitrate * header.channels * header.n_samples / header.sample_rate / 8
    return with_levels_at(*at_size(frames, n_bytes, codes_per_frame, size_of))


def at_quality(frames: Iterable[Frames], quality: float) -> Iterator[Tensor]:
    """Codes [C, N, f] of each block of frames, -1 where a frame has none."""
    lagrange = _lagrange(quality)

    def chosen(block: Frames) -> Tensor:
        return limited(block.codes, n_codes(weighted_errors(block), lagrange))

    return map(chosen, frames)


def in_bucket(frames: Iterable[Frames], codes_per_frame: float, frame_rate: float, quality: float) -> Iterator[Tensor]:
    """`at_quality` for a live stream, with a quality that keeps to a mean number of codes per frame and channel.

    It starts at `quality`. After t seconds the mean differs from the wanted one by the level of the bucket over t.
    """
    size = _BUCKET_SECONDS * frame_rate * codes_per_frame
    level = 0.0  # in codes
    for block in frames:
        counts = []
        for errors in weighted_errors(block).split(1, -1):
            counts.append(n_codes(errors, _lagrange(quality) * math.exp(_BUCKET_GAIN * level / size)))
            level += float(counts[-1].double().mean()) - codes_per_frame
        yield limited(block.codes, torch.cat(counts, -1))


def at_size(
    frames: Iterable[Frames],
    n_bytes: float,
    codes_per_frame: float,
    size_of: Callable[[Iterable[Tensor], float, float], int],
) -> tuple[Iterator[Tensor], float]:
    """`at_quality` for a file, and the quality that gives it a wanted size, within `_TOLERANCE` if possible.

    All codes and errors are kept: 8 bytes per codebook and frame, 22 MB per hour and channel with 9 codebooks at 86 Hz.

    Args:
        frames: those of the file.
        n_bytes: the wanted size.
        codes_per_frame: estimate of the mean number of codes per frame and channel at that size.
        size_of: the size of the file for all of its codes, their mean number per frame and channel, and the quality.
    """
    kept = [(block.codes.int(), weighted_errors(block).float()) for block in frames]
    if not kept:
        return iter(()), DEFAULT_QUALITY
    errors = torch.cat([errors for _, errors in kept], -1)
    sizes = [block.shape[-1] for block, _ in kept]

    def with_counts(counts: Tensor) -> Iterator[Tensor]:
        return (limited(block.long(), part) for (block, _), part in zip(kept, counts.split(sizes, -1), strict=True))

    tried: list[tuple[float, Tensor, float]] = []
    mean = size = 0.0
    for _ in range(_MOST_TRIES):
        quality = _quality_for(errors, codes_per_frame)
        counts = n_codes(errors, _lagrange(quality))
        mean_before, size_before = mean, size
        mean = float(counts.double().mean())
        size = size_of(with_counts(counts), mean, quality)
        excess = size / n_bytes - 1
        tried.append((excess, counts, quality))
        if abs(excess) <= _TOLERANCE or mean in (mean_before, 1.0 if excess > 0 else errors.shape[1]):
            break
        slope = (size - size_before) / (mean - mean_before)
        wanted = mean + (n_bytes - size) / (slope if slope > 0 else size / mean)
        codes_per_frame = min(max(wanted, 1.0), float(errors.shape[1]))
    excess, counts, quality = min(tried, key=lambda one: abs(one[0]))
    if excess > 2 * _TOLERANCE:
        warnings.warn(
            f"the file is {excess:.0%} larger than the bitrate asks for: no closer size was found", stacklevel=2
        )
    return with_counts(counts), quality


def weighted_errors(frames: Frames) -> Tensor:
    """w E_n of each frame [C, N, f]."""
    return (frames.power + _POWER_FLOOR).pow(_POWER_EXPONENT)[:, None] * frames.errors


def n_codes(errors: Tensor, lagrange: float) -> Tensor:
    """The best numbers of codes [C, F], 1 to N, for weighted errors [C, N, F]; the lower of two equally good."""
    costs = torch.arange(1, errors.shape[1] + 1, dtype=errors.dtype)[:, None] * lagrange
    return (errors + costs).argmin(1) + 1


def limited(codes: Tensor, counts: Tensor) -> Tensor:
    """Codes [C, N, F] with -1 after the first `counts` [C, F] of each frame."""
    return codes.masked_fill(torch.arange(codes.shape[1])[:, None] >= counts[:, None], -1)


def _lagrange(quality: float) -> float:
    return _LAMBDA_AT_5 * math.pow(2, 5 - quality)


def _costs(quality: float) -> Costs:
    """Costs of band levels."""
    steps = min(max(quality, DEFAULT_QUALITY), _MOST_FOR_COSTS) - DEFAULT_QUALITY
    falls = (math.pow(2, -exponent * steps) for exponent in _COST_EXPONENTS)
    return Costs(*(cost * fall for cost, fall in zip(COSTS, falls, strict=True)))


def _quality_for(errors: Tensor, codes_per_frame: float) -> float:
    """The highest quality whose mean number of codes is at most a wanted one, by bisection."""
    low, high = float(-_MOST_QUALITY), float(_MOST_QUALITY)
    for _ in range(60):
        middle = (low + high) / 2
        if float(n_codes(errors, _lagrange(middle)).double().mean()) > codes_per_frame:
            high = middle
        else:
            low = middle
    return low
