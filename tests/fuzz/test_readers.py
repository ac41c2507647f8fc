"""A short run of the fuzzers: `python -m tests.fuzz.readers 500000` is a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.readers import READERS, SHARES, fault


@pytest.mark.parametrize("name", READERS)
def test_hostile_files_raise_nothing_but_our_errors(name: str, tmp_path: Path) -> None:
    for seed in range(300 if SHARES.get(name, 1) > 5 else 60):
        error = fault(name, seed, tmp_path)
        assert error is None, f"input {seed}: {error!r}"
