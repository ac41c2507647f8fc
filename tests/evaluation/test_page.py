"""The page: complete, self-contained, and safe for any file name."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dac_codec import pretrained
from dac_codec.common.errors import DacError
from dac_codec.evaluation import figures, report
from dac_codec.evaluation.clips import Clip
from dac_codec.evaluation.figures import rate_distortion
from dac_codec.evaluation.page import page, sections
from dac_codec.evaluation.results import flac, packed
from dac_codec.evaluation.summary import means
from tests.conftest import golden_model
from tests.evaluation.sounds import RATE, speech_like
from tests.evaluation.test_run import Counting
from tests.evaluation.test_summary import MEL, result, results

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


def test_the_page_is_self_contained(folder: Path) -> None:
    text = (folder / "report" / "index.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:|#)", text)
    assert "default-src 'none'" in text
    assert "<script>alert" not in text
    assert re.findall(r"<!--\w+-->", text) == []
    assert text.count("</script>") == 2
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    clips = json.loads(data[1])["clips"]
    assert [[version["codec"] for version in clip["versions"]] for clip in clips] == [
        ["original", "anchor", "noise"]
    ] * 2
    for version in clips[1]["versions"]:
        waveform, rate = soundfile.read(io.BytesIO(base64.b64decode(version["sound"])))
        assert (rate, len(waveform)) == (RATE, int(0.6 * RATE))
        assert base64.b64decode(version["picture"]).startswith(b"\xff\xd8\xff")


def test_the_report_is_complete(folder: Path) -> None:
    files = {path.name for path in (folder / "report").iterdir()}
    assert files == {"cache", "index.html", "report.md", "report.json", "clips.csv"}
    found = json.loads((folder / "report" / "report.json").read_text())
    assert found["clips"] == 3
    assert [codec["name"] for codec in found["codecs"]] == ["anchor", "noise"]
    assert {mean["domain"] for mean in found["means"]} == {"all", "speech & more"}
    text = (folder / "report" / "index.html").read_text()
    assert "2 of the 3 clips can be played here" in text
    assert len(found["notes"]) == 2
    for note in found["notes"]:
        assert note in (folder / "report" / "report.md").read_text()
        assert note.replace("&", "&amp;") in text


def test_differences_and_failures_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for domain in ("<i>a</i>".replace("/", "\u2215"), "b"):
        (tmp_path / "data" / domain).mkdir(parents=True)
        for i in range(3):
            soundfile.write(tmp_path / "data" / domain / f"{i}.wav", speech_like(0.2 + 0.1 * i)[0], RATE)
    codecs = [Counting("ours", "<b>ours</b>"), Counting("other", fingerprint="2", fails_at=int(0.3 * RATE))]
    monkeypatch.setattr(report, "make_codecs", lambda *arguments: (codecs, []))
    found = report.evaluate(
        tmp_path / "data", tmp_path / "report", ("ours", "other"), (2.0,), workers=1, progress=False, say=_silent
    )
    assert len(found.failures) == 2
    values = json.loads((tmp_path / "report" / "report.json").read_text())
    assert values["failures"] == found.failures
    assert {(one["codec"], one["other"]) for one in values["differences"]} == {("ours", "other")}
    text = (tmp_path / "report" / "index.html").read_text()
    markdown = (tmp_path / "report" / "report.md").read_text()
    for failure in found.failures:
        assert html.escape(failure) in text
        assert f"- {failure}" in markdown
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "<i>a" not in body
    assert "<b>ours" not in body
    assert body.count("<td>4</td>") == 1  # the number of clips, of six, that the other codec could code
    # On disk, and not the payload alone.
    kbps = [100 * 8 / 1000 * n / seconds for n, seconds in ((6, 1.8), (4, 1.2))]
    assert [f"| {mean:.2f} |" in markdown for mean in kbps] == [True, True]


def test_the_report_notes_that_the_first_codec_is_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrained.save(golden_model("44khz"), tmp_path / "model")
    monkeypatch.setenv("PATH", str(tmp_path))
    model = str(tmp_path / "model")
    report.evaluate(
        folder / "data" / "speech & more" / "b.wav",
        tmp_path / "report",
        ("opus", "ours", "silence"),
        (1.0,),
        model,
        workers=1,
        progress=False,
        say=_silent,
    )
    text = (tmp_path / "report" / "report.md").read_text()
    assert "opus, with which the others are compared, has no results" in text
    assert "| against |" not in text
    assert "bitrate efficiency" in text
    assert json.loads((tmp_path / "report" / "report.json").read_text())["differences"] == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_the_page(folder: Path, tmp_path: Path) -> None:
    page = folder / "report" / "index.html"
    shown = chromium(page, tmp_path)
    assert '<div id="player">' in shown
    assert 'id="data"' not in shown
    assert shown.count('type="radio"') == 3


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_playing_and_pausing_in_a_browser(folder: Path, tmp_path: Path) -> None:
    text = (folder / "report" / "index.html").read_text()
    (tmp_path / "page.html").write_text(text.replace("</body>", PLAYED + "</body>"))
    shown = chromium(tmp_path / "page.html", tmp_path)
    assert "data-failed" not in shown
    assert 'data-button="Play"' in shown
    assert 0 <= float(re.search(r'data-position="([^"]*)"', shown)[1]) <= 0.6  # type: ignore[index]


BLIND = """
<script>
const found = document.body.dataset;
Math.random = () => 0;
window.Blob = class { constructor(parts) { found.csv = parts.join(""); } };
URL.createObjectURL = () => "#";
found.shown = "";
document.getElementById("listener").value = 'Ann "A"';
document.getElementById("blind").click();
found.shown = document.getElementById("versions").textContent;
found.seen = [...document.querySelectorAll("main > section:not(#listen), nav, #open-only")]
  .filter((one) => !one.hidden).length + document.querySelectorAll("img[src]").length;
