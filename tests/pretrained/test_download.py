"""Downloads of published weights from a server that misbehaves."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dac_codec.common.errors import CheckpointError
from dac_codec.model import DAC
from dac_codec.pretrained import download, fingerprint, load, models
from tests.pretrained.weights import GOLDEN, TINY_BYTES, published


@dataclasses.dataclass
class Request:
    """What the server was asked for, and how many bytes of it it sent."""

    path: str
    range: str | None
    if_range: str | None
    status: int = 0
    sent: int = 0


class Server(http.server.ThreadingHTTPServer):
    """A download server on the loopback that misbehaves as the items of `behaviours` say, one for each request.

    "break": closes the connection after half of the file. "stall": sends half, and no more. "ignore range": always
    sends the whole file. "ignore if-range": sends a range even of another file. "wrong range": starts a byte too early.
    An integer: answers with that status.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = TINY_BYTES
        self.headers: dict[str, str] = {"ETag": '"one"'}
        self.behaviours: list[str | int] = []
        self.requests: list[Request] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        if not self.path.startswith("/storage"):  # As GitHub does.
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/storage{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        request = Request(self.path, self.headers["Range"], self.headers["If-Range"])
        self.server.requests.append(request)
        behaviour = self.server.behaviours.pop(0) if self.server.behaviours else "good"
        content, size, start = self.server.content, len(self.server.content), 0
        if isinstance(behaviour, int):
            request.status, content = behaviour, b"sorry"
        elif (
            request.range is None
            or behaviour == "ignore range"
            or (behaviour != "ignore if-range" and request.if_range not in (None, *self.server.headers.values()))
        ):
            request.status = 200
        else:
            start = int(request.range.removeprefix("bytes=").removesuffix("-")) - (behaviour == "wrong range")
            request.status, content = 206, content[start:]
        self.send_response(request.status)
        for item in self.server.headers.items():
            self.send_header(*item)
        self.send_header("Content-Length", str(len(content)))
        if request.status == 206:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        if behaviour in ("break", "stall"):
            content = content[: size // 2]
        request.sent = len(content)  # Before the client can have it and look.
        self.wfile.write(content)
        self.wfile.flush()
        if behaviour == "stall":
            self.server.released.wait(60)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", server.url)
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


pytestmark = pytest.mark.filterwarnings("ignore:.*not verified")
HALF = len(TINY_BYTES) // 2
REST = len(TINY_BYTES) - HALF


def files(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()} - {"weights.pth.lock"}


def test_a_model_is_downloaded_once(server: Server, cache: Path, tiny: DAC) -> None:
    model = load("44khz")
    assert model.name == "44khz"
    assert fingerprint(model) == fingerprint(tiny)
    assert (cache / "weights.pth").read_bytes() == TINY_BYTES
    assert files(cache) == {"weights.pth", "weights.pth.json"}
    record = json.loads((cache / "weights.pth.json").read_text())
    assert record["sha256"] == hashlib.sha256(TINY_BYTES).hexdigest()
    assert fingerprint(load("44khz")) == fingerprint(tiny)
    assert [request.path for request in server.requests] == ["/storage/0.0.1/weights.pth"]


@pytest.mark.parametrize("headers", [{"ETag": '"one"'}, {"Last-Modified": "Mon, 01 May 2023 00:00:00 GMT"}, {}])
def test_broken_connection_is_resumed(server: Server, cache: Path, tiny: DAC, headers: dict[str, str]) -> None:
    server.headers, server.behaviours = headers, ["break", "good"]
    assert fingerprint(load("44khz")) == fingerprint(tiny)
    first, second = server.requests
    assert (first.range, first.sent) == (None, HALF)
    assert (second.range, second.sent) == (f"bytes={HALF}-", REST)
    assert second.if_range == next(iter(headers.values()), None)
    assert files(cache) == {"weights.pth", "weights.pth.json"}


def test_weak_etag_is_no_validator(server: Server) -> None:
    server.headers, server.behaviours = {"ETag": 'W/"one"'}, ["break", "good"]
    load("44khz")
    assert server.requests[1].if_range is None


def test_server_that_ignores_range(server: Server, cache: Path, tiny: DAC) -> None:
    server.behaviours = ["break", "ignore range"]
    assert fingerprint(load("44khz")) == fingerprint(tiny)
    assert (server.requests[1].range, server.requests[1].sent) == (f"bytes={HALF}-", len(TINY_BYTES))


@pytest.mark.parametrize("behaviour", ["good", "ignore if-range"])
def test_file_that_changes_between_two_attempts(server: Server, tmp_path: Path, behaviour: str) -> None:
    (tmp_path / "new").mkdir()
    new_file = published(tmp_path / "new" / "a.pth", lambda tensors: tensors["encoder.block.0.bias"].add_(1))
    server.content = published(tmp_path / "a.pth").read_bytes()
    server.behaviours = ["break", 503, 503, 503]
    with pytest.raises(CheckpointError):
        load("44khz")
    assert len(server.content) == new_file.stat().st_size  # Which thus can't tell one from the other.
    server.content, server.headers, server.behaviours = new_file.read_bytes(), {"ETag": '"two"'}, [behaviour]
    assert fingerprint(load("44khz")) == fingerprint(load(new_file))


def test_server_that_sends_another_range(server: Server, tiny: DAC) -> None:
    server.behaviours = ["break", "wrong range", "good"]
    assert fingerprint(load("44khz")) == fingerprint(tiny)
    assert [request.range for request in server.requests] == [None, f"bytes={HALF}-", None]


def test_what_has_arrived_is_kept_for_the_next_call(server: Server, cache: Path, tiny: DAC) -> None:
    server.behaviours = ["break", 503, 503, 500]
    with pytest.raises(CheckpointError, match=r"weights.pth can't be downloaded: the server answered 500"):
        load("44khz")
    assert (cache / "weights.pth.part").read_bytes() == TINY_BYTES[:HALF]
    assert fingerprint(load("44khz")) == fingerprint(tiny)
    assert server.requests[-1].sent == REST


def test_complete_part_needs_no_server(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(models, "_build_published", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("44khz")
    assert files(cache) == {"weights.pth.part", "weights.pth.part.json"}
    load("44khz")
    assert len(server.requests) == 1


def test_part_that_the_server_finds_too_long(server: Server, cache: Path, tiny: DAC) -> None:
    cache.mkdir()
    (cache / "weights.pth.part").write_bytes(bytes(100))
    url = f"{server.url}/0.0.1/weights.pth"
    (cache / "weights.pth.part.json").write_text(json.dumps({"url": url, "size": None, "validator": None}))
    server.behaviours = [416, "good"]
    assert fingerprint(load("44khz")) == fingerprint(tiny)
    assert [request.range for request in server.requests] == ["bytes=100-", None]


@pytest.mark.parametrize("record", [None, "{", '{"url": "http://elsewhere"}'])
def test_part_of_unknown_origin_is_not_continued(server: Server, cache: Path, record: str | None) -> None:
    cache.mkdir()
    (cache / "weights.pth.part").write_bytes(bytes(100))
    if record is not None:
        (cache / "weights.pth.part.json").write_text(record)
    load("44khz")
    assert [request.range for request in server.requests] == [None]


def test_killed_process_is_continued_by_another(server: Server, cache: Path, tiny: DAC) -> None:
    server.behaviours = ["stall"]
    process = subprocess.Popen(
        [sys.executable, "-c", "import dac_codec.pretrained; dac_codec.pretrained.load('44khz')"],
        cwd=GOLDEN.parent.parent,
    )
    part = cache / "weights.pth.part"
    try:
        while not server.requests:
            assert process.poll() is None
            time.sleep(0.01)
        deadline = time.monotonic() + 0.5 * download._TIMEOUT_S  # While the process still waits for data.
        while not part.exists() or part.stat().st_size < HALF:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert fingerprint(load("44khz")) == fingerprint(tiny)
    assert [(request.range, request.sent) for request in server.requests] == [
        (None, HALF),
        (f"bytes={HALF}-", REST),
    ]


def test_two_at_once_download_once(server: Server, tiny: DAC) -> None:
    server.behaviours = ["stall", "good"]
    models: list[DAC] = []
    threads = [threading.Thread(target=lambda: models.append(load("44khz"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not server.requests:
        time.sleep(0.01)
    time.sleep(0.2)  # Time for the other one to make a request, which it must not.
    assert len(server.requests) == 1
    server.released.set()
    for thread in threads:
        thread.join()
    assert [fingerprint(model) for model in models] == [fingerprint(tiny)] * 2
    assert [request.sent for request in server.requests] == [HALF, REST]


def test_html_page(server: Server, cache: Path) -> None:
    server.content = b"<!DOCTYPE html><title>Sign in to the hotel's network</title>"
    with pytest.raises(CheckpointError, match=r"is not the expected model, and was removed: .*readable"):
        load("44khz")
    assert files(cache) == set()


def test_another_architecture(server: Server, cache: Path) -> None:
    server.content = (GOLDEN / "dac_24khz_tiny.pth").read_bytes()
    with pytest.raises(CheckpointError, match=r"was removed: .* is another model than 44khz"):
        load("44khz")
    assert files(cache) == set()


@pytest.mark.parametrize("status", [404, 403])
def test_refusal_is_not_retried(server: Server, cache: Path, status: int) -> None:
    server.behaviours = [status]
    with pytest.raises(CheckpointError, match=f"/0.0.1/weights.pth can't be downloaded: the server answered {status}"):
        load("44khz")
    assert len(server.requests) == 1
    assert files(cache) == set()


def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(download, "_RETRY_WAITS_S", (-1.0,))  # Which fails: one refusal is enough.
    with pytest.raises(CheckpointError) as caught:
        load("44khz")
    message = str(caught.value)
    assert f"http://127.0.0.1:{port}/0.0.1/weights.pth can't be downloaded: no connection" in message
    assert f"put it at {cache / 'weights.pth'}" in message


def test_address_without_a_scheme(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAC_CODEC_DOWNLOAD_URL", "mirror.local/dac")
    with pytest.raises(CheckpointError, match=r"mirror\.local/dac.*can't be downloaded: invalid address"):
        load("44khz")


def test_silent_server_times_out(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT_S", 0.2)
    server.behaviours = ["stall", "good"]
    start = time.monotonic()
    load("44khz")
    assert server.requests[1].sent == REST
    assert time.monotonic() - start < 15  # The server would have kept it waiting for 60.


def test_cache_that_cannot_be_created(cache: Path) -> None:
    cache.write_text("a file in the way")
    with pytest.raises(CheckpointError, match=r"weights.pth can't be written"):
        load("44khz")


def test_file_put_there_by_hand(cache: Path, tiny: DAC) -> None:
    cache.mkdir()
    (cache / "weights.pth").write_bytes(TINY_BYTES)
    assert fingerprint(load("44khz")) == fingerprint(tiny)
    assert files(cache) == {"weights.pth", "weights.pth.json"}


def test_wrong_file_put_there_by_hand_is_refused_and_kept(cache: Path) -> None:
    cache.mkdir()
    (cache / "weights.pth").write_bytes((GOLDEN / "dac_24khz_tiny.pth").read_bytes())
    with pytest.raises(CheckpointError, match=r"weights.pth is another model than 44khz"):
        load("44khz")
    assert files(cache) == {"weights.pth"}


def test_changed_file_is_refused(server: Server, cache: Path, tmp_path: Path) -> None:
    load("44khz")
    published(cache / "weights.pth", lambda tensors: tensors["decoder.model.6.bias"].add_(1))
    with pytest.raises(CheckpointError, match=r"weights.pth has changed since it was first used.*Delete it"):
        load("44khz")
    (cache / "weights.pth").unlink()
    load("44khz")


def test_damaged_record_is_not_ignored(server: Server, cache: Path) -> None:
    load("44khz")
    for text in ("{", "[]"):
        (cache / "weights.pth.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"weights.pth.json .*delete it"):
            load("44khz")


def test_progress_only_on_a_terminal(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load("44khz", progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for progress in (False, True):
        for path in cache.iterdir():
            path.unlink()
        load("44khz", progress=progress)
        assert ("weights.pth: 100%" in capsys.readouterr().err) is progress


def test_a_full_cache_disk_is_no_broken_connection(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(part: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"weights\.pth can't be written: .*No space left on device"):
        load("44khz")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("server")
def test_waiting_for_another_process_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_SILENT_WAIT_S", 0.05)
    cache.mkdir()
    script = "import filelock, sys, time\nwith filelock.FileLock(sys.argv[1]): print(flush=True); time.sleep(1)"
    command = [sys.executable, "-c", script, str(cache / "weights.pth.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.warns(UserWarning, match=r"waiting for another process .* holds .*weights\.pth\.lock"):
            load("44khz")
