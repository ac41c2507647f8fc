"""The page: whole, alone, and unharmed by what files are called."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dac_codec.evaluation import png, report
from dac_codec.evaluation.plots import rate_distortion
from dac_codec.evaluation.summary import means
from tests.evaluation.sounds import RATE, speech_like
from tests.evaluation.test_summary import MEL, results

EVIL = "<!--data--><script>alert(1)</script>.wav"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    (folder / "data" / "speech & more").mkdir(parents=True)
    for name in (EVIL.replace("/", "\u2215"), "b.wav", "c.wav"):
        soundfile.write(folder / "data" / "speech & more" / name, speech_like(0.6)[0], RATE)
    report.evaluate(folder / "data", folder / "report", ("anchor", "noise"), workers=1, progress=False, say=_silent)
    return folder


def _silent(line: str) -> None:
    pass


def test_the_page_needs_nothing_else(folder: Path) -> None:
    text = (folder / "report" / "index.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:|#)", text)
    assert "default-src 'none'" in text
    assert "<script>alert" not in text
    assert re.findall(r"<!--\w+-->", text) == []
    assert text.count("</script>") == 2
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    clips = json.loads(data[1])
    assert [[version["codec"] for version in clip["versions"]] for clip in clips] == [
        ["original", "anchor", "noise"]
    ] * 2
    for version in clips[1]["versions"]:
        waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(version["sound"])))
        assert (rate, len(waveform)) == (RATE, int(0.6 * RATE))
        assert base64.b64decode(version["picture"]).startswith(b"\x89PNG")


def test_the_report_is_complete(folder: Path) -> None:
    files = {path.name for path in (folder / "report").iterdir()}
    assert files == {"cache", "index.html", "report.md", "report.json", "clips.csv"}
    found = json.loads((folder / "report" / "report.json").read_text())
    assert found["clips"] == 3
    assert [codec["name"] for codec in found["codecs"]] == ["anchor", "noise"]
    assert {mean["domain"] for mean in found["means"]} == {"all", "speech & more"}


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_the_page(folder: Path, tmp_path: Path) -> None:
    page = (folder / "report" / "index.html").as_uri()
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    done = subprocess.run([*command, "--dump-dom", page], capture_output=True, text=True, timeout=120)
    assert '<div id="player">' in done.stdout
    assert 'id="data"' not in done.stdout
    assert done.stdout.count('type="radio"') == 3


def test_pictures_are_what_they_say(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 11025 * np.arange(RATE) / RATE)[None].astype(np.float32)
    data = png.spectrogram(tone)
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(data))
    assert image.size == (png.WIDTH, png.HEIGHT)
    brightness = np.asarray(image.convert("L"), np.float64).mean(1)
    assert abs(int(brightness.argmax()) - png.HEIGHT // 2) <= 1  # half of the highest frequency, in the middle


def test_plots_are_svg_with_a_point_for_each_mean() -> None:
    found = [one for one in means(results(), [MEL]) if one.domain == "all"]
    picture = ElementTree.fromstring(rate_distortion(found, MEL, ["ours", "opus", "silence"]))
    titles = [element.text or "" for element in picture.iter("title")]
    assert [title.split(":")[0] for title in titles] == ["ours 2 codebooks", "ours 9 codebooks", "opus 8 kbit/s"]
    assert "3.000 [" in titles[1]
    assert "at 8.00 kbit/s, 5 clips" in titles[1]
    assert rate_distortion(found, METRIC_WITHOUT_VALUES, ["ours"]) == ""


METRIC_WITHOUT_VALUES = type(MEL)("none", "none", "", True, "", MEL.measure)
