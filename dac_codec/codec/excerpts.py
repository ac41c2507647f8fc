"""Which frames a part of a file depends on, and where the part lies in what they decode to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dac_codec import audio as sound
from dac_codec.bitstream import Header
from dac_codec.common.errors import DacError
from dac_codec.inference import Context

_REACH = 512
"""Samples at the lower rate that the resampler's filter reaches to either side, with room to spare."""


@dataclass(frozen=True)
class Excerpt:
    """A part of a sound, and the way to it.

    Attributes:
        first_frame: the first that is decoded.
        last_frame: the last, exclusive; None for all there are.
        skip_decoded: decoded samples at the model's rate that are left out before filtering and resampling.
        origin: the sample of the original, counted from its start, that is resampled first. One that lies on a sample
            of the model's rate, so that the resampler's filter has the phase that it has in the whole.
        start: the part's first sample, counted from the original's start.
        stop: the part's last sample, exclusive; None for the original's end.
    """

    first_frame: int = 0
    last_frame: int | None = None
    skip_decoded: int = 0
    origin: int = 0
    start: int = 0
    stop: int | None = None


def excerpt(header: Header, context: Context, start: float | None, duration: float | None) -> Excerpt:
    """Find a part of a file.

    Args:
        header: the file's.
        context: of the model's decoder.
        start: seconds from the beginning; None for the beginning.
        duration: seconds; None for all that follows.

    Raises:
        DacError: a time that is not finite or negative, a part without a sample, or one behind the file's end.
    """
    if start is None and duration is None:
        return Excerpt()
    first, stop = sample_range(header.sample_rate, header.n_samples, start, duration)
    rate, model_rate, hop = header.sample_rate, header.model_sample_rate, header.hop_length
    step = model_rate // math.gcd(rate, model_rate)
    reach = 0 if rate == model_rate else math.ceil(_REACH * model_rate / min(rate, model_rate))
    if header.bandwidth is not None:
        reach += sound.low_pass_reach(model_rate)
    origin = max(0, (first * model_rate // rate - reach) // step) * step  # at the model's rate
    first_frame = max(0, origin // hop - context.before)
    last_frame = None
    if stop is not None:
        last_frame = -(-(-(-stop * model_rate // rate) + reach) // hop) + context.after
    return Excerpt(first_frame, last_frame, origin - first_frame * hop, origin * rate // model_rate, first, stop)


def sample_range(
    sample_rate: int, n_samples: int | None, start: float | None, duration: float | None
) -> tuple[int, int | None]:
    """The first sample of a part, and the last, exclusive: None for the end. Raises what `excerpt` raises."""
    for what, seconds in (("start", start), ("duration", duration)):
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise DacError(f"the {what} must be a number of seconds, 0 or more, not {seconds}")
    first = round((start or 0.0) * sample_rate)
    if n_samples is not None and first >= n_samples:
        raise DacError(f"the start at {start:g} s is behind the end: the file has {n_samples / sample_rate:.3f} s")
    if duration is None:
        return first, None
    if round(duration * sample_rate) == 0:
        raise DacError(f"a duration of {duration:g} s is less than a sample")
    return first, first + round(duration * sample_rate)
