"""Models of the Hub, on a loopback server that answers the calls of huggingface_hub."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from dac_codec import CheckpointError, pretrained
from dac_codec.interop import save_reference, save_transformers
from dac_codec.model import DAC
from dac_codec.pretrained import hub, models
from dac_codec.pretrained.card import card
from tests.processes import python

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import sys
from dac_codec import DAC, CheckpointError, pretrained
try:
    model = DAC.from_pretrained(sys.argv[1])
    files = sorted(file.name for file in model.weights_file.parent.iterdir())
    assert pretrained.models.weights_file(sys.argv[1]) == model.weights_file
    print(model.name, pretrained.fingerprint(model).hex(), files)
except CheckpointError as error:
    print("CheckpointError", error)
"""


PUSH = """
import json, sys
from dac_codec import DAC, CheckpointError
try:
    print(DAC.from_pretrained("dac-mini-44khz").push_to_hub(sys.argv[1], **json.loads(sys.argv[2])))
except CheckpointError as error:
    print("CheckpointError", error)
"""


LIST = """
import sys, warnings
from dac_codec import CheckpointError, pretrained
try:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        print([(model.name, model.where) for model in pretrained.available(True, online=True) if "/" in model.name])
    print(*(warning.message for warning in said))
except CheckpointError as error:
    print("CheckpointError", error)
"""


