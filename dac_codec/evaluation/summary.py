"""From results of clips to what can be said of codecs: means by domain, differences, and the use of codebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dac_codec.evaluation.clips import POOLED
from dac_codec.evaluation.metrics import Metric, codebook_use
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.statistics import Estimate, estimate


@dataclass(frozen=True)
class Codebooks:
    """How the codebooks are used in a domain.

    Attributes:
        entropy: of the choices from each codebook, in bits.
        used: share of its entries that were chosen at all.
        efficiency: entropy over bits spent, of all codebooks together (section 4.4 of the paper). Low where there are
            few frames: n of them can't show more than log2(n) bits.
        frames: how many there are.
    """

    entropy: list[float]
    used: list[float]
    efficiency: float
    frames: int


@dataclass(frozen=True)
class Mean:
    """A codec at a setting in a domain.

    Attributes:
        domain, codec, setting: names.
        clips: how many.
        kbps: of the files, every byte counted; the mean of the clips.
        payload_kbps: without headers and framing.
        encode_speed, decode_speed: seconds of sound per second of work; None for what does no work.
        measures: by the metrics' names.
        codebooks: None where there are none.
    """

    domain: str
    codec: str
    setting: str
    clips: int
    kbps: Estimate
    payload_kbps: float
    encode_speed: float | None
    decode_speed: float | None
    measures: dict[str, Estimate]
    codebooks: Codebooks | None


@dataclass(frozen=True)
class Difference:
    """A codec against another at the nearest bitrate, clip by clip: the first's measure less the other's.

    Attributes:
        domain: name.
        codec, setting, kbps: the one.
        other, other_setting, other_kbps: the other.
        measures: by the metrics' names.
        verdicts: "better", "worse", or "undecided" where the confidence interval holds 0; of `codec`.
    """

    domain: str
    codec: str
    setting: str
    kbps: float
    other: str
    other_setting: str
    other_kbps: float
    measures: dict[str, Estimate]
    verdicts: dict[str, str]


def domains_of(results: Iterable[Result]) -> list[str]:
    """The domains, and at the end `POOLED`."""
    return [*sorted({result.domain for result in results} - {POOLED}), POOLED]


def means(results: Sequence[Result], metrics: Sequence[Metric]) -> list[Mean]:
    """For each domain, every codec at every setting, in the order of the results."""
    found = []
    for domain in domains_of(results):
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in _in_domain(results, domain):
            groups.setdefault((result.codec, result.setting), []).append(result)
        found += [_mean(domain, group, metrics) for group in groups.values()]
    return found


def differences(results: Sequence[Result], metrics: Sequence[Metric]) -> list[Difference]:
    """The first codec against every setting of the others, in each domain.

    Of the first codec, the setting is taken whose mean bitrate over all clips comes nearest to the other's. What costs
    no bits is not compared.
    """
    rates = {(mean.codec, mean.setting): mean.kbps.mean or 0.0 for mean in means(results, ()) if mean.domain == POOLED}
    first = results[0].codec
    own = [pair for pair, kbps in rates.items() if pair[0] == first and kbps]
    if not own:
        return []
    found = []
    for domain in domains_of(results):
        group = _in_domain(results, domain)
        for other, kbps in rates.items():
            if other[0] != first and kbps:
                one = min(own, key=lambda pair: abs(rates[pair] - kbps))
                found.append(_difference(domain, group, one, other, rates, metrics))
    return [difference for difference in found if difference.measures]


def _in_domain(results: Sequence[Result], domain: str) -> list[Result]:
    return [result for result in results if domain in (POOLED, result.domain)]


def _mean(domain: str, group: Sequence[Result], metrics: Sequence[Metric]) -> Mean:
    seconds = sum(result.seconds for result in group)
    encoding, decoding = (
        sum(getattr(result, name) for result in group) for name in ("encode_seconds", "decode_seconds")
    )
    return Mean(
        domain=domain,
        codec=group[0].codec,
        setting=group[0].setting,
        clips=len(group),
        kbps=estimate([result.kbps for result in group]),
        payload_kbps=sum(result.payload_bytes for result in group) * 8 / seconds / 1000,
        encode_speed=seconds / encoding if encoding else None,
        decode_speed=seconds / decoding if decoding else None,
        measures=_estimates({result.clip: result.measures for result in group}, metrics),
        codebooks=_codebooks(group),
    )


def _estimates(measures: dict[str, dict[str, float | None]], metrics: Sequence[Metric]) -> dict[str, Estimate]:
    """Of the measures of each clip, the metrics that are defined for any of them."""
    found = {}
    for metric in metrics:
        values = [value for one in measures.values() if (value := one.get(metric.name)) is not None]
        if values:
            found[metric.name] = estimate(values)
    return found


def _codebooks(group: Sequence[Result]) -> Codebooks | None:
    counts = [found for result in group if (found := result.counts()) is not None]
    if not counts:
        return None
    total = np.sum(counts, 0)
    entropy, used = codebook_use(total)
    bits = len(total) * math.log2(group[0].codebook_size)
    return Codebooks(entropy.tolist(), used.tolist(), float(entropy.sum() / bits), int(total[0].sum()))


def _difference(
    domain: str,
    group: Sequence[Result],
    one: tuple[str, str],
    other: tuple[str, str],
    rates: dict[tuple[str, str], float],
    metrics: Sequence[Metric],
) -> Difference:
    sides = [
        {result.clip: result.measures for result in group if (result.codec, result.setting) == pair}
        for pair in (one, other)
    ]
    paired: dict[str, dict[str, float | None]] = {}
    for clip in sides[0].keys() & sides[1].keys():
        paired[clip] = {}
        for metric in metrics:
            own, theirs = (side[clip].get(metric.name) for side in sides)
            paired[clip][metric.name] = None if own is None or theirs is None else own - theirs
    found = _estimates({clip: paired[clip] for clip in sorted(paired)}, metrics)
    verdicts = {metric.name: _verdict(found[metric.name], metric) for metric in metrics if metric.name in found}
    return Difference(domain, *one, rates[one], *other, rates[other], found, verdicts)


def _verdict(difference: Estimate, metric: Metric) -> str:
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.low > 0) is metric.higher_is_better else "worse"
