"""The page in headless Chromium: what it plays, writes and records; and how it looks."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from dac_codec import DAC, compress, decompress
from dac_codec.codec import DacFile
from dac_codec.common.errors import DacError
from dac_codec.interop.web import server, write_site
from tests.interop.web.browser import CHROMIUM, Page, opened

pytest.importorskip("onnx")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

RATE = 44100
ERRORS = ("Runtime.exceptionThrown", "Log.entryAdded")
REQUEST = "Network.requestWillBeSent"
# Keeps the samples that are handed to the sound system.
RECORD_PLAYED = """
window.played = [];
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when = 0, ...rest) {
  const indices = Array.from({ length: this.buffer.numberOfChannels }, (_, c) => c);
  window.played.push({ when, channels: indices.map((c) => Array.from(this.buffer.getChannelData(c))) });
  return start.call(this, when, ...rest);
};
"""


@dataclass
class Open:
    """The page in a browser."""

    page: Page
    url: str
    folder: Path
    """Where downloads go."""

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
        self.page.wait(f"document.getElementById('name').textContent === '{name}' && {status()} === 'Decoded.'", 120)

    def play(self, seconds: float) -> npt.NDArray[np.float32]:
        """Play from the position on, and return what was handed to the sound system [C, T]."""
        self.page.evaluate("window.played = []; document.getElementById('play').click()")
        self.page.wait(f"{played_samples()} >= {round(seconds * RATE)}")
        self.page.wait("document.getElementById('play').textContent === 'Play'")
        parts: list[dict[str, Any]] = self.page.evaluate("window.played")
        for before, after in itertools.pairwise(parts):
            samples = (after["when"] - before["when"]) * RATE
            assert samples == pytest.approx(len(before["channels"][0]), abs=1e-6)
        return np.concatenate([np.array(part["channels"], np.float32) for part in parts], axis=1)

    def download(self) -> DacFile:
        """Download the .dac file."""
        self.page.evaluate("document.getElementById('download').click()")
        for _ in range(100):
            time.sleep(0.1)
            for path in self.folder.glob("*.dac"):
                file = DacFile.load(path)
                path.unlink()
                return file
        raise TimeoutError("no download")


def status() -> str:
    return "document.getElementById('status').textContent"


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


@pytest.fixture(scope="module")
def browser(model: DAC, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    folder = tmp_path_factory.mktemp("web")
    try:
        write_site(model, folder / "site")
    except DacError as error:
        pytest.skip(str(error))
    (folder / "downloads").mkdir()
    host = server(folder / "site", 0)
    thread = threading.Thread(target=host.serve_forever)
    thread.start()
    try:
        with opened(folder / "profile") as page:
            page.send("Page.addScriptToEvaluateOnNewDocument", source=RECORD_PLAYED)
            page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "downloads"))
            url = f"http://127.0.0.1:{host.server_address[1]}/"
            page.send("Page.navigate", url=url)
            page.wait(f"document.getElementById('status') && {status()} === 'Ready.'", 120)
            page.events.clear()
            yield Open(page, url, folder / "downloads")
            assert [event for event in page.events if event["method"] in ERRORS] == []
            # Nothing is fetched after the model, from any host.
            asked = [event["params"]["request"]["url"] for event in page.events if event["method"] == REQUEST]
            assert [name for name in asked if not name.startswith(("blob:", url + "page/recorder.js"))] == []
    finally:
        host.shutdown()
        thread.join()
        host.server_close()


@pytest.fixture(scope="module")
def compressed(model: DAC, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a context model, and band levels, 3 seconds."""
    path = tmp_path_factory.mktemp("files") / "chord.dac"
    source = path.with_suffix(".wav")
    soundfile.write(source, sound(3), RATE, subtype="FLOAT")
    compress(source, model=model).save(path)
    return path


def test_a_file_plays_as_python_decodes_it(browser: Open, compressed: Path, model: DAC) -> None:
    browser.drop(compressed)
    browser.decoded("chord.dac")
    expected, _ = decompress(compressed, model=model)
    header = DacFile.load(compressed).header
    assert header.levels is not None
    played = browser.play(3)
    assert played.shape == expected.shape
    assert np.abs(played - expected.numpy()).max() < 1e-4
    browser.page.evaluate("{ const seek = document.getElementById('seek'); seek.value = 1.9; seek.oninput(); }")
    played = browser.play(1.1)
    assert np.abs(played - expected.numpy()[:, round(1.9 * RATE) :]).max() < 1e-4


