"""The part of a file that is decoded: the frames it depends on, and its place in what they decode to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dac_codec import audio
from dac_codec.bitstream import Header
from dac_codec.common.errors import DacError
from dac_codec.inference import Context

_REACH = 512
"""Upper bound of the resampler's filter length to either side, in samples at the lower rate."""


@dataclass(frozen=True)
class TimeRange:
    """A part of a file, in frames, decoded samples and samples of the original.

        frames      | first_frame ...                              last_frame |
        decoded     |-- skip_decoded --|   at the model's rate                |
        original                       | origin ... | start ... stop |         at the file's rate

    Attributes:
        first_frame: first frame that is decoded.
        last_frame: last one, exclusive; None for the end.
        skip_decoded: decoded samples at the model's rate that are dropped before filtering and resampling.
        origin: first sample of the original that is resampled. It coincides with a sample of the model's rate, so that
            the resampler's filter has the same phase as in the whole file.
        start: first sample of the part, counted from the start of the original.
        stop: last sample, exclusive; None for the end.
    """

    first_frame: int = 0
    last_frame: int | None = None
    skip_decoded: int = 0
    origin: int = 0
    start: int = 0
    stop: int | None = None


def time_range(header: Header, context: Context, start: float | None, duration: float | None) -> TimeRange:
    """The part of a file from `start` on (seconds; None: the beginning), at most `duration` long (None: to the end).

    `context` is that of the model's decoder.

    Raises:
        DacError: a time is negative or not finite, or the part is empty or starts after the end of the file.
    """
    if start is None and duration is None:
        return TimeRange()
    first, stop = sample_range(header.sample_rate, header.n_samples, start, duration)
    rate, model_rate, hop = header.sample_rate, header.model_sample_rate, header.hop_length
    step = model_rate // math.gcd(rate, model_rate)
    reach = 0 if rate == model_rate else math.ceil(_REACH * model_rate / min(rate, model_rate))
    if header.bandwidth is not None:
        reach += audio.low_pass_reach(model_rate)
    origin = max(0, (first * model_rate // rate - reach) // step) * step  # at the model's rate
    # The filter of the band levels reaches a window to either side.
    window = 0 if header.levels is None else 2 * header.levels.hop
    first_frame = max(0, origin // hop - window - context.before)
    last_frame = None
    if stop is not None:
        last_sample = -(-stop * model_rate // rate) + reach  # at the model's rate
        last_frame = -(-last_sample // hop) + window + context.after
    return TimeRange(first_frame, last_frame, origin - first_frame * hop, origin * rate // model_rate, first, stop)


def sample_range(
    sample_rate: int, n_samples: int | None, start: float | None, duration: float | None
) -> tuple[int, int | None]:
    """First and last sample (exclusive; None for the end) of a part. Raises what `time_range` raises."""
    for what, seconds in (("start", start), ("duration", duration)):
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise DacError(f"the {what} must be a number of seconds, 0 or more, not {seconds}")
    first = round((start or 0.0) * sample_rate)
    if n_samples is not None and first >= n_samples:
        raise DacError(f"the start at {start:g} s is beyond the end: the file is {n_samples / sample_rate:.3f} s long")
    if duration is None:
        return first, None
    if round(duration * sample_rate) == 0:
        raise DacError(f"a duration of {duration:g} s is shorter than one sample")
    return first, first + round(duration * sample_rate)
