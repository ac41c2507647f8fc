"""Scripts of one folder import each other by name: the benchmarks, and `prepare_data` its parts."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from tests.conftest import SCRIPTS, load_script

sys.path.insert(0, str(SCRIPTS / "benchmarks"))


@pytest.fixture(scope="module")
def prepare_data() -> ModuleType:
    for name in ("duplicates", "packages", "unpack"):
        load_script(name)
    return load_script("prepare_data")
