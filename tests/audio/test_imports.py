"""dac_codec.audio does not depend on networks, nor on slow packages."""

from __future__ import annotations

import subprocess
import sys


def test_import_is_light() -> None:
    code = "import sys, dac_codec.audio; print(sorted({'torch', 'scipy', 'pyloudnorm'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
