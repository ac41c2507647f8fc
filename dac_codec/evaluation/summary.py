"""Means by domain, differences between codecs, and the use of codebooks, from the results of clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dac_codec.evaluation.clips import POOLED
from dac_codec.evaluation.metrics import Metric, codebook_use
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.statistics import MIN_SOURCES, Estimate, estimate, source_numbers


@dataclass(frozen=True)
class Codebooks:
    """Use of the codebooks in a domain.

    Attributes:
        entropy: of the codes of each codebook, in bits.
        used: share of the entries of each codebook that were used at all.
        bits: spent on each code of each codebook, in the file if it is entropy coded; None without codes.
        efficiency: entropy over bits spent, of all codes together (section 4.4 of the paper). It is biased downwards
            for few frames: n of them show at most log2(n) bits.
        frames: number of frames.
        codes_per_frame: mean.
    """

    entropy: list[float]
    used: list[float]
    bits: list[float | None]
    efficiency: float
    frames: int
    codes_per_frame: float


@dataclass(frozen=True)
class Mean:
    """A codec at a setting in a domain.

    Attributes:
        sources: number of independent sources of the clips.
        kbps: all bits of the files over the duration of all clips, in kbit/s.
        payload_kbps: the same without headers and framing.
        encode_speed, decode_speed: seconds of audio per second of computation; None if nothing is computed.
        measures: by the metrics' names.
        worst: by the metrics' names, the worst decile: a tenth of the clips are as bad as this or worse.
        codebooks: None for codecs without.
    """

    domain: str
    codec: str
    setting: str
    clips: int
    sources: int
    kbps: Estimate
    payload_kbps: float
    encode_speed: float | None
    decode_speed: float | None
    measures: dict[str, Estimate]
    worst: dict[str, float]
    codebooks: Codebooks | None


@dataclass(frozen=True)
class Difference:
    """Paired difference of a codec and another one at the nearest bitrate: the first's measure minus the other's.

    Attributes:
        codec, setting, kbps: the first codec; kbit/s on disk, in the domain.
        other, other_setting, other_kbps: the other codec.
        measures: by the metrics' names.
        verdicts: "better" or "worse", of `codec`, or "undecided" if the confidence interval contains 0; none without an
            interval.
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


def means(results: Sequence[Result], metrics: Sequence[Metric]) -> list[Mean]:
    """For each domain, the means of every codec at every setting, in the order of the results; `POOLED` is last."""
    sources = _sources(results)
    return [
        _mean(domain, group, metrics, sources)
        for domain in _domains(results)
        for group in _by_setting(results, domain).values()
    ]


def without_intervals(means: Sequence[Mean]) -> str | None:
    """A sentence that names the domains with too few sources for intervals; None if all have enough."""
    fewest: dict[str, int] = {}
    for mean in means:
        fewest[mean.domain] = max(fewest.get(mean.domain, 0), mean.sources)
    named = ", ".join(f"{domain} ({n})" for domain, n in fewest.items() if n < MIN_SOURCES)
    if not named:
        return None
    return (
        f"There are no confidence intervals and no verdicts where the clips come from fewer than {MIN_SOURCES} "
        f"independent sources: {named}."
    )


def differences(results: Sequence[Result], metrics: Sequence[Metric], first: str) -> list[Difference]:
    """Compare the codec called `first` with every setting of the others, in each domain.

    The setting of the first codec is the one whose bitrate over all clips is nearest to the other's. What costs no bits
    is not compared. If the first codec has no results there are no differences; `incomparable` gives the reason.
    """
    rates = _rates(results)
    own = [pair for pair, kbps in rates.items() if pair[0] == first and kbps]
    if not own:
        return []
    found = []
    sources = _sources(results)
    for domain in _domains(results):
        groups = _by_setting(results, domain)
        for other, kbps in rates.items():
            one = min(own, key=lambda pair: abs(rates[pair] - kbps))
            if other[0] != first and kbps and one in groups and other in groups:
                found.append(_difference(domain, groups[one], groups[other], metrics, sources))
    return [difference for difference in found if difference.measures]


def incomparable(results: Sequence[Result], first: str) -> str:
    """A sentence with the reason why the codec called `first` was not compared with the others."""
    own = [kbps for (codec, _), kbps in _rates(results).items() if codec == first]
    if any(own):
        return f"There are no differences: no other codec was measured on the clips of {first}."
    reason = "costs no bits" if own else "has no results"
    return f"There are no differences: {first}, with which the others are compared, {reason}."


def verdict_lines(differences: Sequence[Difference], metrics: Sequence[Metric]) -> list[str]:
    """For each domain and other codec, a line with the verdicts at the two settings whose bitrates are nearest."""
    nearest: dict[tuple[str, str], Difference] = {}
    for one in sorted(differences, key=lambda one: abs(one.kbps - one.other_kbps)):
        if one.verdicts:
            nearest.setdefault((one.domain, one.other), one)
    lines = []
    for one in [one for one in differences if nearest.get((one.domain, one.other)) is one]:
        found: dict[str, list[str]] = {}
        for metric in metrics:
            if (verdict := one.verdicts.get(metric.name)) is not None:
                amount = f" by {abs(one.measures[metric.name].mean):.3g} {metric.unit}".rstrip()
                found.setdefault(verdict, []).append(metric.label + ("" if verdict == "undecided" else amount))
        own, other = _name(one.codec, one.setting, one.kbps), _name(one.other, one.other_setting, one.other_kbps)
        verdicts = "; ".join(f"{verdict}: {', '.join(labels)}" for verdict, labels in sorted(found.items()))
        lines.append(f"{one.domain}, {own} against {other}: {verdicts}.")
    return lines


