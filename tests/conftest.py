"""Helpers shared by tests."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# Two tests run at a time: more threads than cores would wait for each other. What a test starts inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from dac_codec.model import DAC, DACConfig

GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = Path(__file__).parents[1] / "scripts"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow tests first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(autouse=True)
def same_number_of_threads() -> Iterator[None]:
    """A test may change PyTorch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def golden_model(name: str) -> DAC:
    """One of the two small networks whose numbers the reference implementation produced."""
    checkpoint = torch.load(GOLDEN / f"dac_{name}_tiny.pth", weights_only=True)
    model = DAC(DACConfig.from_dict(checkpoint["metadata"]["kwargs"]))
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()


def load_script(name: str) -> ModuleType:
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
