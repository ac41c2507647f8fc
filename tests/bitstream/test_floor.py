"""Imports of dac_codec.bitstream: NumPy and parts of common. Neither torch nor sound libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_imports_neither_torch_nor_the_rest_of_the_package() -> None:
    script = "import json, sys, dac_codec.bitstream; print(json.dumps(sorted(sys.modules)))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    assert not [name for name in modules if name.split(".")[0] in ("torch", "torchaudio", "scipy", "soundfile")]
    own = {name for name in modules if name.startswith("dac_codec.") and not name.startswith("dac_codec.bitstream")}
    assert own == {"dac_codec.common", "dac_codec.common.errors", "dac_codec.common.streams"}
