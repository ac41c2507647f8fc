"""The benchmarks import each other by name, as scripts of one folder."""

from __future__ import annotations

import sys

from tests.conftest import SCRIPTS

sys.path.insert(0, str(SCRIPTS / "benchmarks"))
