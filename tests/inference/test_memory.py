"""Freed memory is kept and reused."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dac_codec.inference.memory import keep_freed_memory

_FAULTS = """
import resource
import torch
from dac_codec.inference.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
fresh = faults()
keep_freed_memory()
faults()
print(fresh, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_pages_are_reused() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    fresh, kept = map(int, done.stdout.split())
    assert fresh > 1000
    assert kept < 100


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_mallopt(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: object) -> ctypes.CDLL:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    keep_freed_memory.__wrapped__()


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (1 << 26, [(-3, 1 << 26), (-1, 1 << 28)]),
        (1 << 25, [(-3, 1 << 26), (-3, 1 << 25), (-1, 1 << 28)]),
        (0, [(-3, 1 << 26), (-3, 1 << 25)]),
    ],
)
def test_limits_of_the_c_library(
    largest: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def mallopt(parameter: int, value: int) -> int:
        asked.append((parameter, value))
        return int(parameter == -1 or value <= largest)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory.__wrapped__()
    assert asked == expected
