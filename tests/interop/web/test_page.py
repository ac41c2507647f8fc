"""The page in headless Chromium: what it plays, writes and records; and how it looks."""

from __future__ import annotations

import base64
import io
import itertools
import json
import queue
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from dac_codec import DAC, DacStream, compress, compress_stream, decompress
from dac_codec.bitstream import LegacyFile, Order, read_legacy, thin, write_legacy
from dac_codec.bitstream.chunks import ChunkKind
from dac_codec.bitstream.fields import FieldReader
from dac_codec.codec import DacFile
from dac_codec.common.errors import DacError
from dac_codec.interop.web import server, site, write_site
from tests.conftest import GOLDEN, golden_model
from tests.interop.web.browser import CHROMIUM, Page, opened

pytest.importorskip("onnx")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

RATE = 44100
ERRORS = ("Runtime.exceptionThrown", "Log.entryAdded")
REQUEST = "Network.requestWillBeSent"
SECONDS = 2.5  # of sounds: two blocks of the page, and what the first one depends on
# Keeps the samples that are handed to the sound system, and the indices of blocks that are decoded. `hold` stops the
# clock of the sound system when it gets the next samples.
RECORD_PLAYED = """
window.played = [];
window.blocks = [];
window.hold = false;
window.Worker = class extends Worker {
  set onmessage(handle) {
    super.onmessage = (event) => {
      if (event.data.type === "block") window.blocks.push(event.data.index);
      handle(event);
    };
  }
};
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when = 0, ...rest) {
  const indices = Array.from({ length: this.buffer.numberOfChannels }, (_, c) => c);
  window.played.push({ when, channels: indices.map((c) => Array.from(this.buffer.getChannelData(c))) });
  if (window.hold) this.context.suspend();
  window.hold = false;
  return start.call(this, when, ...rest);
};
"""


class Slow(site._Handler):
    """Serves the site, and below /slow/ what a test gives piece by piece; None ends it."""

    size = 0
    pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def do_GET(self) -> None:
        if not self.path.startswith("/slow/"):
            super().do_GET()
            return
        if not self.size:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.size))
        self.end_headers()
        while piece := self.pieces.get():
            self.wfile.write(piece)


@dataclass
class Open:
    """The page in a browser."""

    page: Page
    url: str
    folder: Path
    """Where downloads go."""
    rate: int = RATE

    def follow(self, link: str) -> None:
        """Open a link."""
        self.page.evaluate(
            f"document.getElementById('url').value = '{link}'; document.getElementById('link').requestSubmit()"
        )

    def drop(self, path: Path) -> None:
        """Drop a file on the page."""
        data = base64.b64encode(path.read_bytes()).decode()
        self.page.evaluate(
            f"""{{
              const bytes = Uint8Array.from(atob("{data}"), (letter) => letter.charCodeAt(0));
              const dataTransfer = new DataTransfer();
              dataTransfer.items.add(new File([bytes], "{path.name}"));
              document.dispatchEvent(new DragEvent("drop", {{ dataTransfer, cancelable: true }}));
            }}"""
        )

    def decoded(self, name: str) -> None:
        """Wait until a file is decoded."""
        self.page.wait(f"{text('name')} === '{name}' && {text('status')} === 'Decoded.'", 120)

    def seek(self, seconds: float) -> None:
        self.page.evaluate(
            f"{{ const seek = document.getElementById('seek'); seek.value = {seconds}; seek.oninput(); }}"
        )

    def play(self, seconds: float) -> npt.NDArray[np.float32]:
        """Play from the position on, and return what was handed to the sound system [C, T]."""
        self.page.evaluate("window.played = []; document.getElementById('play').click()")
        self.page.wait(f"{played_samples()} >= {round(seconds * self.rate)}")
        self.page.wait(f"{text('play')} === 'Play'")
        return self.played()

    def played(self) -> npt.NDArray[np.float32]:
        parts: list[dict[str, Any]] = self.page.evaluate("window.played")
        for before, after in itertools.pairwise(parts):
            samples = (after["when"] - before["when"]) * self.rate
            assert samples == pytest.approx(len(before["channels"][0]), abs=1e-6)
        return np.concatenate([np.array(part["channels"], np.float32) for part in parts], axis=1)

    def download(self) -> tuple[DacFile, bytes]:
        """Download the .dac file: its content and its bytes."""
        self.page.evaluate("document.getElementById('download').click()")
        for _ in range(100):
            time.sleep(0.1)
            for path in self.folder.glob("*.dac"):
                data = path.read_bytes()
                path.unlink()
                return DacFile.from_bytes(data), data
        raise TimeoutError("no download")

    def wav(self) -> npt.NDArray[np.float32]:
        """Download the decoded sound [C, T]."""
        self.page.evaluate("document.getElementById('wav').click()")
        for _ in range(100):
            time.sleep(0.1)
            for path in self.folder.glob("*.wav"):
                samples: npt.NDArray[np.float32] = soundfile.read(path, dtype="float32", always_2d=True)[0].T
                path.unlink()
                return samples
        raise TimeoutError("no download")