document.querySelectorAll("#versions input[type=range]").forEach((slider, place) => {
  if (place === 3) return;
  slider.value = 10 * place;
  slider.dispatchEvent(new Event("input"));
});
document.getElementById("save").click();
found.said = document.getElementById("status").textContent;
</script>
"""

PLAYED = """
<script>
const found = document.body.dataset;
const click = (id) => document.getElementById(id).click();
window.addEventListener("unhandledrejection", (event) => { found.failed = event.reason; });
(async () => {
  const pause = () => new Promise((done) => setTimeout(done, 300));
  for (let i = 0; i < 4; i += 1) { click("play"); await pause(); }
  click("play");
  await pause();
  click("loop");
  await pause();
  click("play");
  await pause();
  found.button = document.getElementById("play").textContent;
  found.position = document.getElementById("position").value;
})();
</script>
"""


FACTS: dict[str, Any] = {
    "clips": 1, "version": "0", "codecs": [{"name": "ours", "about": "ours"}], "metrics": [], "notes": [],
    "left_out": [], "failures": [], "bitrates": [2.0], "summary": [],
}  # fmt: skip


def chromium(page: Path, tmp_path: Path) -> str:
    """The page after three seconds in a browser."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_blind_test_in_a_browser(tmp_path: Path) -> None:
    clips = [Clip("a", "all", speech_like(0.2))]
    sound = flac(clips[0].waveform, RATE)
    found = [replace(result("a", "ours", 100, 1.0, setting=f"{n} codebooks"), sound=sound) for n in (2, 9)]
    text = page(FACTS, means(found, [MEL]), [], [MEL], clips, RATE, found)
    (tmp_path / "page.html").write_text(text.replace("</body>", BLIND + "</body>"))
    data = dict(re.findall(r'data-(\w+)="([^"]*)"', chromium(tmp_path / "page.html", tmp_path)))
    assert data["shown"].startswith("ReferenceA")
    assert re.sub("not scored", "", data["shown"]) == "ReferenceABCD"
    assert data["seen"] == "0"
    assert data["said"] == "3 scores saved, 1 not given."
    rows = list(csv.DictReader(io.StringIO(html.unescape(data["csv"]))))
    # Shuffled with a random number that is always 0: the anchor, then both of ours, then the original.
    assert [row.pop("score") for row in rows] == ["0", "10", "20"]
    fixed = {"clip": "a", "listener": 'Ann "A"'}
    assert rows == [
        {**fixed, "codec": "anchor", "setting": "", "rate": ""},
        {**fixed, "codec": "ours", "setting": "2 codebooks", "rate": "0.8"},
        {**fixed, "codec": "ours", "setting": "9 codebooks", "rate": "0.8"},
    ]


