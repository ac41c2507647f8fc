"""What C libraries print, apart from our data and messages."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ctypes, os, sys
from dac_codec.common import native

libc = ctypes.CDLL(None)
def c_prints(text):
    libc.printf(text)  # stays in the C library's buffer until it is flushed, at the latest at the end of the process
    os.write(2, b"error of a library\\n")

with native.captured() as lines:
    os.write(1, b"before, ")
assert lines == []
with native.apart():
    sys.stdout.buffer.write(b"data, ")
    with native.captured() as lines:
        c_prints(b"line 1\\nline 2\\n")
        sys.stdout.buffer.write(b"more data, ")
        sys.stdout.buffer.flush()
        print("a message", file=sys.stderr)
    assert sorted(lines) == ["error of a library", "line 1", "line 2"], lines
    with native.captured() as lines:
        pass
    assert lines == []
    os.write(1, b"without a block\\n")
    sys.stdout.buffer.write(b"last data, ")
sys.stdout.write("after")
"""


def test_what_c_code_prints_is_collected() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=False)
    assert result.stderr == b"a message\nwithout a block\n"
    assert result.stdout == b"before, data, more data, last data, after"
    assert result.returncode == 0


def test_nothing_happens_in_a_process_without_descriptors_of_its_own() -> None:
    script = "from dac_codec.common import native\nwith native.apart(), native.captured() as lines: print('x', end='')"
    for closed in (">&-", "2>&-", "</dev/null"):
        command = f"'{sys.executable}' -c \"{script}\" {closed}"
        result = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
        assert result.returncode == 0
        assert result.stdout == (b"" if closed == ">&-" else b"x")