def text(element: str) -> str:
    """The text of an element, in JavaScript."""
    return f"document.getElementById('{element}').textContent"


def played_samples() -> str:
    return "window.played.reduce((n, part) => n + part.channels[0].length, 0)"


def sound(seconds: float, seed: int = 0) -> npt.NDArray[np.float32]:
    """A chord with an envelope and some noise, stereo [T, 2]."""
    t = np.arange(round(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * f * t) for f in (220, 277, 330)) * (0.6 + 0.4 * np.sin(9 * t))
    noise = np.random.default_rng(seed).standard_normal(t.size) * np.exp(-8 * (t % 0.5))
    return np.stack([0.1 * chord, 0.05 * chord + 0.05 * noise], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> DAC:
    return DAC.from_pretrained("dac-mini-44khz")


@contextmanager
def opened_site(
    folder: Path, rate: int, query: str = "", handler: type[site._Handler] = site._Handler
) -> Iterator[Open]:
    """The page of a site folder/"site", served on loopback. Its browser and its downloads are in `folder`."""
    (folder / "downloads").mkdir()
    host = server(folder / "site", 0)
    host.RequestHandlerClass = partial(handler, directory=str(folder / "site"))
    thread = threading.Thread(target=host.serve_forever)
    thread.start()
    try:
        with opened(folder / "profile") as page:
            page.send("Page.addScriptToEvaluateOnNewDocument", source=RECORD_PLAYED)
            page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "downloads"))
            url = f"http://127.0.0.1:{host.server_address[1]}/"
            page.send("Page.navigate", url=url + query)
            page.wait("document.getElementById('open') && !document.getElementById('open').disabled", 120)
            yield Open(page, url, folder / "downloads", rate)
    finally:
        host.shutdown()
        thread.join()
        host.server_close()