def test_a_bad_file_does_not_stop_the_one_before_and_the_keyboard_plays_it(
    browser: Open, compressed: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.dac"
    bad.write_bytes(compressed.read_bytes()[:20])
    browser.page.evaluate("document.getElementById('name').textContent = ''")
    browser.drop(compressed)
    browser.page.wait("document.getElementById('name').textContent === 'chord.dac'")
    browser.drop(bad)
    browser.decoded("chord.dac")
    press = "document.body.dispatchEvent(new KeyboardEvent('keydown', { key: ' ', bubbles: true, cancelable: true }))"
    browser.page.evaluate(press)
    browser.page.wait("document.getElementById('play').textContent === 'Pause'")
    browser.page.wait("document.getElementById('time').textContent.startsWith('0:01')")
    browser.page.evaluate(press)
    browser.page.wait("document.getElementById('play').textContent === 'Play'")
    browser.page.evaluate("document.getElementById('file').focus()")
    order = []
    for _ in range(6):
        order.append(browser.page.evaluate("document.activeElement.id"))
        for kind in ("keyDown", "keyUp"):
            browser.page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert order == ["file", "record", "seek", "play", "download", "wav"]


def test_a_damaged_file(browser: Open, compressed: Path, model: DAC, tmp_path: Path) -> None:
    path = tmp_path / "damaged.dac"
    data = bytearray(compressed.read_bytes())
    data[len(data) * 3 // 4] ^= 255
    path.write_bytes(data[:-10])
    browser.drop(path)
    browser.decoded("damaged.dac")
    assert browser.page.evaluate("document.getElementById('problem-list').children.length") > 0
    played = browser.play(1)
    assert np.abs(played).max() > 0.01
    path.write_bytes(compressed.read_bytes()[:20])
    browser.drop(path)
    browser.page.wait(f"{status()} === 'the file ends inside its header'")
    path.write_text("no sound")
    browser.drop(path)
    browser.page.wait(f"{status()}.startsWith('This is neither')")


def test_a_sound_is_compressed_as_python_compresses_it(browser: Open, model: DAC, tmp_path: Path) -> None:
    path = tmp_path / "music.wav"
    soundfile.write(path, sound(2.5, seed=1), RATE, subtype="FLOAT")
    browser.drop(path)
    browser.decoded("music.dac")
    written = browser.download()
    expected = compress(path, model=model, n_quantizers=6, constant=True)
    assert written.header.gain_db == pytest.approx(expected.header.gain_db, abs=1e-6)
    assert (written.header.n_samples, written.header.model_name) == (round(2.5 * RATE), "dac-mini-44khz")
    assert (written.codes == expected.codes).float().mean() > 0.999
    audio, _ = decompress(written, model=model)
    played = browser.play(2.5)
    assert np.abs(played - audio.numpy()).max() < 1e-4

    browser.page.evaluate(
        "{ const rate = document.getElementById('rate'); rate.value = 9; rate.oninput(); rate.onchange(); }"
    )
    browser.page.wait("document.getElementById('facts').textContent.includes('9 of 9')")
    browser.decoded("music.dac")
    assert browser.page.evaluate("document.getElementById('time').textContent") == "0:02 / 0:02"  # it goes on there
    more = browser.download()
    assert more.codes.shape[1] == 9
    assert (more.codes[:, :6] == written.codes).all()
    browser.page.evaluate("document.querySelector('input[value=original]').click()")
    original, _ = soundfile.read(path, dtype="float32", always_2d=True)
    assert np.abs(browser.play(2.5) - original.T).max() < 1e-4


def test_the_newest_file_wins(browser: Open, compressed: Path, tmp_path: Path) -> None:
    path = tmp_path / "slow.wav"
    soundfile.write(path, sound(4), RATE)
    browser.drop(path)
    browser.page.wait(f"{status()}.startsWith('Compressing slow')")
    browser.drop(path)
    browser.drop(compressed)
    browser.decoded("chord.dac")
    time.sleep(1)
    browser.decoded("chord.dac")


def test_the_microphone(browser: Open) -> None:
    browser.page.evaluate("document.getElementById('record').click()")
    browser.page.wait(f"{status()} === 'Recording.'")
    time.sleep(2.5)
    browser.page.evaluate("document.getElementById('record').click()")
    browser.decoded("recording.dac")
    file = browser.download()
    assert file.channels == 1
    assert 1 < file.duration < 30
    assert len(np.unique(file.codes[0, 0])) > 5  # the beeps of the fake microphone


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
