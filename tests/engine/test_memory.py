"""Memory that is freed and used again."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from dac_codec.engine.memory import keep_freed_memory

_FAULTS = """
import resource
import torch
from dac_codec.engine.memory import keep_freed_memory

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
def test_pages_are_had_again() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    fresh, kept = map(int, done.stdout.split())
    assert fresh > 1000
    assert kept < 100


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_such_a_function(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: object) -> ctypes.CDLL:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    keep_freed_memory.__wrapped__()