def write_site_or_skip(model: DAC, folder: Path) -> None:
    try:
        write_site(model, folder)
    except DacError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(model: DAC, compressed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    folder = tmp_path_factory.mktemp("web")
    write_site_or_skip(model, folder / "site")
    shutil.copy(compressed, folder / "site")
    with opened_site(folder, RATE, f"?file={compressed.name}", Slow) as browser:
        browser.page.events.clear()
        browser.decoded(compressed.name)
        yield browser
        errors = [event["params"] for event in browser.page.events if event["method"] in ERRORS]
        assert [event for event in errors if browser.url + "slow/" not in event.get("entry", {}).get("url", "")] == []
        # Nothing is fetched after the model but the links that are opened, from any host.
        asked = [event["params"]["request"]["url"] for event in browser.page.events if event["method"] == REQUEST]
        known = ("blob:", browser.url + "slow/", browser.url + compressed.name)
        assert [name for name in asked if not name.startswith(known)] == []


@pytest.fixture(scope="module")
def compressed(model: DAC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a context model, and band levels, in chunks of 0.4 seconds."""
    path = tmp_path_factory.mktemp("files") / "chord.dac"
    source = path.with_suffix(".wav")
    soundfile.write(source, sound(SECONDS), RATE, subtype="FLOAT")
    compress_stream(source, path, model=model, chunk_frames=32)
    return path


@pytest.fixture(scope="module")
def mono(model: DAC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `compressed`, of one channel, in chunks of 0.2 seconds."""
    path = tmp_path_factory.mktemp("files") / "mono.dac"
    compress_stream((sound(SECONDS)[:, 0], RATE), path, model=model, chunk_frames=16)
    return path


@pytest.fixture(scope="module")
def long(model: DAC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 15.5 seconds: 8 blocks of the page, in chunks of 3.5 seconds, each of three layers and band levels."""
    path = tmp_path_factory.mktemp("files") / "long.dac"
    compress_stream((sound(15.5)[:, 0], RATE), path, model=model)
    return path


def chunks_of(data: bytes) -> list[tuple[ChunkKind, int]]:
    """Kind and end of each chunk of a file."""
    fields = FieldReader(data, "a file")
    fields.take(5)
    fields.take(fields.varint() + 4)
    found = []
    while fields.left:
        key = fields.varint()
        fields.take((key >> 2) + 4)
        found.append((ChunkKind(key & 3), len(data) - fields.left))
    return found


def test_a_file_plays_as_python_decodes_it(browser: Open, compressed: Path, model: DAC) -> None:
    expected, _ = decompress(compressed, model=model)
    header = DacFile.load(compressed).header
    assert header.levels is not None
    played = browser.play(SECONDS)
    assert played.shape == expected.shape
    assert np.abs(played - expected.numpy()).max() < 1e-4
    browser.seek(1.9)
    played = browser.play(SECONDS - 1.9)
    assert np.abs(played - expected.numpy()[:, round(1.9 * RATE) :]).max() < 1e-4


def test_a_file_ordered_by_layers_gets_better_while_it_arrives(browser: Open, mono: Path, model: DAC) -> None:
    data = thin(mono.read_bytes(), order=Order.LAYERS)
    chunks = chunks_of(data)
    n_chunks = sum(kind is ChunkKind.CODES for kind, _ in chunks)
    ends = [end for _, end in chunks]
    passes = list(DacStream(io.BytesIO(data)).passes(model))
    assert (len(passes), len(chunks)) == (4, 4 * n_chunks + 1)
    Slow.size = len(data)
    browser.page.evaluate("window.blocks = []")
    browser.follow("slow/layers.dac")
    start = 0
    for number, expected in enumerate(passes, 1):
        end = ends[number * n_chunks - 1] if number < len(passes) else len(data)
        Slow.pieces.put(data[start:end])
        start = end
        browser.page.wait(f"window.blocks.length === {2 * number}")
        if number in (1, 3):
            assert browser.page.evaluate(text("status")) == f"Loading: {round(100 * end / len(data))}%"
            assert np.abs(browser.play(SECONDS) - expected).max() < 1e-4
    Slow.pieces.put(None)
    browser.decoded("layers.dac")
    assert np.abs(browser.play(SECONDS) - passes[-1]).max() < 1e-4
    assert browser.download()[1] == data
    assert browser.page.evaluate("window.blocks.length") == 2 * len(passes)


@pytest.mark.parametrize("order", list(Order))
def test_a_dropped_file_is_heard_coarse_then_refined(
    browser: Open, long: Path, model: DAC, tmp_path: Path, order: Order
) -> None:
    path = tmp_path / f"{order.name}.dac"
    path.write_bytes(thin(long.read_bytes(), order=order))
    layers = DacFile.load(path).header.layers
    coarse = decompress(thin(long.read_bytes(), layers[0]), model=model)[0].numpy()
    expected = decompress(long, model=model)[0].numpy()
    # Plays as soon as the file is shown; the clock of the sound system stops there.
    browser.page.evaluate(
        """{
          Object.assign(window, { played: [], blocks: [], hold: true });
          const observer = new MutationObserver(() => {
            observer.disconnect();
            document.getElementById("play").click();
          });
          observer.observe(document.getElementById("name"), { childList: true });
        }"""
    )
    browser.drop(path)
    browser.page.wait("window.played.length === 2")
    assert browser.page.evaluate("window.blocks")[:3] == [0, 1, 0]
    first, second = browser.page.evaluate("window.played")
    block = first["channels"][0]
    assert len(block) == 172 * 512
    assert np.abs(block - coarse[0, : len(block)]).max() < 1e-4
    assert np.abs(coarse - expected)[0, : len(block)].max() > 0.01
    # The finer sound replaces it in its place, in 10 ms.
    begin, fade = round((second["when"] - first["when"]) * RATE), 441
    assert 0 < begin < len(block)
    assert begin + len(second["channels"][0]) == len(block)
    assert np.abs(second["channels"][0][fade:] - expected[0, begin + fade : len(block)]).max() < 1e-4
    assert abs(second["channels"][0][0] - coarse[0, begin]) < 1e-4
    browser.page.evaluate("document.getElementById('play').click()")
    browser.decoded(path.name)
    assert sorted(browser.page.evaluate("window.blocks")) == [0, *range(8)]
    assert np.abs(browser.wav() - expected).max() < 1e-4 + 0.5 / 32768


def test_seeking_decodes_there_first(browser: Open, long: Path, model: DAC) -> None:
    expected = decompress(long, model=model)[0].numpy()
    browser.page.evaluate("document.getElementById('name').textContent = ''; window.blocks = []")
    browser.drop(long)
    browser.page.wait("window.blocks.length > 0")
    before = browser.page.evaluate(
        "{ const seek = document.getElementById('seek'); seek.value = 12.5; seek.oninput(); window.blocks.length; }"
    )
    assert before < 4
    browser.decoded(long.name)
    blocks = browser.page.evaluate("window.blocks")
    there = blocks.index(6)
    assert there <= before + 2  # of those before, one may have been decoded and one begun
    assert blocks[there : there + 3] == [6, 7, 6]  # coarse, with the next one, then refined
    played = browser.play(3)
    assert np.abs(played - expected[:, round(12.5 * RATE) :]).max() < 1e-4
    assert np.abs(browser.wav() - expected).max() < 1e-4 + 0.5 / 32768


def test_a_file_in_order_of_time_plays_while_it_arrives(browser: Open, mono: Path, model: DAC, tmp_path: Path) -> None:
    data = thin(mono.read_bytes(), 3)  # one layer: no coarse sound comes first
    expected = decompress(data, model=model)[0].numpy()
    ends = [end for _, end in chunks_of(data)]
    Slow.size = len(data)
    browser.follow("slow/time.dac")
    for start, end in itertools.pairwise([0, 7, 40, ends[0] + 5, *ends[1:-2]]):  # enough for one block
        Slow.pieces.put(data[start:end])
    browser.page.wait(f"{text('name')} === 'time.dac'")
    assert browser.page.evaluate("document.getElementById('download').offsetParent") is None
    bad = tmp_path / "bad.dac"
    bad.write_bytes(data[:20])
    browser.drop(bad)  # does not end the loading
    browser.page.wait(f"{text('status')} === 'the file ends inside its header'")
    browser.seek(1.5)
    browser.page.evaluate("window.played = []; document.getElementById('play').click()")
    first = expected[:, round(1.5 * RATE) : 172 * 512]  # up to the end of the first block
    browser.page.wait(f"{played_samples()} >= {first.shape[1]}")
    time.sleep(0.8)
    assert browser.page.evaluate(text("play")) == "Pause"
    assert browser.played().shape == first.shape
    assert np.abs(browser.played() - first).max() < 1e-4
    browser.seek(2.1)
    browser.page.evaluate("window.played = []")
    Slow.pieces.put(data[ends[-3] :])
    Slow.pieces.put(None)
    browser.decoded("time.dac")
    browser.page.wait(f"{text('play')} === 'Play'")
    assert np.abs(browser.played() - expected[:, round(2.1 * RATE) :]).max() < 1e-4


def test_what_came_of_a_link_is_played(browser: Open, mono: Path, model: DAC) -> None:
    data = thin(mono.read_bytes(), order=Order.LAYERS)
    n_chunks = sum(kind is ChunkKind.CODES for kind, _ in chunks_of(data))
    Slow.size = len(data)
    Slow.pieces.put(data[: chunks_of(data)[n_chunks - 1][1]])
    browser.follow("slow/cut.dac")
    browser.page.wait(f"{text('name')} === 'cut.dac'")
    Slow.pieces.put(None)
    browser.decoded("cut.dac")
    coarse = next(DacStream(io.BytesIO(data)).passes(model))
    assert np.abs(browser.play(SECONDS) - coarse).max() < 1e-4
    assert "truncated" in browser.page.evaluate(text("problem-list"))
    browser.follow("http://localhost/song.dac")
    browser.page.wait(f"{text('status')} === 'This page opens files of its own site only.'")
    Slow.size = 0
    browser.follow("slow/none.dac")
    browser.page.wait(f'{text("status")} === "slow/none.dac can\'t be loaded: 404 Not Found"')


def test_a_bad_file_does_not_stop_the_one_before_and_the_keyboard_plays_it(
    browser: Open, mono: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.dac"
    bad.write_bytes(mono.read_bytes()[:20])
    browser.page.evaluate("document.getElementById('name').textContent = ''")
    browser.drop(mono)
    browser.page.wait(f"{text('name')} === 'mono.dac'")
    browser.drop(bad)
    browser.decoded("mono.dac")
    bad.write_bytes((GOLDEN / "legacy_44khz_mono_48k_nq4.dac").read_bytes()[:-1])
    browser.drop(bad)
    browser.page.wait(f"{text('status')} === 'the file ends early, within its pickle'")
    press = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: ' ', bubbles: true, cancelable: true }))"
    browser.page.evaluate(press)
    browser.page.wait(f"{text('play')} === 'Pause'")
    browser.page.wait(f"{text('time')}.startsWith('0:01')")
    browser.page.evaluate(press)
    browser.page.wait(f"{text('play')} === 'Play'")
    browser.page.evaluate("document.getElementById('file').focus()")
    order = []
    for _ in range(8):
        order.append(browser.page.evaluate("document.activeElement.id"))
        for kind in ("keyDown", "keyUp"):
            browser.page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert order == ["file", "record", "url", "open", "seek", "play", "download", "wav"]


def test_an_error_stays_until_the_file_before_is_decoded(browser: Open, long: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.dac"
    bad.write_bytes(long.read_bytes()[:20])
    browser.page.evaluate("document.getElementById('name').textContent = ''; window.blocks = []")
    browser.drop(long)
    browser.page.wait("window.blocks.length > 0")
    browser.page.evaluate(
        "window.said = []; new MutationObserver(() => window.said.push(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), { childList: true }); 0"
    )
    browser.drop(bad)
    browser.decoded(long.name)
    said = browser.page.evaluate("window.said")
    assert said[said.index("the file ends inside its header") + 1 :] == ["Decoded."]


def test_a_damaged_file(browser: Open, mono: Path, model: DAC, tmp_path: Path) -> None:
    path = tmp_path / "damaged.dac"
    data = bytearray(mono.read_bytes())
    data[len(data) * 3 // 4] ^= 255
    path.write_bytes(data[:-10])
    browser.drop(path)
    browser.decoded("damaged.dac")
    assert browser.page.evaluate("document.getElementById('problem-list').children.length") > 0
    played = browser.play(1)
    assert np.abs(played).max() > 0.01
    path.write_bytes(mono.read_bytes()[:20])
    browser.drop(path)
    browser.page.wait(f"{text('status')} === 'the file ends inside its header'")
    path.write_text("no sound")
    browser.drop(path)
    browser.page.wait(f"{text('status')}.startsWith('This is neither')")


def reference_files() -> dict[str, LegacyFile]:
    """Files of descript-audio-codec for models like the bundled one."""
    stereo, windows = (
        read_legacy((GOLDEN / f"legacy_44khz_{name}.dac").read_bytes()) for name in ("stereo_unchunked", "mono_chunked")
    )
    codes = np.random.default_rng(0).integers(0, 1024, (2, 4, 400))
    return {
        "reference-stereo": stereo,
        "reference-windows": replace(windows, original_length=90_000),  # the golden model gives more
        "reference-window": LegacyFile(codes, 400, 190_000, (-20.0, -33.0), 2, RATE, False),
    }


def test_a_long_file_of_the_reference_ends_when_another_comes(browser: Open, mono: Path, tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 1024, (1, 9, 40_000))
    path = tmp_path / "long.dac"
    path.write_bytes(write_legacy(LegacyFile(codes, 40_000, 40_000 * 512, -20.0, 1, RATE, True)))
    browser.drop(path)
    browser.page.wait(f"/^Decoding: [1-9][0-9]?%$/.test({text('status')}) && {text('name')} === 'long.dac'")
    browser.drop(mono)
    browser.decoded("mono.dac")
    time.sleep(0.5)
    browser.decoded("mono.dac")


@pytest.mark.parametrize(("name", "begin"), [("stereo", 0.0), ("windows", 0.0), ("window", 3.0)])
def test_a_file_of_the_reference(browser: Open, model: DAC, tmp_path: Path, name: str, begin: float) -> None:
    file = reference_files()[f"reference-{name}"]
    path = tmp_path / f"reference-{name}.dac"
    path.write_bytes(write_legacy(file))
    expected = decompress(path, model=model)[0].numpy()
    browser.drop(path)
    browser.decoded(path.name)
    if begin:
        browser.seek(begin)
    played = browser.play(file.original_length / RATE - begin)
    assert played.shape == (file.channels, file.original_length - round(begin * RATE))
    assert np.abs(played - expected[:, round(begin * RATE) :]).max() < 1e-4
    assert browser.page.evaluate(text("facts")).startswith(f"Duration{file.original_length / RATE:.2f} s")


def test_a_file_that_no_such_model_wrote(browser: Open, tmp_path: Path) -> None:
    file = reference_files()["reference-stereo"]
    path = tmp_path / "reference.dac"
    path.write_bytes(write_legacy(replace(file, codes=file.codes.astype(np.int64) + 1000)))
    browser.drop(path)
    browser.page.wait(f"{text('status')}.includes('dac-mini-44khz has 9 of 1024')")


def test_a_sound_is_compressed_as_python_compresses_it(browser: Open, model: DAC, tmp_path: Path) -> None:
    path = tmp_path / "music.wav"
    soundfile.write(path, sound(2.1, seed=1), RATE, subtype="FLOAT")
    content = path.read_bytes()
    Slow.size = len(content)
    for piece in (content[:100_000], content[100_000:], None):
        Slow.pieces.put(piece)
    browser.follow("slow/music.wav")
    browser.decoded("music.dac")
    written, data = browser.download()
    expected = compress(path, model=model, n_quantizers=6, constant=True)
    assert written.header.gain_db == pytest.approx(expected.header.gain_db, abs=1e-6)
    assert (written.header.n_samples, written.header.model_name) == (round(2.1 * RATE), "dac-mini-44khz")
    assert (written.codes == expected.codes).float().mean() > 0.999
    assert data == written.to_bytes()  # Python codes the codes to the same bytes
    assert written.header.context_fingerprint is not None
    assert len(data) < 0.95 * len(expected.to_bytes())
    audio, _ = decompress(written, model=model)
    played = browser.play(2.1)
    assert np.abs(played - audio.numpy()).max() < 1e-4

    browser.page.evaluate(
        "{ const rate = document.getElementById('rate'); rate.value = 9; rate.oninput(); rate.onchange(); }"
    )
    browser.page.wait(f"{text('facts')}.includes('9 of 9')")
    browser.decoded("music.dac")
    assert browser.page.evaluate(text("time")) == "0:02 / 0:02"  # it goes on there
    more, _ = browser.download()
    assert more.codes.shape[1] == 9
    assert (more.codes[:, :6] == written.codes).all()
    browser.page.evaluate("document.querySelector('input[value=original]').click()")
    original, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert np.abs(browser.play(2.1) - original.T).max() < 1e-4


def test_the_newest_file_wins(browser: Open, mono: Path, tmp_path: Path) -> None:
    path = tmp_path / "slow.wav"
    soundfile.write(path, sound(SECONDS)[:, 0], RATE)
    browser.drop(path)
    browser.page.wait(f"{text('status')}.startsWith('Compressing slow')")
    browser.drop(path)
    browser.drop(mono)
    browser.decoded("mono.dac")
    time.sleep(1)
    browser.decoded("mono.dac")


def test_a_file_dropped_before_the_model_is_there_is_opened(browser: Open, mono: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "profile") as page:
        page.send("Page.navigate", url=browser.url)
        page.wait("document.getElementById('drop') && document.readyState === 'complete'")
        early = replace(browser, page=page)
        early.drop(mono)
        assert page.evaluate(text("model")) == "being loaded"
        early.decoded("mono.dac")


def test_the_microphone(browser: Open) -> None:
    browser.page.evaluate("document.getElementById('record').click()")
    browser.page.wait(f"{text('status')} === 'Recording.'")
    time.sleep(1.5)
    browser.page.evaluate("document.getElementById('record').click()")
    browser.decoded("recording.dac")
    file, _ = browser.download()
    assert file.channels == 1
    assert 1 < file.duration < 30
    assert len(np.unique(file.codes[0, 0])) > 5  # the beeps of the fake microphone


def test_the_microphone_is_released_after_an_error(browser: Open) -> None:
    browser.page.evaluate(
        """{
          const [devices, worklet] = [navigator.mediaDevices, AudioWorklet.prototype];
          const [getUserMedia, addModule] = [devices.getUserMedia.bind(devices), worklet.addModule];
          devices.getUserMedia = async (...given) => (window.stream = await getUserMedia(...given));
          worklet.addModule = async () => {
            Object.assign(worklet, { addModule });
            throw new Error("no recorder");
          };
          document.getElementById("record").click();
        }"""
    )
    browser.page.wait(f"{text('status')}.includes('no recorder')")
    assert browser.page.evaluate("window.stream.getTracks()[0].readyState") == "ended"


@pytest.mark.parametrize("name", ["44khz", "24khz"])
def test_golden_files(tmp_path: Path, name: str) -> None:
    """Files of the reference, with their models, at the model's rate, which the page plays at."""
    model = golden_model(name)
    write_site_or_skip(model, tmp_path / "site")
    with opened_site(tmp_path, model.sample_rate) as browser:
        for path in sorted(GOLDEN.glob(f"legacy_{name}_*.dac")):
            file = read_legacy(path.read_bytes())
            n_samples = round(file.original_length * model.sample_rate / file.sample_rate)
            same = replace(file, sample_rate=model.sample_rate, original_length=n_samples)
            expected, _ = decompress(io.BytesIO(write_legacy(same)), model=model)
            browser.drop(path)
            browser.decoded(path.name)
            played = browser.play(n_samples / model.sample_rate)
            assert abs(played.shape[1] - expected.shape[1]) <= 1, path.name
            length = min(played.shape[1], expected.shape[1])
            assert np.abs(played[:, :length] - expected[:, :length].numpy()).max() < 1e-4, path.name


@pytest.mark.parametrize(("width", "height", "mobile"), [(1280, 900, False), (390, 844, True), (320, 640, True)])
@pytest.mark.parametrize("dark", [False, True])
def test_the_layout(browser: Open, tmp_path: Path, width: int, height: int, mobile: bool, dark: bool) -> None:
    picture = tmp_path / f"page-{width}-{'dark' if dark else 'light'}.png"
    browser.page.screenshot(picture, width, height, dark, mobile)  # with what the tests before opened
    assert picture.stat().st_size > 10_000
    assert browser.page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = browser.page.evaluate(
        "[...document.querySelectorAll('button, .button')].filter((e) => e.offsetParent)"
        ".map((e) => e.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 44  # large enough for a finger
    back = browser.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (json.loads(back.replace("rgb(", "[").replace(")", "]"))[0] < 64) == dark
