"""Drives headless Chromium over a pipe, by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--hide-scrollbars",
)


class Page:
    """One tab."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Open the tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                data = os.read(self._read, 1 << 20)
                if not data:
                    raise RuntimeError("Chromium ended")
                self._buffer += data
            line, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                found: dict[str, Any] = answer["result"]
                return found

    def evaluate(self, code: str) -> Any:
        """The value of JavaScript in the page; a promise is awaited."""
        found = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def wait(self, code: str, seconds: float = 60) -> Any:
        """Wait until JavaScript in the page is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(code)):
            if time.monotonic() > end:
                raise TimeoutError(f"{code}; the page says: {self.evaluate('document.body.innerText')}")
            time.sleep(0.1)
        return value

    def screenshot(self, path: Path, width: int, height: int, dark: bool, mobile: bool) -> None:
        """A picture of the whole page."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", features=scheme)
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        time.sleep(0.2)
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def opened(profile: Path) -> Iterator[Page]:
    """Chromium with one tab. It ends with the context."""
    assert CHROMIUM is not None
    commands, ours = os.pipe()
    answers, theirs = os.pipe()
    line = [CHROMIUM, *_OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    # Chromium reads file descriptor 3 and writes 4.
    program = f'exec "$@" 3<&{commands} 4>&{theirs}'
    process = subprocess.Popen(
        ["bash", "-c", program, "chromium", *line], pass_fds=(commands, theirs), stderr=subprocess.DEVNULL
    )
    os.close(commands)
    os.close(theirs)
    try:
        page = Page(answers, ours)
        page.attach()
        yield page
    finally:
        process.terminate()
        process.wait(10)
        os.close(ours)
        os.close(answers)
