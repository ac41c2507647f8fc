"""Assembles the static page: HTML and JavaScript, a model as ONNX graphs, and onnxruntime-web."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dac_codec.bitstream.fields import FINGERPRINT_BYTES
from dac_codec.common.errors import DacError
from dac_codec.common.files import expanded, to_json, write_files
from dac_codec.inference.look_ahead import decoder_context, encoder_context
from dac_codec.interop.onnx import export_onnx
from dac_codec.model import DAC
from dac_codec.pretrained import context_model, fingerprint
from dac_codec.pretrained.checkpoints import CONFIG_FILE

RUNTIME = "onnxruntime-web@1.30.0"
"""The npm package that runs the networks."""

_RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_GRAPHS = ("encoder_model.onnx", "decoder_model.onnx")
_HERE = Path(__file__).parent


def write_site(
    model: DAC,
    folder: str | os.PathLike[str],
    graphs: str | os.PathLike[str] | None = None,
    runtime: str | os.PathLike[str] | None = None,
) -> None:
    """Write the page for a model to a folder that any static host serves.

    Args:
        model: the model.
        folder: created if it does not exist; files in it are replaced.
        graphs: a folder with the model's `encoder_model.onnx` and `decoder_model.onnx`; None to make them.
        runtime: a folder with the npm package onnxruntime-web, or with its `dist`; None to get it by npm.

    Raises:
        DacError: the graphs are of another model or can't be made (`export_onnx`), files are missing or can't be
            written, npm is needed and not installed, or npm can't download the runtime.
    """
    folder = expanded(folder)
    files = _page_files()
    with tempfile.TemporaryDirectory() as made:
        place = expanded(made if graphs is None else graphs)
        if graphs is None:
            export_onnx(model, place)
        files |= {f"model/{name}": _read(place / name) for name in _GRAPHS}
        _check_graphs(model, place / CONFIG_FILE)
    context = context_model(model)
    if context is not None:
        files["model/context.safetensors"] = context.to_bytes()
    description = _description(model, None if context is None else context.fingerprint)
    files["model/model.json"] = to_json(description)
    files |= _runtime_of(expanded(runtime)) if runtime is not None else _runtime_by_npm()
    try:
        write_files(folder, files)
    except OSError as error:
        raise DacError(f"{folder} can't be written: {error}") from error


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the page on the loopback interface; port 0 for any free one. Raises an OSError if it is in use."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))


class _Handler(SimpleHTTPRequestHandler):
    """Serves files with the headers that let WebAssembly use threads, and without a log."""

    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _page_files() -> dict[str, bytes]:
    """The files of the page itself, by their paths in the site."""
    sources = [*(_HERE / "page").iterdir(), *(_HERE / "reader/src").glob("*.js")]
    files = {path.relative_to(_HERE).as_posix(): path.read_bytes() for path in sorted(sources)}
    files["index.html"] = files.pop("page/index.html")
    return files


def _description(model: DAC, context: bytes | None) -> dict[str, Any]:
    """The properties of a model that the page needs; `reference`: whether descript-audio-codec has such models."""
    config = model.config
    return {
        "name": model.name,
        "fingerprint": fingerprint(model)[:FINGERPRINT_BYTES].hex(),  # as in the header of files
        "sampleRate": model.sample_rate,
        "hopLength": model.hop_length,
        "codebooks": model.n_codebooks,
        "codebookSize": model.codebook_size,
        "codebookSizes": list(config.sizes),
        "reference": config.quantizer == "residual" and not (config.causal or config.codebook_sizes),
        "encoder": encoder_context(model)._asdict(),
        "decoder": decoder_context(model)._asdict(),
        "context": None if context is None else context.hex(),
    }


def _check_graphs(model: DAC, config: Path) -> None:
    """Raise a DacError if the graphs say that they are of another model."""
    if not config.exists():
        return
    try:
        found = json.loads(_read(config)).get("dac_codec", {}).get("fingerprint")
    except (ValueError, AttributeError):
        raise DacError(f"{config} is not valid") from None
    if found not in (None, fingerprint(model).hex()):
        raise DacError(f"the graphs in {config.parent} are of the model {found}, not of {model.name}")


def _runtime_of(folder: Path) -> Mapping[str, bytes]:
    """The runtime's files in a folder, by their paths in the site."""
    places = (folder, folder / "dist", folder / "onnxruntime-web/dist", folder / "node_modules/onnxruntime-web/dist")
    for place in places:
        if all((place / name).is_file() for name in _RUNTIME_FILES):
            return {f"runtime/{name}": _read(place / name) for name in _RUNTIME_FILES}
    raise DacError(f"{folder} does not hold onnxruntime-web: {', '.join(_RUNTIME_FILES)}")


def _runtime_by_npm() -> Mapping[str, bytes]:
    """The runtime's files from the npm registry, by their paths in the site."""
    npm = shutil.which("npm")
    if npm is None:
        raise DacError(f"npm is not installed: install it, or give a folder with {RUNTIME} (--runtime)")
    with tempfile.TemporaryDirectory() as temporary:
        command = [npm, "pack", RUNTIME, "--silent", "--prefer-offline"]
        done = subprocess.run(command, cwd=temporary, capture_output=True, text=True)
        archives = list(Path(temporary).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise DacError(f"npm can't download {RUNTIME}: {reason[-1] if reason else 'no reason given'}")
        with tarfile.open(archives[0]) as archive:
            members = {name: archive.extractfile(f"package/dist/{name}") for name in _RUNTIME_FILES}
            return {f"runtime/{name}": member.read() for name, member in members.items() if member is not None}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DacError(f"{path} can't be read: {error.strerror or error}") from error
