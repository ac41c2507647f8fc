"""Cached results that make no sense are not used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dac_codec.evaluation.results import Result, packed

VALUES: dict[str, Any] = {
    "clip": "a", "domain": "speech", "seconds": 1.5, "codec": "ours", "setting": "6 kbit/s", "n_bytes": 100,
    "payload_bytes": 90.5, "encode_seconds": 0.1, "decode_seconds": 0.2, "measures": {"si_sdr": 3.5, "pesq": None},
    "codes": packed(np.array([[1, 2], [3, -1]])), "n_codebooks": 2, "codebook_size": 8, "sound": None,
    "sources": ["a.wav"], "code_bits": [14.5, 8],
}  # fmt: skip


def load(path: Path, **changes: Any) -> Result | None:
    path.write_text(json.dumps(VALUES | changes))
    return Result.load(path)


def test_a_result_is_read(tmp_path: Path) -> None:
    result = load(tmp_path / "a.json")
    assert result is not None
    counts, n_codes = result.counts(), result.n_codes()
    assert counts is not None
    assert n_codes is not None
    assert counts.tolist() == [[0, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]
    assert n_codes.tolist() == [2, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"clip": 1},
        {"seconds": 0},
        {"seconds": "1"},
        {"seconds": float("nan")},
        {"n_bytes": 1.5},
        {"n_bytes": True},
        {"payload_bytes": None},
        {"encode_seconds": 10**400},
        {"measures": []},
        {"measures": {"si_sdr": "x"}},
        {"measures": {"si_sdr": float("inf")}},
        {"codes": "AQ"},
        {"codes": 5},
        {"codes": ""},
        {"codes": packed(np.array([[1, 2], [3, -2]]))},
        {"codes": packed(np.array([[1, -1], [3, 4]]))},
        {"codes": packed(np.array([[1, -1], [3, -1]]))},
        {"codes": packed(np.array([[1, 2], [3, 4]]))[:-4]},
        {"codes": packed(np.array([[1, 2], [3, -1], [1, 1]])), "n_codebooks": 3, "code_bits": [14.5, 8, 8]},
        {"codes": None},
        {"code_bits": None},
        {"code_bits": [14.5]},
        {"code_bits": [14.5, -1]},
        {"code_bits": [14.5, "8"]},
        {"code_bits": [0, 0]},
        {"n_codebooks": 3},
        {"n_codebooks": 0},
        {"codebook_size": 3},
        {"codebook_size": 2**32},
        {"sound": "AAAA"},
        {"sources": "a.wav"},
        {"sources": [None]},
    ],
    ids=str,
)
def test_a_result_that_makes_no_sense_is_none(change: dict[str, Any], tmp_path: Path) -> None:
    assert load(tmp_path / "a.json", **change) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "", "1", '{"a": 1}'])
def test_a_damaged_file_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    assert Result.load(tmp_path / "a.json") is None