def test_spectrograms_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    clips = {"a": (speech_like(0.2), speech_like(0.2, 1))}
    figures.spectrograms(clips, RATE, tmp_path / "a.jpg")
    before = (tmp_path / "a.jpg").read_bytes()
    assert before.startswith(b"\xff\xd8")

    def interrupted(self: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(figure, "savefig", interrupted)
    for name in ("a.jpg", "b.png"):
        with pytest.raises(KeyboardInterrupt):
            figures.spectrograms(clips, RATE, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]
    assert (tmp_path / "a.jpg").read_bytes() == before


def test_spectrograms_have_a_mel_axis() -> None:
    """A tone at half of the highest mel, not of the highest frequency, is in the middle."""
    librosa = pytest.importorskip("librosa")
    image = pytest.importorskip("PIL.Image")
    frequency = librosa.mel_to_hz(librosa.hz_to_mel(RATE / 2) / 2)
    tone = np.sin(2 * np.pi * frequency * np.arange(RATE) / RATE)[None].astype(np.float32)
    silent, data = figures.spectrogram_strips([np.zeros_like(tone), tone], RATE)
    picture = np.asarray(image.open(io.BytesIO(data)).convert("L"), np.float64)
    assert picture.shape == (200, 960)
    left, width = (round(960 * share) for share in (figures.STRIP_LEFT, figures.STRIP_WIDTH))
    plotted = picture[:, left + 9 : left + width - 9]
    top, bottom = np.flatnonzero(plotted.mean(1) < 100)[[0, -1]]
    assert abs(int(plotted[top:bottom].mean(1).argmax()) - (bottom - top) / 2) <= 10
    assert np.asarray(image.open(io.BytesIO(silent)).convert("L"))[top:bottom, left + 9 : left + width - 9].max() < 20


def test_the_page_without_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    said: list[str] = []
    report.evaluate(
        folder / "data", tmp_path / "report", ("anchor", "noise"), workers=1, progress=False, say=said.append
    )
    line = "spectrograms are left out, they need librosa and matplotlib: pip install 'dac_codec[evaluate]'"
    assert line in said
    assert f"- {line}" in (tmp_path / "report" / "report.md").read_text()
    assert '"picture":' not in (tmp_path / "report" / "index.html").read_text()
    with pytest.raises(DacError, match="spectrograms are left out"):
        figures.spectrograms({}, RATE, tmp_path / "a.png")


def test_plots_of_one_measure_have_the_same_axes() -> None:
    found = means(results(), [MEL])
    pooled = [one for one in found if one.domain == "all"]
    ticks = []
    for domain in ("music", "speech"):
        panel = [one for one in found if one.domain == domain]
        assert rate_distortion(panel, MEL, ["ours", "opus"]) != rate_distortion(panel, MEL, ["ours", "opus"], found)
        picture = ElementTree.fromstring(rate_distortion(panel, MEL, ["ours", "opus"], [*found, *pooled]))
        ticks.append([(one.attrib["x"], one.attrib["y"], one.text) for one in picture.iter("text")])
    assert ticks[0] == ticks[1]


def test_plots_are_svg_with_a_point_for_each_mean() -> None:
    found = [one for one in means(results(), [MEL]) if one.domain == "all"]
    picture = ElementTree.fromstring(rate_distortion(found, MEL, ["ours", "opus", "silence"]))
    titles = [element.text or "" for element in picture.iter("title")]
    assert [title.split(":")[0] for title in titles] == [
        "ours 2 codebooks",
        "ours 9 codebooks",
        "ours 36 codebooks",
        "opus 8 kbit/s",
    ]
    assert "3.000 [" in titles[1]
    assert "at 8.00 kbit/s, 5 clips" in titles[1]
    assert rate_distortion(found, METRIC_WITHOUT_VALUES, ["ours"]) == ""


def test_codes_over_time() -> None:
    """Two codes in the first half of the clip, one in the third quarter, three in the last one."""
    picture = ElementTree.fromstring(figures.code_steps(np.array([2, 2, 1, 3]), 4, 8.0, 1))
    (line,) = picture.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    ticks = {one.text: one.attrib for one in picture.iter("text") if one.attrib["text-anchor"] == "end"}
    height = {n: float(ticks[str(n)]["y"]) for n in (1, 2, 3)}
    seconds = {one.text: float(one.attrib["x"]) for one in picture.iter("text") if "dy" not in one.attrib}
    assert [y for _, y in points] == [height[n] for n in (2, 2, 1, 1, 3, 3)]
    assert [x for x, _ in points] == [seconds[t] for t in ("0", "4", "4", "6", "6", "8")]
    assert picture.attrib["aria-label"] == "codes per frame: 2.00 on average, 1 to 3"


def test_the_page_plots_codes_over_time_where_their_number_varies() -> None:
    constant = result("a-0", "ours", 100, 1.0)
    varied = [
        replace(result(f"{EVIL}-{i}", "ours-variable", 100, 1.0, setting="<2>"), codes=packed(np.array(codes)))
        for i, codes in enumerate(([[0, 1], [1, -1]], [[0, 1], [1, 1]]))
    ]
    without = replace(constant, codec="opus", codes=None, n_codebooks=0)
    found = [constant, without, *varied]
    clips = list(dict.fromkeys(one.clip for one in found))
    text = sections.codes_over_time(clips, found, ["ours", "opus", "ours-variable"])
    assert text.count("<figure>") == 2
    assert "ours-variable &lt;2&gt;: 1.50 codes per frame" in text
    assert "2.00 codes per frame" in text  # another clip of the same codec and setting
    assert "<script>" not in text
    assert text.count('class="series c2"') == 2
    assert sections.codes_over_time(clips[:1], found, ["ours"]) == ""
    own = replace(varied[0], clip="a", codec="ours")
    shown = page(FACTS, means([own], [MEL]), [], [MEL], [Clip("a", "all", speech_like(0.2))], RATE, [own])
    assert "<h3>Codes per frame over time</h3>" in shown
    assert "1.50 codes per frame" in shown


METRIC_WITHOUT_VALUES = type(MEL)("none", "none", "", True, "", MEL.measure)
