"""Means, intervals and differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dac_codec.evaluation import summary, tables
from dac_codec.evaluation.metrics import METRICS
from dac_codec.evaluation.results import Result, packed
from dac_codec.evaluation.statistics import CONFIDENCE, N_RESAMPLES, Estimate, estimate, source_numbers

MEL, SI_SDR = (next(one for one in METRICS if one.name == name) for name in ("mel_distance", "si_sdr"))


def result(
    clip: str, codec: str, n_bytes: int, mel: float | None, si_sdr: float = 0.0, setting: str = "", source: str = ""
) -> Result:
    codes = packed(np.array([[0, 1], [1, 1]]))
    measures = {"mel_distance": mel, "si_sdr": si_sdr}
    fixed = (clip, clip.split("-")[0], 1.0, codec, setting, n_bytes, n_bytes / 2, 0.5, 0.0, measures, codes, 2, 4)
    return Result(*fixed, sources=source.split())


def test_the_interval_contains_the_mean_in_95_percent_of_trials() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        found = estimate(random.normal(3.0, 1.0, 40).tolist())
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 3.0 <= found.high
    assert 180 <= held <= 199


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=20))
def test_intervals_are_reproducible(values: list[float]) -> None:
    found = estimate(values)
    assert found == estimate(values)
    assert found.low is not None
    assert found.high is not None
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_too_few_clips_have_no_interval() -> None:
    assert estimate([2.0]) == Estimate(2.0, None, None, 1, 1)
    assert estimate([1.0, 2.0, 3.0, 6.0]) == Estimate(3.0, None, None, 4, 4)
    assert estimate([1.0, 2.0, 3.0, 6.0, 8.0]).low is not None
    assert estimate([1.0, 2.0, 3.0, 6.0, 8.0, 10.0], [0, 1, 2, 3, 3, 0]) == Estimate(5.0, None, None, 6, 4)


@given(st.lists(st.floats(-1e3, 1e3), min_size=5, max_size=20))
def test_with_one_source_per_clip_it_is_the_bootstrap_over_clips(values: list[float]) -> None:
    draws = np.random.default_rng(0).integers(0, len(values), (N_RESAMPLES, len(values)))
    tail = 50 * (1 - CONFIDENCE)
    plain = np.percentile(np.array(values)[draws].mean(1), [tail, 100 - tail])
    for found in (
        estimate(values),
        estimate(values, list(range(7, 7 + len(values)))),
        estimate(values, None, [2.5] * len(values)),
    ):
        assert found[1:3] == pytest.approx(tuple(plain), rel=1e-9, abs=1e-9)


def test_the_interval_over_clips_is_too_narrow_for_clips_of_few_sources() -> None:
    """20 sources with 8 similar clips each."""
    random = np.random.default_rng(1)
    of_clip = np.repeat(np.arange(20), 8)
    held, held_by_clips = 0, 0
    for _ in range(100):
        values = (3.0 + random.normal(0.0, 1.0, 20)[of_clip] + random.normal(0.0, 0.1, 160)).tolist()
        for found, over_sources in ((estimate(values, of_clip), True), (estimate(values), False)):
            assert found.low is not None
            assert found.high is not None
            held += over_sources and found.low <= 3.0 <= found.high
            held_by_clips += not over_sources and found.low <= 3.0 <= found.high
    assert held >= 86
    assert held_by_clips <= 65


def test_sources_are_weighted_by_their_clips() -> None:
    values, sources = [0.0] * 9 + [1.0] * 4, [0] * 9 + [1, 2, 3, 4]
    random = np.random.default_rng(0)
    means = []
    for drawn in random.integers(0, 5, (N_RESAMPLES, 5)):
        pooled = [value for one in drawn for value, source in zip(values, sources, strict=True) if source == one]
        means.append(np.mean(pooled))
    found = estimate(values, sources)
    assert found.mean == pytest.approx(4 / 13)
    assert found[1:3] == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert (found.clips, found.sources) == (13, 5)


def test_clips_of_one_file_share_a_source() -> None:
    assert source_numbers([]).tolist() == []
    assert source_numbers([["a"], ["b"], ["a"]]).tolist() == [0, 1, 0]
    assert source_numbers([["d"], ["a", "b"], ["e"], ["c"], ["b", "c"]]).tolist() == [0, 1, 2, 3, 4]
    assert source_numbers([["a"], ["a", "b"], ["b", "a"], ["b"], ["c"]]).tolist() == [0, 0, 0, 0, 1], (
        "of the same two files"
    )
    # Clips that begin with successive files and have all but one of them in common.
    assert source_numbers([["a", "b", "c"], ["b", "c", "d"], ["c", "d", "e"], ["x", "y", "c"]]).tolist() == [0, 1, 2, 3]
    assert source_numbers([list("abcdef"), list("bcdefg"), list("cdefgh"), list("hijklm")]).tolist() == [0, 0, 0, 1]
    assert source_numbers([[], [], ["a"]]).tolist() == [0, 1, 2]


def results() -> Sequence[Result]:
    """Ours is better by mel distance and worse by SI-SDR than the other at its rate, on each of five clips."""
    found = []
    for i in range(5):
        clip = f"{'music' if i < 2 else 'speech'}-{i}"
        found += [
            result(clip, "ours", 250, 2.0 + i, 1.0, "2 codebooks"),
            result(clip, "ours", 1000, 1.0 + i, 2.0, "9 codebooks"),
            result(clip, "ours", 4000, 0.5, 9.0, "36 codebooks"),
            result(clip, "opus", 900, None if i == 4 else 1.5 + 1.1 * i, 5.0, "8 kbit/s"),
            result(clip, "silence", 0, 9.0),
        ]
    return found


def test_means_by_domain() -> None:
    means = summary.means(results(), [MEL, SI_SDR])
    assert [(one.domain, one.codec, one.setting) for one in means[:5]] == [
        ("music", "ours", "2 codebooks"),
        ("music", "ours", "9 codebooks"),
        ("music", "ours", "36 codebooks"),
        ("music", "opus", "8 kbit/s"),
        ("music", "silence", ""),
    ]
    pooled = {(one.codec, one.setting): one for one in means if one.domain == "all"}
    ours = pooled["ours", "9 codebooks"]
    assert ours.clips == 5
    assert ours.kbps.mean == 8.0
    assert ours.payload_kbps == 4.0
    assert (ours.encode_speed, ours.decode_speed) == (2.0, None)
    assert ours.measures["mel_distance"].mean == 3.0
    assert pooled["opus", "8 kbit/s"].measures["mel_distance"].clips == 4
    assert ours.codebooks is not None
    assert ours.codebooks.entropy == [1.0, 0.0]
    assert ours.codebooks.used == [0.5, 0.25]
    assert ours.codebooks.efficiency == 0.25
    assert ours.codebooks.frames == 10
    assert ours.codebooks.codes_per_frame == 2.0
    assert ours.codebooks.bits == [2.0, 2.0]


def test_only_codes_that_are_there_count() -> None:
    """Four frames of up to three codes of two bits, in files that spend other numbers of bits on them."""
    codes = packed(np.array([[0, 1, 2, 3], [0, 0, 1, -1], [-1, -1, -1, -1]]))
    one = replace(result("a-0", "ours", 100, 1.0), codes=codes, n_codebooks=3, code_bits=[6.0, 3.0, 0.0])
    other = replace(one, clip="a-1", code_bits=[8.0, 6.0, 0.0])
    mean = summary.means([one, other], [])[0]
    found = mean.codebooks
    assert found is not None
    assert (found.frames, found.codes_per_frame) == (8, 14 / 8)
    entropy = np.log2(3) - 2 / 3
    assert found.entropy == pytest.approx([2.0, entropy, 0.0])
    assert found.used == [1.0, 0.5, 0.0]
    assert found.bits == [14 / 8, 9 / 6, None]
    assert found.efficiency == pytest.approx((8 * 2.0 + 6 * entropy) / 23)
    row = "| a | ours |  | 8 | 1.75 | 93.5% | 2.00 0.92 0.00 | 1.75 1.50 - | 100% 50% 0% |"
    assert tables.codebooks_markdown([mean]).splitlines()[-1] == row


def test_the_worst_decile_is_on_the_bad_side() -> None:
    found = [result(f"x-{i}", "a", 100, float(i), si_sdr=float(i)) for i in range(11)]
    mean = summary.means(found, [MEL, SI_SDR])[0]
    assert mean.worst == {"mel_distance": 9.0, "si_sdr": 1.0}


def test_the_summary_has_a_line_for_each_domain_and_other_codec() -> None:
    metrics = [MEL, SI_SDR]
    lines = summary.verdict_lines(summary.differences(results(), metrics, "ours"), metrics)
    assert lines == [
        "all, ours, 9 codebooks (8.00 kbit/s on disk) against opus, 8 kbit/s (7.20 kbit/s on disk): "
        "worse: SI-SDR by 3 dB."
    ]
    swapped = [result(f"x-{i}", name, 100, value) for i in range(6) for name, value in (("a", i), ("b", 5 - i))]
    (line, _) = summary.verdict_lines(summary.differences(swapped, [MEL], "a"), [MEL])
    assert line == "x, a (0.80 kbit/s on disk) against b (0.80 kbit/s on disk): undecided: mel distance."


def test_bitrates_are_all_bits_over_all_seconds() -> None:
    short, long = result("a-0", "ours", 100, 1.0), replace(result("a-1", "ours", 300, 1.0), seconds=9.0)
    (mean,) = [one for one in summary.means([short, long], [MEL]) if one.domain == "all"]
    assert mean.kbps.mean == pytest.approx(400 * 8 / 10 / 1000)
    assert mean.payload_kbps == pytest.approx(200 * 8 / 10 / 1000)


def test_differences_at_the_nearest_bitrate() -> None:
    found = [one for one in summary.differences(results(), [MEL, SI_SDR], "ours") if one.domain == "all"]
    (difference,) = found  # silence costs nothing, and is not compared
    assert (difference.setting, difference.other) == ("9 codebooks", "opus")
    assert difference.measures["mel_distance"].clips == 4
    assert difference.measures["mel_distance"].mean == pytest.approx(-0.65)
    # Four clips are too few for a verdict, five are enough.
    assert difference.measures["mel_distance"].low is None
    assert difference.verdicts == {"si_sdr": "worse"}
    swapped = [result(f"x-{i}", name, 100, value) for i in range(6) for name, value in (("a", i), ("b", 5 - i))]
    assert summary.differences(swapped, [MEL], "a")[0].verdicts == {"mel_distance": "undecided"}
    better = [result(f"x-{i}", name, 100, i + value) for i in range(6) for name, value in (("a", 0), ("b", 1))]
    assert summary.differences(better, [MEL], "a")[0].verdicts == {"mel_distance": "better"}
    assert summary.differences([result("x-0", "a", 100, 1.0)], [MEL], "a") == []


def test_differences_have_the_bitrates_of_their_domain() -> None:
    found = [
        result(f"{domain}-{i}", name, 100 * factor * (1 + (name == "b")), 1.0)
        for domain, factor in (("music", 1), ("speech", 4))
        for i in range(2)
        for name in ("a", "b")
    ]
    rates = {one.domain: (one.kbps, one.other_kbps) for one in summary.differences(found, [MEL], "a")}
    expected = {"music": (0.8, 1.6), "speech": (3.2, 6.4), "all": (2.0, 4.0)}
    assert rates == {domain: pytest.approx(pair) for domain, pair in expected.items()}


def test_clips_of_too_few_files_have_no_verdict() -> None:
    found = [
        result(f"x-{i}", name, 100, i + value, source=f"file{i % 4} file{4 + i % 4}")
        for i in range(12)
        for name, value in (("a", 0), ("b", 1))
    ]
    (difference, _) = summary.differences(found, [MEL], "a")
    assert difference.measures["mel_distance"] == Estimate(-1.0, None, None, 12, 4)
    assert difference.verdicts == {}
    means = summary.means(found, [MEL])
    assert {mean.sources for mean in means} == {4}
    sentence = summary.without_intervals(means)
    assert sentence is not None
    assert sentence.endswith("independent sources: x (4), all (4).")
    assert "+" not in tables.differences_markdown([difference], [MEL]).splitlines()[-1]


def test_all_codecs_are_compared_with_the_first() -> None:
    others = [one for one in results() if one.codec != "ours"]
    assert summary.differences(others, [MEL], "ours") == []
    assert "ours, with which the others are compared, has no results" in summary.incomparable(others, "ours")
    assert "silence, with which the others are compared, costs no bits" in summary.incomparable(others, "silence")
    assert "no other codec" in summary.incomparable(others, "opus")
    backwards = sorted(results(), key=lambda one: one.codec)
    assert {one.codec for one in summary.differences(backwards, [MEL], "ours")} == {"ours"}


def test_tables() -> None:
    text = tables.means_markdown(summary.means(results(), [MEL, SI_SDR]), [MEL, SI_SDR])
    assert text.count("\n") == 1 + 3 * 5
    assert "| all | 5 | silence |  | 0.00 | 9.000 [9.000, 9.000] (9.000) | 0.000 [0.000, 0.000] (0.000) |" in text
    assert tables.codebooks_markdown(summary.means(results(), [])).splitlines()[-4:-3] == [
        "| all | ours | 9 codebooks | 10 | 2.00 | 25.0% | 1.00 0.00 | 2.00 2.00 | 50% 25% |"
    ]
    assert tables.codebooks_markdown([]) == ""
    odd = tables.means_markdown(summary.means([result("a|b-0", "x", 100, 1.0)], [MEL]), [MEL]).splitlines()
    assert "| a\\|b | 1 |" in odd[2]
    rows = tables.clips_csv(results(), [MEL]).splitlines()
    assert rows[0].endswith("encode_speed,decode_speed,mel_distance")
    assert "speech-4,speech,1.0,opus,8 kbit/s,900,7.2,3.6,2.0,," in rows
    taken = [MEL, SI_SDR]
    compared = tables.differences_markdown(summary.differences(results(), taken, "ours"), taken)
    assert "| all | ours, 9 codebooks | 8.00 | opus, 8 kbit/s | 7.20 | -0.650 | -3.000 [" in compared
    assert compared.endswith(" - |")