def _name(codec: str, setting: str, kbps: float) -> str:
    return f"{codec}{f', {setting}' if setting else ''} ({kbps:.2f} kbit/s on disk)"


def _kbps(group: Sequence[Result]) -> float:
    """All bits of the files over the duration of all clips, in kbit/s."""
    return sum(result.n_bytes for result in group) * 8 / 1000 / sum(result.seconds for result in group)


def _rates(results: Sequence[Result]) -> dict[tuple[str, str], float]:
    """The kbit/s on disk of each codec at each setting, over all clips."""
    return {pair: _kbps(group) for pair, group in _by_setting(results, POOLED).items()}


def _sources(results: Sequence[Result]) -> dict[str, int]:
    """The number of each clip's independent source."""
    names = {result.clip: result.sources or [f"clip {result.clip}"] for result in results}
    return dict(zip(names, source_numbers(list(names.values())).tolist(), strict=True))


def _domains(results: Sequence[Result]) -> list[str]:
    """The domains, with `POOLED` last."""
    return [*sorted({result.domain for result in results} - {POOLED}), POOLED]


def _by_setting(results: Sequence[Result], domain: str) -> dict[tuple[str, str], list[Result]]:
    """The results of a domain by codec and setting."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if domain in (POOLED, result.domain):
            groups.setdefault((result.codec, result.setting), []).append(result)
    return groups


def _mean(domain: str, group: Sequence[Result], metrics: Sequence[Metric], sources: dict[str, int]) -> Mean:
    lengths = [result.seconds for result in group]
    seconds = sum(lengths)
    encoding, decoding = sum(result.encode_seconds for result in group), sum(result.decode_seconds for result in group)
    values = {metric: found for metric in metrics if (found := _values(group, metric))}
    return Mean(
        domain=domain,
        codec=group[0].codec,
        setting=group[0].setting,
        clips=len(group),
        sources=len({sources[result.clip] for result in group}),
        kbps=estimate([result.kbps for result in group], [sources[result.clip] for result in group], lengths),
        payload_kbps=sum(result.payload_bytes for result in group) * 8 / seconds / 1000,
        encode_speed=seconds / encoding if encoding else None,
        decode_speed=seconds / decoding if decoding else None,
        measures={metric.name: _estimate(found, sources) for metric, found in values.items()},
        worst={
            metric.name: float(np.percentile(list(found.values()), 10 if metric.higher_is_better else 90))
            for metric, found in values.items()
        },
        codebooks=_codebooks(group),
    )


def _values(group: Sequence[Result], metric: Metric) -> dict[str, float]:
    """A metric's values by clip, where they are defined."""
    return {one.clip: value for one in group if (value := one.measures.get(metric.name)) is not None}


def _estimate(values: dict[str, float], sources: dict[str, int]) -> Estimate:
    return estimate(list(values.values()), [sources[clip] for clip in values])


def _codebooks(group: Sequence[Result]) -> Codebooks | None:
    found = [(result, counts) for result in group if (counts := result.counts()) is not None]
    if not found:
        return None
    total = np.sum([counts for _, counts in found], 0)
    n_codes, n_frames = total.sum(1), int(total[0].sum())
    bits = np.sum([one.code_bits or counts.sum(1) * math.log2(one.codebook_size) for one, counts in found], 0)
    entropy, used = codebook_use(total)
    return Codebooks(
        entropy=entropy.tolist(),
        used=used.tolist(),
        bits=[float(bit / n) if n else None for bit, n in zip(bits, n_codes, strict=True)],
        efficiency=float((n_codes * entropy).sum() / bits.sum()),
        frames=n_frames,
        codes_per_frame=float(n_codes.sum() / n_frames),
    )


def _difference(
    domain: str, own: Sequence[Result], other: Sequence[Result], metrics: Sequence[Metric], sources: dict[str, int]
) -> Difference:
    measures, verdicts = {}, {}
    for metric in metrics:
        ours, theirs = _values(own, metric), _values(other, metric)
        if paired := {clip: ours[clip] - theirs[clip] for clip in sorted(ours.keys() & theirs.keys())}:
            measures[metric.name] = found = _estimate(paired, sources)
            if (verdict := _verdict(found, metric)) is not None:
                verdicts[metric.name] = verdict
    first, second = own[0], other[0]
    return Difference(
        domain, first.codec, first.setting, _kbps(own), second.codec, second.setting, _kbps(other), measures, verdicts
    )


def _verdict(difference: Estimate, metric: Metric) -> str | None:
    if difference.low is None or difference.high is None:
        return None
    if difference.low <= 0 <= difference.high:
        return "undecided"
    return "better" if (difference.low > 0) is metric.higher_is_better else "worse"