class Server(http.server.ThreadingHTTPServer):
    """Repositories as folders of `root`; weights are redirected, and with `breaks` they break off once.

    Models are listed by the library that their cards name. Uploads become files when they are committed. With
    `refuses`, repositories can't be created, nor models listed.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[str] = []
        self.breaks = False
        self.refuses = False
        self.authorized = ""
        self.created: list[dict[str, object]] = []
        self.stored: dict[str, bytes] = {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_PUT(self) -> None:
        self.server.requests.append(f"PUT {self.path}")
        self.server.stored[self.path.rpartition("/")[2]] = self.content()
        self.reply(200, {}, b"", True)

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        self.server.authorized = self.headers["Authorization"]
        content = self.content()
        url = f"http://127.0.0.1:{self.server.server_port}"
        if self.path == "/api/validate-yaml":
            found: dict[str, object] = {"errors": [], "warnings": []}
        elif self.path == "/api/repos/create":
            if self.server.refuses:
                self.reply(403, {"X-Error-Message": "no write access"}, b"{}", True)
                return
            self.server.created.append(json.loads(content))
            found = {"url": f"{url}/someone/model"}
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(content)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in files}
            found = {
                "files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            }
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{url}/put/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ]
            found = {"transfer": "basic", "objects": objects}
        else:
            owner, name = self.path.removeprefix("/api/models/").split("/")[:2]
            folder = self.server.root / owner / name
            folder.mkdir(parents=True, exist_ok=True)
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    (folder / value["path"]).write_bytes(self.server.stored[value["oid"]])
            found = {"commitOid": COMMIT, "commitUrl": f"{url}/{owner}/{name}/commit/{COMMIT}", "pullRequestUrl": None}
        self.reply(200, {"Content-Type": "application/json"}, json.dumps(found).encode(), True)

    def content(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def answer(self, body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path} {self.headers['Range'] or ''}".strip())
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/api/models":
            if self.server.refuses:
                self.reply(403, {"X-Error-Message": "no access"}, b"{}", body)
                return
            (library,) = urllib.parse.parse_qs(url.query)["filter"]
            cards = sorted(self.server.root.glob("*/*/README.md"))
            named = [path.parent for path in cards if f"library_name: {library}\n" in path.read_text(encoding="utf-8")]
            listed = [{"id": f"{folder.parent.name}/{folder.name}", "sha": COMMIT} for folder in named]
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(listed).encode(), body)
            return
        if self.path.startswith("/api/models/"):
            folder = self.server.root.joinpath(*self.path.split("?")[0].split("/")[3:5])
            if not folder.is_dir():
                self.reply(404, {"X-Error-Code": "RepoNotFound"}, b"", body)
                return
            files = [{"rfilename": path.name} for path in folder.iterdir()]
            found = {"id": f"{folder.parent.name}/{folder.name}", "sha": COMMIT, "siblings": files}
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(found).encode(), body)
            return
        owner, name, *_, file = self.path.strip("/").removeprefix("storage/").split("/")
        path = self.server.root / owner / name / file
        if not path.is_file():
            missing = "EntryNotFound" if path.parent.is_dir() else "RepoNotFound"
            self.reply(404, {"X-Error-Code": missing, "X-Repo-Commit": COMMIT}, b"", body)
            return
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if self.path.startswith("/storage/") or file == "config.json":
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            fields = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if start:
                fields["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.reply(206 if start else 200, fields, content[start:], body)
        else:
            fields = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": COMMIT}
            port = self.server.server_port
            fields["Location"] = f"http://127.0.0.1:{port}/storage/{owner}/{name}/{file}"
            self.reply(302, fields, b"", body)

    def reply(self, status: int, fields: dict[str, str], content: bytes, body: bool) -> None:
        self.send_response(status)
        for name, value in {**fields, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if self.server.breaks and self.path.startswith("/storage/"):
            self.server.breaks = False
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("huggingface_hub")
    with Server(tmp_path / "repositories") as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def load(server: Server, name: str, tmp_path: Path, **environment: str) -> str:
    """What a process that loads the model prints."""
    return run(server, tmp_path, SCRIPT, name, **environment)


def push(server: Server, tmp_path: Path, name: str, **arguments: object) -> str:
    """What a process that uploads the bundled model prints."""
    return run(server, tmp_path, PUSH, name, json.dumps(arguments), HF_TOKEN="hf_secret")


def run(server: Server, tmp_path: Path, script: str, *arguments: str, **environment: str) -> str:
    """What a script prints in a process of its own: huggingface_hub reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf")}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1"}
    file = tmp_path / "script.py"
    file.write_text(script, encoding="utf-8")
    result = python(file, *arguments, cwd=tmp_path, env={**os.environ, **settings, **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_both_layouts(server: Server, tiny: DAC, tmp_path: Path) -> None:
    """A context model comes along; the second time, and without a network, the cache is used."""
    save_transformers(tiny, server.root / "someone" / "theirs", "weight_g")
    pretrained.save(tiny, server.root / "someone" / "ours", name="my-model")
    (server.root / "someone" / "ours" / "context.safetensors").write_bytes(b"context")
    digest = pretrained.fingerprint(tiny).hex()
    theirs = f"theirs {digest} ['config.json', 'model.safetensors']"
    ours = f"my-model {digest} ['config.json', 'context.safetensors', 'model.safetensors']"
    assert load(server, "someone/theirs", tmp_path) == theirs
    assert load(server, "someone/ours", tmp_path) == ours
    n_downloads = sum(request.startswith("GET /storage/") for request in server.requests)
    assert n_downloads == 3
    server.requests.clear()
    assert load(server, "someone/theirs", tmp_path) == theirs
    assert not any(request.startswith("GET") for request in server.requests)
    server.requests.clear()
    assert load(server, "someone/theirs", tmp_path, HF_HUB_OFFLINE="1") == theirs
    assert server.requests == []

    other = tmp_path / "hf/hub/models--someone--other/snapshots/commit"
    other.mkdir(parents=True)
    (other.parents[1] / "refs").mkdir()
    (other.parents[1] / "refs/main").write_text("commit")
    (other / "config.json").write_text('{"model_type": "bert"}')
    (other / "model.safetensors").write_bytes(b"weights")
    listed = run(server, tmp_path, "from dac_codec.__main__ import run; run()", "models", "--json")
    rows = {row["name"]: row for row in json.loads(listed) if row["name"].startswith("someone/")}
    assert rows.keys() == {"someone/ours", "someone/theirs"}
    assert (rows["someone/ours"]["where"], rows["someone/ours"]["sample_rate"]) == ("cached", tiny.sample_rate)
    assert server.requests == []


def test_a_broken_connection_is_no_error(server: Server, tiny: DAC, tmp_path: Path) -> None:
    """The download continues where it broke off, to a whole number of pieces of huggingface_hub, here small ones."""
    pretrained.save(tiny, server.root / "someone" / "ours", name="my-model")
    server.breaks = True
    script = f"from huggingface_hub import constants\nconstants.DOWNLOAD_CHUNK_SIZE = 4096\n{SCRIPT}"
    found = run(server, tmp_path, script, "someone/ours")
    assert found.startswith(f"my-model {pretrained.fingerprint(tiny).hex()} ")
    first, second = (request for request in server.requests if request.startswith("GET /storage/"))
    assert not first.endswith("-")
    assert int(second.partition(" bytes=")[2].removesuffix("-")) >= 4096


def test_the_layout_of_the_reference(server: Server, tiny: DAC, tmp_path: Path) -> None:
    """The files of a repository without a configuration are listed; without a network, the cache is used."""
    folder = server.root / "someone" / "reference"
    folder.mkdir(parents=True)
    save_reference(tiny, folder / "weights.pth")
    expected = f"reference {pretrained.fingerprint(tiny).hex()} ['weights.pth']"
    assert load(server, "someone/reference", tmp_path) == expected
    assert load(server, "someone/reference", tmp_path, HF_HUB_OFFLINE="1") == expected
    (folder / "weights.pth").rename(folder / "one.pth")
    (folder / "other.pth").write_bytes(b"")
    found = load(server, "someone/reference", tmp_path, HF_HOME=str(tmp_path / "empty"))
    assert found.startswith("CheckpointError")
    assert "it has no config.json, and one.pth, other.pth: expected one file .pth or .safetensors" in found


def test_what_is_not_there(server: Server, tmp_path: Path) -> None:
    (server.root / "someone" / "empty").mkdir(parents=True)
    for name in ("someone/none", "someone/empty"):
        found = load(server, name, tmp_path)
        assert found.startswith(f"CheckpointError There is no file or folder '{name}', and no model of the Hub")


def test_upload(server: Server, tmp_path: Path) -> None:
    """The model, its context model and a card; loaded again, it is the same. A card that is there stays."""
    metric = {"name": "mel_distance", "label": "mel distance"}
    mean = {
        "domain": "music",
        "codec": "ours",
        "setting": "9 codebooks",
        "kbps": [7.9],
        "measures": {"mel_distance": [1.23456]},
    }
    other = {**mean, "codec": "opus", "measures": {"mel_distance": [5.0]}}
    report = {"metrics": [metric], "codecs": [{"name": "ours"}, {"name": "opus"}], "means": [mean, other]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = push(server, tmp_path, "someone/model", license="mit", report=str(tmp_path), private=True)
    assert found.endswith(f"/someone/model/commit/{COMMIT}")
    ((name, owner, *_, private),) = [tuple(request.values()) for request in server.created]
    assert (name, owner, private in (True, "private")) == ("model", "someone", True)
    assert server.authorized == "Bearer hf_secret"
    folder = server.root / "someone" / "model"
    assert {file.name for file in folder.iterdir()} == {
        "README.md",
        "config.json",
        "context.safetensors",
        "model.safetensors",
    }
    digest = pretrained.fingerprint(DAC.from_pretrained(pretrained.DEFAULT_MODEL)).hex()
    assert load(server, "someone/model", tmp_path).startswith(f"{pretrained.DEFAULT_MODEL} {digest} ")

    card = (folder / "README.md").read_text(encoding="utf-8")
    metadata = pytest.importorskip("yaml").safe_load(card.split("---")[1])
    assert metadata["library_name"] == "dac_codec"
    assert metadata["license"] == "mit"
    assert "audio-codec" in metadata["tags"]
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mel_distance", "value": 1.2346, "name": "mel distance, 9 codebooks"}]
    assert digest in card
    assert "| music | 9 codebooks | 7.90 | mel distance | 1.235 |" in card

    (folder / "README.md").write_text("mine")
    push(server, tmp_path, "someone/model")
    assert (folder / "README.md").read_text() == "mine"


def test_uploads_that_fail(server: Server, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text('{"metrics": []}')
    found = push(server, tmp_path, "someone/model", report=str(tmp_path / "report.json"))
    assert "report.json is no report of dac-codec evaluate" in found
    assert server.requests == []
    server.refuses = True
    found = push(server, tmp_path, "someone/model")
    assert found.startswith("CheckpointError someone/model could not be uploaded to the Hub: ")
    assert "\n" not in found
    assert not server.root.exists()


def test_models_of_the_hub_are_listed(server: Server, tiny: DAC, tmp_path: Path) -> None:
    """Those of this library, with their figures; one whose configuration is missing is left out with a warning."""
    for name in ("ours", "theirs", "empty"):
        folder = server.root / "someone" / name
        pretrained.save(tiny, folder, name="my-model")
        text = card(tiny, f"someone/{name}")
        other = text.replace("library_name: dac_codec", "library_name: transformers")
        (folder / "README.md").write_text(other if name == "theirs" else text, encoding="utf-8")
    (server.root / "someone/empty/config.json").unlink()
    command = "from dac_codec.__main__ import run; run()"
    rows = {row["name"]: row for row in json.loads(run(server, tmp_path, command, "models", "--hub", "--json"))}
    assert {name for name in rows if "/" in name} == {"someone/ours"}
    expected = {"sample_rate": tiny.sample_rate, "n_codebooks": tiny.n_codebooks, "where": "downloadable"}
    assert rows["someone/ours"].items() >= expected.items()
    assert not any(request.endswith(".safetensors") for request in server.requests)
    (line,) = [line for line in run(server, tmp_path, command, "models", "--hub").splitlines() if "/ours" in line]
    assert line.endswith("downloadable, not verified")
    load(server, "someone/ours", tmp_path)
    listed, warning = run(server, tmp_path, LIST).splitlines()
    assert listed == "[('someone/ours', 'cached')]"
    assert warning.startswith("someone/empty is left out: ")


def test_a_listing_leaves_cached_models_usable(
    server: Server, tiny: DAC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, the cached weights of an older commit still load after the repository has a newer one."""
    folder = server.root / "someone" / "ours"
    pretrained.save(tiny, folder, name="my-model")
    (folder / "README.md").write_text(card(tiny, "someone/ours"), encoding="utf-8")
    loaded = load(server, "someone/ours", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "COMMIT", "f" * 40)
    assert run(server, tmp_path, LIST).splitlines()[0] == "[('someone/ours', 'cached')]"
    assert load(server, "someone/ours", tmp_path, HF_HUB_OFFLINE="1") == loaded


def test_a_hub_that_does_not_answer(server: Server, tmp_path: Path) -> None:
    server.refuses = True
    for offline in ("0", "1"):
        found = run(server, tmp_path, LIST, HF_HUB_OFFLINE=offline)
        assert found.startswith("CheckpointError The models of the Hugging Face Hub can't be listed: ")
        assert "\n" not in found
    assert len(server.requests) == 1


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert models.weights_file("someone/model") is None
    with pytest.raises(CheckpointError, match=r"install dac_codec\[hub\]"):
        DAC.from_pretrained("someone/model")
    with pytest.raises(CheckpointError, match=r"To upload a model, install dac_codec\[hub\]"):
        DAC.from_pretrained(pretrained.DEFAULT_MODEL).push_to_hub("someone/model")
    with pytest.raises(CheckpointError, match=r"To list the models of the Hugging Face Hub, install dac_codec\[hub\]"):
        pretrained.available(online=True)
    with pytest.raises(ValueError, match="the repository must be 'owner/name'"):
        DAC.from_pretrained(pretrained.DEFAULT_MODEL).push_to_hub("model")


@pytest.mark.parametrize("name", ["44khz", "./a/b", "../b", "/a/b", "a/b/c", "a/", "a b/c", "a/b.pth/", ".a/b", 5])
def test_names_that_are_no_repository(name: object) -> None:
    assert not hub.is_repository(name)
