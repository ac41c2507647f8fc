"""Fixed bytes decode to fixed codes, with any number of threads, and without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("golden_entropy.py")
FIXED = """\
02195708a363a6 02c989f280281f 037b82d87d eff2250a
7560896b90da 713cae941509 1176f5f511 0df82c38
"""
EXPECTED = """\
fingerprint 7d451381fc0d2713
codes 11cd9961c8daab5f
context first chunk 02195708a363a6 02c989f280281f 037b82d87d eff2250a
context all chunks 3b50535cfea796e8
context decoded 11cd9961c8daab5f
adaptive first chunk 7560896b90da 713cae941509 1176f5f511 0df82c38
adaptive all chunks 453bf17ff226df23
adaptive decoded 11cd9961c8daab5f
context
fixed bytes
[135, 135, 201, 172, 172, 172]
[186, 186, 129, 121, 121, 121]
[113, 113, -1, 13, 13, -1]
[-1, 34, -1, -1, 125, -1]
adaptive
fixed bytes
[135, 135, 201, 172, 172, 172]
[186, 186, 129, 121, 121, 121]
[113, 113, -1, 13, 13, -1]
[-1, 34, -1, -1, 125, -1]
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_fixed_bytes(threads: str) -> None:
    program = f"import runpy, sys; sys.modules['torch'] = None; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    environment = os.environ | variables | {"PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=FIXED, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED
