"""The installed package, used from outside the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml  # type: ignore[import-untyped]

from tests.training.test_config import EXPERIMENTS

ROOT = Path(__file__).parents[1]


def test_importing_loads_no_other_package() -> None:
    code = (
        "import sys; before = set(sys.modules); import dac_codec\n"
        "loaded = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(loaded - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['dac_codec']"


def test_compressing_imports_only_what_it_uses(tmp_path: Path) -> None:
    """Slow packages other than torch are not imported."""
    soundfile.write(tmp_path / "a.wav", np.zeros(8820), 44100)
    code = (
        "import sys; from dac_codec.cli.main import main\n"
        "main(['compress', 'a.wav', '--quiet'], standalone_mode=False)\n"
        "main(['decompress', 'a.dac', '-o', 'b.wav', '--quiet'], standalone_mode=False)\n"
        "slow = {'scipy', 'pyloudnorm', 'librosa', 'torchaudio', 'hydra', 'matplotlib', 'torch._dynamo'}\n"
        "print(sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_public_names() -> None:
    import dac_codec

    assert {"compress", "decompress", "StreamingEncoder", "StreamingDecoder"} <= set(dac_codec.__all__)
    for name in dac_codec.__all__:
        assert getattr(dac_codec, name) is not None
        assert name in dir(dac_codec)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", dac_codec.__version__)
    with pytest.raises(AttributeError, match="frobnicate"):
        _ = dac_codec.frobnicate


def test_the_base_install_needs_no_package_for_training() -> None:
    lines = requires("dac_codec") or []
    needed = {re.split(r"[^\w-]", line)[0] for line in lines if "extra ==" not in line}
    for_training = {re.split(r"[^\w-]", line)[0] for line in lines if re.search(r"extra == .train", line)}
    assert {"torch", "soundfile"} <= needed
    assert {"hydra-core", "wandb", "librosa", "torchaudio"} <= for_training
    assert not needed & for_training


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder with the installed wheel."""
    subprocess.run([*PIP, "install", "--no-deps", "--target", wheel.with_name("site"), wheel], check=True)
    return wheel.with_name("site")


def test_a_wheel_works_outside_the_repository(wheel: Path, site: Path, tmp_path: Path) -> None:
    assert wheel.stat().st_size < 16 * 2**20
    names = zipfile.ZipFile(wheel).namelist()
    models = {name for name in names if name.startswith("dac_codec/checkpoints/")}
    for name in ("dac-mini-44khz", "dac-mini-speech"):
        files = ("config.json", "model.safetensors", "context.safetensors")
        assert {f"dac_codec/checkpoints/{name}/{file}" for file in files} <= models
    assert not [name for name in models if "discriminator" in name]
    assert "dac_codec/py.typed" in names
    assert {"page/index.html", "page/style.css", "page/worker.js", "reader/package.json", "reader/src/index.d.ts"} <= {
        name.removeprefix("dac_codec/interop/web/") for name in names
    }
    assert not [name for name in names if "node_modules" in name or name.endswith((".wasm", ".mjs"))]
    # A site folder that comes before the editable install, and nothing of the repository in sight.
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import dac_codec\n"
        "from dac_codec.cli.main import main\n"
        f"assert dac_codec.__file__.startswith({str(site)!r})\n"
        "main(['demo', '--output', 'demo'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "demo").iterdir()} == {"original.wav", "compressed.dac", "decoded.wav"}


def python(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter that imports the installed wheel."""
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def train(site: Path, folder: Path, *arguments: str) -> str:
    """What `python -m dac_codec.training` prints."""
    return python(site, folder, "-m", "dac_codec.training", *arguments).stdout


def test_a_wheel_has_the_configurations(site: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(train(site, tmp_path, "--cfg", "job", "experiment=mini", "data.sounds=here"))
    assert config["data"]["sounds"] == "here"
    assert config["trainer"]["optimizer"] == "muon"
    printed = train(site, tmp_path, "--info", "searchpath")
    assert f"{site}/dac_codec/configs" in printed
    assert str(ROOT / "configs") not in printed
    printed = train(site, tmp_path, "--help")
    assert "dac-codec train" in printed
    for experiment in EXPERIMENTS:
        assert experiment.removeprefix("ablation/") in printed


def test_discriminators_are_random_with_a_wheel_and_loaded_from_a_clone(site: Path, tmp_path: Path) -> None:
    code = f"""
import logging, os, torch
from dac_codec import DAC
from dac_codec.model.discriminator import Discriminator
from dac_codec.training.checkpoint import load_pretrained
logging.basicConfig(level=logging.INFO)
os.chdir({str(ROOT)!r})
model, new = DAC.from_pretrained("dac-mini-44khz"), Discriminator(periods=(), fft_sizes=(512,))
bias = new.state_dict()["discriminators.0.conv_post.bias"]
for name in ("dac-mini-44khz", "checkpoints/dac-mini-44khz"):
    before = bias.clone()
    load_pretrained(model, new, name, verbose=True)
    print(torch.equal(before, bias))
"""
    done = python(site, tmp_path, "-c", code)
    assert done.stdout == "True\nFalse\n"
    assert len(done.stderr.splitlines()) == 2
    assert "with random weights, as dac-mini-44khz has none: window 512" in done.stderr
    assert "trainer.init_from=checkpoints/dac-mini-44khz loads them" in done.stderr
