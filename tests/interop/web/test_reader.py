"""The JavaScript reader, under Node, against files that the Python package wrote and read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dac_codec.bitstream import loads
from tests.interop.web.cases import CONTEXT, save_case, write_cases

NODE = shutil.which("node")
HERE = Path(__file__).parent
FORMAT = HERE.parents[2] / "dac_codec/bitstream/FORMAT.md"

pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


def examples() -> list[bytes]:
    """The files in FORMAT.md."""
    blocks = re.findall(r"```hex\n(.*?)```", FORMAT.read_text(encoding="utf-8"), re.DOTALL)
    return [bytes.fromhex(re.sub(r"#.*", "", block)) for block in blocks]


def test_the_reader_agrees_with_the_python_package(tmp_path: Path) -> None:
    write_cases(tmp_path, damage=4)
    for number, example in enumerate(examples()):
        save_case(tmp_path / f"example-{number}", example, intact=True)
    assert len(examples()) == 2
    environment = os.environ | {"CASES": str(tmp_path), "CONTEXT": str(CONTEXT)}
    command = [str(NODE), "--test", "--test-reporter=tap", str(HERE / "reader.test.mjs")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"^# pass (\d+)", done.stdout, re.MULTILINE)[0]) > 60

    for name in ("written", "sized"):
        written = loads((tmp_path / f"{name}.bytes").read_bytes())
        codes = np.fromfile(tmp_path / f"{name}.codes", np.int32).reshape(written.codes.shape)
        np.testing.assert_array_equal(written.codes, codes)
        assert (written.header.sample_rate, written.header.n_samples, written.header.gain_db) == (48000, 700000, -1.5)
        assert written.header.model_name == "tiny"
        assert written.header.codebook_sizes == ((1000, 900, 5) if name == "sized" else ())
