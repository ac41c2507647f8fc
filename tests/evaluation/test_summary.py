"""Means, intervals and differences."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dac_codec.evaluation import summary, tables
from dac_codec.evaluation.metrics import METRICS
from dac_codec.evaluation.results import Result
from dac_codec.evaluation.statistics import Estimate, estimate

MEL, SI_SDR = (next(one for one in METRICS if one.name == name) for name in ("mel_distance", "si_sdr"))


def result(clip: str, codec: str, n_bytes: int, mel: float | None, si_sdr: float = 0.0, setting: str = "") -> Result:
    codes = base64.b64encode(np.array([[0, 1], [1, 1]], "<u2").tobytes()).decode()
    measures = {"mel_distance": mel, "si_sdr": si_sdr}
    return Result(clip, clip.split("-")[0], 1.0, codec, setting, n_bytes, n_bytes / 2, 0.5, 0.0, measures, codes, 2, 4)


def test_the_interval_holds_the_mean_of_what_was_sampled_19_times_in_20() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        found = estimate(random.normal(3.0, 1.0, 40).tolist())
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 3.0 <= found.high
    assert 180 <= held <= 199


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_intervals_are_the_same_every_time(values: list[float]) -> None:
    found = estimate(values)
    assert found == estimate(values)
    assert found.low is not None
    assert found.high is not None
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_too_few_clips_have_no_interval() -> None:
    assert estimate([]) == Estimate(None, None, None, 0)
    assert estimate([2.0]) == Estimate(2.0, None, None, 1)


def results() -> Sequence[Result]:
    """Ours is better by mel distance and worse by SI-SDR than the other at its rate, on each of five clips."""
    found = []
    for i in range(5):
        clip = f"{'music' if i < 2 else 'speech'}-{i}"
        found += [
            result(clip, "ours", 250, 2.0 + i, 1.0, "2 codebooks"),
            result(clip, "ours", 1000, 1.0 + i, 2.0, "9 codebooks"),
            result(clip, "opus", 900, None if i == 4 else 1.5 + 1.1 * i, 5.0, "8 kbit/s"),
            result(clip, "silence", 0, 9.0),
        ]
    return found


def test_means_by_domain() -> None:
    means = summary.means(results(), [MEL, SI_SDR])
    assert [(one.domain, one.codec, one.setting) for one in means[:4]] == [
        ("music", "ours", "2 codebooks"),
        ("music", "ours", "9 codebooks"),
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


def test_differences_at_the_nearest_bitrate() -> None:
    found = [one for one in summary.differences(results(), [MEL, SI_SDR]) if one.domain == "all"]
    (difference,) = found  # silence costs nothing, and is not compared
    assert (difference.setting, difference.other) == ("9 codebooks", "opus")
    assert difference.measures["mel_distance"].clips == 4
    assert difference.measures["mel_distance"].mean == pytest.approx(-0.65)
    assert difference.verdicts == {"mel_distance": "better", "si_sdr": "worse"}
    swapped = [result(f"x-{i}", name, 100, value) for i in range(6) for name, value in (("a", i), ("b", 5 - i))]
    assert summary.differences(swapped, [MEL])[0].verdicts == {"mel_distance": "undecided"}
    assert summary.differences([result("x-0", "a", 100, 1.0)], [MEL]) == []


def test_tables() -> None:
    text = tables.means_markdown(summary.means(results(), [MEL, SI_SDR]), [MEL, SI_SDR])
    assert text.count("\n") == 1 + 3 * 4
    assert "| all | 5 | silence |  | 0.00 | 9.000 [9.000, 9.000] | 0.000 [0.000, 0.000] |" in text
    rows = tables.clips_csv(results(), [MEL]).splitlines()
    assert rows[0].endswith("encode_speed,decode_speed,mel_distance")
    assert "speech-4,speech,1.0,opus,8 kbit/s,900,7.2,3.6,2.0,," in rows
    compared = tables.differences_markdown(summary.differences(results(), [MEL]), [MEL])
    assert "| all | ours, 9 codebooks | 8.00 | opus, 8 kbit/s | 7.20 | -0.650 [" in compared
    assert compared.endswith(" + |")
