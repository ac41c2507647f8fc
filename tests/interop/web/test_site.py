"""dac_codec.interop.web.site and the command `dac-codec web`."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from dac_codec import DAC
from dac_codec.common.errors import DacError
from dac_codec.interop.web import site, write_site
from dac_codec.pretrained import fingerprint
from tests.cli.shell import run
from tests.inference.networks import TINY

WEB = Path(site.__file__).parent


@pytest.fixture(scope="module")
def model() -> DAC:
    return DAC.from_pretrained("dac-mini-44khz")


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    """A folder with files in place of the graphs."""
    folder = tmp_path / "graphs"
    folder.mkdir()
    for name in ("encoder_model.onnx", "decoder_model.onnx"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A folder with files in place of onnxruntime-web."""
    folder = tmp_path / "runtime"
    (folder / "dist").mkdir(parents=True)
    for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / "dist" / name).write_bytes(name.encode())
    return folder


def test_the_site_is_complete(model: DAC, graphs: Path, runtime: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    write_site(model, folder, graphs, runtime)
    assert (folder / "model/encoder_model.onnx").read_bytes() == b"encoder_model.onnx"
    description = json.loads((folder / "model/model.json").read_text())
    assert description["fingerprint"] == fingerprint(model)[:8].hex()
    assert (description["hopLength"], description["codebooks"], description["sampleRate"]) == (512, 9, 44100)
    assert description["reference"]
    bundled = WEB.parents[2] / "checkpoints/dac-mini-44khz/context.safetensors"
    assert len((folder / "model/context.safetensors").read_bytes()) == bundled.stat().st_size
    # Every module that a module imports, and every file that the page names, is there.
    for script in folder.rglob("*.js"):
        for name in re.findall(r'from "(\..*?)"', script.read_text(encoding="utf-8")):
            assert (script.parent / name).is_file(), name
    for name in re.findall(r'(?:src|href)="(page/.*?)"', (folder / "index.html").read_text(encoding="utf-8")):
        assert (folder / name).is_file(), name


def test_models_that_the_reference_does_not_have() -> None:
    assert site._description(DAC(TINY), None)["reference"]
    grouped = {"quantizer": "grouped", "groups": 3}
    for changes in ({"causal": True}, {"codebook_size": 16, "codebook_sizes": (16, 8, 4)}, grouped):
        assert not site._description(DAC(replace(TINY, **changes)), None)["reference"]


def test_the_page_asks_no_other_host() -> None:
    for path in (WEB / "page").iterdir():
        assert not re.findall(r"https?://", path.read_text(encoding="utf-8")), path


def test_what_is_missing_is_named(
    model: DAC, graphs: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site"
    with pytest.raises(DacError, match="does not hold onnxruntime-web"):
        write_site(model, folder, graphs, tmp_path)
    with pytest.raises(DacError, match=r"encoder_model\.onnx can't be read: No such file"):
        write_site(model, folder, runtime, runtime)
    (graphs / "config.json").write_text(json.dumps({"dac_codec": {"fingerprint": "00"}}))
    with pytest.raises(DacError, match="are of the model 00, not of dac-mini-44khz"):
        write_site(model, folder, graphs, runtime)
    (graphs / "config.json").unlink()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DacError, match="npm is not installed: install it, or give a folder with onnxruntime-web@"):
        write_site(model, folder, graphs)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("script", "message"),
    [("echo 'npm error 404 Not Found' >&2; exit 1", "404 Not Found"), ("exit 0", "no reason given")],
)
def test_npm_fails(
    model: DAC, graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    with pytest.raises(DacError, match=message):
        write_site(model, tmp_path / "site", graphs)


def test_the_runtime_comes_from_a_package_of_npm(
    model: DAC, graphs: Path, runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package").mkdir()
    shutil.copytree(runtime / "dist", tmp_path / "package/dist")
    subprocess.run(["tar", "czf", "packed.tgz", "package"], cwd=tmp_path, check=True)
    npm = tmp_path / "bin/npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\necho \"$@\" > '{tmp_path}/arguments'\ncp '{tmp_path}/packed.tgz' .\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    write_site(model, tmp_path / "site", graphs)
    assert (tmp_path / "site/runtime/ort.wasm.min.mjs").read_bytes() == b"ort.wasm.min.mjs"
    assert (tmp_path / "arguments").read_text().startswith(f"pack {site.RUNTIME}")


def test_the_command(graphs: Path, runtime: Path, tmp_path: Path) -> None:
    arguments = ["web", "-o", str(tmp_path / "site"), "--graphs", str(graphs), "--runtime", str(runtime)]
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "holds the page, 1 MB" in done.output
    done = run(*arguments)
    assert done.exit_code == 1
    assert "is not empty; use --force" in done.output


def test_serving(graphs: Path, runtime: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dac_codec", "web", "-o", str(tmp_path / "site"), "--serve", "--port", "0"]
    command += ["--graphs", str(graphs), "--runtime", str(runtime), "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        url = process.stderr.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        with urllib.request.urlopen(url) as answer:
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert b"<title>dac_codec</title>" in answer.read()
        with urllib.request.urlopen(f"{url}runtime/ort-wasm-simd-threaded.wasm") as answer:
            assert answer.headers["Content-Type"] == "application/wasm"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.communicate()
