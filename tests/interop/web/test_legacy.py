"""Files of descript-audio-codec in JavaScript, under Node, beside what the Python package does with them."""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dac_codec.bitstream import read_legacy
from dac_codec.codec import legacy
from dac_codec.common.errors import BitstreamError
from tests.bitstream import test_legacy_hostile as hostile
from tests.bitstream.test_legacy import GOLDEN, INVALID, NPY_HEADER, OTHER_TYPES, artifacts, saved
from tests.conftest import golden_model
from tests.interop.web.test_reader import NODE

pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "dac_codec/interop/web/page"


def node(*arguments: str | Path, **environment: str) -> str:
    """The output of a JavaScript program."""
    done = subprocess.run(
        [str(NODE), *map(str, arguments)], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def intact() -> list[bytes]:
    """Files that are read, of every form."""
    levels = artifacts(input_db=np.array([-20.25, -3.5], dtype=np.float16), dac_version="0.0.1")
    signed = artifacts(codes=np.arange(24, dtype=">u8").reshape(2, 3, 4), original_length=2**63 - 1)
    contents: list[dict[str, Any]] = [artifacts(**changes) for changes in OTHER_TYPES] + [levels, signed]
    files = [path.read_bytes() for path in GOLDEN]
    return files + [saved(content, protocol) for content in contents for protocol in (2, 3, 4)]


def refused() -> list[tuple[bytes, str]]:
    """Files that are refused, and a regular expression for the reason."""
    reasons = {"extra": 'unknown \\["extra"\\]'}
    files = [(saved(artifacts(**changes)), reasons.get(reason, reason)) for changes, reason in INVALID]
    for name in artifacts()["metadata"]:
        content = artifacts()
        del content["metadata"][name]
        files.append((saved(content), f"missing .*{name}"))
    files += [(saved(content), "") for content in (None, [], {}, {"codes": 1, "metadata": 2}, {1: 2}, "text")]
    attacks = [(hostile.pickled(before=bomb), reason) for bomb, reason in hostile.BOMBS.values()]
    attacks += [(hostile.pickled(codes=build), reason) for build, reason in hostile.STATES]
    attacks += [(hostile.pickled(codes=call), "makes a call that NumPy does not write") for call in hostile.CALLS]
    attacks += [(hostile.pickled(codes=hostile.array(shape, b"C\x0c" + bytes(12))), "") for shape in hostile.SHAPES]
    for name in hostile.NAMES:
        module, attribute = map(hostile.text, name.split("\n"))
        for named in (f"c{name}\n".encode(), module + attribute + b"\x93"):
            attacks.append((hostile.pickled(version=named + b")R"), "names .*NumPy does not write"))
    levels = (b"](h%ch%ceq%c" % (level, level, level + 1) for level in range(1, 101))
    for nested in (b"(]q\x01" + b"".join(levels) + b"t", b")" + b"\x85" * 700, b"]q\x01h\x01a"):
        attacks.append((hostile.pickled(version=nested), "dac_version in metadata must be a number or a string"))
        attacks.append((hostile.pickled(codes=nested), "codes must be an array"))
    attacks.append((hostile.pickled(version=hostile.text("1" * 300_000)), "dac_version must look like"))
    encode = b"c_codecs\nencode\nq\x00" + hostile.text("x" * 200_000) + b"q\x01" + hostile.text("latin1") + b"q\x02"
    attacks.append((b"\x80\x02](" + encode + b"h\x00h\x01h\x02\x86R" * 80 + b"e.", "more text than it holds"))
    attacks += [(pickle.dumps(hostile.Call(os.mkdir, "no"), protocol), "") for protocol in range(6)]
    files += [(NPY_HEADER + attack, reason) for attack, reason in attacks]
    rest = hostile.pickled()
    for header in (NPY_HEADER.replace(b"False", b"[][0]"), NPY_HEADER.replace(b"\x01\x00v", b"\x04\x00v")):
        files.append((header + rest, "the .npy header must"))
    files.append((b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + rest, "header claims 2147483648 bytes"))
    return [*files, (b"\x93NUMPY", ""), (b"", "not a file of descript-audio-codec")]


def damaged(n_files: int) -> list[bytes]:
    """Files that are cut, or of which a few bytes are changed."""
    rng = random.Random(0)
    golden = hostile.GOLDEN.read_bytes()
    originals = [golden, hostile.SMALL, NPY_HEADER + hostile.pickled(), *(saved(artifacts(), n) for n in (2, 4))]
    files = [golden[:size] for size in range(0, len(golden), 7)] + [golden + b"\0"]
    for original in originals:
        for _ in range(n_files):
            changed = bytearray(original)
            for _ in range(rng.choice((1, 1, 2, 5))):
                changed[rng.randrange(len(changed))] = rng.choice((rng.randrange(256), rng.choice(original)))
            files.append(bytes(changed))
    return files


def expected(data: bytes) -> dict[str, Any] | None:
    """What Python reads, by the names in JavaScript; None if it refuses the file."""
    try:
        file = read_legacy(data)
    except BitstreamError:
        return None
    levels = np.broadcast_to(file.input_db, (file.channels,)).tolist()
    channels, codebooks, frames = file.codes.shape
    shape = {"channels": channels, "codebooks": codebooks, "frames": frames}
    lengths = {"chunkLength": file.chunk_length, "originalLength": file.original_length}
    other = {"sampleRate": file.sample_rate, "padding": file.padding, "dacVersion": file.dac_version}
    return {"codes": file.codes.ravel().tolist(), **shape, **lengths, "inputDb": levels, **other}


def test_the_reader_agrees_with_the_python_package(tmp_path: Path) -> None:
    cases = [{"file": data, "reason": "", "expected": expected(data)} for data in [*intact(), *damaged(150)]]
    cases += [{"file": data, "reason": reason, "expected": expected(data)} for data, reason in refused()]
    assert [case["expected"] is None for case in cases[: len(intact())]] == [False] * len(intact())
    assert [case["expected"] is None for case in cases[-len(refused()) :]] == [True] * len(refused())
    for case in cases:
        case["file"] = base64.b64encode(case["file"]).decode()
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    output = node("--test", "--test-reporter=tap", HERE / "legacy.test.mjs", CASES=str(tmp_path))
    assert "# pass 5" in output


@pytest.mark.parametrize(("name", "precision"), [("24khz", "fp32"), ("44khz", "fp16")])
def test_the_graph_without_padding(name: str, precision: Any, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx_graph = pytest.importorskip("dac_codec.interop.onnx_graph")
    model = golden_model(name)
    (tmp_path / "padded.onnx").write_bytes(onnx_graph.decoder_model(model, precision, 17).SerializeToString())
    program = f"""
      import {{ readFileSync, writeFileSync }} from "node:fs";
      import {{ withoutPadding }} from "{(PAGE / "graph.js").as_uri()}";
      const {{ unpadded, ...limits }} = withoutPadding(new Uint8Array(readFileSync("{tmp_path}/padded.onnx")));
      writeFileSync("{tmp_path}/unpadded.onnx", unpadded);
      console.log(JSON.stringify(limits));
    """
    limits = json.loads(node("--input-type=module", "-e", program))
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, model.codebook_size, (2, 2, 40)))
    decode = legacy._unpadded(model)
    session = onnxruntime.InferenceSession(tmp_path / "unpadded.onnx")
    with torch.no_grad():
        for n_frames in (40, limits["fewest"]):
            wanted = decode(codes[..., :n_frames]).numpy()
            (found,) = session.run(None, {"audio_codes": codes[..., :n_frames].numpy()})
            found = found[..., : found.shape[-1] - limits["short"]]
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() < (1e-4 if precision == "fp32" else 0.02)
        with pytest.raises(BitstreamError, match=f"expected at least {limits['fewest']}"):
            decode(codes[..., : limits["fewest"] - 1])
        assert 10 * model.hop_length - legacy._padded(model)(codes[..., :10]).shape[-1] == limits["short"]
